"""Read ranges of one file over a kept connection, over https or, where the caller knows that it may be, plain http.

RANGE-1  A range is asked for with `Range`. An answer with another range is an error. A server may send the whole file:
         the caller learns where the answer begins.
RANGE-2  At most three redirects are followed, each to a URL that is as safe; where the file was found is asked first
         next time, and where that no longer answers (signed URLs end) the first place is asked again.
RANGE-3  No credentials are in a URL. Bytes and time of an answer are bounded.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.values import KW_ONLY, dataclass, field
from margo_gitops.web.connection import WebAnswer, WebConnection
from margo_gitops.web.download import file_source
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import REDIRECTS, Read, Wording, refusal
from margo_gitops.web.source import WebSource

_MOST_REDIRECTS: Final = 3
_PIECE: Final = 64 * 1024
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_SLACK: Final = 64 * 1024
_WORDING: Final = Wording(resource="file", server="file server", use="read")


@dataclass(eq=False)
class RangedFile:
    """A file on a web server.

    Attributes:
        url: https://host[:port]/path[?query], or http where `plain`.
        plain: whether http is allowed: where a digest decides, and a site's network may see what is fetched.
        ca_file: authorities (PEM) to trust instead of the system's.
        proxy_from_environment: whether https_proxy and no_proxy count.
        meter: counts what it costs.
    """

    url: str
    _: KW_ONLY
    plain: bool = False
    ca_file: Path | None = None
    proxy_from_environment: bool = False
    meter: Meter = field(default_factory=Meter)
    _found: str = field(default="", init=False)
    _source: WebSource | None = field(default=None, init=False)
    _connection: WebConnection | None = field(default=None, init=False)

    @contextmanager
    def read(self, start: int, end: int, size: int, deadline: Deadline) -> Iterator[tuple[int, Read]]:
        """Yield where the answer begins, `start` or 0, and what reads it; the block may stop anywhere.

        Args:
            end: where the wanted bytes end.
            size: of the whole file.

        Raises:
            TransportError: there is no such file, or no usable answer came.
        """
        moved = bool(self._found)
        url = self._found or self.url
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
        for _ in range(_MOST_REDIRECTS + 1):
            source, connection = self._connected(url)
            address = source.address
            target = (address.path or "/") + (f"?{address.query}" if address.query else "")
            with connection.exchange("GET", target, headers, b"", size + _SLACK, deadline, whole=False) as answer:
                location = answer.header("Location") if answer.status in REDIRECTS else None
                if answer.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    self._found = url
                    yield _begins(answer, start, end), answer.read
                    return
                if location is None and not moved:
                    raise refusal(answer.response, source, _WORDING)
                while answer.read(_PIECE):
                    pass
            if location is None:
                moved, self._found, url = False, "", self.url
            else:
                url = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
        raise SourceMisbehaved(f"the server redirects more than {_MOST_REDIRECTS} times")

    def close(self) -> None:
        """Close the connection; the next range opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self, url: str) -> tuple[WebSource, WebConnection]:
        source = file_source(url, self.ca_file, proxy_from_environment=self.proxy_from_environment, plain=self.plain)
        before, self._source = self._source, source
        if self._connection is None or before is None or _server(before) != _server(source):
            self.close()
            self._connection = WebConnection(source, self.meter)
        return source, self._connection


def _server(source: WebSource) -> tuple[str, str]:
    return source.address.scheme, source.address.netloc


def _begins(answer: WebAnswer, start: int, end: int) -> int:
    """Return where an answer begins (RANGE-1)."""
    if answer.status == HTTPStatus.OK:
        return 0
    said = _RANGE.fullmatch((answer.header("Content-Range") or "").strip())
    if said is None or int(said[1]) != start or not start <= int(said[2]) < end:
        raise SourceMisbehaved("the server answers with another range than the one that was asked for")
    if answer.header("Content-Encoding") not in (None, "identity"):
        raise SourceRefused("the server compresses what it sends, so that no range of it can be used")
    return start
