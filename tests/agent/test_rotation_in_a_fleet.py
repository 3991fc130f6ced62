"""Two rotations in a fleet of which some devices are off the whole time, and some are led to a hostile server."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import pytest
from device_world import DEVICE, RENDERER, STRANGER, deployment_bytes, snapshot_of
from engine_double import Engine, EngineDouble
from support.fleet import FleetFolder
from support.reporting import Reporter
from support.rooted_fleet import Plant
from support.trust_documents import ROOTS, document, key, signed

from margo_gitops.agent.apply.reconciler import Reconciler
from margo_gitops.agent.cycle import Cycle, Outcome
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.poll_record import PollRecord
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.agent.pull import trust_keeper
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.agent.pull.floor_files import FloorFiles
from margo_gitops.agent.pull.trust_keeper import TrustKeeper
from margo_gitops.agent.pull.trusted_store import TrustedStore
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.trust_document import RevokedKey
from margo_gitops.errors import SourceUnreachable
from margo_gitops.state_repo.report_branch import ReportKey
from margo_gitops.transport.git.git_transport import GitTransport
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.transport import Answer
from margo_gitops.trust.allowed_signers import AnySigner
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SigningKey, SshPublicKey
from margo_gitops.trust.trusted_state import TrustPolicy
from margo_gitops.web.metering import Cost
from margo_gitops.wording import counted

NOW = parse_moment("2026-10-01T00:00:00Z").timestamp()
DEVICES = int(os.environ.get("MARGO_GITOPS_FLEET_SIZE", "20"))
"""A tenth of them is off the whole time; by hand, with 1,000."""
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
    device: str = DEVICE
    engine: Engine = field(default_factory=Engine)
    events: list[Event] = field(default_factory=list)

    def cycle(self, server: Server | GitTransport) -> Outcome:
        state, copy = self.folder / "state", self.folder / "floor.json"

        def places(name: str) -> TwoPlaces:
            return TwoPlaces(state / name, self.folder / f"copy-of-{name}", 64 * 1024)

        keeper = TrustKeeper(
            self.device,
            self.folder.parent / "root.json",
            None,
            lambda version: places(f"trust-{version}.json"),
            self.events.append,
            DeviceClock(lambda: NOW, places("clock.txt")),
            server,
        )
        with Journal.open(state / "journal.sqlite3", NOW) as journal:
            return Cycle(
                policy=lambda: TrustPolicy(self.device, keeper.current().signers("render"), fleet="plant"),
                fallback=TrustPolicy(self.device, AnySigner()),
                transport=server,
                store=TrustedStore(state / "trusted"),
                floors=FloorFiles(self.device, state / "floor.json", copy),
                polls=PollRecord(journal, lambda: NOW),
                reconciler=Reconciler(
                    {"engine": EngineDouble(self.engine)}, journal, self.events.append, lambda: NOW, lambda: False
                ),
                record=self.events.append,
                trust=keeper,
            ).run()

    def is_armed(self, version: int, workloads: int = 1) -> bool:
        """Whether the device holds a version, and brings back what somebody removed, without a network."""
        self.engine.running.clear()
        outcome = self.cycle(Server())
        return outcome.version == version and len(self.engine.running) == workloads


@pytest.fixture(autouse=True)
def quick_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process for each signature, and no power failure."""
    monkeypatch.setattr(trust_keeper, "verify_apart", SshPublicKey.verify)
    monkeypatch.setattr(trust_keeper, "answer_apart", lambda ask: ask())
    monkeypatch.setattr(os, "fsync", lambda _: None)


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


@dataclass
class Line:
    """A fleet with a root, whose devices read the state repo itself, and report to it."""

    plant: Plant
    members: dict[str, Member]
    reporter: Reporter | None = None

    def poll(self, names: Collection[str]) -> Iterator[int | None]:
        """Let devices poll, and report what they hold as a server would write it down."""
        reports: dict[ReportKey, bytes | None] = {}
        self.reporter = self.reporter or Reporter(self.plant.state.path)
        for name in names:
            transport = GitTransport(GitSource(f"file://{self.plant.state.path}", device=name))
            outcome = self.members[name].cycle(transport)
            transport.close()
            assert outcome.version is not None, outcome.poll_error
            for deployment in self.reporter.deployments(name):
                reports[ReportKey(name, "status", deployment)] = status_of(deployment, outcome.version)
            yield outcome.version
        self.reporter.commit(reports, *names)

    def signers(self) -> dict[str, int]:
        said = self.plant.run("keys", "status", "--state-repo", self.plant.state.path, "--output", "json")
        return json.loads(said.stdout)["devices"]  # type: ignore[no-any-return]

    def states(self, *wanted: str) -> dict[str, set[str]]:
        """Return the devices in each state."""
        said = self.plant.run("status", "--details", "--output", "json", code=None)
        found: dict[str, set[str]] = {state: set() for state in wanted}
        for each in json.loads(said.stdout)["devices"]:
            found.setdefault(each["state"], set()).add(each["device"])
        return found


