"""Bearer tokens (RFC 6750): one or more for each device, kept as sha256 only.

    # device   sha256 of the token                                                       until (UTC, optional)
    press-07   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    press-07   sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   until=2026-12-01T00:00:00Z

Two lines for a device let an old token and a new one overlap; a line removed revokes its token with the next request. A
token is 32 random bytes or more: a fast hash is enough for what nobody can guess, and for nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from starlette.types import Scope

from margo_gitops.digests import parse_digest
from margo_gitops.errors import ServerMisconfigured
from margo_gitops.server.identity.callers import Caller, header, is_client
from margo_gitops.server.watched_file import WatchedFile, said_lines

_MAX_HEADER: Final = 1024
_MIN_TOKEN: Final = 32
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")


@dataclass(frozen=True, slots=True)
class _Grant:
    device: str
    until: float | None


class BearerTokens:
    """Identifies a device by its token."""

    challenge: tuple[tuple[str, str], ...] = (("WWW-Authenticate", 'Bearer realm="margo"'),)

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Use the tokens in a file.

        Args:
            path: the file.
            clock: the time, seconds since the epoch.

        Raises:
            ServerMisconfigured: the file cannot be read, or has a mistake.
        """
        self._grants: WatchedFile[Mapping[str, _Grant]] = WatchedFile(path, read_tokens, {})
        self._clock = clock

    def __call__(self, scope: Scope) -> Caller | None:
        """Return whose token a request carries."""
        value = header(scope, b"authorization") or ""
        match = _BEARER.fullmatch(value) if len(value) <= _MAX_HEADER else None
        # Hashed in any case; what is compared is the hash of a secret, whose lookup time tells nothing of the secret.
        digest = f"sha256:{hashlib.sha256((match[1] if match else value).encode()).hexdigest()}"
        grant = self._grants.value().get(digest)
        if match is None or grant is None or len(match[1]) < _MIN_TOKEN:
            return None
        if grant.until is not None and self._clock() >= grant.until:
            return None
        return Caller(grant.device, "token")


def read_tokens(text: str, path: Path) -> Mapping[str, _Grant]:
    """Return what each token, by its digest, stands for.

    Raises:
        ServerMisconfigured: a line is none of a tokens file; neither tokens nor digests are shown.
    """
    grants: dict[str, _Grant] = {}
    for where, line in said_lines(text, path):
        try:
            device, digest, until = _read_line(line.split())
        except ValueError as error:
            raise ServerMisconfigured(
                f"no line of a tokens file: {error}",
                where=where,
                remedy="write: DEVICE sha256:<64 hex digits> [until=2026-12-01T00:00:00Z]",
            ) from None
        if digest in grants:
            raise ServerMisconfigured(
                "the token stands in the file twice", where=where, remedy="give every device tokens of its own"
            )
        grants[digest] = _Grant(device, until)
    return grants


def _read_line(fields: list[str]) -> tuple[str, str, float | None]:
    if len(fields) not in (2, 3):
        raise ValueError(f"{len(fields)} fields instead of 2 or 3")
    if not is_client(fields[0]):
        raise ValueError("the first field is no client's id (a device id without a slash)")
    try:
        digest = parse_digest(fields[1])
    except ValueError:
        raise ValueError("the second field is no sha256 digest") from None
    if len(fields) == 2:
        return fields[0], digest, None
    name, _, moment = fields[2].partition("=")
    if name != "until":
        raise ValueError(f"{name[:20]!r} is not known")
    try:
        until = datetime.fromisoformat(moment)
    except ValueError:
        raise ValueError("until is no date with time") from None
    if until.tzinfo is None:
        raise ValueError("until has no time zone; end it with Z")
    return fields[0], digest, until.astimezone(UTC).timestamp()
