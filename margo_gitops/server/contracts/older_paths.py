"""Which resource a path of the older contract names, decided on the path as sent (pure; see `server.paths`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from margo_gitops.server.paths import MAX_PATH, Resource, find_resource

OnboardingName: TypeAlias = Literal["certificate", "onboarding"]

ONBOARDING_METHODS: Final[dict[OnboardingName, tuple[str, ...]]] = {
    "certificate": ("GET", "HEAD"),
    "onboarding": ("POST",),
}
CLIENT_METHODS: Final[dict[str, tuple[str, ...]]] = {
    "manifest": ("GET", "HEAD"),
    "deployment": ("GET", "HEAD"),
    "bundle": ("GET", "HEAD"),
    "freshness": ("GET", "HEAD"),
    "status": ("POST",),
    "own-capabilities": ("POST", "PUT"),
    "capabilities": ("POST", "PUT", "DELETE"),
}

_CLIENT = re.compile(r"[A-Za-z0-9._~-]{1,200}")


@dataclass(frozen=True, slots=True)
class ClientPath:
    """A path below a client's.

    Attributes:
        client_id: as the path has it; empty where it is none.
        name: of the resource; empty where there is none.
        resource: what the current contract has in its place; None where there is no such thing.
    """

    client_id: str
    name: str = ""
    resource: Resource | None = None


def find_onboarding(raw_path: bytes, base: str) -> OnboardingName | None:
    """Return the resource of onboarding at a path, if it is one."""
    if raw_path == f"{base}/api/v1/onboarding/certificate".encode():
        return "certificate"
    return "onboarding" if raw_path == f"{base}/api/v1/onboarding".encode() else None


def find_client_path(raw_path: bytes, base: str) -> ClientPath | None:
    """Return what a path below `/api/v1/clients/` names; None for a path that is not there.

    Args:
        raw_path: the path as sent, without query.
        base: a prefix that all paths of the API have.
    """
    prefix = f"{base}/api/v1/clients/"
    path = raw_path.decode("latin-1")
    if not path.startswith(prefix):
        return None
    client_id, _, rest = path.removeprefix(prefix).partition("/")
    if not _CLIENT.fullmatch(client_id) or len(path) > MAX_PATH:
        return ClientPath("")
    if rest == "capabilities":
        return ClientPath(client_id, "own-capabilities")
    resource = find_resource(f"{base}/api/v1/{rest}".encode("latin-1"), base)
    if resource is None or resource.name not in CLIENT_METHODS:
        return ClientPath(client_id)
    return ClientPath(client_id, resource.name, resource)
