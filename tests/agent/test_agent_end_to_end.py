"""The agent as a process: a real git repository, the real `files` applier, real signals."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from device_world import DEVICE, STRANGER, World, deployment_bytes, deployment_id, snapshot_of

from margo_gitops.documents.nodes import Json

TIMEOUT = 30.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def held_version(world: World) -> int | None:
    held = json.loads(world.agent("status", "--output", "json").stdout)["held"]
    return held["version"] if held else None


def test_a_commit_becomes_files_and_the_next_one_replaces_them(world: World) -> None:
    world.publish({1: deployment_bytes(1, values={"GREETING": "hello"})})
    first = world.agent("once")
    assert (first.returncode, world.value(1)) == (0, 'GREETING="hello"\n'), first.stderr
    world.publish({1: deployment_bytes(1, values={"GREETING": "good morning"})})
    second = world.agent("once")
    assert (second.returncode, world.value(1)) == (0, 'GREETING="good morning"\n'), second.stderr
    third = world.agent("once")
    assert third.returncode == 0
    assert "unchanged" in third.stdout
    assert "WorkloadInstalled" not in third.stderr


def test_what_is_gone_from_the_state_is_removed(world: World) -> None:
    world.publish({1: deployment_bytes(1), 2: deployment_bytes(2)})
    assert world.agent("once").returncode == 0
    world.publish({2: deployment_bytes(2)})
    assert world.agent("once").returncode == 0
    assert world.value(1) is None
    assert world.value(2) is not None
    world.publish({})
    assert world.agent("once").returncode == 0
    assert world.value(2) is None


def test_offline_the_held_state_is_applied_and_the_exit_code_is_3(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    shutil.rmtree(world.output)
    world.repository.path.rename(world.folder / "unplugged.git")
    result = world.agent("once")
    assert result.returncode == 3
    assert world.value(1) is not None, "what somebody removed did not come back"


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("unsigned", "MG1501"),
        ("stranger", "MG1503"),
        ("older", "MG1504"),
        ("reused", "MG1505"),
        ("foreign", "MG1509"),
    ],
)
def test_a_refused_state_changes_nothing_and_is_a_security_event(world: World, attack: str, code: str) -> None:
    world.publish({1: deployment_bytes(1)})
    world.publish({1: deployment_bytes(1, values={"GREETING": "second"})})
    assert world.agent("once").returncode == 0
    parents = (world.versions[-1].revision,)
    evil = {1: deployment_bytes(1, values={"GREETING": "evil"})}
    foreign = {1: deployment_bytes(1, device="press-08")}
    world.put(
        {
            "unsigned": snapshot_of(3, evil, parents=parents, key=None),
            "stranger": snapshot_of(3, evil, parents=parents, key=STRANGER),
            "older": world.versions[0],
            "reused": snapshot_of(2, evil, parents=parents),
            "foreign": snapshot_of(3, foreign, parents=parents, device="press-08"),
        }[attack]
    )
    result = world.agent("once")
    assert result.returncode == 4, result.stderr
    assert code in result.stderr
    assert world.value(1) == 'GREETING="second"\n'
    report = json.loads(world.agent("status", "--output", "json").stdout)
    assert report["held"]["version"] == 2
    assert report["poll"]["result"] == "refused"
    assert code in {event["code"] for event in report["securityEvents"]}


def test_f14_damaged_or_lost_state_is_fetched_again(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    (document,) = (world.state / "trusted").glob("sha256-*/deployments/*.yaml")
    document.write_bytes(document.read_bytes().replace(b"hello", b"evil!"))
    verdict = world.agent("verify")
    assert verdict.returncode == 4
    assert "MG1705" in verdict.stderr
    assert world.agent("once").returncode == 0
    assert world.agent("verify").returncode == 0
    shutil.rmtree(world.state / "trusted")
    assert world.agent("verify").returncode == 1
    assert world.agent("once").returncode == 0
    assert world.agent("verify").returncode == 0


def test_f4_the_floor_survives_the_loss_of_the_state_folder(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    old = world.versions[0]
    world.publish({1: deployment_bytes(1, values={"GREETING": "second"})})
    assert world.agent("once").returncode == 0
    shutil.rmtree(world.state)
    world.put(old)
    result = world.agent("once")
    assert result.returncode == 4
    assert "MG1504" in result.stderr


def test_a_damaged_journal_is_rebuilt_from_what_runs(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    (world.state / "journal.sqlite3").write_bytes(b"not a database, but long enough to look like one" * 100)
    result = world.agent("once")
    assert result.returncode == 0, result.stderr
    assert "JournalRebuilt" in result.stderr
    assert "WorkloadInstalled" not in result.stderr
    report = json.loads(world.agent("status", "--output", "json").stdout)
    assert report["deployments"][0]["status"]["status"]["state"] == "installed"


def test_paths_of_appliers_are_relative_to_the_configuration_too(world: World) -> None:
    (world.folder / "hooks").mkdir()
    hook = world.folder / "hooks" / "changed"
    hook.write_text(f'#!/bin/sh\necho "$1" >> {world.folder}/called\n')
    hook.chmod(0o755)
    world.configure(appliers={"files": {"folder": "output", "hook": ["hooks/changed"]}})
    world.publish({1: deployment_bytes(1)})
    done = world.agent("once")
    assert done.returncode == 0, done.stderr
    assert world.value(1)
    assert (world.folder / "called").read_text() == "installed\n"


@pytest.fixture
def small_disk(world: World) -> Iterator[Callable[[str], None]]:
    """The state folder as a disk of its own; call to mount it again with other options."""
    world.state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", world.state], check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", world.state], check=True) and None
    finally:
        subprocess.run(["umount", world.state], check=True)


@pytest.mark.real
def test_f15_a_full_and_a_read_only_disk_stop_nothing_that_runs_and_cost_no_memory(
    world: World, small_disk: Callable[[str], None]
) -> None:
    def events() -> str:
        with contextlib.closing(sqlite3.connect(world.state / "journal.sqlite3")) as journal:
            return str(journal.execute("SELECT group_concat(text) FROM events").fetchone()[0])

    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    filler = os.open(world.state / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(filler, b"x" * 4096)
    os.close(filler)
    world.publish({1: deployment_bytes(1, values={"GREETING": "two"})})
    full = world.agent("once")
    assert (full.returncode, "MG1704" in full.stderr) == (5, True), full.stderr
    assert world.value(1) == 'GREETING="hello"\n'
    (world.state / "filler").unlink()
    assert "first contact" in events(), "the journal is the same"
    assert world.agent("once").returncode == 0
    assert world.value(1) == 'GREETING="two"\n'
    small_disk("ro")
    world.publish({1: deployment_bytes(1, values={"GREETING": "three"})})
    read_only = world.agent("once")
    assert (read_only.returncode, "read-only" in read_only.stderr) == (2, True), read_only.stderr
    assert "installed" in world.agent("status").stdout
    small_disk("rw")
    assert world.agent("once").returncode == 0
    assert "first contact" in events()
    assert world.value(1) == 'GREETING="three"\n'


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_pipes_and_folders_in_the_place_of_the_agents_files_stop_nothing(
    world: World, make: Callable[[Path], None]
) -> None:
    world.publish({1: deployment_bytes(1)})
    world.state.mkdir()
    for name in ("lock", "floor.json", "journal.sqlite3", "trusted"):
        make(world.state / name)
    (world.folder / "elsewhere").mkdir()
    make(world.folder / "elsewhere" / "floor.json")
    first = world.agent("once")
    assert first.returncode == 0, first.stderr
    assert "JournalRebuilt" in first.stderr
    assert "StateDamaged" in first.stderr
    assert world.value(1)
    assert world.agent("status").returncode == 0


def test_a_workload_that_fails_ends_with_5_and_what_ran_is_back(world: World, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text('#!/bin/sh\n! grep -q broken "$2/values.env"\n')
    hook.chmod(0o755)
    world.configure(appliers={"files": {"folder": str(world.output), "hook": [str(hook)]}})
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    world.publish({1: deployment_bytes(1, values={"GREETING": "broken"}), 2: deployment_bytes(2)})
    result = world.agent("once")
    assert result.returncode == 5
    assert world.value(1) == 'GREETING="hello"\n'
    assert world.value(2) is not None, "an independent deployment was held up"
    report = json.loads(world.agent("status", "--output", "json").stdout)
    status = report["deployments"][0]["status"]
    assert status["status"]["state"] == "failed"
    assert status["status"]["error"]["source"] == "app-1"
    assert status["adoptedManifestVersion"] == 2


def test_a_broken_update_is_tried_again_only_when_somebody_asks(world: World, tmp_path: Path) -> None:
    hook, calls = tmp_path / "hook", tmp_path / "calls"
    hook.write_text(f'#!/bin/sh\necho x >> {calls}\n! grep -q broken "$2/values.env"\n')
    hook.chmod(0o755)
    world.configure(appliers={"files": {"folder": str(world.output), "hook": [str(hook)]}})
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    world.publish({1: deployment_bytes(1, values={"GREETING": "broken"})})
    assert world.agent("once").returncode == 5
    called = calls.read_text()
    again = world.agent("once")
    assert again.returncode == 5, "a device that does not run what it should says so"
    assert calls.read_text() == called, "what runs was taken down again"
    report = json.loads(world.agent("status", "--output", "json").stdout)
    (component,) = report["deployments"][0]["components"]
    assert component["failure"] == "quarantined"
    assert "--retry" in report["deployments"][0]["status"]["components"][0]["error"]["message"]
    assert world.agent("once", "--retry").returncode == 5
    assert calls.read_text() != called
    hook.write_text("#!/bin/sh\n")
    assert world.agent("once", "--retry").returncode == 0
    assert world.value(1) == 'GREETING="broken"\n'


RULES = b"""    type: compose
    deviceConstraints:
      eligibilityRules:
        - labelSelector:
            matchExpressions:
              - key: zone
                operator: In
                values: [explosion-proof]