def status_of(deployment: str, version: int, state: str = "installed") -> bytes:
    said = {"deploymentId": deployment, "adoptedManifestVersion": version, "status": {"state": state}}
    return json.dumps({**said, "components": [{"name": "web", "state": state}]}).encode()


def test_status_is_right_at_each_step_of_a_rotation_whatever_one_device_says(tmp_path: Path) -> None:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.application()
    names = [f"press-{number:04}" for number in range(DEVICES)]
    for name in names:
        fleet.device(name)
    fleet.deployment("app")
    fleet.commit("Make the fleet")
    plant = Plant(fleet, tmp_path / "keys")
    plant.rooted()
    (tmp_path / "root.json").write_bytes((fleet.root / "keys/1.json").read_bytes())
    line = Line(plant, {name: Member(tmp_path / name, name) for name in names})
    tenth = DEVICES // 10
    asleep, hostile, awake = set(names[:tenth]), names[tenth], names[tenth + 1 :]

    plant.render()
    assert set(line.poll(names)) == {1}
    assert (line.signers(), line.states()) == ({"renderer": DEVICES}, {"installed": {*names}})

    plant.run("keys", "add", "render", plant.pub("second"))
    plant.run("keys", "retire", "renderer")
    plant.sign("anna", "cleo")
    fleet.commit("Rotate the key")
    plant.render("second")
    assert (line.signers(), line.states()) == ({"renderer": DEVICES}, {"installed": {*names}})

    fleet.deployment("other")
    fleet.commit("Deploy another application")
    plant.render("second")
    assert set(line.poll(awake)) == {2}
    assert line.signers() == {"second": DEVICES}
    assert line.states() == {"behind": {*asleep, hostile}, "installed": {*awake}}

    refused = plant.run("keys", "retire", "second", code=2).stderr
    assert f"{counted(len(asleep) + 1, 'device')} did not report" in refused
    for said, state, believed in ((2**64 - 1, "ahead", 0), (2, "applying", 1), (0, "behind", 0)):
        lies = {
            ReportKey(hostile, "status", f"{each:08d}-0000-5000-8000-000000000000"): status_of("x", said)
            for each in range(300)
        }
        assert line.reporter is not None
        line.reporter.commit(lies | {ReportKey(hostile, "status", DEVICE): None}, hostile)
        assert line.signers() == {"second": DEVICES}
        found = line.states(state)
        assert hostile in found[state], found
        assert (found["installed"], found["behind"] - {hostile}) == ({*awake}, asleep)
        refused = plant.run("keys", "retire", "second", code=2).stderr
        assert f"{counted(len(asleep) + 1 - believed, 'device')} did not report" in refused

    honest = {ReportKey(hostile, "status", each): status_of(each, 2) for each in line.reporter.deployments(hostile)}
    line.reporter.commit(dict.fromkeys(lies) | honest, hostile)
    assert line.signers() == {"second": DEVICES}
    assert line.states() == {"behind": asleep, "installed": {*awake, hostile}}, "it is believed about itself, no more"

    plant.run("keys", "revoke", "renderer")
    plant.sign("anna", "cleo")
    fleet.commit("Revoke the old key")
    plant.render("second")
    for name in asleep:
        assert line.members[name].is_armed(1)
    assert set(line.poll([*asleep, *awake[:tenth]])) == {2}
    assert all(line.members[name].is_armed(2, workloads=2) for name in asleep)
    assert line.states() == {"installed": {*names}}
    bad = {Reason.STATE_DAMAGED, Reason.FLOOR_DAMAGED, Reason.DEFECT, Reason.STATE_REFUSED}
    assert not bad & {event.reason for member in line.members.values() for event in member.events}
