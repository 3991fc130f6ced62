"""Git over HTTP: one kept connection to one server (gitprotocol-http, smart clients).

An answer is taken only with status 200 and git's own content type, and only uncompressed: its size is what it says.
What holds for every connection over HTTP is in `margo_gitops.web.connection`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from typing import Final

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.protocol_v2 import RECEIVE_PACK, UPLOAD_PACK
from margo_gitops.transport.git.source import GitSource
from margo_gitops.web.connection import WebAnswer, WebConnection
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import Read, Wording, refusal, shown

_VERSION: Final = {"Git-Protocol": "version=2"}
_PUSHING: Final = Wording("repository", "git server", ("/git-receive-pack",), "push to")
_WORDING: Final = Wording("repository", "git server", ("/info/refs", "/git-upload-pack"))


class HttpConnection:
    """Speaks with the server of one source."""

    def __init__(self, source: GitSource, meter: Meter) -> None:
        self._source = source
        self._path = source.address.path.rstrip("/")
        self._connection = WebConnection(source, meter)

    def greet(self, limit: int, deadline: Deadline) -> AbstractContextManager[Read]:
        """Return a reader of the advertisement of capabilities, of at most `limit` bytes."""
        result = "application/x-git-upload-pack-advertisement"
        return self._exchange("GET", "/info/refs?service=git-upload-pack", {}, b"", result, limit, deadline)

    def ask(
        self, request: bytes, limit: int, deadline: Deadline, service: str = UPLOAD_PACK
    ) -> AbstractContextManager[Read]:
        """Return a reader of the answer to `request`, of at most `limit` bytes."""
        result = f"application/x-{service}-result"
        headers = {"Content-Type": f"application/x-{service}-request", "Accept": result}
        return self._exchange("POST", f"/{service}", headers, request, result, limit, deadline)

    def finish(self) -> None:
        """End a pull: the connection is kept."""

    def close(self) -> None:
        """Close the connection; the next request opens one."""
        self._connection.close()

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        content_type: str,
        limit: int,
        deadline: Deadline,
    ) -> Iterator[Read]:
        target = self._path + path
        with self._connection.exchange(method, target, {**_VERSION, **headers}, body, limit, deadline) as answer:
            if answer.status != HTTPStatus.OK:
                raise refusal(answer.response, self._source, _PUSHING if RECEIVE_PACK in path else _WORDING)
            self._check(answer, content_type)
            yield answer.read

    def _check(self, answer: WebAnswer, content_type: str) -> None:
        answered = (answer.header("Content-Type") or "nothing").partition(";")[0].strip().lower()
        if answered != content_type:
            raise SourceMisbehaved(
                f"the server answers with {shown(answered.encode())} instead of {content_type}",
                remedy="check that the URL is the one of a git repository, served by `git http-backend` or its like",
            )
        if (answer.header("Content-Encoding") or "identity").lower() != "identity":
            raise SourceMisbehaved(
                "the answer is compressed, although the request did not allow it", remedy="turn compression off for git"
            )
