"""A small HTTP server around the real `git http-backend`, that misbehaves on request."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from support.faulty_http import Answer, Fault, FaultyServer, Request, listening, only

__all__ = ["Answer", "Fault", "GitHttpServer", "Request", "is_fetch", "only", "serve", "wait_for"]

_BACKEND_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}


@dataclass
class GitHttpServer(FaultyServer):
    """One server on the loopback, for the repositories in one folder."""

    root: Path

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
    server = GitHttpServer(root, tls=tls)
    with listening(server):
        yield server


def is_fetch(request: Request) -> bool:
    """Return whether the request is a fetch."""
    return b"command=fetch" in request.body


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
