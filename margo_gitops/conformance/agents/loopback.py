"""An HTTP server on the loopback that gives the answers that a case asks for, sound or not, and notes what it is asked.

Threads of the standard library: it serves one agent at a time, and never the outside.
"""

from __future__ import annotations

import base64
import binascii
import select
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeAlias, cast

from margo_gitops.conformance.report import shown
from margo_gitops.values import dataclass, field

LONGEST_REQUEST: Final = 8 * 1024 * 1024
MOST_SENT: Final = 96 * 1024 * 1024
"""Bytes of one answer that never ends by itself; an agent that reads so many has no bound."""
_IDLE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked: `target` is path and query as sent, names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.target.partition("?")[0]


@dataclass(slots=True)
class Answer:
    """What is sent back.

    Attributes:
        status: the status code.
        headers: all but the length.
        body: all of it, or pieces, which are sent as they come (chunked).
        stated_length: a Content-Length in place of the true one; the connection ends after the body.
        note: what it is, for reports.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Iterable[bytes] = b""
    stated_length: int | None = None
    note: str = ""


@dataclass(slots=True)
class Exchange:
    """A request and what became of it.

    Attributes:
        elsewhere: it reached the other host, which no agent has business with.
        authorized: it carried the right credential.
        status: of the answer; 0 until there is one.
        sent: bytes of the body that were sent.
        note: what the answer was, for reports.
        at: when it came, in seconds of a monotonic clock.
    """

    request: Request
    elsewhere: bool
    authorized: bool
    status: int = 0
    sent: int = 0
    note: str = ""
    at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        where = "the other host: " if self.elsewhere else ""
        credential = "with the token" if self.authorized else "without the token"
        note = f" ({self.note})" if self.note else ""
        return f"{where}{shown(f'{self.request.method} {self.request.target}')}, {credential} -> {self.status}{note}"


Respond: TypeAlias = Callable[[Request, bool], Answer]
"""Answers a request; the second argument says whether it reached the other host."""


class HostileServer:
    """Two listeners on the loopback: the server that an agent knows, and another host that it does not know."""

    def __init__(self, token: str) -> None:
        """Start listening; `token` is the credential of the device."""
        self.token = token
        self.exchanges: list[Exchange] = []
        self.respond: Respond = lambda _request, _elsewhere: Answer(503)
        self.stopping = threading.Event()
        self._listeners = [self._listen(elsewhere=False), self._listen(elsewhere=True)]
        self._threads = [
            threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.05}) for each in self._listeners
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        """Where the server listens, without a path."""
        return _address(self._listeners[0])

    @property
    def other_url(self) -> str:
        """Where the other host listens."""
        return _address(self._listeners[1])

    def authorized(self, header: str) -> bool:
        """Return whether an Authorization header carries the device's token, as Bearer or as the password of Basic."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return value.strip() == self.token
        if scheme.lower() == "basic":
            try:
                return base64.b64decode(value.strip()).decode().partition(":")[2] == self.token
            except (binascii.Error, UnicodeDecodeError):
                return False
        return False

    def answer(self, request: Request, elsewhere: bool) -> tuple[Exchange, Answer]:
        """Note a request and return what to answer."""
        exchange = Exchange(request, elsewhere, self.authorized(request.headers.get("authorization", "")))
        self.exchanges.append(exchange)
        answer = self.respond(request, elsewhere)
        exchange.status, exchange.note = answer.status, answer.note
        return exchange, answer

    def close(self) -> None:
        """Stop listening, and end what is being sent."""
        self.stopping.set()
        for listener, thread in zip(self._listeners, self._threads, strict=True):
            listener.shutdown()
            thread.join()
            listener.server_close()

    def _listen(self, *, elsewhere: bool) -> _Listener:
        # Another address where the system has one: to a client, another port alone may be the same host.
        for host in ("127.0.0.2", "127.0.0.1") if elsewhere else ("127.0.0.1",):
            try:
                return _Listener(host, self, elsewhere)
            except OSError:
                continue
        raise OSError("no address of the loopback can be listened on")


def _address(listener: _Listener) -> str:
    return f"http://{listener.server_address[0]!s}:{listener.server_address[1]}"


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def __init__(self, host: str, owner: HostileServer, elsewhere: bool) -> None:
        self.owner = owner
        self.elsewhere = elsewhere
        super().__init__((host, 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that break off are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    @property
    def owner(self) -> HostileServer:
        return cast("_Listener", self.server).owner

    def handle(self) -> None:
        # In short steps, so that an idle connection does not keep the server from ending.
        self.close_connection = False
        while not self.close_connection and not self.owner.stopping.is_set():
            if select.select([self.connection], [], [], _IDLE_SECONDS)[0]:
                self.handle_one_request()

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_GET  # noqa: N815 - the names that the base class looks for
    do_POST = do_GET  # noqa: N815
    do_PUT = do_GET  # noqa: N815
    do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def _serve(self) -> None:
        request = Request(
            self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, self._body()
        )
        exchange, answer = self.owner.answer(request, cast("_Listener", self.server).elsewhere)
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if isinstance(answer.body, bytes):
            length = len(answer.body) if answer.stated_length is None else answer.stated_length
            if answer.status not in (204, 304):
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
                exchange.sent = len(answer.body)
            self.close_connection = self.close_connection or answer.stated_length is not None
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._stream(exchange, answer.body)

    def _stream(self, exchange: Exchange, pieces: Iterable[bytes]) -> None:
        self.close_connection = True
        for piece in pieces:
            if self.owner.stopping.is_set() or exchange.sent > MOST_SENT:
                return
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                exchange.sent += len(piece)
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunks()
        return self.rfile.read(min(int(self.headers.get("Content-Length") or "0"), LONGEST_REQUEST))

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(20).partition(b";")[0].strip() or b"0", 16):
            body += self.rfile.read(min(size, LONGEST_REQUEST - len(body)))
            self.rfile.readline(2)
        self.rfile.readline(2)
        return body
