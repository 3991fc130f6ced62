"""Doubles of the APIs of git hosts: comments of pull requests (GitHub, Gitea), notes of merge requests (GitLab)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

TOKEN = "host-token-5f0c77aa"

_LIST = re.compile(r"/repos/plant/fleet/issues/7/comments|/projects/42/merge_requests/7/notes")
_ONE = re.compile(r"/repos/plant/fleet/issues/comments/(\d+)|/projects/42/merge_requests/7/notes/(\d+)")


@dataclass
class GitHost:
    """A running double.

    Attributes:
        url: base of its API.
        comments: all there are.
        writable: whether the token may write.
    """

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    writable: bool = True

    BOT: ClassVar[dict[str, Any]] = {"id": 1, "type": "Bot"}
    PERSON: ClassVar[dict[str, Any]] = {"id": 2, "type": "User"}

    def say(self, body: str, *, bot: bool = False) -> None:
        """Add a comment."""
        author = self.BOT if bot else self.PERSON
        self.comments.append({"id": len(self.comments) + 1, "body": body, "user": author, "author": author})

    def page(self, number: int, size: int) -> list[dict[str, Any]]:
        """Return a page of the comments, the first of which is 1."""
        return self.comments[(number - 1) * size : number * size]

    @property
    def plans(self) -> list[str]:
        """The comments that pipelines wrote."""
        return [each["body"] for each in self.comments if each["author"] is self.BOT]


class FakeGitea(GitHost):
    """Plays the part of the API of Gitea 1.26: users have no type, and each page has all comments."""

    BOT: ClassVar = {"id": -2, "login": "gitea-actions", "login_name": "@gitea-actions/31"}
    PERSON: ClassVar = {"id": 2, "login": "bob", "login_name": ""}

    def page(self, number: int, size: int) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return all comments."""
        return self.comments


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: GitHost) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = host


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if not self._allowed():
            return
        if parts.path == "/user":
            self._answer(200, {"id": 1})
        elif _LIST.fullmatch(parts.path):
            asked = parse_qs(parts.query)
            self._answer(200, self.server.host.page(int(asked["page"][0]), int(asked["per_page"][0])))
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self._body()
        if not self._allowed():
            return
        if not self.server.host.writable:
            self._answer(403, {"message": "Resource not accessible by integration"})
        elif _LIST.fullmatch(self.path):
            self.server.host.say(body, bot=True)
            self._answer(201, self.server.host.comments[-1])
        else:
            self._answer(404, {})

    def do_PATCH(self) -> None:
        body, match = self._body(), _ONE.fullmatch(self.path)
        if not self._allowed():
            return
        if match is None:
            self._answer(404, {})
            return
        comment = self.server.host.comments[int(match[1] or match[2]) - 1]
        comment["body"] = body
        self._answer(200, comment)

    def do_PUT(self) -> None:
        self.do_PATCH()

    def _answer(self, code: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _allowed(self) -> bool:
        given = self.headers.get("PRIVATE-TOKEN") or self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != TOKEN:
            self._answer(401, {"message": "unauthorized"})
        return given == TOKEN

    def _body(self) -> str:
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])


@contextmanager
def git_host(host: GitHost) -> Iterator[GitHost]:
    """Answer as this host does while the context lasts."""
    server = _Server(host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        host.url = f"http://127.0.0.1:{server.server_port}"
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
