"""The policy's command reads the plan and may refuse it; a change does not choose it, and it runs only if asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from operations.policy_world import PolicyWorld, make_world

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.errors import PolicyUnusable, RenderingRefused
from margo_gitops.operations.plan.planning import exit_code
from margo_gitops.operations.policies.policy_command import judge_by_command
from margo_gitops.rendering.changes import PolicyVerdict
from margo_gitops.rendering.policies.facts import PolicyInForce

AT_MOST_ONE = """\
#!/bin/sh
# Refuses a plan that changes more than one device.
. "$(dirname "$0")/words"
if [ "$(tr ',' '\\n' | grep -c '"versionAfter"')" -gt 1 ]; then
    printf '[{"message": "%s", "file": "sites/north.yaml", "line": 1, "remedy": "one at a time"}]' "$refusal"
    exit 1
fi
"""


@pytest.fixture
def world(tmp_path: Path) -> PolicyWorld:
    return make_world(tmp_path)


def started(world: PolicyWorld, program: str, *, command: list[str] | None = None) -> str:
    """Render a fleet, and put a command in force."""
    world.commit("Start")
    world.render()
    script(world, program)
    world.fleet.put("policy/words", "refusal='too much at once'\n")
    world.policy(command=command or ["policy/check"])
    return world.commit("Add the command")


def script(world: PolicyWorld, program: str) -> None:
    world.fleet.put("policy/check", program).chmod(0o755)


def verdict(world: PolicyWorld, revision: str | None = "HEAD", *, allowed: bool = True) -> PolicyVerdict:
    (found,) = [each for each in world.plan(revision, policy_command=allowed).policy if each.part == "command"]
    return found


def test_a_command_refuses_what_it_finds_and_lets_the_rest_pass(world: PolicyWorld):
    started(world, AT_MOST_ONE)
    world.fleet.site("north", p="second")
    world.commit()
    assert verdict(world).outcome == "passed"
    world.render(policy_command=True)
    world.fleet.site("north", p="third")
    world.fleet.site("south", p="third")
    world.commit()
    found = verdict(world)
    assert found.outcome == "refused"
    (reason,) = found.reasons
    assert (reason.rule, reason.message, reason.file, reason.line) == (
        "MG1226",
        "too much at once",
        "sites/north.yaml",
        1,
    )
    before = world.state()
    with pytest.raises(RenderingRefused, match="too much at once"):
        world.render(policy_command=True)
    assert world.state() == before


def test_nothing_runs_unless_somebody_asks_for_it_and_a_render_without_it_is_refused(
    world: PolicyWorld, tmp_path: Path
):
    trace = tmp_path / "ran"
    started(world, f"#!/bin/sh\ntouch {trace}\n")
    world.fleet.site("north", p="second")
    world.commit()
    assert verdict(world, allowed=False).outcome == "skipped"
    assert exit_code(world.plan()) == 1
    with pytest.raises(PolicyUnusable, match="no one asked"):
        world.render()
    assert not trace.exists()
    world.render(policy_command=True)
    assert trace.exists()


def test_a_change_does_not_choose_its_own_judge(world: PolicyWorld):
    refuses = '#!/bin/sh\necho \'[{"message": "no"}]\'\nexit 1\n'
    started(world, refuses)
    script(world, "#!/bin/sh\n")
    world.fleet.put("policy/words", "")
    world.fleet.site("north", p="second")
    world.commit()
    assert verdict(world).outcome == "refused"
    world.policy(command=["true"])
    world.commit("Other judge")
    assert verdict(world).outcome == "passed", "the program before this change has no objection"
    world.policy()
    assert verdict(world, None).outcome == "passed"


def test_the_change_that_adds_a_command_is_not_judged_by_it(world: PolicyWorld):
    started(world, "#!/bin/sh\nexit 7\n")
    assert verdict(world).outcome == "skipped"
    world.render()


def test_the_program_gets_the_plan_and_nothing_of_the_environment(
    world: PolicyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    copy = tmp_path / "copy"
    started(world, f"#!/bin/sh\ncat > {copy}\nenv > {copy}.env\npwd > {copy}.pwd\nls > {copy}.ls\n")
    world.fleet.site("north", p="second")
    world.commit()
    assert verdict(world).outcome == "passed"
    plan = json.loads(copy.read_text())
    assert plan["kind"] == "Plan"
    assert [each["device"] for each in plan["devices"]] == ["north-1"]
    names = {line.split("=")[0] for line in Path(f"{copy}.env").read_text().splitlines()}
    assert names <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD"}
    assert str(world.fleet.root) not in Path(f"{copy}.pwd").read_text()
    assert Path(f"{copy}.ls").read_text().split() == ["check", "words"]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("#!/bin/sh\nexit 1\n", "not a list of findings"),
        ("#!/bin/sh\necho '[]'\nexit 1\n", "found nothing"),
        ("#!/bin/sh\necho '[{\"text\": 1}]'\nexit 1\n", "message is missing"),
        ("#!/bin/sh\necho 'cannot reach the server' >&2\nexit 3\n", "cannot reach the server"),
        ("#!/no/such/interpreter\n", "cannot be run"),
        ("#!/bin/sh\nkill -9 $$\n", "ended with -9"),
        ("#!/bin/sh\nyes '[' | head -c 3000000\nexit 1\n", "more than"),
    ],
    ids=["nothing", "empty", "no-message", "status", "no-interpreter", "killed", "too-much"],
)
def test_a_command_that_does_not_work_is_an_error_and_no_verdict(world: PolicyWorld, program: str, why: str):
    started(world, program)
    world.fleet.site("north", p="second")
    world.commit()
    with pytest.raises(PolicyUnusable) as caught:
        world.plan(policy_command=True)
    assert why in str(caught.value)
    assert int(caught.value.exit_code) == 2


def test_a_command_that_takes_too_long_is_stopped_with_all_it_started(world: PolicyWorld, tmp_path: Path):
    pids = tmp_path / "pids"
    commit = started(world, f"#!/bin/sh\nsleep 600 &\necho $! > {pids}\nwait\n")
    repo = FleetRepo.find(world.fleet.root)
    fleet = world.fleet.read().fleet
    with pytest.raises(PolicyUnusable) as caught:
        judge_by_command(repo, PolicyInForce(fleet, commit, fleet), b"{}", time_out=0.5)
    assert "more than 0.5 seconds" in caught.value.why[0]
    assert eventually_gone(int(pids.read_text()))


def eventually_gone(pid: int) -> bool:
    """Return whether a process ends soon; one that nobody waited for has ended too."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
    return False


def test_a_command_that_is_not_in_the_repo_is_refused_before_it_is_in_force(world: PolicyWorld):
    world.policy(command=["policy/nothing"])
    world.commit("Start")
    with pytest.raises(RenderingRefused, match="not a file of the fleet repo"):
        world.render()
    assert {each.rule for each in world.errors(None)} == {"MG1220"}
