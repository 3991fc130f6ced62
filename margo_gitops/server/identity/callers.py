"""Who calls: a separate layer, so that the resources never see a header, a token or a certificate.

Each way to identify a client answers with the client, or with nothing; every reason for nothing gets the same refusal,
so that nothing is learnt from trying.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.values import dataclass

if TYPE_CHECKING:  # the configuration is checked where no web framework is installed, too
    from starlette.types import Scope

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

SEEN: Final = "margo_gitops.seen"
DEVICE_HEADER: Final = b"margo-device"
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how that is known.

    Attributes:
        client: the client's id: the first segment of its device ids.
        evidence: for the record of a report: `token`, `none`, the SPIFFE ID, or `signature` and the client id.
    """

    client: str
    evidence: str


@dataclass(slots=True)
class Seen:
    """What the log says of a request; the parts that look at the request fill it in.

    Attributes:
        client: who calls; empty while that is not known.
        route: the resource's path, with the names of its parameters.
        reason: why it was refused, which the caller does not learn.
    """

    client: str = ""
    route: str = ""
    reason: str = ""


ANYBODY: Final = Caller("", "public")
"""Who calls a public resource."""


class Identify(Protocol):
    """One way to identify a client, asked on every request."""

    challenge: tuple[tuple[str, str], ...]
    """Headers of the refusal."""

    def __call__(self, scope: Scope) -> Caller | None:
        """Return who sent a request; None where that is not known, not accepted, or no longer accepted."""


class NobodyAsked:
    """No identification, for trying things out on one machine: the caller says who it is, in `Margo-Device`.

    One that does not say so is `device`; where that is None, it is refused.
    """

    challenge: tuple[tuple[str, str], ...] = ()

    def __init__(self, device: str | None) -> None:
        self._device = device

    def __call__(self, scope: Scope) -> Caller | None:
        """Return who the caller says it is, if it is on this machine."""
        # A web page elsewhere can make a browser here ask: such a request names the page's host.
        host = (header(scope, b"host") or "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in _LOCAL_NAMES or not is_loopback(peer(scope)):
            return unknown(scope, "the request is not from this machine, or does not name it in Host")
        device = header(scope, DEVICE_HEADER) or self._device
        if device and is_client(device):
            return Caller(device, "none")
        return unknown(scope, "no Margo-Device header with the id of a client")


class Nobody:
    """Identifies no one: for a server of the older contract alone."""

    challenge: tuple[tuple[str, str], ...] = ()

    def __call__(self, scope: Scope) -> Caller | None:  # noqa: ARG002
        """Return None."""
        return None


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header that is there exactly once; otherwise None: proxies read several in different ways."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1").strip() if len(values) == 1 else None


def seen(scope: Scope) -> Seen:
    """Return what is known of a request, for the log."""
    found: Seen = scope.setdefault(SEEN, Seen())
    return found


def unknown(scope: Scope, reason: str) -> Caller | None:
    """Say for the log why a caller is not known; return None, as those that identify callers do."""
    seen(scope).reason = reason
    return None


def peer(scope: Scope) -> str:
    """Return the address of the other end of the connection; empty if there is no such address."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def is_loopback(address: str) -> bool:
    """Return whether an address is of this machine alone."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """Return whether an address is in one of the networks."""
    parsed = _address(address)
    return parsed is not None and any(parsed in network for network in networks)


def is_client(text: str) -> bool:
    """Return whether a text can be a client's id: a device id of one segment that refs and files can hold."""
    try:
        encode_device_id(text)
    except ValueError:
        return False
    return "/" not in text and text not in {".", ".."}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
