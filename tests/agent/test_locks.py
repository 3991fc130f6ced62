"""What forbids a change for now, and what runs around it: LOCK-1 to LOCK-5, HOOK-1 to HOOK-7, SWITCH-1 to SWITCH-4."""

import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from device_world import DEVICE, World, deployment_bytes, deployment_id, parsed
from engine_double import EngineDouble, Killed
from test_reconciling import Device, state
from test_windows import NIGHT, NIGHTS

from margo_gitops.agent.apply.hooks import HookRunner, Occasion
from margo_gitops.agent.apply.locks import Locks
from margo_gitops.agent.memory.events import Reason
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.settings.configuration import HookSettings, LockSettings
from margo_gitops.appliers.applier import Workload
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.switching import DeviceLock, Lock, address_of
from margo_gitops.documents.workload_identity import own_extension
from margo_gitops.errors import DeploymentUnusable
from margo_gitops.trust.trusted_state import TrustedState

HOOK_USER = "nobody" if os.geteuid() == 0 else None
WEB_1 = f"{deployment_id(1)}/web"
BATCH: Json = {"name": "batch-running", "file": "line3/batch.lock", "of": "deployment app-1"}


def app(number: int, greeting: str = "hello", *locks: Json, **extension: Json) -> bytes:
    own = {"locks": list(locks)} if locks else {}
    return deployment_bytes(number, values={"GREETING": greeting}, extension={**own, **extension})


