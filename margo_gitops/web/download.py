"""Download one file over https; the caller knows its digest.

1. Only https, and no credentials: a URL that holds a user name or a password is refused.
2. At most three redirects are followed, each to https; each host gets a connection of its own.
3. A proxy is used only where the settings say so; size and time are bounded by the caller.
"""

from __future__ import annotations

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
_PIECE: Final = 64 * 1024
_CONNECT_SECONDS: Final = 30.0
_UNENCODED: Final = {"Accept-Encoding": "identity"}


@contextmanager
def download(
    url: str, limit: int, deadline: Deadline, *, ca_file: Path | None = None, proxy_from_environment: bool = False
) -> Iterator[WebAnswer]:
    """Yield the answer that has the file; the block reads it to its end.

    Args:
        url: where it is, https://host[:port]/path[?query].
        limit: bytes that the answer may have.
        ca_file: authorities (PEM) to trust instead of the system's.
        proxy_from_environment: whether https_proxy and no_proxy count.

    Raises:
        TransportError: there is no such file, or no usable answer came.
    """
    for _ in range(_MOST_REDIRECTS + 1):
        source = _source(url, ca_file, proxy_from_environment)
        address = source.address
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        with (
            closing(WebConnection(source, Meter())) as connection,
            connection.exchange("GET", target, _UNENCODED, b"", limit, deadline) as answer,
        ):
            location = answer.header("Location") if answer.status in REDIRECTS else None
            if location is None:
                if answer.status != HTTPStatus.OK:
                    said = shown(answer.response.reason.encode())
                    raise SourceRefused(f"the server answers {answer.status} {said}".rstrip())
                yield answer
                return
            while answer.read(_PIECE):
                pass
        url = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
    raise SourceMisbehaved(f"the server redirects more than {_MOST_REDIRECTS} times")


def _source(url: str, ca_file: Path | None, proxy_from_environment: bool) -> WebSource:
    unusable = SourceMisbehaved("only https://host[:port]/path can be fetched, also after a redirect")
    try:
        address = urlsplit(url)
        usable = address.scheme == "https" and bool(address.hostname) and address.port != 0
    except ValueError:
        raise unusable from None
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise unusable
    if "@" in address.netloc:
        raise SourceMisbehaved("the URL holds a user name or a password")
    return WebSource(
        urldefrag(url).url,
        ca_file=ca_file,
        proxy_from_environment=proxy_from_environment,
        connect_seconds=_CONNECT_SECONDS,
    )
