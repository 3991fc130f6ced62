"""The agent as a service: it cycles until it is stopped, politely, through every failure.

SERVICE-1  At the start the held state is applied at once, without the network; then the source is polled.
SERVICE-2  No error of a cycle ends the agent: it is recorded with its code, and the next poll comes, later each time.
SERVICE-3  A source that kept the poll waiting for a change is asked again at once; every other one at the next slot.
SERVICE-4  A signal to stop is obeyed between two steps; what was begun is finished or taken up at the next start.
SERVICE-5  Between polls the held state is applied every minute, or every interval where that is shorter, however long
           the source is away or asks to wait: what stopped here is started here.
SERVICE-6  Who asks for a poll (SIGHUP) is not made to wait: the running step is finished, or left where it only waits,
           the poll comes next, and what rests or is quarantined is tried as well.
SERVICE-7  What an engine tells by itself makes the held state be applied at once (agent/service/wakes.py).
SERVICE-8  An agent that did not live until its first poll the last time polls first: what it holds may be what ends it.
SERVICE-9  A poll that waits for its hours comes as soon as the clock is set to them, or other hours count.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self, TypeAlias

from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.agent.service.wakes import Wakes
from margo_gitops.errors import AgentDefect, MargoGitopsError, SourceUnreachable
from margo_gitops.transport.transport import PollHints
from margo_gitops.values import dataclass, field

if TYPE_CHECKING:
    from margo_gitops.documents.calendars import Opening

LONGEST_UNREPAIRED_SECONDS: Final = 60.0
"""The longest time between two cycles, unless one of them takes longer (SERVICE-5)."""

_MICROSECONDS: Final = 1_000_000
_CUT_OFF: Final = "the poll was cut off by a signal to stop"

_Call: TypeAlias = Literal["due", "asked", "end"]


class Cycles(Protocol):
    """What does one cycle."""

    def run(self, *, poll: bool = True, wait: int = 0, patient: bool = False, retry: bool = False) -> Outcome:
        """Do one cycle."""


class Waiting(Protocol):
    """What waits, and hears of signals meanwhile."""

    def stopping(self) -> bool:
        """Return whether the agent must end."""

    def take_poll(self) -> bool:
        """Return whether a poll was asked for since the last call."""

    def wait(self, seconds: float, files: Sequence[int] = ()) -> None:
        """Return after this time, or as soon as a signal came, or one of these descriptors can be read."""


class Watch(Protocol):
    """What sees the agent live, for others (agent/service/health.py)."""

    def began(self) -> None:
        """Note that a cycle begins."""

    def ended(self, outcome: Outcome | None) -> None:
        """Note that a cycle ended; None: with an error."""

    def due(self, seconds: float) -> None:
        """Note when the next poll is due."""


class Interruptions:
    """SIGTERM and SIGINT ask to stop after the current step, SIGHUP asks to poll now; for the main thread.

    A pipe wakes `wait`: a signal that comes just before the wait is not lost.
    """

    def __init__(self) -> None:
        self._stop = False
        self._poll = False
        self._abort = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before: dict[signal.Signals, signal.Handlers | int | object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        os.close(self._read)
        os.close(self._write)

    def stopping(self) -> bool:
        """Return whether the agent must end."""
        return self._stop

    def called(self) -> bool:
        """Return whether a signal waits to be followed: to end, or to poll now."""
        return self._stop or self._poll

    def take_poll(self) -> bool:
        """Return whether a poll was asked for since the last call."""
        asked, self._poll = self._poll, False
        return asked

    @contextlib.contextmanager
    def abortable(self) -> Iterator[None]:
        """Let a signal to stop cut off what is done inside: only for what may be cut off anywhere, such as a pull.

        Raises:
            SourceUnreachable: the signal came.
        """
        self._abort = True
        try:
            if self._stop:
                raise SourceUnreachable(_CUT_OFF)
            yield
        finally:
            self._abort = False

    def wait(self, seconds: float, files: Sequence[int] = ()) -> None:
        """Return after this time, or as soon as a signal came, or one of these descriptors can be read."""
        if not (self._stop or self._poll):
            poller = select.poll()
            for number in (self._read, *files):
                poller.register(number, select.POLLIN)
            poller.poll(max(seconds, 0.0) * 1000)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 64):
                pass

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._poll = True
        else:
            self._stop = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")
        if self._stop and self._abort:
            self._abort = False  # once: cleaning up is not cut off
            raise SourceUnreachable(_CUT_OFF)


class ServiceManager:
    """The service manager that started this process (systemd, sd_notify); silent where none listens.

    Attributes:
        heartbeat: seconds between two signs of life that it expects; None where it expects none.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        address = variables.get("NOTIFY_SOCKET", "")
        # An address that starts with @ lies in Linux's abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watchdog = variables.get("WATCHDOG_USEC", "")
        self.heartbeat = int(watchdog) / _MICROSECONDS / 2 if self._address and watchdog.isdecimal() else None

    def ready(self) -> None:
        """Say that the agent has started."""
        self._send("READY=1")

    def alive(self, status: str = "") -> None:
        """Give a sign of life, with a line for `systemctl status`."""
        self._send("WATCHDOG=1" + (f"\nSTATUS={status}" if status else ""))

    def stopping(self) -> None:
        """Say that the agent is about to end."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen must not stop the agent.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)


@dataclass(eq=False, kw_only=True)
class Service:
    """Runs cycles until a signal asks to stop.

    Attributes:
        clock: the time, seconds since the epoch; may jump.
        timer: seconds since some moment; never jumps.
        report: tells the server what it does not know yet.
        always_report: whether it reports after a poll that failed, too.
        longest_wait: the most seconds that a source may keep a poll waiting for a change.
        wakes: hears what engines tell; its timer is the same one.
        polls_first: whether the first cycle polls (SERVICE-8).
        polled: called after the first cycle that polls.
    """

    cycles: Cycles
    schedule: Schedule
    waiting: Waiting
    manager: ServiceManager
    record: Record
    clock: Callable[[], float]
    timer: Callable[[], float]
    report: Callable[[], None] = lambda: None
    always_report: bool = False
    longest_wait: float = 0.0
    watch: Watch | None = None
    wakes: Wakes = field(default_factory=Wakes)
    polls_first: bool = False
    polled: Callable[[], None] = lambda: None
    _contact: Opening | None = field(default=None, init=False)
    _coming: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        # A wait gives no signs of life, and jitter may double it.
        self.longest_wait = min(self.longest_wait, (self.manager.heartbeat or float("inf")) / 2)

    def run(self) -> None:
        """Run cycles until a signal asks to stop."""
        self.manager.ready()
        self._cycle(poll=self.polls_first)
        failures = 0
        polled = self.polled
        delay = self.schedule.first_delay()
        self._due(delay)
        while (call := self._wait(delay)) != "end":
            ended = self._cycle(poll=True, asked=call == "asked")
            polled()
            polled = _nothing
            failures = failures + 1 if isinstance(ended, MargoGitopsError) else 0
            delay = self._delay(ended, failures)
            self._due(delay)
        self.manager.stopping()

    @property
    def _pause(self) -> float:
        """Seconds between two cycles that do not poll: none while an artifact is coming."""
        return 0.0 if self._coming else min(self.schedule.interval, LONGEST_UNREPAIRED_SECONDS)

    def _due(self, delay: float) -> None:
        if self.watch is not None:
            self.watch.due(delay)

    def _delay(self, ended: PollHints | MargoGitopsError, failures: int) -> float:
        """Return the seconds until the next poll (SERVICE-3)."""
        now, contact = self.clock(), self._contact
        if isinstance(ended, MargoGitopsError):
            retry_after = getattr(ended, "retry_after", None)
            return self.schedule.delay(now, failures=failures, retry_after=retry_after, opening=contact)
        if ended.waited and not ended.pause:
            return 0.0
        return self.schedule.delay(now, retry_after=ended.pause, wished=ended.interval, opening=contact)

    def _longest_wait(self) -> float:
        """Return the most seconds that a source may keep a poll waiting: not beyond the hours of contact."""
        return min(self.longest_wait, self._contact.end - self.clock()) if self._contact else self.longest_wait

    def _cycle(self, *, poll: bool, asked: bool = False) -> PollHints | MargoGitopsError:
        """Do one cycle, then report; return the source's hints, or why the poll failed (SERVICE-2)."""
        self.wakes.began()
        if self.watch is not None:
            self.watch.began()
        ended, outcome = self._attempt(poll=poll, asked=asked)
        if self.watch is not None:
            self.watch.ended(outcome)
        self.wakes.ended()
        return ended

    def _attempt(self, *, poll: bool, asked: bool) -> tuple[PollHints | MargoGitopsError, Outcome | None]:
        try:
            wait = self.schedule.patience(self.clock(), self._longest_wait()) if poll else 0
            outcome = self.cycles.run(poll=poll, wait=wait, patient=not asked, retry=asked)
            self._contact = outcome.contact
            self._coming = outcome.reconciliation is not None and outcome.reconciliation.coming
            if not outcome.quiet and (outcome.answered or (self.always_report and poll)):
                self.report()
        except MargoGitopsError as error:
            self.record(Event.of(Reason.STORAGE_FAILED, error))
            return error, None
        except Exception as error:  # noqa: BLE001  # SERVICE-2: a defect must not leave a device without its agent
            defect = AgentDefect(f"unexpected {type(error).__name__}: {error}", why=_places(error))
            self.record(Event.of(Reason.DEFECT, defect))
            return defect, None
        self.manager.alive(f"holds version {outcome.version}" if outcome.version else "holds nothing yet")
        # A source that was not asked is not to be spared.
        return (outcome.poll_error if outcome.poll != "none" else None) or outcome.hints, outcome

    def _wait(self, seconds: float) -> _Call:
        """Wait for the next poll, repairing what runs (SERVICE-5), with signs of life; return why the wait is over."""
        begin = self.timer()
        end, repair, contact = begin + seconds, begin + self._pause, self._contact
        while not self.waiting.stopping():
            # A poll that comes soon repairs as well.
            due = repair if end - repair > self._pause / 2 else end
            now = self.timer()
            if self.waiting.take_poll():
                return "asked"
            if now < min(due, self.wakes.due):
                left = min(due, self.wakes.turn()) - now
                self.waiting.wait(min(left, self.manager.heartbeat or left), self.wakes.files())
                self.wakes.look()
                self.manager.alive()
            elif due == end <= now:
                return "due"
            else:
                self._cycle(poll=False)
                repair = self.timer() + self._pause
                if contact is not None and contact != self._contact:
                    contact = self._contact
                    end = min(end, self.timer() + self.schedule.delay(self.clock(), opening=contact))
                    self._due(end - self.timer())
        return "end"


def _nothing() -> None:
    """Do nothing: it was done."""


def _places(error: Exception) -> list[str]:
    """Return where an error came from, innermost first: what a developer needs, in two lines."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return [f"at {frame.name}, line {frame.lineno} of {frame.filename}" for frame in frames[-1:-3:-1]]