@pytest.fixture
def hooks() -> Iterator[Path]:
    """Yield a folder that the user who runs hooks can reach; pytest closes its own folders to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def device(tmp_path: Path, hooks: Path) -> Device:
    """Return a device with a folder of locks and a folder of hooks, that runs version 1 of a deployment."""
    (tmp_path / "locks/line3").mkdir(parents=True)
    device = Device(tmp_path, now=NIGHT)
    device.lock_settings = LockSettings(tmp_path / "locks")
    device.hook_settings = HookSettings(hooks, HOOK_USER, 60)
    assert device.reconcile(state({1: app(1)})).complete
    device.engine.log.clear()
    return device


def take(device: Device, name: str = "line3/batch.lock") -> Path:
    path = device.folder / "locks" / name
    path.touch()
    return path


def killed_at(moment: int) -> Callable[[], None]:
    """Return what ends the process at this moment."""
    left = iter(range(moment))

    def alive() -> None:
        if next(left, None) is None:
            raise Killed

    return alive


# Waiting


def test_an_update_waits_while_the_lock_is_held_and_follows_when_it_is_free(device: Device):
    newer = state({1: app(1, "new", BATCH)}, 2)
    lock = take(device)
    outcome = device.reconcile(newer, patient=True)
    assert (outcome.complete, outcome.only_waits, outcome.failures) == (False, True, ())
    assert device.steps == ["prepare app-1/web"]
    held = device.recorded(WEB_1)
    assert (held.state, held.code) == ("pending", "MG1620")
    assert held.message.startswith(
        "the deployment app-1 is held by lock batch-running of deployment app-1 since 2026-12-01 01:30 UTC"
    )
    device.now += 60
    device.reconcile(newer, patient=True)
    assert [event.reason for event in device.events].count(Reason.LOCK_AWAITED) == 1
    lock.unlink()
    assert device.reconcile(newer, patient=True).complete


def test_a_removal_waits_for_the_locks_that_came_with_the_deployment_last(device: Device):
    assert device.reconcile(state({1: app(1, "hello", BATCH)}, 2)).complete
    lock = take(device)
    waits = device.reconcile(state({}, 3), patient=True)
    assert (waits.only_waits, waits.held) == (True, True)
    assert device.recorded(WEB_1).code == "MG1620"
    lock.unlink()
    assert device.reconcile(state({}, 3), patient=True).complete
    assert not device.engine.running


def test_nothing_asks_a_lock_but_a_change(device: Device, monkeypatch: pytest.MonkeyPatch):
    running = state({1: app(1, "hello", BATCH)}, 2)
    device.reconcile(running)
    take(device)
    monkeypatch.setattr(Locks, "held", lambda *_: pytest.fail("a lock was asked"))
    assert device.reconcile(running, patient=True).complete
    device.engine.running.clear()  # what ran and stopped is started again
    assert device.reconcile(running, patient=True).complete
    first = state({1: app(1, "hello", BATCH), 2: app(2, "hello", BATCH)}, 3)
    assert device.reconcile(first, patient=True).complete


def test_a_lock_is_asked_after_the_window_has_opened(device: Device, monkeypatch: pytest.MonkeyPatch):
    take(device)
    newer = state({1: app(1, "new", BATCH, maintenance=[NIGHTS])}, 2)
    device.now = NIGHT + 36_000
    with monkeypatch.context() as patch:
        patch.setattr(Locks, "held", lambda *_: pytest.fail("a lock was asked"))
        assert device.reconcile(newer, patient=True).only_waits
    device.now = NIGHT + 86_400
    device.reconcile(newer, patient=True)
    assert device.recorded(WEB_1).code == "MG1620"


def test_others_go_on_and_what_comes_after_waits(device: Device):
    take(device)
    newer = {1: app(1, "new", BATCH), 2: app(2), 3: deployment_bytes(3, after=[1])}
    assert device.reconcile(state(newer, 2), patient=True).only_waits
    assert device.states() == {
        WEB_1: "pending",
        f"{deployment_id(2)}/web": "installed",
        f"{deployment_id(3)}/web": "pending",
    }


def test_a_person_may_ask_for_it_at_once(device: Device):
    take(device)
    assert device.reconcile(state({1: app(1, "new", BATCH)}, 2), at_once=True).complete


def test_the_way_back_waits_for_no_lock(device: Device):
    class Busy(EngineDouble):
        """Something takes the lock as soon as the update has begun."""

        def install(self, workload: Workload) -> None:
            take(device)
            super().install(workload)

    def both(greeting: str, version: int) -> TrustedState:
        own: dict[str, Json] = {"locks": [BATCH], "onFailure": "rollback"}
        values: dict[str, Json] = {"GREETING": greeting}
        return state({1: deployment_bytes(1, values=values, components=("db", "web"), extension=own)}, version)

    assert device.reconcile(both("good", 2)).complete
    good = dict(device.engine.running)
    device.reconcile(both("new", 3), Busy(device.engine, broken={("install", "app-1/web")}))
    assert device.engine.running == good
    assert device.recorded(WEB_1).code == "MG1623"


def test_a_wait_ends_after_its_time_and_is_counted_anew_for_the_next_change(device: Device):
    lock = {**BATCH, "atMost": "8h"}
    take(device)
    newer = state({1: app(1, "new", lock)}, 2)
    assert device.reconcile(newer, patient=True).only_waits
    assert "at most until 2026-12-01 09:30 UTC" in device.recorded(WEB_1).message
    device.now += 8 * 3600 - 1
    assert device.reconcile(newer, patient=True).only_waits
    device.now += 1
    assert device.reconcile(newer, patient=True).complete
    assert device.reconcile(state({1: app(1, "newest", lock)}, 3), patient=True).only_waits


def test_what_is_taken_back_is_not_remembered(device: Device):
    lock = {**BATCH, "atMost": "8h"}
    take(device)
    assert device.reconcile(state({1: app(1, "new", lock)}, 2), patient=True).only_waits
    device.now += 9 * 3600
    assert device.reconcile(state({1: app(1, "hello", lock)}, 3), patient=True).complete
    assert device.reconcile(state({1: app(1, "new", lock)}, 4), patient=True).only_waits


@pytest.mark.parametrize("now", [1_000.0, NIGHT - 86_400])
def test_a_clock_that_is_not_set_or_went_back_ends_no_wait(device: Device, now: float):
    newer = state({1: app(1, "new", {**BATCH, "atMost": "1h"})}, 2)
    take(device)
    device.reconcile(newer, patient=True)
    device.now = now
    device.reconcile(newer, patient=True)
    device.now += 3599
    assert device.reconcile(newer, patient=True).only_waits
    device.now = NIGHT + 3600
    ended = device.reconcile(newer, patient=True).complete
    assert ended == (now > 1_000.0)  # what was counted by a clock that was not set does not count


def test_a_clock_that_cannot_be_trusted_ends_no_wait(tmp_path: Path):
    facts: dict[str, str] = {}
    doubts, now = ["", "its time service has not set it"], [NIGHT]
    locks = Locks(tmp_path, lambda: now[0], Facts(lambda: facts, facts.update), lambda: doubts[0])
    (tmp_path / "batch").touch()
    lock = [Lock("it", file="batch", at_most="8h").as_of("device press-07")]
    doubts.reverse()
    assert "since" not in locks.held("id", "app", lock).what  # type: ignore[union-attr]
    doubts.reverse()
    now[0] += 365 * 86_400  # a time service sets it
    assert "at most until 2027-12-01 09:30 UTC" in locks.held("id", "app", lock).what  # type: ignore[union-attr]
    now[0] += 8 * 3600
    doubts.reverse()
    assert locks.held("id", "app", lock) is not None
    doubts.reverse()
    assert locks.held("id", "app", lock) is None, "what was counted before the doubt counts"


def test_it_can_be_killed_at_every_moment_while_it_waits(device: Device):
    lock = take(device)
    newer = state({1: app(1, "new", BATCH)}, 2)
    for moment in range(8):
        with suppress(Killed):
            device.reconcile(newer, EngineDouble(device.engine, alive=killed_at(moment)), patient=True)
        assert "install app-1/web" not in device.steps
    lock.unlink()
    assert device.reconcile(newer, patient=True).complete


def test_the_agent_ends_with_try_later_and_says_who_holds_it_up(tmp_path: Path):
    world = World(tmp_path)
    (tmp_path / "locks/line3").mkdir(parents=True)
    world.configure(locks={"folder": "locks"})
    world.publish({1: app(1, "hello", BATCH)})
    assert world.agent("once").returncode == 0
    (tmp_path / "locks/line3/batch.lock").touch()
    world.publish({1: app(1, "new", BATCH)})
    assert world.agent("once").returncode == 75
    assert "is held by lock batch-running of deployment app-1 since" in world.agent("status").stdout
    assert world.agent("once", "--now").returncode == 0
    assert world.value(1) == 'GREETING="new"\n'


# Asking


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path, lambda: NIGHT, Facts(dict, lambda _facts: None))


def why(locks: Locks, **lock: str) -> str | None:
    """Return why a lock is held; None where it is free."""
    found = locks.held("id", "app", [Lock("it", **lock).as_of("device press-07")])  # type: ignore[arg-type]
    return None if found is None else found.why[0]


def test_a_file_is_held_while_it_exists(locks: Locks, tmp_path: Path):
    assert why(locks, file="batch") is None
    (tmp_path / "batch").touch()
    assert why(locks, file="batch") == "batch exists"
    # As in a folder that the agent may not look into, which is not so for root.
    assert why(locks, file="batch/it") == "it cannot be asked: Not a directory"
    assert why(locks, file="batch/it", silent="free") is None


def test_a_lock_of_a_file_ends_with_who_holds_it(locks: Locks, tmp_path: Path):
    assert why(locks, flock="batch") is None
    with (tmp_path / "batch").open("w") as file:
        assert why(locks, flock="batch") is None
        fcntl.flock(file, fcntl.LOCK_SH)
        assert why(locks, flock="batch") == "a process locks batch"
    assert why(locks, flock="batch") is None


@pytest.mark.parametrize("kind", ["file", "flock", "unix"])
def test_links_do_not_lead_out_of_the_folder(locks: Locks, tmp_path: Path, kind: str):
    (tmp_path / "run").symlink_to("/run")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert "leads out of the folder of locks" in (why(locks, **{kind: "run/docker.sock"}) or "")
    assert "cannot be asked" in (why(locks, **{kind: "loop/it"}) or "")
    if kind == "flock":
        assert "not a plain file" in (why(locks, flock="pipe") or "")


def test_a_device_without_a_folder_holds_its_locks_unless_they_say_otherwise(locks: Locks):
    bare = replace(locks, folder=None)
    assert "names no folder of locks" in (why(bare, file="batch") or "")
    assert why(bare, file="batch", silent="free") is None


@contextmanager
def answering(address: object, answer: bytes) -> Iterator[str]:
    """Answer each connection with these bytes, and keep it open; yields the port."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with ExitStack() as held, socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = held.enter_context(listener.accept()[0])
                    connection.recv(4096)
                    connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        yield str(listener.getsockname()[1]) if isinstance(address, tuple) else ""
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


