"""Download one file over https, from its start or from a place in it; the caller knows its digest.

1. Only https, and no credentials: a URL that holds a user name or a password is refused.
2. At most three redirects are followed, each to https; each host gets a connection of its own.
3. A proxy is used only where the settings say so; size and time are bounded by the caller.
4. A server may answer a request for the rest of a file with all of it. What it says the rest is, must be that.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.web.connection import WebAnswer, WebConnection
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import REDIRECTS, shown
from margo_gitops.web.source import WebSource

_MOST_REDIRECTS: Final = 3
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")
_PIECE: Final = 64 * 1024
_CONNECT_SECONDS: Final = 30.0


@contextmanager
def download(
    url: str,
    limit: int,
    deadline: Deadline,
    *,
    start: int = 0,
    whole: bool = True,
    ca_file: Path | None = None,
    proxy_from_environment: bool = False,
) -> Iterator[WebAnswer]:
    """Yield the answer that has the file; the block reads it to its end, or raises.

    Args:
        url: where it is, https://host[:port]/path[?query].
        limit: bytes that the answer may have.
        start: bytes of it that are not needed; where the answer begins is `begins_at`.
        whole: whether the block must read all of it.
        ca_file: authorities (PEM) to trust instead of the system's.
        proxy_from_environment: whether https_proxy and no_proxy count.

    Raises:
        TransportError: there is no such file, or no usable answer came.
    """
    for _ in range(_MOST_REDIRECTS + 1):
        source = file_source(url, ca_file, proxy_from_environment=proxy_from_environment)
        address = source.address
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        with (
            closing(WebConnection(source, Meter())) as connection,
            connection.exchange("GET", target, range_headers(start), b"", limit, deadline, whole=whole) as answer,
        ):
            location = answer.header("Location") if answer.status in REDIRECTS else None
            if location is None:
                if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    said = shown(answer.response.reason.encode())
                    raise SourceRefused(f"the server answers {answer.status} {said}".rstrip())
                begins_at(answer, start)
                yield answer
                return
            while answer.read(_PIECE):
                pass
        url = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
    raise SourceMisbehaved(f"the server redirects more than {_MOST_REDIRECTS} times")


def range_headers(start: int) -> dict[str, str]:
    """Return the headers of a request for a file from `start`, as it is stored."""
    return {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})


def begins_at(answer: WebAnswer, start: int) -> int:
    """Return where in the file an answer begins: `start` as asked for, or 0 where the server sends all of it.

    Raises:
        SourceMisbehaved: it is another part.
    """
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = _CONTENT_RANGE.fullmatch(answer.header("Content-Range") or "")
    if start == 0 or found is None or int(found[1]) != start:
        raise SourceMisbehaved("the server answers with another part of the file than was asked for")
    return start


def file_source(url: str, ca_file: Path | None, *, proxy_from_environment: bool, plain: bool = False) -> WebSource:
    """Return how a file is fetched from a URL, which a redirect may have named.

    Args:
        ca_file: the authorities to trust for https; None: the system's.
        plain: whether http is taken too.

    Raises:
        SourceMisbehaved: the URL is not one of those.
    """
    schemes = ("https", "http") if plain else ("https",)
    unusable = SourceMisbehaved("only https://host[:port]/path can be fetched, also after a redirect")
    try:
        address = urlsplit(url)
        usable = address.scheme in schemes and bool(address.hostname) and address.port != 0
    except ValueError:
        raise unusable from None
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise unusable
    if "@" in address.netloc:
        raise SourceMisbehaved("the URL holds a user name or a password")
    return WebSource(
        urldefrag(url).url,
        ca_file=ca_file if address.scheme == "https" else None,
        proxy_from_environment=proxy_from_environment,
        connect_seconds=_CONNECT_SECONDS,
    )
