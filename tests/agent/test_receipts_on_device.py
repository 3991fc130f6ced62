"""Receipts on the device: KEPT-1 to KEPT-4 (agent/memory/receipt_store.py), MADE-1 to MADE-5 (receipt_maker.py)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from device_world import DEVICE, World, deployment_bytes, deployment_id
from server.serving import served_fleet, until
from support.device_states import DEVICE as SERVED_DEVICE
from support.device_states import RENDERS
from support.margo_server import MargoServer, margo_server
from support.receipts import DEVICE_KEY, private_key, receipt

from margo_gitops.agent.agent import Parts, working_agent
from margo_gitops.agent.memory.receipt_store import ReceiptStore
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.digests import sha256
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.receipt import RECEIPT_NAMESPACE, Receipt, SignedReceipt
from margo_gitops.trust.receipts import ReceiptChain, not_yet_held, read_receipt, read_receipts
from margo_gitops.trust.ssh_signature import sign

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)


class Killed(BaseException):
    """The process ends here."""


def signature(text: str) -> str:
    return sign(text.encode(), DEVICE_KEY, RECEIPT_NAMESPACE)


def faults(received: list[SignedReceipt]) -> list[tuple[str, int | None, int | None]]:
    judge = ReceiptChain(DEVICE)
    found = [*(fault for each in received for fault in judge.follow(each)), *judge.end()]
    return [(each.code, each.first, each.last) for each in found]


def deliver(store: ReceiptStore, received: list[SignedReceipt], *, lose_answer: bool = False) -> None:
    """Send what waits to a server that keeps what is news."""
    while unsent := store.unsent():
        sent = read_receipts(unsent.content, "receipts")
        received += not_yet_held(tuple(received), sent)
        if lose_answer:
            return
        store.sent(unsent.number)


@contextlib.contextmanager
def last_calls(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[list[int]]:
    """Let the process end at the call after `count` that changes a name on the disk; yield how many were left."""
    left = [count]

    def limited(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "unlink"):
            patched.setattr(os, name, limited(getattr(os, name)))
        yield left


def test_killed_at_any_moment_the_chain_has_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes a name on the disk is the last one, in turn; five receipts at most wait."""

    def work(folder: Path, received: list[SignedReceipt]) -> None:
        store = ReceiptStore(folder, most=5)
        for _ in range(7):
            store.add(receipt(1), signature)
        deliver(store, received, lose_answer=True)
        store.add(receipt(1), signature)
        deliver(store, received)

    calls, told = 0, set()
    while True:
        folder, received = tmp_path / str(calls), list[SignedReceipt]()
        with last_calls(monkeypatch, calls) as left, contextlib.suppress(Killed):
            work(folder, received)
        again = ReceiptStore(folder, most=5)
        deliver(again, received)
        again.add(receipt(1), signature)
        deliver(again, received)
        found = faults(received)
        told |= {code for code, _, _ in found}
        assert told <= {"lost"}, (calls, found)
        numbers = [read_receipt(each.receipt).sequence for each in received]
        assert numbers == sorted(set(numbers))
        if left[0] >= 0:
            break
        calls += 1
    assert (calls > 20, told) == (True, {"lost"})


def test_the_newest_stays_and_a_restart_sends_nothing_again(tmp_path: Path) -> None:
    received: list[SignedReceipt] = []
    for _ in range(3):
        store = ReceiptStore(tmp_path)
        assert (store.unsent(), store.waiting) == (None, 0)
        store.add(receipt(1), signature)
        deliver(store, received)
        assert [path.name for path in tmp_path.glob("*.json")] == [f"{store.number}.json"]
    assert (faults(received), len(received)) == ([], 3)


def test_a_device_that_is_off_line_for_long_says_what_it_dropped(tmp_path: Path) -> None:
    store, received = ReceiptStore(tmp_path, most=10), list[SignedReceipt]()
    for _ in range(14):
        store.add(receipt(1), signature)
        assert store.waiting <= 10
    deliver(store, received)
    assert faults(received) == [("lost", 1, 6)]


@pytest.mark.parametrize(("number", "sent", "named"), [(4, 0, True), (2, 0, True), (4, 4, False), (1, 1, False)])
@pytest.mark.parametrize("damage", ["gone", "empty", "other"])
def test_a_receipt_that_cannot_be_read_is_named(
    tmp_path: Path, number: int, sent: int, named: bool, damage: str
) -> None:
    store, received = ReceiptStore(tmp_path), list[SignedReceipt]()
    for made in range(1, 5):
        store.add(receipt(1), signature)
        if made == sent:
            deliver(store, received)
    path = tmp_path / f"{number}.json"
    path.unlink(missing_ok=True)
    if damage != "gone":
        path.write_bytes(b"" if damage == "empty" else (tmp_path / "4.json").read_bytes() if number < 4 else b"{}")
    if damage == "gone" and number == 4 and not sent:
        named = False  # no trace of it: its number was never sent, and is used now
    store = ReceiptStore(tmp_path)
    store.add(receipt(1), signature)
    deliver(store, received)
    assert faults(received) == ([("lost", number, number)] if named else [])


