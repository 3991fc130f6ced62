"""Bearer tokens (RFC 6750): one or more for each device, kept as sha256 only; git sends them as passwords.

    # device   sha256 of the token                                                       until (UTC, optional)
    press-07   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    press-07   sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   until=2026-12-01T00:00:00Z

Two lines for a device let an old token and a new one overlap; a line removed revokes its token with the next request. A
token is 32 random bytes or more: a fast hash is enough for what cannot be guessed, and only for that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from starlette.types import Scope

from margo_gitops.digests import Digest, parse_digest
from margo_gitops.server.identity.callers import Caller, header, is_client, unknown
from margo_gitops.server.problems import Problem
from margo_gitops.server.watched_file import WatchedFile, read_entries
from margo_gitops.values import dataclass

_MAX_HEADER: Final = 1024
_MIN_TOKEN: Final = 32
_AUTHORIZATION: Final = b"authorization"
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")

ASK_FOR_TOKEN: Final = Problem(
    401,
    "Not authorized",
    "not-authorized",
    headers=(("WWW-Authenticate", 'Basic realm="margo-gitops", charset="UTF-8"'),),
)
"""The refusal that makes git and tools like it send the credentials they have (G-A-4)."""


@dataclass(frozen=True, slots=True)
class _Grant:
    device: str
    until: float | None


class BearerTokens:
    """Identifies a device by its token, of the file or of its enrolment.

    The file must be readable when this is made (`ServerMisconfigured`).
    """

    challenge: tuple[tuple[str, str], ...] = (("WWW-Authenticate", 'Bearer realm="margo"'),)

    def __init__(
        self, path: Path, clock: Callable[[], float], enrolled: Callable[[str], tuple[str, str] | None] = lambda _: None
    ) -> None:
        """Take the file, and who is enrolled: device and state of a token, by its digest."""
        self._enrolled = enrolled
        self._grants: WatchedFile[Mapping[str, _Grant]] = WatchedFile(path, read_tokens, {}, "list of tokens")
        self._clock = clock

    def __call__(self, scope: Scope) -> Caller | None:
        """Return whose token a request carries."""
        value = header(scope, _AUTHORIZATION) or ""
        match = _BEARER.fullmatch(value) if len(value) <= _MAX_HEADER else None
        # Hashed in any case; what is compared is the hash of a secret, whose lookup time tells nothing of the secret.
        digest = f"sha256:{hashlib.sha256((match[1] if match else value).encode()).hexdigest()}"
        grant = self._grants.value().get(digest)
        if match is None:
            return unknown(scope, "no token" if not value else "the Authorization header holds no bearer token")
        if grant is None and (held := self._enrolled(digest)) is not None:
            device, state = held
            return Caller(device, "token") if state == "enrolled" else unknown(scope, f"{device}: its token is {state}")
        if grant is None:
            return unknown(scope, f"a token that is not in the list ({digest[:15]}…)")
        if len(match[1]) < _MIN_TOKEN:
            return unknown(scope, f"a token of {grant.device} with fewer than {_MIN_TOKEN} characters")
        if grant.until is not None and self._clock() >= grant.until:
            return unknown(scope, f"a token of {grant.device} that has ended")
        return Caller(grant.device, "token")


def read_tokens(text: str, path: Path) -> Mapping[str, _Grant]:
    """Return the grant of each token, by its digest.

    Raises:
        ServerMisconfigured: a line is wrong; neither tokens nor digests are shown.
    """
    line = "DEVICE sha256:<64 hex digits> [until=2026-12-01T00:00:00Z]"
    return read_entries(text, path, _read_grant, what="token", line=line)


def with_bearer(scope: Scope) -> Scope:
    """Return a request whose Basic password, if it has one, becomes a bearer token request.

    Git's clients send Basic, with the token as password (RFC 7617; git subset, G-A-3).
    """
    value = header(scope, _AUTHORIZATION) or ""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic" or len(value) > 2 * _MAX_HEADER:
        return scope
    try:
        password = base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return scope
    others = [(name, content) for name, content in scope["headers"] if name != _AUTHORIZATION]
    return {**scope, "headers": [*others, (_AUTHORIZATION, b"Bearer " + password)]}


def read_device_digest(fields: Sequence[str]) -> tuple[str, Digest]:
    """Return the first two words of a line: a client's id and a digest (ValueError: they are something else)."""
    device, digest = fields
    if not is_client(device):
        raise ValueError("the first field is not a client's id (a device id without a slash)")
    try:
        return device, parse_digest(digest)
    except ValueError:
        raise ValueError("the second field is not a sha256 digest") from None


def _read_grant(fields: list[str]) -> tuple[str, _Grant]:
    if len(fields) not in (2, 3):
        raise ValueError(f"{len(fields)} fields instead of 2 or 3")
    device, digest = read_device_digest(fields[:2])
    if len(fields) == 2:
        return digest, _Grant(device, None)
    name, _, moment = fields[2].partition("=")
    if name != "until":
        raise ValueError(f"{name[:20]!r} is not known")
    try:
        until = datetime.fromisoformat(moment)
    except ValueError:
        raise ValueError("until is not a date with a time") from None
    if until.tzinfo is None:
        raise ValueError("until has no time zone; end it with Z")
    return digest, _Grant(device, until.astimezone(UTC).timestamp())
