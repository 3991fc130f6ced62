"""What a request says: in its headers (media types, encodings, what it holds, how long it waits), and in its body.

Accept and Accept-Encoding: RFC 9110 section 12.5; If-None-Match: 13.1.2; Prefer: RFC 7240. A header that is malformed
is read as absent where that is the safe side: the client gets the whole content.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Final

from starlette.types import Receive, Scope

from margo_gitops.server.identity.callers import header
from margo_gitops.server.problems import ENCODED_BODY, INVALID_REQUEST, TOO_LARGE, TOO_SLOW, RequestRefused

MAX_BODY: Final = 256 * 1024
_BODY_SECONDS: Final = 20.0
_MAX_HEADER: Final = 4096
_ETAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?')


def accepts(accept: str | None, media_type: str) -> bool:
    """Return whether a client takes a media type; an absent or empty Accept takes everything (RFC 9110 12.5.1).

    Parameters of a range, other than `q`, are ignored: Margo's types have none.
    """
    if accept is None or not accept.strip() or len(accept) > _MAX_HEADER:
        return True
    best: tuple[int, float] = (-1, 0.0)
    main = media_type.partition("/")[0]
    specificity = {media_type: 2, f"{main}/*": 1, "*/*": 0}
    for item in accept.split(","):
        name, quality = _weighted(item)
        rank = specificity.get(name)
        if rank is not None:
            best = max(best, (rank, quality))
    return best[1] > 0


def takes_gzip(accept_encoding: str | None) -> bool:
    """Return whether a client takes gzip (RFC 9110 12.5.3); an absent header means no."""
    if not accept_encoding or len(accept_encoding) > _MAX_HEADER:
        return False
    found: dict[str, float] = dict(_weighted(item) for item in accept_encoding.split(","))
    return found.get("gzip", found.get("x-gzip", found.get("*", 0.0))) > 0


def holds(if_none_match: str | None, etag: str) -> bool:
    """Return whether a client says that it holds the representation with this entity tag (unquoted).

    The comparison is weak, as RFC 9110 13.1.2 wants it: a proxy that compresses turns `"x"` into `W/"x"`.
    """
    if if_none_match is None or len(if_none_match) > _MAX_HEADER:
        return False
    text = if_none_match.strip()
    if text == "*":
        return True
    at, found = 0, []
    while at < len(text):
        match = _ETAG.match(text, at)
        if not match:
            return False
        found.append(match[1])
        at = match.end()
        rest = re.compile(r"\s*,[\s,]*|\s*\Z").match(text, at)
        if not rest:
            return False
        at = rest.end()
    return etag in found


def wait_seconds(prefer: str | None, longest: float) -> float | None:
    """Return for how long a client would wait for a change (RFC 7240 4.3), at most `longest`; None: not at all."""
    if prefer is None or len(prefer) > _MAX_HEADER or longest <= 0:
        return None
    for preference in prefer.split(","):
        match = _WAIT.fullmatch(preference.partition(";")[0].strip().lower())
        if match:
            # The first one counts (RFC 7240 2); 0 asks for an answer at once.
            return min(float(match[1]), longest) or None
    return None


async def read_body(scope: Scope, receive: Receive, *, gzip: bool = False) -> bytes:
    """Return the body of a request, bounded in size and time.

    Args:
        gzip: whether the body may be compressed, as git does with large ones.

    Raises:
        RequestRefused: it is too large or too slow, has another content coding, or its sender went away.
    """
    coding = header(scope, b"content-encoding")
    if gzip and coding in {"gzip", "x-gzip"}:
        return _inflated(await _received(scope, receive))
    if coding not in {None, "", "identity"}:
        raise RequestRefused(ENCODED_BODY)
    return await _received(scope, receive)


async def _received(scope: Scope, receive: Receive) -> bytes:
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length[:12]) > MAX_BODY:
        raise RequestRefused(TOO_LARGE)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestRefused(INVALID_REQUEST)
                part = message.get("body", b"")
                size += len(part)
                if size > MAX_BODY:
                    raise RequestRefused(TOO_LARGE)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RequestRefused(TOO_SLOW) from None


def _inflated(content: bytes) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        body = inflater.decompress(content, MAX_BODY + 1)
    except zlib.error:
        raise RequestRefused(INVALID_REQUEST.because("The body is not gzip.")) from None
    if len(body) > MAX_BODY:
        raise RequestRefused(TOO_LARGE)
    if not inflater.eof:
        raise RequestRefused(INVALID_REQUEST.because("The body ends early."))
    return body


def _weighted(item: str) -> tuple[str, float]:
    """Return the lower-case name of a list item and its quality, 0 for a malformed one."""
    name, *parameters = [part.strip().lower() for part in item.split(";")]
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            value = value.strip()
            quality = float(value) if _QUALITY.fullmatch(value) else 0.0
    return name, quality