@dataclass
class Plant:
    """A device that signs what runs, and a clock that the test sets."""

    world: World
    now: datetime = NOON
    boot: str = "one"

    @contextlib.contextmanager
    def agent(self) -> Iterator[Parts]:
        configuration = load_configuration(self.world.config, Environment())
        clock = lambda: self.now.timestamp()  # noqa: E731
        with Interruptions() as interruptions, working_agent(configuration, "text", interruptions, clock) as parts:
            yield parts

    def cycle(self, later: timedelta = timedelta(), *, send: bool = False) -> Receipt | None:
        """Do one cycle of a new agent; return the receipt that it made."""
        self.now += later
        before = self.store.number
        with self.agent() as parts:
            parts.cycle.run()
            if send:
                parts.report()
        newest = self.store.newest
        return newest[1] if newest and self.store.number > before else None

    @property
    def store(self) -> ReceiptStore:
        folder = self.world.state / "receipts"
        folder.mkdir(parents=True, exist_ok=True)
        return ReceiptStore(folder, writes=False)


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    made = Plant(World(tmp_path / "world"))
    monkeypatch.setattr("margo_gitops.agent.report.receipt_maker.boot_id", lambda: made.boot)
    made.world.configure(receipts={})
    made.world.publish({1: deployment_bytes(1), 2: deployment_bytes(2)})
    return made


def test_a_receipt_says_what_the_engine_says(plant: Plant) -> None:
    made = plant.cycle()
    assert made is not None
    snapshot = plant.world.versions[-1]
    assert (made.device, made.fleet, made.sequence, made.reason) == (DEVICE, "plant", 1, "start")
    assert (made.at, made.boot.count, made.previous) == ("2026-05-03T12:00:00Z", 1, None)
    assert made.manifest.digest == sha256(snapshot.manifest)
    assert (made.manifest.version, made.manifest.commit) == (1, snapshot.revision)
    assert [(each.name, each.state, each.manifest_version) for each in made.deployments] == [
        ("app-1", "installed", 1),
        ("app-2", "installed", 1),
    ]
    assert [each.digest for each in made.deployments] == [
        sha256(snapshot.deployments[deployment_id(number)]) for number in (1, 2)
    ]
    component = made.deployments[0].components[0]
    assert (component.name, component.applier, component.condition) == ("web", "files", "unknown")
    assert component.digest is not None


def test_one_is_made_after_each_change_and_each_day_and_each_boot(plant: Plant) -> None:
    assert plant.cycle() is not None
    assert plant.cycle(timedelta(minutes=1)) is None
    plant.world.publish({1: deployment_bytes(1, values={"GREETING": "new"})})
    changed = plant.cycle(timedelta(minutes=1))
    assert changed is not None
    assert (changed.reason, changed.manifest.version, len(changed.deployments)) == ("change", 2, 1)
    days = [plant.cycle(timedelta(hours=6)) for _ in range(12)]
    assert [made.reason for made in days if made] == ["daily"] * 3
    plant.boot = "two"
    again = plant.cycle()
    assert again is not None
    assert (again.reason, again.boot.count, again.sequence) == ("start", 2, 6)


def test_what_comes_and_goes_is_signed_every_ten_minutes_at_most(plant: Plant) -> None:
    assert plant.cycle() is not None
    shutil.rmtree(plant.world.output / deployment_id(1))
    assert plant.cycle(timedelta(minutes=9)) is None
    repaired = plant.cycle(timedelta(minutes=2))
    assert repaired is None, "it runs as the newest receipt says"
    (plant.world.output / deployment_id(2) / "stray").write_text("x")
    shutil.rmtree(plant.world.output)
    plant.world.output.write_text("no folder any more")
    broken = plant.cycle(timedelta(minutes=11))
    assert broken is not None
    assert {each.state for each in broken.deployments} == {"failed"}


def test_what_waited_is_signed_as_soon_as_it_runs(plant: Plant) -> None:
    plant.now = datetime(2026, 12, 1, 12, tzinfo=UTC)
    assert plant.cycle() is not None
    closed: Json = {"timeZone": "UTC", "of": "site north", "windows": [], "blackouts": []}
    nights = closed | {"windows": [{"days": "FREQ=DAILY", "start": "12:04", "duration": "1h"}]}
    late = {"extension": {"maintenance": [nights]}, "values": {"GREETING": "late"}}
    plant.world.publish({1: deployment_bytes(1, **late), 2: deployment_bytes(2)})
    waiting = plant.cycle(timedelta(minutes=1))
    assert waiting is not None
    assert {each.state for each in waiting.deployments} == {"pending", "installed"}
    done = plant.cycle(timedelta(minutes=4))
    assert done is not None
    assert {each.state for each in done.deployments} == {"installed"}
    assert plant.cycle(timedelta(minutes=1)) is None


