"""Whether the agent works, for who watches it: an orchestrator, Prometheus, a person with curl.

HEALTH-1  Unhealthy: a poll is overdue by an interval, or a cycle gives no sign of life for longer than its longest step
          may take. A source that is away makes no agent unhealthy: a restart would bring it no nearer.
HEALTH-2  Ready: the last cycle held a verified state.
HEALTH-3  A thread answers, also while a cycle runs or hangs. It reads what the last cycle left, and nothing else.
HEALTH-4  Answers go to this machine only. A connection has one request of 4 KiB and 2 seconds, and ends then. One that
          is slow keeps no other from its answer; of too many, the oldest is cut off.
HEALTH-5  The textfile is replaced in one step: when something changed; each minute if only counters and times did.
HEALTH-6  What cannot be written or answered stops nothing else; an event says so once.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final

from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.service.metrics import MEDIA_TYPE, Metrics, lasting
from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.disk.files import reason, replace_file
from margo_gitops.errors import AgentMisconfigured, MargoGitopsError, SourceUnreachable
from margo_gitops.values import dataclass, field
from margo_gitops.web.metering import Cost

LONGEST_REQUEST: Final = 4096
REQUEST_SECONDS: Final = 2.0
MOST_CLIENTS: Final = 32
TEXTFILE_SECONDS: Final = 60.0

_UNIX: Final = "unix:"
_LARGEST_ANSWER: Final = 64 * 1024
_ASKING_SECONDS: Final = 5.0
_WORK_BESIDE_STEPS: Final = 60.0
"""Seconds for what a cycle does apart from polling and steps: reading, judging, reporting."""


@dataclass(eq=False, kw_only=True)
class HealthWatch:
    """Sees the agent live; the thread of the `Listener` reads it.

    Attributes:
        interval: seconds between two polls.
        patience: seconds without a sign of life that a cycle may need.
        textfile: where metrics are written.
        timer: seconds since some moment; never jumps.
    """

    interval: float
    patience: float
    metrics: Metrics
    textfile: Path | None = None
    timer: Callable[[], float] = time.monotonic
    ready: bool = field(default=False, init=False)
    text: str = field(default="", init=False)
    _cycling: bool = field(default=False, init=False)
    _due: float | None = field(default=None, init=False)
    _written: tuple[float, str] | None = field(default=None, init=False)
    _unwritten: str = field(default="", init=False)
    _attached: tuple[Journal, Callable[[], Cost], Record] | None = field(default=None, init=False)

    @classmethod
    def of(cls, configuration: AgentConfiguration, clock: Callable[[], float], *, counters: bool) -> HealthWatch:
        """Return what watches an agent with this configuration."""
        source = configuration.source.web
        pull = source.pull_seconds if source else 0.0
        wait = configuration.source.http.wait if configuration.source.http else 0.0
        return cls(
            interval=configuration.poll.interval,
            patience=2 * configuration.longest_timeout + pull + wait + _WORK_BESIDE_STEPS,
            metrics=Metrics(clock, counters),
            textfile=configuration.health.textfile if configuration.health else None,
        )

    def __post_init__(self) -> None:
        self._alive = self.timer()
        self.text = self.metrics.text(Cost())

    def attach(self, journal: Journal, cost: Callable[[], Cost], record: Record) -> None:
        """Name what the metrics are read from, and what records events."""
        self._attached = journal, cost, record
        with contextlib.suppress(MargoGitopsError):
            self.metrics.recall(journal.facts())

    def alive(self) -> None:
        """Take a sign of life."""
        self._alive = self.timer()

    def began(self) -> None:
        """Note that a cycle begins."""
        self.alive()
        self._cycling = True

    def due(self, seconds: float) -> None:
        """Note when the next poll is due."""
        self._due = self.timer() + seconds

    def ended(self, outcome: Outcome | None) -> None:
        """Note that a cycle ended, and publish what it left; None: it ended with an error that was recorded."""
        self.alive()
        self._cycling = False
        if self._attached is None:
            return
        journal, cost, record = self._attached
        if outcome is not None:
            self.ready = outcome.version is not None
            self.metrics.ended(outcome, journal)
        self.text = self.metrics.text(cost())
        if self.textfile is not None:
            self._write(self.textfile, record)

    def problem(self) -> str:
        """Return why the agent is not healthy; empty where it is (HEALTH-1)."""
        now = self.timer()
        if self._cycling:
            silent = now - self._alive
            return f"a cycle gives no sign of life since {silent:.0f} seconds" if silent > self.patience else ""
        if self._due is not None and now > self._due + self.interval:
            return f"the next poll is overdue by {now - self._due:.0f} seconds"
        return ""

    def _write(self, textfile: Path, record: Record) -> None:
        kept, now = lasting(self.text), self.timer()
        if self._written is not None and self._written[1] == kept and now - self._written[0] < TEXTFILE_SECONDS:
            return
        try:
            replace_file(textfile, self.text.encode(), mode=0o644)
        except OSError as error:
            said = f"metrics cannot be written to {textfile}: {reason(error)}"
            if said != self._unwritten:
                record(Event(Reason.HEALTH_UNSAID, said))
            self._unwritten = said
        else:
            self._unwritten, self._written = "", (now, kept)


def answer(request: bytes, watch: HealthWatch) -> bytes:
    """Return the answer to a request, with its head."""
    method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
    path, _, version = rest.partition(b" ")
    status, text, kind = HTTPStatus.OK, "ok\n", "text/plain; charset=utf-8"
    if not version.startswith(b"HTTP/1."):
        status, text = HTTPStatus.BAD_REQUEST, "not a request of HTTP/1\n"
    elif method not in (b"GET", b"HEAD"):
        status, text = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n"
    elif path == b"/healthz":
        if problem := watch.problem():
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}\n"
    elif path == b"/readyz":
        if not watch.ready:
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, "no verified state is held yet\n"
    elif path == b"/metrics":
        text, kind = watch.text, MEDIA_TYPE
    else:
        status, text = HTTPStatus.NOT_FOUND, "there are /healthz, /readyz and /metrics\n"
    body = text.encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + (b"" if method == b"HEAD" else body)


@contextlib.contextmanager
def listening(address: str, watch: HealthWatch) -> Iterator[socket.socket]:
    """Answer at an address while the context lasts (HEALTH-3, HEALTH-4). Only one agent may use it.

    Raises:
        AgentMisconfigured: nothing can listen there.
    """
    path = Path(address.removeprefix(_UNIX)) if address.startswith(_UNIX) else None
    try:
        if path is not None and path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()  # of an agent that was killed
        listener = _listen(address)
    except OSError as error:
        raise AgentMisconfigured(
            f"health cannot be answered at {address}",
            why=[reason(error)],
            remedy="correct health.listen, or end what listens there",
        ) from error
    ending = threading.Event()
    thread = threading.Thread(target=_serve, args=(listener, watch, ending), name="health", daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        ending.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        thread.join(2 * REQUEST_SECONDS)
        listener.close()
        if path is not None:
            path.unlink(missing_ok=True)


def ask(address: str, path: str) -> tuple[int, str]:
    """Return status and text of an answer of the agent that listens at an address.

    Raises:
        SourceUnreachable: it does not answer.
    """
    try:
        end = time.monotonic() + _ASKING_SECONDS
        with _socket(address) as asking:
            asking.settimeout(_ASKING_SECONDS)
            asking.connect(_place(address))
            asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            got = b""
            while len(got) < _LARGEST_ANSWER and (more := asking.recv(_LARGEST_ANSWER)):
                got += more
                asking.settimeout(max(end - time.monotonic(), 0.001))  # what listens there may not be an agent
    except OSError as error:
        raise SourceUnreachable(
            f"no agent answers at {address}",
            why=[reason(error)],
            remedy="start the agent with this configuration, and look into its log",
        ) from error
    head, _, body = got.partition(b"\r\n\r\n")
    status = head[9:12]
    return int(status) if status.isdigit() else 0, body.decode("utf-8", "replace")


def _socket(address: str) -> socket.socket:
    if address.startswith(_UNIX):
        return socket.socket(socket.AF_UNIX)
    return socket.socket(socket.AF_INET6 if address.startswith("[") else socket.AF_INET)


def _place(address: str) -> str | tuple[str, int]:
    if address.startswith(_UNIX):
        return address.removeprefix(_UNIX)
    host, _, port = address.rpartition(":")
    return host.strip("[]").replace("localhost", "127.0.0.1"), int(port)


def _listen(address: str) -> socket.socket:
    listener = _socket(address)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(_place(address))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


@dataclass(eq=False)
class _Client:
    """A connection, with what was read of it and what is not sent yet.

    Attributes:
        end: when it is cut off.
    """

    connection: socket.socket
    end: float
    request: bytes = b""
    unsent: bytes = b""

    def goes_on(self, watch: HealthWatch) -> bool:
        """Read or send what is possible now; return whether something is left to do (OSError: the client is gone)."""
        if not self.unsent:
            more = self.connection.recv(LONGEST_REQUEST - len(self.request))
            self.request += more
            if more and b"\r\n\r\n" not in self.request and len(self.request) < LONGEST_REQUEST:
                return True
            self.unsent = answer(self.request, watch)
        self.unsent = self.unsent[self.connection.send(self.unsent) :]
        return bool(self.unsent)


def _serve(listener: socket.socket, watch: HealthWatch, ending: threading.Event) -> None:
    listener.setblocking(False)
    clients: list[_Client] = []  # the oldest first
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while not ending.is_set():
            for key, _ in ready.select(clients[0].end - time.monotonic() if clients else None):
                if key.data is not None:
                    _go_on(key.data, watch, ready)
                elif (client := _accepted(listener, ending)) is not None:
                    clients.append(client)
                    ready.register(client.connection, selectors.EVENT_READ, client)
            # One that is too slow gets no answer, nor does the oldest of too many: a new one may be who must know.
            clients = [each for each in clients if each.connection.fileno() >= 0]
            while clients and (clients[0].end <= time.monotonic() or len(clients) > MOST_CLIENTS):
                ready.unregister(clients[0].connection)
                clients.pop(0).connection.close()
    for client in clients:
        client.connection.close()


def _go_on(client: _Client, watch: HealthWatch, ready: selectors.BaseSelector) -> None:
    is_open = False
    with contextlib.suppress(OSError):
        is_open = client.goes_on(watch)
    if not is_open:
        ready.unregister(client.connection)
        client.connection.close()
    elif client.unsent:
        ready.modify(client.connection, selectors.EVENT_WRITE, client)


def _accepted(listener: socket.socket, ending: threading.Event) -> _Client | None:
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    except OSError:
        ending.wait(0.1)  # without descriptors: they come back
        return None
    connection.setblocking(False)
    return _Client(connection, time.monotonic() + REQUEST_SECONDS)