@pytest.mark.parametrize(
    ("answer", "held"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.0 423 Locked\r\n", "answers 423"),
        (b"HTTP/1.1 409 \r\n", "answers 409"),
        (b"HTTP/1.1 500 Internal Server Error\r\n", "it answers 500"),
        (b"x" * 100_000, "it does not answer in HTTP/1"),
    ],
)
def test_who_is_asked_over_http_answers_by_the_status(locks: Locks, tmp_path: Path, answer: bytes, held: str | None):
    with answering(("127.0.0.1", 0), answer) as port:
        found = why(locks, http=f"http://127.0.0.1:{port}/busy")
    with answering(str(tmp_path / "it.sock"), answer):
        assert (why(locks, unix="it.sock") is None) == (found is None) == (held is None)
    assert (held or "") in (found or "")


def test_each_lock_and_each_hook_is_a_sign_of_life(device: Device, locks: Locks):
    beats: list[int] = []
    locks.heartbeat = lambda: beats.append(1)
    three = [Lock(f"it-{number}", file="batch").as_of("device press-07") for number in range(3)]
    assert locks.held("id", "app", three) is None
    HookRunner(device.hook_settings, "press-07", locks.heartbeat).probe(
        "no-hook", Occasion("app", "id", [], "", "", "")
    )
    assert len(beats) == 4