def test_a_clock_that_is_wrong_is_seen(plant: Plant) -> None:
    assert plant.cycle() is not None
    (plant.world.state / "clock.txt").write_text("2026-05-03T11:30:00+00:00\n")
    back = plant.cycle(timedelta(days=-900))
    assert back is not None
    assert back.not_before == "2026-05-03T11:30:00Z" > back.at


def test_a_configured_key_signs(plant: Plant) -> None:
    (plant.world.folder / "device-key").write_bytes(private_key(70))
    (plant.world.folder / "device-key").chmod(0o600)
    plant.world.configure(receipts={"key": "device-key"})
    assert plant.cycle() is not None
    status = json.loads(plant.world.agent("status", "--output", "json").stdout)["receipts"]
    assert status == {"number": 1, "at": "2026-05-03T12:00:00Z", "waiting": 1, "key": str(DEVICE_KEY.public)}
    assert not (plant.world.state / "receipts" / "key").exists()


@pytest.mark.parametrize(("content", "mode"), [(b"no key", 0o600), (private_key(70), 0o644), (None, 0)])
def test_a_key_that_cannot_be_used_stops_nothing(plant: Plant, content: bytes | None, mode: int) -> None:
    if content is not None:
        (plant.world.folder / "device-key").write_bytes(content)
        (plant.world.folder / "device-key").chmod(mode)
    plant.world.configure(receipts={"key": "device-key"})
    with plant.agent() as parts:
        for _ in range(2):
            assert parts.cycle.run().exit_code == 0
        events = [(item.reason, item.code, item.count) for item in parts.journal.events()]
    assert [each for each in events if each[0] == "ReceiptFailed"] == [("ReceiptFailed", "MG1701", 1)]


def test_the_agent_makes_its_key_once(plant: Plant) -> None:
    plant.cycle()
    key = plant.world.state / "receipts" / "key"
    assert (key.stat().st_mode & 0o777, key.read_bytes().startswith(b"-----BEGIN OPENSSH")) == (0o600, True)
    before = key.read_bytes()
    plant.cycle(timedelta(days=2))
    assert key.read_bytes() == before
    text = plant.world.agent("status").stdout
    assert "receipts 2, the newest of 2026-05-05T12:00:00Z, signed by SHA256:" in text
    assert text.count("2 not sent yet") == 1


def test_an_idle_cycle_asks_no_engine(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    with plant.agent() as parts:
        parts.cycle.run()
        monkeypatch.setattr(ReceiptStore, "newest", property(lambda _store: pytest.fail("it looked")))
        parts.cycle.run()


@pytest.fixture
def server() -> Iterator[MargoServer]:
    with margo_server() as made:
        yield made


def test_receipts_are_sent_with_the_reports_and_stay_until_they_arrive(plant: Plant, server: MargoServer) -> None:
    plant.world.configure(receipts={}, reports={"http": {"url": server.base()}})
    for status, waiting in ((404, 1), (503, 2), (201, 0), (201, 0)):
        server.report_status = status
        plant.cycle(timedelta(days=1), send=True)
        assert plant.store.waiting == waiting
    sent = [read_receipts(body, "body") for _, path, body in server.reports if path == "/api/v1/receipts"]
    received: list[SignedReceipt] = []
    for each in sent:
        received += not_yet_held(tuple(received), each)
    assert (faults(received), len(received)) == ([], 4)


def test_the_server_has_what_the_device_signed(tmp_path: Path) -> None:
    with served_fleet(tmp_path) as fleet:
        fleet.render({SERVED_DEVICE: RENDERS[0]})
        fleet.token(SERVED_DEVICE)
        fleet.start()
        world = World(tmp_path / "git", device=SERVED_DEVICE)
        (world.folder / "token").write_text(fleet.tokens[SERVED_DEVICE])
        world.configure(
            source={"git": {"url": f"file://{tmp_path}/state.git"}},
            trust={"unsigned": True},
            reports={"http": {"url": fleet.url, "tokenFile": "token"}},
            receipts={},
        )
        assert world.agent("once").returncode == 0
        held = until(lambda: fleet.reports().get(f"{SERVED_DEVICE}/receipts/latest.json"))
    judge = ReceiptChain(SERVED_DEVICE)
    (sent,) = [SignedReceipt(**each) for each in held["receipts"]]
    assert [*judge.follow(sent), *judge.end()] == []
    assert [each.state for each in read_receipt(sent.receipt).deployments] == ["installed"] * 2
    status = json.loads(world.agent("status", "--output", "json").stdout)["receipts"]
    assert (status["number"], status["waiting"]) == (1, 0)
