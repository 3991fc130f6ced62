"""What engines tell wakes a cycle: the rules WAKE-1 to WAKE-5 of agent.service.wakes, and SERVICE-7."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from agent.test_service import Life

from margo_gitops.agent.service.loop import Service, ServiceManager
from margo_gitops.agent.service.wakes import Wakes

OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class Stream:
    """A connection to an engine: what it tells, told by its letters."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)
        self.there.setblocking(False)
        OPEN.extend((self.here, self.there))

    def fileno(self) -> int:
        return self.here.fileno()

    def close(self) -> None:
        self.here.close()

    def take(self) -> set[str]:
        said = self.here.recv(65536)
        if not said:
            raise ConnectionResetError
        return {kind for kind in ("changed", "loaded", "pulled") if kind[0].encode() in said}


@dataclass
class Engine:
    """An engine in a time of its own.

    Attributes:
        down: whether no connection can be made.
    """

    now: float = 0.0
    down: bool = False
    streams: list[Stream] = field(default_factory=list)
    connected_at: list[float] = field(default_factory=list)
    came: int = 0
    backs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wakes = Wakes([object(), self], self._image, lambda: self.now, lambda: self.backs.append(self.now))

    def _image(self) -> None:
        self.came += 1

    def events(self) -> Stream:
        self.connected_at.append(self.now)
        if self.down:
            raise ConnectionRefusedError
        self.streams.append(Stream())
        return self.streams[-1]

    def tell(self, said: bytes) -> None:
        with contextlib.suppress(OSError):  # as an engine: what no one reads is lost
            self.streams[-1].there.sendall(said)

    def cycle(self, during: bytes = b"") -> None:
        self.wakes.began()
        if during:
            self.tell(during)
        self.wakes.ended()

    def live(self, seconds: float, step: Callable[[], None] = lambda: None) -> list[float]:
        """Return when cycles come in this time; `step` is done each tenth of a second."""
        found = []
        for _ in range(round(seconds * 10)):
            step()
            if self.wakes.files():
                self.wakes.look()
            if self.wakes.due <= self.now:
                found.append(round(self.now, 1))
                self.cycle()
            elif self.wakes.turn() <= self.now:
                self.wakes.look()
            self.now = round(self.now + 0.1, 1)
        return found


@pytest.fixture
def engine() -> Engine:
    made = Engine()
    made.cycle()
    return made


def test_what_is_told_at_once_is_looked_at_once_a_second_later(engine):
    engine.now = 10.0
    engine.tell(b"c")
    assert engine.live(30, lambda: engine.tell(b"c") if engine.now < 10.5 else None) == [11.0]


def test_what_concerns_others_wakes_no_cycle(engine):
    assert engine.live(30, lambda: engine.tell(b"x")) == []


@pytest.mark.parametrize("said", [b"c", b"l", b"c" * 5000])
def test_an_engine_that_tells_without_end_costs_a_cycle_in_a_minute(engine, said):
    looks = engine.live(600, lambda: engine.tell(said))
    pauses = [round(b - a) for a, b in pairwise(looks)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert set(pauses[4:]) == {60}


def test_after_a_quiet_time_a_change_is_looked_at_at_once_again(engine):
    engine.live(120, lambda: engine.tell(b"c"))
    engine.live(200)
    engine.now, before = 1000.0, engine.now
    assert before < 1000
    engine.tell(b"c")
    assert engine.live(20) == [1001.0]


def test_a_cycle_answers_what_was_told_before_it(engine):
    engine.tell(b"cl")
    engine.cycle()
    assert (engine.live(60), engine.came) == ([], 1)


def test_what_a_cycle_itself_does_is_looked_at_once_more_and_a_pull_never(engine):
    engine.cycle(b"p")
    assert (engine.live(60), engine.came) == ([], 0)
    engine.cycle(b"c")
    assert len(engine.live(60)) == 1
    engine.cycle(b"l")
    assert (len(engine.live(60)), engine.came) == (1, 1), "an image that a person loads meanwhile was not noticed"


def test_an_engine_that_comes_back_is_a_change(engine):
    engine.live(100)
    engine.down = True
    engine.streams[-1].there.close()
    assert engine.live(20) == []
    tries = [b - a for a, b in pairwise(engine.connected_at)][1:]
    assert [round(each) for each in tries] == [2, 4, 8]
    engine.down = False
    engine.live(60)
    assert engine.live(60) == [], "it is back only when it says something"
    engine.tell(b"x")
    assert len(engine.live(60)) == len(engine.backs) == 1


def test_an_engine_that_is_not_there_at_first_is_a_change_when_it_comes():
    engine = Engine(down=True)
    engine.cycle()
    engine.live(5)
    engine.down = False
    engine.live(5)
    engine.tell(b"x")
    assert len(engine.live(60)) == 1


def test_a_connection_that_always_ends_is_made_once_a_minute(engine):
    assert engine.live(1000, lambda: engine.streams[-1].there.close()) == []
    assert len(engine.connected_at) < 25


def test_an_applier_that_cannot_tell_changes_nothing():
    wakes = Wakes([object()])
    wakes.began()
    wakes.ended()
    assert (wakes.files(), wakes.turn(), wakes.due) == ([], float("inf"), float("inf"))


@pytest.mark.parametrize("events", [lambda: None, lambda: 1 / 0, object], ids=["none", "a defect", "no connection"])
def test_no_applier_stops_the_agent_by_what_it_gives(events):
    applier = type("Applier", (), {"events": staticmethod(events)})()
    wakes = Wakes([applier], timer=lambda: 0.0)
    wakes.began()
    wakes.look()
    assert (wakes.files(), wakes.due) == ([], float("inf"))


def test_a_service_is_woken_between_two_polls_and_keeps_their_pace():
    engine = Engine()

    class Told(Life):
        def wait(self, seconds: float, files: object = ()) -> None:
            if files:
                engine.tell(b"c")
            super().wait(min(seconds, 7.0))

    life = Told(lambda _: None, 3)
    engine.wakes = Wakes([engine], timer=lambda: life.now)
    Service(
        cycles=life,
        schedule=life.schedule,
        waiting=life,
        manager=ServiceManager({}),
        record=life.events.append,
        clock=lambda: life.now,
        timer=lambda: life.now,
        wakes=engine.wakes,
    ).run()
    quiet = Life(lambda _: None, 3)
    quiet.live()
    assert life.polled_at == quiet.polled_at
    assert len(life.kinds) > len(quiet.kinds)
