"""Two rotations in a fleet of which some devices are off the whole time, and some are led to a hostile server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from device_world import DEVICE, RENDERER, STRANGER, deployment_bytes, snapshot_of
from engine_double import Engine, EngineDouble
from support.trust_documents import ROOTS, document, key, signed

from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.agent.pull.floor_files import FloorFiles
from margo_gitops.agent.pull.trust_keeper import TrustKeeper
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.trust_document import RevokedKey
from margo_gitops.errors import SourceUnreachable
from margo_gitops.transport.transport import Answer
from margo_gitops.trust.allowed_signers import AnySigner
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.trusted_state import TrustPolicy
from margo_gitops.web.metering import Cost

NOW = parse_moment("2026-10-01T00:00:00Z").timestamp()
DEVICES = 50
SECOND, THIRD = key(11), key(12)


def revoked(which: SigningKey, reason: str) -> RevokedKey:
    return RevokedKey(str(which.public), reason, "2026-09-01T00:00:00Z")  # type: ignore[arg-type]


FIRST = signed(document(1), *ROOTS[:2])
LATER = {
    2: signed(document(2, render=(RENDERER, SECOND), revoked=(revoked(RENDERER, "retired"),)), *ROOTS[:2]),
    3: signed(document(3, render=(THIRD,), revoked=(revoked(SECOND, "compromised"),)), *ROOTS[1:]),
}
FORGED = {
    2: signed(document(2, render=(STRANGER,)), STRANGER, key(3)),
    3: signed(document(3, render=(STRANGER,), roots=(STRANGER,), threshold=1), STRANGER),
}


def state(version: int, signer: SigningKey, *parents: Snapshot, greeting: str = "") -> Snapshot:
    content = {1: deployment_bytes(1, values={"GREETING": greeting or f"version {version}"})}
    ids = tuple(parent.revision for parent in parents)
    return snapshot_of(version, content, parents=ids, key=signer, trust=str(version))


ONE = state(1, RENDERER)
TWO = state(2, SECOND, ONE)
THREE = state(3, THIRD, TWO)


@dataclass
class Server:
    """Has a state and trust documents; None: it cannot be reached."""

    snapshot: Snapshot | None = None
    documents: Mapping[int, bytes] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def pull(self, held: Snapshot | None, patience: int = 0) -> Answer:
        del patience
        if self.snapshot is None:
            raise SourceUnreachable("no route to the source")
        return Answer(None if held and held.revision == self.snapshot.revision else self.snapshot)

    def trust_document(self, version: int) -> bytes | None:
        return self.documents.get(version)

    def close(self) -> None:
        pass


@dataclass
class Member:
    """A device of the fleet; each cycle is a new agent, as after a restart."""

    folder: Path
    engine: Engine = field(default_factory=Engine)
    events: list[Event] = field(default_factory=list)

    def cycle(self, server: Server) -> Outcome:
        state, copy = self.folder / "state", self.folder / "floor.json"

        def places(name: str) -> TwoPlaces:
            return TwoPlaces(state / name, self.folder / f"copy-of-{name}", 64 * 1024)

        keeper = TrustKeeper(
            DEVICE,
            self.folder.parent / "root.json",
            None,
            lambda version: places(f"trust-{version}.json"),
            self.events.append,
            DeviceClock(lambda: NOW, places("clock.txt")),
            server,
        )
        with Journal.open(state / "journal.sqlite3", NOW) as journal:
            return Cycle(
                policy=lambda: TrustPolicy(DEVICE, keeper.current().signers("render"), fleet="plant"),
                fallback=TrustPolicy(DEVICE, AnySigner()),
                transport=server,
                store=TrustedStore(state / "trusted"),
                floors=FloorFiles(DEVICE, state / "floor.json", copy),
                polls=PollRecord(journal, lambda: NOW),
                reconciler=Reconciler(
                    {"engine": EngineDouble(self.engine)}, journal, self.events.append, lambda: NOW, lambda: False
                ),
                record=self.events.append,
                trust=keeper,
            ).run()

    def is_armed(self, version: int) -> bool:
        """Whether the device holds a version, and brings back what somebody removed, without a network."""
        self.engine.running.clear()
        outcome = self.cycle(Server())
        return outcome.version == version and len(self.engine.running) == 1


def test_no_device_is_disarmed_by_two_rotations(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_bytes(FIRST)
    fleet = [Member(tmp_path / str(number)) for number in range(DEVICES)]
    tenth = DEVICES // 10
    asleep, deceived, awake = fleet[:tenth], fleet[tenth : 2 * tenth], fleet[2 * tenth :]
    assert {member.cycle(Server(ONE)).version for member in fleet} == {1}

    hostile = [
        Server(state(2, STRANGER, ONE, greeting="evil"), FORGED),
        Server(state(3, STRANGER, ONE, greeting="evil"), {2: LATER[2], 3: FORGED[3]}),
        Server(state(4, SECOND, ONE, greeting="stolen key"), {3: LATER[3]}),
        Server(TWO),
        Server(ONE, FORGED),
    ]
    for step, (version, newest) in enumerate(((2, TWO), (3, THREE))):
        honest = Server(newest, {number: content for number, content in LATER.items() if number <= version})
        assert {member.cycle(honest).version for member in awake} == {version}
        for member, server in zip(deceived, cycle(hostile[step:] + hostile[:step]), strict=False):
            assert member.cycle(server).version == 1
            assert member.is_armed(1)
    assert all(member.is_armed(3) for member in awake[:tenth])
    assert all(member.is_armed(1) for member in asleep)

    assert {member.cycle(honest).version for member in fleet} == {3}
    assert all(member.is_armed(3) for member in asleep + deceived)
    bad = {Reason.STATE_DAMAGED, Reason.FLOOR_DAMAGED, Reason.DEFECT, Reason.WORKLOAD_FAILED}
    assert not bad & {event.reason for member in fleet for event in member.events}
    assert not [event for member in asleep + awake for event in member.events if event.reason is Reason.STATE_REFUSED]
    stolen = Server(state(4, SECOND, THREE, greeting="stolen key"), honest.documents)
    assert {member.cycle(stolen).poll for member in fleet[::tenth]} == {"refused"}
