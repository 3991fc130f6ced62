"""A small HTTP server around the real `git http-backend`, that misbehaves on request.

It exists for what no real server does on purpose: cut an answer, drip it, redirect, refuse, or send another pack.
"""

from __future__ import annotations

import select
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_BACKEND_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}


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
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut: int | None = None
    drip_seconds: float = 0
    close: bool = False
    raw: bytes | None = None


Fault = Callable[[Request, Answer], Answer | None]


@dataclass
class GitHttpServer:
    """One server on the loopback, for the repositories in one folder."""

    root: Path
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
        """Return what git answers, or what the faults made of it."""
        self.requests.append(request)
        if self.authorization is not None and request.headers.get("authorization") != self.authorization:
            answer = Answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"no\n")
        else:
            answer = self._backend(request)
        for fault in self.faults:
            answer = fault(request, answer) or answer
        return answer

    def _backend(self, request: Request) -> Answer:
        address = urlsplit(request.path)
        environment = _BACKEND_ENVIRONMENT | {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": unquote(address.path),
            "QUERY_STRING": address.query,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=request.body, capture_output=True, env=environment, check=False, timeout=60
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in head.decode().split("\r\n"))
        ]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        return Answer(status, [(name, value) for name, value in headers if name != "Status"], body)


@contextmanager
def serve(root: Path, tls: ssl.SSLContext | None = None) -> Iterator[GitHttpServer]:
    """Serve the repositories in `root` until the block ends."""
    server = GitHttpServer(root, tls)

    class Handler(_Handler):
        git = server

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
            yield server
        finally:
            server.stopping.set()
            listener.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    git: GitHttpServer

    def handle(self) -> None:
        # A kept connection waits in short steps, so that the server can stop.
        self.close_connection = False
        while not self.close_connection and not self.git.stopping.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                self.handle_one_request()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.git.answer(Request(self.command, self.path, headers, body, self.client_address[1]))
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        # No Server and no Date: the bytes counted are those of git's own headers and of HTTP's framing.
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        if answer.drip_seconds:
            for byte in body:
                if self.git.stopping.wait(answer.drip_seconds):
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


def is_fetch(request: Request) -> bool:
    """Return whether the request is a fetch."""
    return b"command=fetch" in request.body


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
