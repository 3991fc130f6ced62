"""`margo-gitops deploy --interactive` as a person at a terminal meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.terminal import terminal

MONITOR = "com-example-line-monitor"
GREETING = "com-example-greeting"
LAST = "make this change? (yes, no, back)"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit()
    return fleet


def test_a_deployment_is_changed_by_a_form_with_the_reasons_told_at_once(fleet: FleetFolder):
    with terminal("deploy", MONITOR, "--interactive", cwd=fleet.root) as person:
        first = person.answers("topic", "NO SUCH TOPIC")
        assert "Reports: Topic\n  Where reports go.\n" in first
        assert 'now "plants/{{ site.name }}/line-{{ device.labels.line }}"' in first
        assert "does not match [a-z0-9-]+" in person.answers("topic", "")
        person.answers("intervalSeconds", ":nonsense")
        assert "no: :nonsense is not a command" in person.answers("intervalSeconds", "20")
        person.answers("image", ":back")
        assert "now 20; the application's default is 10" in person.answers("intervalSeconds", "30")
        person.answers("image", "")
        person.answers("devices", "all")
        assert "1 of 4 devices cannot take it: cell-01" in person.answers("devices", ":list")
        assert "1 device: south/cell-01" in person.answers("devices", "")
        summary = person.answers(LAST, "yes")
        assert "+    intervalSeconds: 30\n" in summary
        assert "~ north/press-01: manifest 1 -> 2; restarts line-monitor/line-monitor" in summary
        done = person.ends()
    assert done.code == 0, done
    assert done.stderr.endswith("changed deployments/line-monitor.yaml\nnext:\n  margo-gitops plan\n")
    assert fleet.read().deployments["line-monitor"].value.spec.parameters["intervalSeconds"] == 30
    by_options = margo_gitops("deploy", MONITOR, "--set", "intervalSeconds=30", cwd=fleet.root)
    assert by_options.stdout == "nothing changes: it is so already\n"


def test_a_new_deployment_is_committed_with_what_options_said_already(fleet: FleetFolder):
    arguments = ("deploy", GREETING, "--name", "second", "--set", "greeting=Hallo", "--interactive", "--commit")
    with terminal(*arguments, cwd=fleet.root) as person:
        assert "Greeting 1.0.0: a new deployment second" in person.reads("keeps what is there")
        assert 'now "Hallo"; the application\'s default is "Hello"' in person.answers("greeting", "")
        person.answers("image", "")
        person.answers("devices", "")
        assert "say which devices get it" in person.answers("devices", "1, 3")
        person.answers(LAST, "back")
        assert "now device in (press-01, mixer-01)  (2 devices)" in person.answers("devices", "site=south")
        person.answers(LAST, "y")
        done = person.ends()
    assert done.code == 0, done
    branch = "deploy-second-1.0.0"
    assert f"on the branch {branch}: Deploy second 1.0.0" in done.stderr
    assert fleet.git.run("status", "--porcelain") == ""
    written = fleet.git.run("show", f"{branch}:deployments/second.yaml")
    assert "sites: [south]" in written or "- south" in written
    assert margo_gitops("validate", "--rev", branch, cwd=fleet.root).code == 0


def immutable(fleet: FleetFolder) -> None:
    """Make the greeting a setting that may not change, and render it."""
    path = f"applications/{GREETING}/1.0.0/margo.yaml"
    fleet.change(path, "What the container says.\n", "What the container says.\n          immutable: true\n")
    fleet.pin()
    fleet.commit()


def test_an_immutable_setting_is_refused_by_what_was_rendered(fleet: FleetFolder):
    immutable(fleet)
    assert margo_gitops("render", cwd=fleet.root).code == 0
    with terminal("deploy", GREETING, "--interactive", cwd=fleet.root) as person:
        assert "immutable: it may not change after the first installation" in person.answers("greeting", "Servus")
        assert "may not change any more: it was installed as 'Hello from" in person.answers("greeting", "")
        person.reads("image> ")
        done = person.presses("C")
    assert done.code == 130, done
    refused = terminal("deploy", GREETING, "--set", "greeting=Servus", "--interactive", cwd=fleet.root)
    with refused as person:
        done = person.ends()
    assert done.code == 2, done
    assert "[MG2110]" in done.stderr
    assert fleet.git.run("status", "--porcelain") == ""


def test_without_its_state_repo_an_immutable_setting_counts_as_installed(fleet: FleetFolder):
    immutable(fleet)
    fleet.put("../my-fleet-state.git", "no repository")
    with terminal("deploy", GREETING, "--interactive", cwd=fleet.root) as person:
        person.answers("greeting", "Servus")
        assert "may not change any more" in person.answers("greeting", ":back")
        person.reads("greeting> ")
        done = person.presses("D")
    assert done.code == 130, done
    assert "note: the state repo cannot be read" in done.stderr


def test_a_dry_run_asks_and_prints_the_diff_alone(fleet: FleetFolder):
    arguments = ("deploy", GREETING, "--interactive", "--dry-run")
    with terminal(*arguments, cwd=fleet.root, piped=True) as person:
        person.answers("greeting", "Servus")
        person.answers("image", "")
        person.answers("devices", "")
        done = person.ends()
    assert done.code == 0, done
    assert done.stdout.startswith("--- a/deployments/greeting.yaml\n+++ b/deployments/greeting.yaml\n@@")
    assert fleet.git.run("status", "--porcelain") == ""


def test_a_person_who_says_no_changes_nothing(fleet: FleetFolder):
    with terminal("deploy", GREETING, "--interactive", cwd=fleet.root) as person:
        person.answers("greeting", "Servus")
        person.answers("image", "")
        person.answers("devices", "")
        person.answers(LAST, "perhaps")
        person.answers(LAST, "no")
        done = person.ends()
    assert (done.code, done.stderr.splitlines()[-1]) == (0, "nothing was written")
    assert fleet.git.run("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--interactive",), "needs a terminal"), (("--state-repo", "x"), "--state-repo goes with --interactive")],
    ids=["no terminal", "state alone"],
)
def test_a_form_needs_a_terminal_and_options_that_go_together(
    fleet: FleetFolder, arguments: tuple[str, ...], said: str
):
    done = margo_gitops("deploy", GREETING, *arguments, cwd=fleet.root)
    assert done.code == 2, done
    assert said in done.stderr


def test_the_session_in_the_docs_is_a_real_one(fleet: FleetFolder):
    page = (Path(__file__).parents[2] / "docs/catalog.md").read_text()
    shown = page.split(f"```console\n$ margo-gitops deploy {MONITOR} --interactive\n")[1].split("```")[0]
    typed = [("topic", ""), ("intervalSeconds", "0"), ("intervalSeconds", "30"), ("image", ""), ("devices", "")]
    with terminal("deploy", MONITOR, "--interactive", cwd=fleet.root) as person:
        for prompt, text in [*typed, (LAST, "yes")]:
            person.answers(prompt, text)
        done = person.ends()
    assert [line.rstrip() for line in done.stderr.splitlines()] == shown.splitlines()