def test_a_state_has_no_number_of_locks_and_calendars_that_keeps_a_device_for_hours():
    for name, least in (("locks", 33), ("maintenance", 5)):
        item: Json = {**BATCH, "name": "n"} if name == "locks" else NIGHTS
        with pytest.raises(DeploymentUnusable, match="at most"):
            own_extension(parsed(app(1, "new", **{name: [item] * least})))


def test_no_answer_counts_as_the_lock_says(locks: Locks):
    with answering(("127.0.0.1", 0), b"HTTP/1.1 2") as port:
        url = f"http://127.0.0.1:{port}"
        found = locks.held("id", "app", [DeviceLock("it", http=url, timeout="1s", of="device press-07")])
    assert found is not None
    assert why(locks, http=url) == "it cannot be asked: Connection refused"
    assert why(locks, http=url, silent="free") is None


def test_a_url_is_one_of_the_device_itself():
    assert address_of("http://127.0.0.1:8080/busy") == ("127.0.0.1", 8080, "/busy")
    assert address_of("http://[::1]:8080") == ("::1", 8080, "/")
    assert address_of("http://[::1]/a/b") == ("::1", 80, "/a/b")


@pytest.mark.parametrize("kept", ["{", '{"since": 3}', '{"since": {"x": 3}}'])
def test_a_memory_that_this_agent_did_not_write_is_no_wait(device: Device, kept: str):
    with Journal.open(device.folder / "journal.sqlite3", device.now) as journal:
        journal.set_facts({"locks": kept, "switches": kept})
    take(device)
    newer = state({1: app(1, "new", {**BATCH, "atMost": "8h"})}, 2)
    assert device.reconcile(newer, patient=True).only_waits


# Hooks

HOOKS: Json = {"before": ["drain"], "after": ["resume"]}


def hook(device: Device, name: str, script: str) -> Path:
    """Write a hook that notes what it learns in a file, which is returned."""
    assert device.hook_settings is not None
    path = device.hook_settings.folder / name
    noted = path.with_suffix(".log")
    noted.touch()
    noted.chmod(0o666)
    variables = "$1 $MARGO_GITOPS_DEPLOYMENT $MARGO_GITOPS_COMPONENTS ${MARGO_GITOPS_PREVIOUS_VERSION:-none}"
    variables += " ${MARGO_GITOPS_VERSION:-none} $MARGO_GITOPS_REASON $MARGO_GITOPS_RESULT"
    path.write_text(f'#!/bin/sh\necho "{variables}" >> {noted}\n{script}\n')
    path.chmod(0o755)
    return noted


