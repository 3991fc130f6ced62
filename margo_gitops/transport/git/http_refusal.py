"""What a status other than 200 means for a device, and what to do about it."""

from __future__ import annotations

import email.utils
import http.client
import time
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from margo_gitops.errors import SourceBusy, SourceMisbehaved, SourceRefused, TransportError
from margo_gitops.transport.git.pktline import shown
from margo_gitops.transport.git.source import GitSource

LONGEST_RETRY_AFTER = 24 * 3600.0
"""Seconds; a server that asks for more is asked again after a day, so that a wrong header does not lose a device."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


def check_answer(response: http.client.HTTPResponse, content_type: str, source: GitSource) -> None:
    """Return where the answer may be read.

    Raises:
        SourceRefused: the server refuses: 401, 403, 404, another status.
        SourceBusy: it asks to come back later: 429, 503.
        SourceMisbehaved: a redirect, another content type, or a compressed answer.
    """
    if response.status != HTTPStatus.OK:
        raise _refusal(response, source)
    answered = (response.getheader("Content-Type") or "nothing").partition(";")[0].strip().lower()
    if answered != content_type:
        raise SourceMisbehaved(
            f"the server answers with {shown(answered.encode())} instead of {content_type}",
            remedy="check that the URL is the one of a git repository, served by `git http-backend` or its like",
        )
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise SourceMisbehaved(
            "the answer is compressed, which nobody asked for", remedy="turn compression off for git"
        )


def _refusal(response: http.client.HTTPResponse, source: GitSource) -> TransportError:
    status = response.status
    said = f"the server answers {status} {shown(response.reason.encode())}".rstrip()
    if status in _BUSY:
        return SourceBusy(f"{said}: come back later", retry_after=retry_after(response.getheader("Retry-After")))
    if status in _REDIRECTS:
        return _redirect(said, response.getheader("Location") or "", source)
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
        return SourceRefused(said, remedy="let this device's identity read the repository")
    if status == HTTPStatus.NOT_FOUND:
        return SourceRefused(
            said, remedy="check the URL; many servers also answer so where this identity may not see the repository"
        )
    return SourceRefused(said, remedy="see the log of the git server")


def _redirect(said: str, location: str, source: GitSource) -> SourceMisbehaved:
    try:
        target = urlsplit(urljoin(source.url, location))
        host = target.netloc.rpartition("@")[2]
    except ValueError:
        return SourceMisbehaved(f"{said}, to nowhere", remedy="check the URL")
    path = target.path.removesuffix("/info/refs").removesuffix("/git-upload-pack")
    return SourceMisbehaved(
        f"{said}, which is not followed: to {shown(f'{target.scheme}://{host}{path}'.encode())}",
        remedy="if that is where the state comes from now, write it into the settings of the source",
    )


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as seconds or as a date (RFC 9110, 10.2.3).

    At most `LONGEST_RETRY_AFTER`; None where there is no header, or one that makes no sense.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:12]), LONGEST_RETRY_AFTER)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return min(max(moment - time.time(), 0.0), LONGEST_RETRY_AFTER)
