"""What a status other than a success means for a device, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urljoin, urlsplit

from margo_gitops.errors import SourceBusy, SourceMisbehaved, SourceRefused, TransportError
from margo_gitops.values import dataclass
from margo_gitops.web.source import WebSource

if TYPE_CHECKING:
    import http.client

Read: TypeAlias = Callable[[int], bytes]
"""Returns as many bytes as asked for; fewer only at the end."""

LONGEST_RETRY_AFTER = 24 * 3600.0
"""Seconds; a server that asks for more is asked again after a day, so that a wrong header does not lose a device."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses that name another place."""

_SHOWN = 200
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Wording:
    """What remedies call the parts of a source.

    Attributes:
        endings: what is cut off from the target of a redirect, so that it can be written into the settings.
        use: what a device does with the resource.
    """

    resource: str
    server: str
    endings: tuple[str, ...] = ()
    use: str = "read"


def refusal(
    response: http.client.HTTPResponse, source: WebSource, wording: Wording, detail: str = ""
) -> TransportError:
    """Return the error that an answer without success is: refused, busy, or a redirect that is not followed.

    Args:
        wording: what remedies call things.
        detail: what the server adds in words; bounded and printable.
    """
    status = response.status
    said = f"the server answers {status} {shown(response.reason.encode())}".rstrip()
    said += f": {detail}" if detail else ""
    if status in _BUSY:
        pause = retry_after(response.getheader("Retry-After"), response.getheader("Date"))
        return SourceBusy(f"{said.rstrip('.')}: come back later", retry_after=pause)
    if status in REDIRECTS:
        return _redirect(said, response.getheader("Location") or "", source, wording)
    if status == HTTPStatus.UNAUTHORIZED:
        has_token = source.token_file or source.token_variable
        remedy = (
            "the token is wrong or has expired: renew it"
            + ("" if source.username else "; a server that wants Basic authentication needs a username too")
            if has_token
            else "name a file or a variable that holds this device's token"
        )
        return SourceRefused(said, remedy=remedy)
    if status == HTTPStatus.FORBIDDEN:
        return SourceRefused(said, remedy=f"let this device's identity {wording.use} the {wording.resource}")
    if status == HTTPStatus.NOT_FOUND:
        return SourceRefused(
            said,
            remedy=f"check the URL; many servers also answer so where this identity may not see the {wording.resource}",
        )
    return SourceRefused(said, remedy=f"see the log of the {wording.server}")


def _redirect(said: str, location: str, source: WebSource, wording: Wording) -> SourceMisbehaved:
    try:
        target = urlsplit(urljoin(source.url, location))
        host = target.netloc.rpartition("@")[2]
    except ValueError:
        return SourceMisbehaved(f"{said}, to nowhere", remedy="check the URL")
    path = target.path
    for ending in wording.endings:
        path = path.removesuffix(ending)
    return SourceMisbehaved(
        f"{said}, which is not followed: to {shown(f'{target.scheme}://{host}{path}'.encode())}",
        remedy="if that is where the state comes from now, write it into the settings of the source",
    )


def retry_after(value: str | None, date: str | None = None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as seconds or as a date (RFC 9110, 10.2.3).

    At most `LONGEST_RETRY_AFTER`; None where there is no header, or one that makes no sense.

    Args:
        value: the header.
        date: the `Date` header of the same answer. A server means its own clock; the device's may be wrong.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:12]), LONGEST_RETRY_AFTER)
    moment = _moment(text)
    if moment is None:
        return None
    now = _moment(date) if date else None
    return min(max(moment - (time.time() if now is None else now), 0.0), LONGEST_RETRY_AFTER)


def _moment(date: str) -> float | None:
    # An agent that gets no such date does not load what reads it.
    import email.utils

    try:
        return email.utils.parsedate_to_datetime(date.strip()).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def shown(text: bytes) -> str:
    """Return what a server wrote, bounded and printable, so that a message can show it."""
    readable = text[:_SHOWN].decode(errors="replace").strip()
    return "".join(character if character.isprintable() else "?" for character in readable)