def test_hooks_run_around_a_change_and_know_what_changes(device: Device):
    before, after = hook(device, "drain", "id -u; env | wc -l"), hook(device, "resume", "")
    assert device.reconcile(state({1: app(1, "new", hooks=HOOKS)}, 2)).complete
    assert before.read_text() == "before app-1 web none 1.0.0 update \n"
    assert after.read_text() == "after app-1 web none 1.0.0 update done\n"
    assert device.reconcile(state({1: app(1, "new", hooks=HOOKS)}, 2)).complete
    assert device.reconcile(state({1: app(1, "newer", hooks=HOOKS, applicationVersion="1.1.0")}, 3)).complete
    assert before.read_text().splitlines()[1:] == ["before app-1 web 1.0.0 1.1.0 update "]
    assert device.reconcile(state({}, 4)).complete
    assert before.read_text().splitlines()[2:] == ["before app-1 web 1.1.0 none remove "]
    assert after.read_text().splitlines()[-1] == "after app-1 web 1.1.0 none remove done"


def test_a_hook_may_ask_to_try_later(device: Device):
    noted = hook(device, "drain", "echo line 3 still runs; exit 21")
    hook(device, "resume", "")
    newer = state({1: app(1, "new", hooks=HOOKS)}, 2)
    assert device.reconcile(newer, patient=True).only_waits
    held = device.recorded(WEB_1)
    assert (held.state, held.code) == ("pending", "MG1620")
    assert "the hook drain asks to try later [MG1620]\n  line 3 still runs" in held.message
    assert device.reconcile(newer, patient=True).only_waits
    assert len(noted.read_text().splitlines()) == 2
    assert device.reconcile(newer, at_once=True).complete


def test_a_hook_that_fails_before_the_change_leaves_all_as_it_is(device: Device):
    noted = hook(device, "drain", "echo no pressure >&2; exit 3")
    running = dict(device.engine.running)
    newer = state({1: app(1, "new", hooks=HOOKS)}, 2)
    assert device.reconcile(newer, patient=True).failures
    assert device.engine.running == running
    failed = device.recorded(WEB_1)
    assert (failed.state, failed.code, failed.attempts) == ("failed", "MG1621", 1)
    assert "it ended with status 3; nothing was changed" in failed.message
    assert "no pressure" in failed.message
    device.reconcile(newer, patient=True)
    assert len(noted.read_text().splitlines()) == 1  # it rests
    hook(device, "drain", "")
    hook(device, "resume", "")
    device.now += 60
    assert device.reconcile(newer, patient=True).complete


def test_a_hook_that_fails_after_the_change_is_run_again_after_a_pause(device: Device):
    hook(device, "drain", "")
    noted = hook(device, "resume", "exit 1")
    newer = state({1: app(1, "new", hooks=HOOKS)}, 2)
    assert device.reconcile(newer, patient=True).failures
    assert (device.recorded(WEB_1).state, device.recorded(WEB_1).code) == ("failed", "MG1621")
    device.reconcile(newer, patient=True)
    assert len(noted.read_text().splitlines()) == 1
    hook(device, "resume", "")
    device.now += 60
    assert device.reconcile(newer, patient=True).complete


def test_a_removal_is_not_begun_by_a_hook_that_failed_before_it(device: Device):
    noted = hook(device, "drain", "exit 3")
    assert device.reconcile(state({1: app(1, "hello", hooks={"before": ["drain"]})}, 2)).complete
    for attempt in (1, 2, 3):
        assert device.reconcile(state({}, 3), patient=True).failures
        assert not device.reconcile(state({}, 3), patient=True).complete  # it rests
        assert len(noted.read_text().splitlines()) == attempt
        assert device.engine.running
        device.now += 3600
    assert device.statuses() == {deployment_id(1): (2, "failed")}
    hook(device, "drain", "")
    assert device.reconcile(state({}, 3), patient=True).complete
    assert not device.engine.running


