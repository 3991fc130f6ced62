"""One cycle: rules CYCLE-1 to CYCLE-9 of agent.cycle, against a source that lies and disks that forget."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from device_world import (
    ALLOWED_SIGNERS,
    DEVICE,
    RENDERER,
    STRANGER,
    deployment_bytes,
    deployment_id,
    snapshot_of,
)
from engine_double import Engine, EngineDouble, Killed

from margo_gitops.agent import cycle as agent_cycle
from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.pull.floor_files import FloorFiles
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.digests import sha256
from margo_gitops.errors import ExitCode, SourceUnreachable
from margo_gitops.transport.transport import Answer
from margo_gitops.trust.allowed_signers import AnySigner, parse_allowed_signers
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge, judge_held
from margo_gitops.web.metering import Cost


@dataclass
class Source:
    """A transport in memory: one snapshot, none (unreachable), or always "unchanged"."""

    snapshot: Snapshot | None = None
    says_unchanged: bool = False
    asked_with: list[str | None] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        del patience
        self.asked_with.append(held.revision if held else None)
        if self.says_unchanged:
            return Answer(None)
        if self.snapshot is None:
            raise SourceUnreachable("no route to the source")
        return Answer(None if held and held.revision == self.snapshot.revision else self.snapshot)

    def close(self) -> None:
        pass


@dataclass
class Device:
    """What survives: a folder, an engine, a source. Each `cycle` is a new agent, as after a restart."""

    folder: Path
    source: Source = field(default_factory=Source)
    engine: Engine = field(default_factory=Engine)
    events: list[Event] = field(default_factory=list)
    signers: str = ALLOWED_SIGNERS
    copy: bool = True

    def cycle(self, alive: Callable[[], None] = lambda: None, **options: bool) -> Outcome:
        with self.agent(alive) as cycle:
            return cycle.run(**options)

    @contextlib.contextmanager
    def agent(self, alive: Callable[[], None] = lambda: None) -> Iterator[Cycle]:
        state = self.folder / "state"
        self.events.clear()
        with Journal.open(state / "journal.sqlite3", 0) as journal:
            yield Cycle(
                policy=lambda: TrustPolicy(DEVICE, parse_allowed_signers(self.signers.encode(), "allowed_signers")),
                fallback=TrustPolicy(DEVICE, AnySigner()),
                transport=self.source,
                store=TrustedStore(state / "trusted"),
                floors=self.floors,
                polls=PollRecord(journal, lambda: 0),
                reconciler=Reconciler(
                    {"engine": EngineDouble(self.engine, alive=alive)}, journal, self.record, lambda: 0, lambda: False
                ),
                record=self.record,
            )

    @property
    def floors(self) -> FloorFiles:
        return FloorFiles(
            DEVICE, self.folder / "state" / "floor.json", self.folder / "copy.json" if self.copy else None
        )

    def record(self, event: Event) -> None:
        self.events.append(event)

    @property
    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def version(number: int, *parents: Snapshot, greeting: str | None = None) -> Snapshot:
    content = {1: deployment_bytes(1, values={"GREETING": greeting or f"version {number}"})}
    return snapshot_of(number, content, parents=tuple(parent.revision for parent in parents))


ONE = version(1)
TWO = version(2, ONE)


def test_a_new_state_is_trusted_stored_applied_and_then_unchanged(device: Device) -> None:
    device.source.snapshot = ONE
    first = device.cycle()
    assert (first.poll, first.version, first.exit_code) == ("new", 1, ExitCode.OK)
    assert device.reasons == [Reason.FIRST_CONTACT, Reason.STATE_TRUSTED, Reason.WORKLOAD_INSTALLED]
    second = device.cycle()
    assert (second.poll, second.version, second.exit_code) == ("unchanged", 1, ExitCode.OK)
    assert device.source.asked_with == [None, ONE.revision]
    assert device.reasons == []


def test_what_is_held_at_the_start_is_judged_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.source.snapshot = ONE
    device.cycle()
    judged: list[Snapshot] = []

    def judging(snapshot: Snapshot, policy: TrustPolicy, floor: Floor | None) -> TrustedState:
        judged.append(snapshot)
        return judge_held(snapshot, policy, floor)

    monkeypatch.setattr(agent_cycle, "judge_held", judging)
    with device.agent() as cycle:
        held = cycle.held()
        assert cycle.run().version == (held and held.manifest.manifest_version)
    assert len(judged) == 1


def test_offline_what_is_held_is_applied(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.source.snapshot = None
    device.engine.running.clear()
    outcome = device.cycle()
    assert (outcome.poll, outcome.exit_code) == ("failed", ExitCode.TRANSPORT)
    assert len(device.engine.running) == 1


def test_offline_from_the_start_nothing_happens(device: Device) -> None:
    outcome = device.cycle()
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("failed", None, ExitCode.TRANSPORT)
    assert outcome.reconciliation is None


def test_without_a_poll_the_source_is_not_asked(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.engine.running.clear()
    assert device.cycle(poll=False).exit_code is ExitCode.OK
    assert len(device.source.asked_with) == 1
    assert len(device.engine.running) == 1


@pytest.mark.parametrize("missed", [1, 2, 5])
def test_a_device_that_missed_renders_takes_the_newest_state(device: Device, missed: int) -> None:
    """Each cycle is a new process: the floor comes from its files, and history between the two is not fetched."""
    device.source.snapshot = ONE
    device.cycle()
    newest = ONE
    for number in range(2, missed + 3):
        newest = version(number, newest)
    device.source.snapshot = newest
    outcome = device.cycle()
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("new", missed + 2, ExitCode.OK)
    assert device.floors.read().floor == Floor(missed + 2, sha256(newest.manifest), newest.revision)
    device.source.snapshot = version(missed + 3, newest)
    assert device.cycle().version == missed + 3


TAMPERED = {deployment_id(1): deployment_bytes(1, values={"GREETING": "evil"})}


@pytest.mark.parametrize(
    ("evil", "code"),
    [
        (replace(TWO, deployments=TAMPERED), "MG1507"),
        (replace(TWO, manifest=TWO.manifest + b" "), "MG1507"),
        (replace(TWO, deployments={}), "MG1507"),
        (replace(TWO, commit=None), "MG1501"),
        (snapshot_of(3, {1: deployment_bytes(1)}, key=STRANGER), "MG1503"),
        (snapshot_of(3, {1: deployment_bytes(1)}, key=None), "MG1501"),
        (ONE, "MG1504"),
        (version(2, ONE, greeting="again"), "MG1505"),
        (version(3), "MG1506"),
        (snapshot_of(4, {1: deployment_bytes(1)}, fleet="other"), "MG1509"),
    ],
)
def test_a_refused_state_is_a_security_event_and_nothing_else(device: Device, evil: Snapshot, code: str) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.source.snapshot = TWO
    device.cycle()
    before, floor = dict(device.engine.running), device.floors.read().floor
    device.source.snapshot = replace(evil, revision="evil")
    outcome = device.cycle()
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("refused", 2, ExitCode.TRUST)
    assert [(event.reason, event.code) for event in device.events] == [(Reason.STATE_REFUSED, code)]
    assert device.engine.running == before
    assert device.floors.read().floor == floor
    assert TrustedStore(device.folder / "state" / "trusted").load() == TWO


def kill_after(steps: int) -> Iterator[None]:
    yield from [None] * steps
    raise Killed


@pytest.mark.parametrize("steps", range(5))
def test_f13_killed_during_an_update_the_device_never_goes_back(device: Device, steps: int) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.source.snapshot = TWO
    life = kill_after(steps)
    with pytest.raises(Killed):
        device.cycle(alive=lambda: next(life))
    device.source.snapshot = ONE
    outcome = device.cycle()
    assert (outcome.poll, outcome.version) == ("refused", 2)
    device.source.snapshot = None
    device.cycle()
    digest = dict(device.engine.running)
    device.source.snapshot = TWO
    device.cycle()
    assert device.engine.running == digest, "the update was not finished without the network"
    assert not device.engine.half


def test_f2_cut_off_between_fetch_and_floor_the_revision_counts_only_with_its_content(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every system call that changes the disk is the last one, in turn."""
    calls = 0
    while True:
        shutil.rmtree(device.folder / "state", ignore_errors=True)
        (device.folder / "copy.json").unlink(missing_ok=True)
        device.source.snapshot = ONE
        device.cycle()
        device.source.snapshot = TWO
        with monkeypatch.context() as patched:
            left = [calls]

            def limited(real: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
                def call(*arguments: object, **options: object) -> object:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return real(*arguments, **options)

                return call

            for name in ("write", "fsync", "mkdir", "rename", "replace", "symlink", "unlink"):
                patched.setattr(os, name, limited(getattr(os, name)))
            try:
                device.cycle()
                done = True
            except Killed:
                done = False
        # The revision that the source is told is held, is held: offline, all of it is applied.
        device.source.snapshot = None
        offline = device.cycle()
        assert offline.version in (1, 2)
        assert offline.reconciliation is not None
        assert offline.reconciliation.complete
        assert device.source.asked_with[-1] == (ONE, TWO)[offline.version - 1].revision
        device.source.snapshot = TWO
        assert device.cycle().version == 2
        if done:
            assert calls > 10
            return
        calls += 1


def test_f14_damaged_state_is_not_applied_but_fetched_again(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    (document,) = (device.folder / "state" / "trusted").glob("sha256-*/deployments/*")
    document.write_bytes(TAMPERED[deployment_id(1)])
    before = dict(device.engine.running)
    device.source.snapshot = None
    offline = device.cycle()
    assert (offline.version, offline.reconciliation) == (None, None)
    assert device.reasons == [Reason.STATE_DAMAGED, Reason.POLL_FAILED]
    assert device.engine.running == before
    device.source.snapshot = ONE
    again = device.cycle()
    assert (again.poll, again.version, again.exit_code) == ("new", 1, ExitCode.OK)
    assert device.source.asked_with[-1] is None


def test_f4_without_any_floor_the_held_state_gives_it_and_that_is_a_security_event(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.source.snapshot = TWO
    device.cycle()
    (device.folder / "state" / "floor.json").unlink()
    (device.folder / "copy.json").unlink()
    device.source.snapshot = ONE
    outcome = device.cycle()
    assert (outcome.poll, outcome.version) == ("refused", 2)
    assert Reason.FIRST_CONTACT in device.reasons


def test_f26_a_state_folder_restored_from_a_backup_does_not_bring_old_state_back(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    shutil.copytree(device.folder / "state", device.folder / "backup", symlinks=True)
    device.source.snapshot = TWO
    device.cycle()
    before = dict(device.engine.running)
    shutil.rmtree(device.folder / "state")
    (device.folder / "backup").rename(device.folder / "state")
    device.source.snapshot = None
    assert device.cycle().version is None
    assert Reason.STATE_DAMAGED in device.reasons
    assert device.engine.running == before


def test_a_state_that_was_trusted_when_stored_stays_trusted_to_run_after_its_key_was_dropped(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.engine.running.clear()
    device.signers = f"stranger@example.com {STRANGER.public}\n"
    device.source.snapshot = None
    offline = device.cycle()
    assert (offline.version, device.reasons[0]) == (1, Reason.SIGNER_DROPPED)
    assert RENDERER.public.fingerprint in device.events[0].text
    assert device.engine.running, "what is held is brought back"
    device.source.snapshot = TWO
    assert device.cycle().poll == "refused", "nothing new of the dropped key"
    content = {1: deployment_bytes(1, values={"GREETING": "rotated"})}
    device.source.snapshot = snapshot_of(2, content, parents=(ONE.revision,), key=STRANGER)
    assert (device.cycle().version, device.reasons[-2:]) == (2, [Reason.STATE_TRUSTED, Reason.WORKLOAD_INSTALLED])


@pytest.mark.parametrize("how", ["another state of the dropped key", "a bad signature", "no floor"])
def test_what_is_held_by_a_dropped_key_must_be_what_was_stored(device: Device, how: str) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.engine.running.clear()
    store = TrustedStore(device.folder / "state" / "trusted")
    trusted = judge(ONE, TrustPolicy(DEVICE, None), None)
    match how:
        case "another state of the dropped key":
            store.save(judge(TWO, TrustPolicy(DEVICE, None), None))
        case "a bad signature":
            assert ONE.commit
            commit = ONE.commit.replace(b"press-07: version 1", b"press-07: version 2")
            store.save(replace(trusted, snapshot=replace(ONE, commit=commit)))
        case "no floor":
            (device.folder / "state" / "floor.json").unlink()
            (device.folder / "copy.json").unlink()
    device.signers = f"stranger@example.com {STRANGER.public}\n"
    device.source.snapshot = None
    assert (device.cycle().version, device.engine.running) == (None, {})
    assert Reason.STATE_DAMAGED in device.reasons
    device.signers = ""
    assert device.cycle().reconciliation is None, "a broken list lets nothing in"


@pytest.mark.parametrize("broken", ["", "no signer at all\n"])
def test_a_broken_list_of_signers_stops_the_polls_and_nothing_else(device: Device, broken: str) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.source.snapshot = TWO
    device.engine.running.clear()
    device.signers = broken
    outcome = device.cycle()
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("none", 1, ExitCode.USAGE)
    assert device.engine.running, "what is held is not kept running"
    assert (Reason.SIGNERS_UNREADABLE, "MG1512") in [(event.reason, event.code) for event in device.events]
    assert len(device.source.asked_with) == 1
    device.signers = ALLOWED_SIGNERS
    assert device.cycle().version == 2


def test_a_broken_list_of_signers_is_told_once_and_again_after_it_was_mended(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    with device.agent() as cycle:
        for signers in ("", "", ALLOWED_SIGNERS, ""):
            device.signers = signers
            cycle.run()
    assert device.reasons.count(Reason.SIGNERS_UNREADABLE) == 2


def test_what_stands_wrong_on_the_disk_is_told_once(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    (document,) = (device.folder / "state" / "trusted").glob("sha256-*/deployments/*")
    document.write_bytes(TAMPERED[deployment_id(1)])
    (device.folder / "copy.json").unlink()
    (device.folder / "copy.json").mkdir()
    device.source.snapshot = None
    with device.agent() as cycle:
        for _ in range(5):
            cycle.run(poll=False)
    assert device.reasons == [Reason.FLOOR_DAMAGED, Reason.STATE_DAMAGED]


@pytest.mark.parametrize("how", ["another version", "no floor", "no state"])
def test_without_signers_a_started_agent_applies_only_the_state_of_the_floor(device: Device, how: str) -> None:
    device.source.snapshot = ONE
    device.cycle()
    other = judge(replace(TWO, commit=None), TrustPolicy(DEVICE, None), None)
    device.engine.running.clear()
    match how:
        case "another version":
            TrustedStore(device.folder / "state" / "trusted").save(other)
        case "no floor":
            (device.folder / "state" / "floor.json").unlink()
            (device.folder / "copy.json").unlink()
        case "no state":
            shutil.rmtree(device.folder / "state" / "trusted")
    device.signers = ""
    assert device.cycle().reconciliation is None
    assert device.engine.running == {}
    assert Reason.SIGNERS_UNREADABLE in device.reasons


def test_unchanged_from_a_source_that_was_told_nothing_is_a_lie(device: Device) -> None:
    device.source.says_unchanged = True
    outcome = device.cycle()
    assert (outcome.poll, outcome.exit_code) == ("failed", ExitCode.TRANSPORT)
    assert [error.code for error in outcome.errors] == ["MG1403"]


def test_a_full_disk_while_storing_keeps_the_old_state_running(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.source.snapshot = ONE
    device.cycle()
    before = dict(device.engine.running)
    device.source.snapshot = TWO

    def full(_descriptor: int, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        outcome = device.cycle()
    assert (outcome.poll, outcome.version, outcome.exit_code) == ("failed", 1, ExitCode.APPLY)
    assert [error.code for error in outcome.errors] == ["MG1704"]
    assert device.engine.running == before
    assert device.floors.read().floor is not None
    assert device.cycle().version == 2


def test_a_poll_that_works_again_is_told_once(device: Device) -> None:
    device.cycle()
    device.source.snapshot = ONE
    device.cycle()
    assert Reason.POLL_RECOVERED in device.reasons
    device.cycle()
    assert device.reasons == []


def test_an_empty_state_removes_everything(device: Device) -> None:
    device.source.snapshot = ONE
    device.cycle()
    device.source.snapshot = snapshot_of(2, {}, parents=(ONE.revision,))
    assert device.cycle().exit_code is ExitCode.OK
    assert device.engine.running == {}