"""


def test_the_device_itself_evaluates_eligibility_rules(world: World) -> None:
    world.publish({1: deployment_bytes(1).replace(b"    type: compose\n", RULES), 2: deployment_bytes(2)})
    result = world.agent("once")
    assert (result.returncode, world.value(1)) == (5, None)
    assert "MG1711" in result.stderr
    assert world.value(2) is not None
    capabilities = {"id": DEVICE, "vendor": "v", "modelNumber": "m", "serialNumber": "s"}
    for zone, value in (("hall", None), ("explosion-proof", 'GREETING="hello"\n')):
        (world.folder / "capabilities.json").write_text(
            json.dumps({"properties": capabilities, "labels": {"zone": zone}})
        )
        world.configure(capabilities=["capabilities.json"])
        assert world.agent("once").returncode == (5 if value is None else 0)
        assert world.value(1) == value


def test_a_broken_list_of_signers_ends_once_with_2_and_what_is_held_is_kept_running(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    (world.output / deployment_id(1) / "web").unlink()
    (world.folder / "allowed_signers").write_text("oops\n")
    result = world.agent("once")
    assert result.returncode == 2
    assert "SignersUnreadable" in result.stderr
    assert world.value(1) is not None


def test_a_second_agent_ends_with_75(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    with subprocess.Popen(world.command("run"), env=world.environment(), stderr=subprocess.PIPE, text=True) as running:
        try:
            eventually(lambda: world.value(1) is not None)
            second = world.agent("once")
            assert second.returncode == 75
            assert str(running.pid) in second.stderr
            assert world.agent("status").returncode == 0
        finally:
            running.send_signal(signal.SIGTERM)
            running.communicate(timeout=TIMEOUT)
        assert running.returncode == 0


def test_f5_an_update_that_hangs_ends_in_time_and_nothing_piles_up(world: World, tmp_path: Path) -> None:
    hook, begun = tmp_path / "hook", tmp_path / "begun"
    hook.write_text(f'#!/bin/sh\ngrep -q hangs "$2/values.env" || exit 0\necho x >> {begun}\nexec sleep 600\n')
    hook.chmod(0o755)
    applier: Json = {"folder": str(world.output), "hook": [str(hook)], "hookTimeoutSeconds": 1}
    world.configure(appliers={"files": applier})
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    world.publish({1: deployment_bytes(1, values={"GREETING": "hangs"})})
    with subprocess.Popen(world.command("once"), env=world.environment(), stderr=subprocess.PIPE, text=True) as first:
        eventually(begun.exists)
        world.publish({1: deployment_bytes(1, values={"GREETING": "hangs too"})})
        world.publish({1: deployment_bytes(1, values={"GREETING": "newest"})})
        assert [world.agent("once").returncode for _ in range(2)] == [75, 75]
        _, said = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 5, said
    assert world.value(1) == 'GREETING="hello"\n'
    assert world.agent("once").returncode == 0
    assert (world.value(1), begun.read_text()) == ('GREETING="newest"\n', "x\n")


def test_run_follows_the_branch_polls_on_sighup_and_stops_on_sigterm(world: World) -> None:
    world.configure(poll={"interval": "1h", "jitter": "1s"})
    with subprocess.Popen(
        world.command("run", "--log-format", "json"), env=world.environment(), stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            eventually(lambda: (world.state / "journal.sqlite3").exists() and _polled(world))
            world.publish({1: deployment_bytes(1)})
            running.send_signal(signal.SIGHUP)
            eventually(lambda: world.value(1) is not None)
            assert running.poll() is None, "an unreachable source ended the agent"
        finally:
            running.send_signal(signal.SIGTERM)
            _, log = running.communicate(timeout=TIMEOUT)
        assert running.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    reasons = [event["reason"] for event in events]
    assert reasons[0] == "Started"
    assert re.fullmatch(r"margo-gitops \S+ for \S+ polls \S+ every 60m; it holds nothing yet", events[0]["text"])
    assert "PollFailed" in reasons
    assert reasons.index("PollFailed") < reasons.index("FirstContact") < reasons.index("WorkloadInstalled")


def _polled(world: World) -> bool:
    try:
        with sqlite3.connect(f"file:{world.state / 'journal.sqlite3'}?mode=ro", uri=True) as connection:
            found = connection.execute("SELECT count(*) FROM facts WHERE name = 'poll.at'").fetchone()[0]
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return bool(found)


def test_sigterm_cuts_off_a_pull_that_hangs(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(TIMEOUT)
        world.configure(source={"git": {"url": f"http://127.0.0.1:{mute.getsockname()[1]}/state.git"}})
        with subprocess.Popen(
            world.command("run"), env=world.environment(), stderr=subprocess.PIPE, text=True
        ) as running:
            connection, _ = mute.accept()
            with connection:
                assert connection.recv(10_000)
                running.send_signal(signal.SIGTERM)
                _, log = running.communicate(timeout=TIMEOUT)
    assert running.returncode == 0
    assert "cut off by a signal" in log


def test_kill_9_at_any_moment_then_restart_ends_in_the_same_state(world: World, tmp_path: Path) -> None:
    """The hook of the `files` applier kills the agent in the middle of an installation, each time a little later."""
    hook = tmp_path / "hook"
    marks = tmp_path / "marks"
    marks.mkdir()
    hook.write_text(
        "#!/bin/sh\n"
        f'mark="{marks}/$(basename "$(dirname "$2")")-$(basename "$2")-$1"\n'
        'if [ ! -e "$mark" ]; then touch "$mark"; kill -9 "$PPID"; fi\n'
    )
    hook.chmod(0o755)
    world.configure(appliers={"files": {"folder": str(world.output), "hook": [str(hook)]}})
    world.publish({1: deployment_bytes(1, components=("web", "data")), 2: deployment_bytes(2, after=[1])})
    statuses = [world.agent("once").returncode for _ in range(4)]
    assert statuses == [-signal.SIGKILL] * 3 + [0]
    assert all(world.value(*place) for place in ((1, "web"), (1, "data"), (2, "web")))
    world.publish({2: deployment_bytes(2)})
    statuses = [world.agent("once").returncode for _ in range(3)]
    assert statuses == [-signal.SIGKILL] * 2 + [0]
    assert world.value(1) is None
    assert world.agent("verify").returncode == 0
    report = json.loads(world.agent("status", "--output", "json").stdout)
    assert [item["name"] for item in report["deployments"]] == ["app-2"]


def test_f2_killed_between_fetch_and_apply_the_next_start_finishes_without_network(
    world: World, tmp_path: Path
) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\nif [ ! -e "{tmp_path}/again" ]; then touch "{tmp_path}/again"; kill -9 "$PPID"; fi\n')
    hook.chmod(0o755)
    world.configure(appliers={"files": {"folder": str(world.output), "hook": [str(hook)]}})
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == -signal.SIGKILL
    world.repository.path.rename(world.folder / "unplugged.git")
    assert world.agent("once").returncode == 3
    assert world.value(1) is not None
    assert held_version(world) == 1


def test_a_state_of_which_one_blob_is_missing_leaves_no_revision_behind(world: World) -> None:
    """F2: a partial fetch must not count as held."""
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    snapshot = world.publish({1: deployment_bytes(1, values={"GREETING": "second"})})
    blob = world.repository.run("rev-parse", f"{snapshot.revision}:deployments/{deployment_id(1)}.yaml")
    path = world.repository.path / "objects" / blob[:2] / blob[2:]
    kept = path.read_bytes()
    path.unlink()
    assert world.agent("once").returncode == 3
    assert held_version(world) == 1
    path.write_bytes(kept)
    assert world.agent("once").returncode == 0
    assert world.value(1) == 'GREETING="second"\n'


@pytest.mark.real
def test_a_full_disk_leaves_the_old_state_whole(world: World, tmp_path: Path) -> None:
    """On a small file system of its own, where the machine lets us mount one."""
    from support.real import unavailable

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True, timeout=30
    )
    if mounted.returncode:
        unavailable(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        world.configure(stateFolder=str(disk / "agent"))
        world.publish({1: deployment_bytes(1)})
        assert world.agent("once").returncode == 0
        big = {number: deployment_bytes(number, values={"TEXT": "x" * 30_000}) for number in range(2, 30)}
        world.publish({1: deployment_bytes(1), **big})
        result = world.agent("once")
        assert result.returncode == 5, result.stderr
        assert "MG1704" in result.stderr
        assert "Traceback" not in result.stderr
        assert world.value(1) == 'GREETING="hello"\n'
        assert world.agent("verify").returncode == 0
        assert held_version(world) == 1
        world.put(world.versions[0])
    finally:
        subprocess.run(["umount", disk], check=True, timeout=30)


@pytest.mark.parametrize(
    ("variables", "code", "hint"),
    [
        ({"MARGO_GITOPS_DEVCE": "press-07"}, 2, "did you mean MARGO_GITOPS_DEVICE?"),
        ({"MARGO_TOKEN": "secret-value"}, 2, "MARGO_TOKEN: "),
        ({"MARGO_GITOPS_REQUIRE_REAL": "1"}, 0, ""),
    ],
)
def test_f24_a_misspelt_variable_is_an_error(world: World, variables: dict[str, str], code: int, hint: str) -> None:
    world.publish({})
    result = world.agent("once", **variables)
    assert result.returncode == code, result.stderr
    assert hint in result.stderr
    assert "secret-value" not in result.stderr


def test_the_environment_overrides_the_file(world: World) -> None:
    world.publish({})
    result = world.agent("once", MARGO_GITOPS_STATE_FOLDER=str(world.folder / "other"))
    assert result.returncode == 0
    assert (world.folder / "other" / "floor.json").exists()
    assert not world.state.exists()


def test_a_state_folder_of_another_device_is_refused(world: World) -> None:
    world.publish({})
    assert world.agent("once").returncode == 0
    result = world.agent("once", MARGO_GITOPS_DEVICE="press-08")
    assert result.returncode == 2
    assert "press-07" in result.stderr


def test_nothing_that_the_agent_keeps_is_readable_for_others(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    assert world.state.stat().st_mode & 0o077 == 0
    assert (world.state / "journal.sqlite3").stat().st_mode & 0o077 == 0


def test_a_look_between_the_first_state_and_its_floor_finds_it_trusted(world: World) -> None:
    world.publish({1: deployment_bytes(1)})
    assert world.agent("once").returncode == 0
    places = [world.state / "floor.json", world.folder / "elsewhere" / "floor.json"]
    floor = places[0].read_bytes()
    for place in places:
        place.unlink()
    later = threading.Timer(0.3, lambda: places[0].write_bytes(floor))
    later.start()
    found = world.agent("verify")
    later.join()
    assert found.returncode == 0, found.stderr
    places[0].unlink()
    gone = world.agent("verify")
    assert gone.returncode != 0
    assert "the trust floor is gone" in gone.stderr
