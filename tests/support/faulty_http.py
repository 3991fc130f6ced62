"""A small HTTP server that misbehaves on request.

It exists for what no real server does on purpose: cut an answer, drip it, redirect, refuse, or send something else.
"""

from __future__ import annotations

import select
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Answer:
    """What the backend would answer; a fault changes it.

    Attributes:
        cut: send only so many bytes of the body, then break the connection.
        drip_seconds: wait so long before each byte of the body.
        close: close the connection after the answer, without saying so.
        raw: send exactly this instead of an answer, then close.
        repeat: send this instead of the body, again and again, until the client breaks off.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut: int | None = None
    drip_seconds: float = 0
    close: bool = False
    raw: bytes | None = None
    repeat: bytes = b""


Fault = Callable[[Request, Answer], Answer | None]


@dataclass(kw_only=True)
class FaultyServer:
    """One server on the loopback; what it answers without a fault is up to `_backend`."""

    tls: ssl.SSLContext | None = None
    authorization: str | None = None
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def url(self, name: str) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/{name}"

    def answer(self, request: Request) -> Answer:
        """Return what there is to answer, or what the faults made of it."""
        self.requests.append(request)
        if self.authorization is not None and request.headers.get("authorization") != self.authorization:
            answer = Answer(401, [("WWW-Authenticate", 'Basic realm="tests"')], b"no\n")
        else:
            answer = self._backend(request)
        for fault in self.faults:
            answer = fault(request, answer) or answer
        return answer

    def _backend(self, request: Request) -> Answer:
        raise NotImplementedError


@contextmanager
def listening(server: FaultyServer) -> Iterator[None]:
    """Let a server answer until the block ends."""
    tls = server.tls

    class Handler(_Handler):
        served = server

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: clients that break off are the point of the tests."""

        def finish_request(self, request: object, client_address: object) -> None:
            if tls is not None:
                request = tls.wrap_socket(request, server_side=True)
                server.resumed.append(bool(request.session_reused))
            try:
                super().finish_request(request, client_address)
            finally:
                request.close()

    with Listener(("127.0.0.1", 0), Handler) as listener:
        server.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield
        finally:
            server.stopping.set()
            listener.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    served: FaultyServer

    def handle(self) -> None:
        # A kept connection waits in short steps, so that the server can stop.
        self.close_connection = False
        while not self.close_connection and not self.served.stopping.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                self.handle_one_request()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.served.answer(Request(self.command, self.path, headers, body, self.client_address[1]))
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        # No Server and no Date: the bytes counted are those of the answer's own headers and of HTTP's framing.
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if not answer.repeat:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        while answer.repeat and not self.served.stopping.is_set():
            self.wfile.write(answer.repeat)
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        if answer.drip_seconds:
            for byte in body:
                if self.served.stopping.wait(answer.drip_seconds):
                    break
                self.wfile.write(bytes([byte]))
        else:
            self.wfile.write(body)
        self.close_connection = answer.close or answer.cut is not None


def only(path_end: str, fault: Callable[[Answer], Answer | None]) -> Fault:
    """Return a fault for the requests whose path (without query) ends in `path_end`."""

    def apply(request: Request, answer: Answer) -> Answer | None:
        return fault(answer) if urlsplit(request.path).path.endswith(path_end) else None

    return apply
