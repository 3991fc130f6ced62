"""The trust document on a device: rules ROTATE-1 to ROTATE-7 of margo_gitops.agent.pull.trust_keeper."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from device_world import DEVICE, RENDERER, STRANGER, World, deployment_bytes, deployment_id
from engine_double import Killed
from support.margo_server import MargoServer, margo_server
from support.trust_documents import EXPIRES, FRESHNESS, ROOTS, carry, document, key, signed

from margo_gitops.agent.agent import Parts, working_agent
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.agent.pull import signature_check, trust_keeper
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.agent.pull.held import floor_files, verify_held
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.state_layout import COMMIT_MEDIA_TYPE, COMMITS_PATH
from margo_gitops.documents.trust_document import FloorChange, RevokedKey
from margo_gitops.errors import TrustDocumentGap
from margo_gitops.state_repo.freshness_refs import Renewal, add_statement, leaf_of
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.refs import Refs
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SshPublicKey

NOW = datetime(2026, 10, 21, 10, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = key(11)
"""The render key after a rotation."""
FIRST_DOCUMENT = signed(document(1), *ROOTS[:2])
ROTATED = signed(document(2, render=(SECOND,)), *ROOTS[:2])
COMPROMISED = signed(
    document(2, render=(SECOND,), revoked=(RevokedKey(str(RENDERER.public), "compromised", "2026-05-01T00:00:00Z"),)),
    *ROOTS[:2],
)


@dataclass
class Plant:
    """A device that was given a trust document, its state repo, and a clock that the test sets."""

    world: World
    now: datetime = NOW
    events: list[tuple[str, str]] = field(default_factory=list)

    def give(self, envelope: bytes, **settings: object) -> None:
        (self.world.folder / "root.json").write_bytes(envelope)
        trust = {"document": "root.json", "floorCopy": "elsewhere/floor.json"}
        self.world.configure(trust=trust, **settings)  # type: ignore[arg-type]

    def publish(self, greeting: str, **options: object) -> Snapshot:
        return self.world.publish({1: deployment_bytes(1, values={"GREETING": greeting})}, **options)

    def carry(self, documents: Mapping[int | str, bytes]) -> None:
        """Let the branch `trust` hold these versions."""
        carry(self.world.repository, documents)

    @contextlib.contextmanager
    def agent(self) -> Iterator[Parts]:
        configuration = load_configuration(self.world.config, Environment())
        with (
            Interruptions() as interruptions,
            working_agent(configuration, "text", interruptions, clock=lambda: self.now.timestamp()) as parts,
        ):
            yield parts

    def cycle(self, **options: bool) -> Outcome:
        """Do one cycle of a new agent."""
        with self.agent() as parts:
            before = {(item.reason, item.text): item.count for item in parts.journal.events(1000)}
            outcome = parts.cycle.run(**options)
            after = {(item.reason, item.text): item.count for item in parts.journal.events(1000)}
        self.events = [event for event, count in after.items() if count > before.get(event, 0)]
        return outcome

    def told(self, reason: str) -> list[str]:
        return [text for found, text in self.events if found == reason]

    @property
    def reasons(self) -> set[str]:
        return {reason for reason, _ in self.events}

    @property
    def greeting(self) -> str | None:
        value = self.world.value(1)
        return value and value.partition("=")[2].strip().strip('"')

    @property
    def followed(self) -> list[str]:
        return sorted(path.name for path in self.world.state.glob("trust-*.json"))


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    plant = Plant(World(tmp_path))
    plant.give(FIRST_DOCUMENT)
    return plant


def test_g_k_5_a_rotation_reaches_a_device_with_the_first_state_of_the_new_key(plant: Plant) -> None:
    plant.publish("one")
    assert plant.cycle().poll == "new"
    assert "trust document 1 of plant" in plant.told("StateTrusted")[0]
    plant.carry({1: FIRST_DOCUMENT, 2: ROTATED})
    plant.publish("two", key=SECOND, trust="2")
    assert (plant.cycle().poll, plant.greeting) == ("new", "two")
    assert "signed by root-1, root-2" in plant.told("TrustFollowed")[0]
    assert plant.followed == ["trust-2.json"]
    assert verify_held(load_configuration(plant.world.config, Environment())).signer
    plant.publish("three", key=RENDERER)
    assert plant.cycle().poll == "refused", "the old key signs nothing new"


def test_a_device_that_was_off_for_three_rotations_takes_them_in_one_poll(plant: Plant) -> None:
    plant.publish("one")
    plant.cycle()
    roots = [ROOTS, (ROOTS[0], key(111), key(112)), (key(111), key(112), key(113)), (key(112), key(113), key(114))]
    documents = {1: FIRST_DOCUMENT}
    for version in (2, 3, 4):
        new, old = roots[version - 1], roots[version - 2]
        keys = {each.public: each for each in (*old[:2], *old[1:], *new[:2])}
        last = document(version, roots=new, render=(key(20 + version),))
        documents[version] = signed(last, *keys.values())
    plant.carry(documents)
    plant.world.repository.run("update-ref", "-d", "refs/heads/devices/press-07")
    plant.publish("four", key=key(24), trust="4", parents=())
    offline = plant.cycle(poll=False)
    assert (offline.version, plant.events) == (1, [])
    plant.world.versions.clear()
    plant.publish("four", key=key(24), trust="4", version=5)
    assert (plant.cycle().version, plant.followed) == (5, ["trust-2.json", "trust-3.json", "trust-4.json"])


def test_g_k_7_a_refused_state_makes_the_device_ask_for_newer_keys(plant: Plant) -> None:
    """As over HTTP without commits, and in a state of an older renderer: nothing names the version."""
    plant.publish("one")
    plant.cycle()
    plant.carry({1: FIRST_DOCUMENT, 2: ROTATED})
    plant.publish("two", key=SECOND)
    assert (plant.cycle().poll, plant.greeting) == ("new", "two")
    assert not plant.told("StateRefused")


def test_a_device_that_was_off_during_a_rotation_brings_its_state_back(plant: Plant) -> None:
    plant.publish("one")
    plant.cycle()
    plant.carry({1: FIRST_DOCUMENT, 2: COMPROMISED})
    plant.publish("not for it", key=STRANGER, trust="2")
    plant.cycle()
    assert plant.followed == ["trust-2.json"]
    (plant.world.output / deployment_id(1) / "web").unlink()
    plant.world.repository.run("update-ref", "-d", "refs/heads/devices/press-07")
    assert (plant.cycle().version, plant.greeting) == (1, "one")
    assert "revoked as compromised, since 2026-05-01" in plant.told("SignerDropped")[0]
    plant.publish("two", key=RENDERER, trust="2", parents=(plant.world.versions[0].revision,))
    assert (plant.cycle().poll, plant.greeting) == ("refused", "one")


ROTATED_AGAIN = document(3, render=(key(12),))


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ({2: ROTATED}, "the source has only version 2"),
        ({}, "the source has only version 1"),
        ({2: ROTATED, 3: ROTATED}, "document 2 of plant is held"),
        ({2: signed(ROTATED_AGAIN, *ROOTS[:2]), 3: b"{}"}, "document 3 of plant is offered"),
        ({2: signed(document(2, fleet="other", render=(STRANGER,)), *ROOTS[:2])}, "other"),
        ({2: signed(document(2, render=(STRANGER,)), ROOTS[0])}, "signed by 1 root keys"),
        ({2: signed(document(2, render=(STRANGER,)), ROOTS[0], ROOTS[0])}, "signed by 1 root keys"),
        ({2: signed(document(2, render=(STRANGER,)), STRANGER, key(3))}, "signed by 0 root keys"),
        ({2: signed(document(2, roots=(STRANGER,), threshold=1), STRANGER)}, "signed by 0 root keys"),
        ({2: ROTATED, 3: b"{" * 1000}, "cannot be read"),
    ],
)
def test_g_k_6_a_state_that_names_a_document_that_does_not_count_is_refused(
    plant: Plant, documents: Mapping[int | str, bytes], says: str
) -> None:
    plant.publish("one")
    plant.cycle()
    plant.carry({1: FIRST_DOCUMENT, **documents})
    plant.publish("evil", key=STRANGER, trust="3")
    outcome = plant.cycle()
    assert (outcome.poll, plant.greeting) == ("refused", "one")
    assert says in str(outcome.poll_error)


def test_g_k_9_an_oversized_document_or_a_foreign_file_breaks_the_poll_and_nothing_else(plant: Plant) -> None:
    plant.publish("one")
    plant.cycle()
    plant.publish("two", trust="2")
    for documents in ({2: b"x" * (64 * 1024 + 1)}, {"two": ROTATED}):
        plant.carry(documents)  # type: ignore[arg-type]
        assert (plant.cycle().poll, plant.greeting) == ("failed", "one")


def test_g_k_8_an_expired_document_takes_no_new_state_until_a_newer_one_comes(plant: Plant) -> None:
    plant.publish("one")
    plant.cycle()
    plant.now = parse_moment(EXPIRES) + DAY
    plant.publish("two")
    outcome = plant.cycle()
    assert (outcome.poll, outcome.version, plant.greeting) == ("refused", 1, "one")
    assert "expired 2027-01-01" in plant.told("TrustExpired")[0]
    assert outcome.reconciliation is not None, "what runs keeps running"
    plant.now -= 90 * DAY
    assert plant.cycle().poll == "refused", "a clock that is set back revives nothing"
    renewed = replace(document(2), expires="2028-01-01T00:00:00Z")
    plant.carry({2: signed(renewed, *ROOTS[:2])})
    plant.now += 90 * DAY
    assert (plant.cycle().poll, plant.greeting) == ("new", "two")
    assert not plant.told("TrustExpired")


@pytest.mark.parametrize("lost", ["state", "copy", "both", "damaged"])
def test_a_followed_document_survives_the_loss_of_one_copy(plant: Plant, lost: str) -> None:
    plant.publish("one")
    plant.cycle()
    plant.carry({2: ROTATED})
    plant.publish("two", key=SECOND, trust="2")
    plant.cycle()
    places = (plant.world.state / "trust-2.json", plant.world.folder / "elsewhere" / "floor.json.trust-2.json")
    for place, name in zip(places, ("state", "copy"), strict=True):
        if lost in (name, "both"):
            place.unlink()
        elif lost == "damaged":
            place.write_bytes(b"{" if name == "state" else place.read_bytes())
    plant.publish("three", key=SECOND, trust="2")
    assert (plant.cycle().poll, plant.greeting) == ("new", "three")
    assert plant.followed == ["trust-2.json"] or lost == "state"


def test_a_given_document_that_cannot_be_used_stops_the_polls_and_nothing_else(plant: Plant) -> None:
    plant.publish("one")
    plant.cycle()
    (plant.world.output / deployment_id(1) / "web").unlink()
    for broken in (b"{}", signed(document(1), ROOTS[0])):
        (plant.world.folder / "root.json").write_bytes(broken)
        outcome = plant.cycle()
        assert (outcome.poll, outcome.version, plant.greeting) == ("none", 1, "one")
        assert plant.told("SignersUnreadable")


def taken_over(plant: Plant, *, changes: tuple[FloorChange, ...], revoke: bool = True) -> None:
    """Let a stolen key sign the highest version, and the root take it back."""
    plant.publish("one")
    plant.cycle()
    plant.publish("evil", version=2**64 - 1)
    assert plant.cycle().version == 2**64 - 1
    revoked = (RevokedKey(str(RENDERER.public), "compromised", "2026-05-01T00:00:00Z"),) if revoke else ()
    said = document(2, render=(SECOND,) if revoke else (RENDERER,), revoked=revoked, floors=changes)
    plant.carry({2: signed(said, *ROOTS[:2])})


TAKEN_BACK = FloorChange("after-attack", "a render key was stolen", highest=1)


@pytest.mark.parametrize("revoke", [True, False])
def test_the_root_takes_a_fast_forward_back_once(plant: Plant, revoke: bool) -> None:
    taken_over(plant, changes=(TAKEN_BACK,), revoke=revoke)
    evil, one = plant.world.versions.pop(), plant.world.versions[0]
    signer = SECOND if revoke else RENDERER
    plant.publish("two", key=signer, trust="2")
    two = plant.world.versions[-1]
    outcome = plant.cycle()
    assert (outcome.poll, outcome.version, plant.greeting) == ("new", 2, "two")
    assert "after-attack: a render key was stolen" in plant.told("FloorChanged")[0]
    plant.world.put(evil)
    assert (plant.cycle().poll, plant.greeting) == ("refused", "two"), "the attacker's state stays out"
    plant.world.put(one)
    assert plant.cycle().poll == "refused"
    plant.world.put(two)
    assert (plant.cycle().poll, plant.told("FloorChanged")) == ("unchanged", [])


def test_until_a_new_state_comes_the_one_that_was_taken_back_runs_and_raises_no_floor(plant: Plant) -> None:
    taken_over(plant, changes=(TAKEN_BACK,))
    evil = plant.world.versions.pop()
    plant.publish("not for it", key=STRANGER, trust="2")
    assert (plant.cycle().version, plant.greeting) == (2**64 - 1, "evil")
    configuration = load_configuration(plant.world.config, Environment())
    for _ in range(2):
        assert floor_files(configuration).read().floor is None
        assert (plant.cycle().version, plant.greeting) == (2**64 - 1, "evil")
    assert verify_held(configuration).snapshot == evil
    (plant.world.folder / "root.json").write_bytes(b"")
    assert plant.cycle().version == 2**64 - 1


@pytest.mark.parametrize("following", [2, 7])
def test_after_a_loss_the_next_version_starts_where_the_root_says(plant: Plant, following: int) -> None:
    plant.publish("one")
    plant.cycle()
    lost = FloorChange("after-loss", "the state repo burned", next=following)
    plant.carry({2: signed(document(2, floors=(lost,)), *ROOTS[:2])})
    plant.world.versions.clear()
    plant.publish("before", version=following - 1, trust="2")
    assert (plant.cycle().poll, plant.greeting) == ("refused", "one")
    plant.world.versions.clear()
    plant.publish("again", version=following, trust="2")
    outcome = plant.cycle()
    assert (outcome.version, plant.greeting) == (following, "again"), outcome.poll_error


def test_a_change_of_the_floor_is_for_the_devices_that_it_names(plant: Plant) -> None:
    taken_over(plant, changes=(replace(TAKEN_BACK, devices=("press-08",)),), revoke=False)
    plant.world.versions.pop()
    plant.publish("two", trust="2")
    assert (plant.cycle().poll, plant.told("FloorChanged")) == ("refused", [])


def test_killed_at_any_moment_a_device_follows_and_makes_its_changes_once(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every system call that changes a name on the disk is the last one, in turn."""
    taken_over(plant, changes=(TAKEN_BACK,))
    plant.world.versions.pop()
    plant.publish("two", key=SECOND, trust="2")
    for folder in ("agent", "elsewhere", "output"):
        shutil.copytree(plant.world.folder / folder, plant.world.folder / f"{folder}.before", symlinks=True)
    calls = 0
    while True:
        for folder in ("agent", "elsewhere", "output"):
            shutil.rmtree(plant.world.folder / folder)
            shutil.copytree(plant.world.folder / f"{folder}.before", plant.world.folder / folder, symlinks=True)
        with monkeypatch.context() as patched:
            left = [calls]

            def limited(real: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
                def call(*arguments: object, **options: object) -> object:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return real(*arguments, **options)

                return call

            for name in ("rename", "replace"):
                patched.setattr(os, name, limited(getattr(os, name)))
            try:
                plant.cycle()
                done = True
            except Killed:
                done = False
        offline = plant.cycle(poll=False)
        assert offline.version in (2, 2**64 - 1)
        assert offline.reconciliation is not None
        assert offline.reconciliation.complete
        assert (plant.cycle().version, plant.greeting) == (2, "two"), calls
        assert floor_files(load_configuration(plant.world.config, Environment())).read().remembered.applied == (
            "after-attack",
        )
        if done:
            assert calls > 5
            return
        calls += 1


def renew(plant: Plant, trust_version: int | None, issued: datetime) -> None:
    """Let the source hold a statement that names a version of the trust document."""
    pack, refs = ObjectPack(), Refs(plant.world.repository.path)
    leaves = (leaf_of(DEVICE, plant.world.versions[-1].manifest),)
    renewal = Renewal(FRESHNESS, issued)
    renewed = add_statement(pack, leaves, "plant", "c" * 40, renewal, refs.read(), trust_version=trust_version)
    pack.write(plant.world.repository.path / "objects" / "pack")
    refs.move(renewed.moves, refs.read())


def test_a_withheld_rotation_is_found_by_the_statement_of_freshness(plant: Plant) -> None:
    plant.give(FIRST_DOCUMENT, freshness={"onExpiry": "hold"})
    plant.publish("one")
    renew(plant, 1, plant.now)
    assert (plant.cycle().poll, plant.greeting) == ("new", "one")
    plant.now += 6 * DAY
    renew(plant, 2, plant.now)
    plant.cycle()
    assert "trust document 2 is named, but the source has only version 1" in plant.told("FreshnessRefused")[0]
    plant.now += 2 * DAY
    plant.cycle()
    assert plant.told("FreshnessLost")[0].startswith("expired")
    plant.publish("two")
    assert (plant.cycle().poll, plant.greeting) == ("refused", "one")
    plant.carry({2: ROTATED})
    plant.publish("three", key=SECOND, trust="2", version=3)
    renew(plant, 2, plant.now)
    assert (plant.cycle().poll, plant.greeting) == ("new", "three")
    assert plant.followed == ["trust-2.json"]


def show(server: MargoServer, state: Snapshot) -> None:
    """Let a plain web server have a state and its commit."""
    server.publish(1, state.deployments, sizes=False)
    server.manifest, server.tag = state.manifest, None
    path = f"{COMMITS_PATH}/{sha256(state.manifest)}"
    server.resources[path] = (COMMIT_MEDIA_TYPE, state.commit or b"")


HOSTILE_DOCUMENTS: dict[str, bytes | None] = {
    "withheld": None,
    "foreign": signed(document(2, fleet="other", render=(STRANGER,)), *ROOTS[:2]),
    "one key twice": signed(document(2, render=(STRANGER,)), ROOTS[0], ROOTS[0]),
    "skipped": signed(document(3, render=(STRANGER,)), *ROOTS[:2]),
    "rolled back": FIRST_DOCUMENT,
    "huge": b" " * (64 * 1024 + 1) + ROTATED,
    "no document": b"<html>",
}


def test_over_http_as_from_static_files_the_keys_are_followed_and_no_lie_is_believed(plant: Plant) -> None:
    """A plain web server: no header that carries the commit, no version that anyone negotiates."""
    with margo_server() as server:
        plant.give(FIRST_DOCUMENT, source={"http": {"url": server.base(), "reportStatus": False}})
        one = plant.publish("one")
        show(server, one)
        assert (plant.cycle().poll, plant.greeting) == ("new", "one")
        show(server, plant.publish("evil", key=STRANGER, trust="2"))
        for lie, content in HOSTILE_DOCUMENTS.items():
            server.resources.pop("/api/v1/trust/2.json", None)
            if content is not None:
                server.resources["/api/v1/trust/2.json"] = ("application/json", content)
            outcome = plant.cycle()
            assert outcome.poll in ("refused", "failed"), lie
            assert (outcome.version, plant.greeting, plant.followed) == (1, "one", []), lie
        plant.world.versions.pop()
        show(server, plant.publish("two", key=SECOND, trust="2"))
        server.resources["/api/v1/trust/2.json"] = ("application/json", ROTATED)
        outcome = plant.cycle()
        assert (outcome.poll, plant.greeting) == ("new", "two"), outcome.poll_error


def test_over_http_a_fast_forward_is_taken_back_though_no_lower_version_is_fetched(plant: Plant) -> None:
    with margo_server() as server:
        plant.give(FIRST_DOCUMENT, source={"http": {"url": server.base(), "reportStatus": False}})
        show(server, plant.publish("evil", version=2**64 - 1))
        assert plant.cycle().version == 2**64 - 1
        plant.world.versions.clear()
        show(server, plant.publish("two", version=2, trust="2"))
        assert plant.cycle().poll == "refused"
        said = document(2, floors=(TAKEN_BACK,))
        server.resources["/api/v1/trust/2.json"] = ("application/json", signed(said, *ROOTS[:2]))
        outcome = plant.cycle()
        assert (outcome.version, plant.greeting) == (2, "two"), outcome.poll_error


def test_each_version_is_read_once_in_a_cycle_and_verified_once(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = dict.fromkeys(("given", "kept", "chain", "signature"), 0)

    def count(owner: object, name: str, what: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: object, **options: object) -> object:
            counted[what] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    count(trust_keeper, "read_small_file", "given")
    count(trust_keeper, "answer_apart", "chain")
    count(signature_check, "answer_apart", "signature")
    count(TwoPlaces, "read", "kept")
    plant.publish("one")
    last = 12
    plant.carry({1: FIRST_DOCUMENT} | {each: signed(document(each), *ROOTS[:2]) for each in range(2, last + 1)})
    with plant.agent() as parts:
        assert parts.cycle.run().poll == "new"
        plant.publish("two", trust=str(last))
        counted.update(dict.fromkeys(counted, 0))
        assert parts.cycle.run().version == 2
        assert len(plant.followed) == last - 1
        assert counted["given"] == 1
        assert counted["kept"] <= last + 1
        assert counted["chain"] == 0, "the held document was verified in the cycle before"
        assert counted["signature"] <= 2 * (last - 1) + 2
        counted.update(dict.fromkeys(counted, 0))
        assert parts.cycle.run().poll == "unchanged"
        assert (counted["given"], counted["chain"], counted["signature"]) == (1, 0, 0)
        assert counted["kept"] <= last + 1


def test_64_versions_are_followed_in_a_row_and_the_rest_in_the_next_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(trust_keeper, "verify_apart", SshPublicKey.verify)
    (tmp_path / "root.json").write_bytes(FIRST_DOCUMENT)

    class Source:
        def trust_document(self, version: int) -> bytes | None:
            return signed(document(version), *ROOTS[:2])

    keeper = trust_keeper.TrustKeeper(
        DEVICE,
        tmp_path / "root.json",
        None,
        lambda version: TwoPlaces(tmp_path / f"trust-{version}.json", None, 64 * 1024),
        lambda _event: None,
        DeviceClock(NOW.timestamp, TwoPlaces(tmp_path / "clock.txt", None, 64)),
        Source(),
    )
    with pytest.raises(TrustDocumentGap, match="the next poll continues"):
        keeper.reach(70)
    assert keeper.current().version == 65
    keeper.begin()
    assert keeper.reach(70)
    assert keeper.current().version == 70


def test_a_device_without_a_network_takes_documents_by_hand(plant: Plant) -> None:
    files = {}
    third = signed(document(3, render=(SECOND,)), *ROOTS[:2])
    for name, content in (("2", ROTATED), ("3", third), ("bad", signed(document(4), ROOTS[0]))):
        files[name] = plant.world.folder / f"{name}.json"
        files[name].write_bytes(content)

    def take(*names: str) -> tuple[int, str]:
        done = plant.world.agent("trust", "import", *(str(files[name]) for name in names))
        return done.returncode, done.stdout + done.stderr

    assert "take version 2 first" in take("3")[1]
    code, said = take("3", "2")
    assert (code, "trust document 3 is followed" in said) == (0, True), said
    assert plant.followed == ["trust-2.json", "trust-3.json"]
    assert "trust document 3 is held already" in take("2")[1]
    assert take("bad")[0] == 4
    plant.publish("two", key=SECOND, trust="3")
    assert (plant.cycle().poll, plant.greeting) == ("new", "two")
    plant.world.configure()
    assert "follows no trust document" in take("3")[1]