def test_a_line_that_was_drained_is_resumed_when_the_update_fails(device: Device):
    hook(device, "drain", "")
    noted = hook(device, "resume", "")
    double = device.double()
    double.broken.add(("install", "app-1/web"))
    assert device.reconcile(state({1: app(1, "new", hooks=HOOKS)}, 2), double).failures
    assert noted.read_text() == "after app-1 web none 1.0.0 update failed\n"


@pytest.mark.parametrize("moment", range(6))
def test_the_hooks_after_a_change_run_wherever_the_agent_was_killed(device: Device, moment: int):
    hook(device, "drain", "")
    noted = hook(device, "resume", "")
    newer = state({1: app(1, "new", hooks=HOOKS)}, 2)
    try:
        device.reconcile(newer, EngineDouble(device.engine, alive=killed_at(moment)))
    except Killed:
        assert not noted.read_text()
    assert device.reconcile(newer, patient=True).complete
    assert noted.read_text().splitlines()[-1].endswith("done")


def test_a_hook_has_no_time_without_end(device: Device):
    settings = device.hook_settings
    assert settings is not None
    device.hook_settings = replace(settings, timeout=0.3)
    hook(device, "drain", "(trap '' TERM; sleep 60) & echo waits; exit 0")
    device.reconcile(state({1: app(1, "new", hooks=HOOKS)}, 2))
    assert "it took too long" in device.recorded(WEB_1).message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "/drain: No such file"),
        (lambda path: path.chmod(0o777), "others than the owner may write"),
        (lambda path: path.parent.chmod(0o775), "others than the owner may write"),
        (lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")), "is not a plain file"),
        (lambda path: path.write_text("no program"), "/drain: Exec format error"),
    ],
)
def test_what_others_could_have_changed_does_not_run(device: Device, hooks: Path, change, reason: str):
    hook(device, "drain", "")
    change(hooks / "drain")
    assert device.reconcile(state({1: app(1, "new", hooks=HOOKS)}, 2)).failures
    assert reason in device.recorded(WEB_1).message


def test_a_folder_that_another_user_could_replace_is_not_used(device: Device, hooks: Path):
    assert device.hook_settings is not None
    (hooks / "open/hooks").mkdir(parents=True)
    device.hook_settings = replace(device.hook_settings, folder=hooks / "open/hooks")
    hook(device, "drain", "")
    hook(device, "resume", "")
    newer = state({1: app(1, "new", hooks=HOOKS)}, 2)
    (hooks / "open").chmod(0o777)
    device.reconcile(newer)
    assert f"others than the owner may write {hooks}/open" in device.recorded(WEB_1).message
    (hooks / "open").chmod(0o1777)  # as /tmp
    assert device.reconcile(newer).complete


def test_hooks_never_run_as_root_and_need_a_folder(device: Device):
    hook(device, "drain", "")
    newer = state({1: app(1, "new", hooks=HOOKS)}, 2)
    settings = device.hook_settings
    assert settings is not None
    if os.geteuid() == 0:
        device.hook_settings = replace(settings, user=None)
        device.reconcile(newer)
        assert "hooks never run as root" in device.recorded(WEB_1).message
    device.hook_settings = replace(settings, user="nobody-here")
    device.reconcile(newer)
    assert "there is no user nobody-here" in device.recorded(WEB_1).message
    device.hook_settings = None
    device.reconcile(newer)
    assert "names no folder of hooks" in device.recorded(WEB_1).message


def test_a_hook_gets_no_variable_of_the_agent(device: Device, hooks: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGENT_TOKEN", "canary")
    noted = hooks / "drain.log"
    hook(device, "drain", f"env > {noted}; pwd >> {noted}; exit 1")
    device.reconcile(state({1: app(1, "new", hooks=HOOKS)}, 2))
    told = dict(line.partition("=")[::2] for line in noted.read_text().splitlines())
    own = {name: value for name, value in told.items() if name.startswith("MARGO_GITOPS_")}
    assert own["MARGO_GITOPS_DEVICE"] == DEVICE
    assert own["MARGO_GITOPS_DEPLOYMENT_ID"] == deployment_id(1)
    assert told.keys() - own.keys() <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_", "/"}
