"""Which resource a path names: decided on the path as sent, never on a decoded or tidied one (pure).

A proxy, a framework and a file system each tidy paths in their own way, and every difference is a way around a rule. So
here a path either is exactly the path of a resource, or of none: doubled slashes, `.` and `..`, and encoded slashes are
in none. Clients made from OpenAPI encode what they fill in, so `%3A` in a digest and `%2F` in a device id are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote_to_bytes

from margo_gitops.digests import DIGEST_PATTERN
from margo_gitops.documents.deployment import UUID_PATTERN
from margo_gitops.documents.device_id import is_device_id

Name: TypeAlias = Literal[
    "manifest",
    "deployment",
    "bundle",
    "capabilities",
    "status",
    "healthz",
    "readyz",
    "discovery",
    "trust-bundle",
    "git-refs",
    "git-upload-pack",
    "freshness",
]

MAX_PATH: Final = 1024
_DIGEST = re.compile(DIGEST_PATTERN[1:-1])
_UUID = re.compile(UUID_PATTERN[1:-1])
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")

METHODS: Final[Mapping[Name, tuple[str, ...]]] = {
    "manifest": ("GET", "HEAD"),
    "deployment": ("GET", "HEAD"),
    "bundle": ("GET", "HEAD"),
    "capabilities": ("PUT", "DELETE"),
    "status": ("POST",),
    "healthz": ("GET", "HEAD"),
    "readyz": ("GET", "HEAD"),
    "discovery": ("GET", "HEAD"),
    "trust-bundle": ("GET", "HEAD"),
    "git-refs": ("GET", "HEAD"),
    "git-upload-pack": ("POST",),
    "freshness": ("GET", "HEAD"),
}

GIT_FOLDER: Final = "/git/state.git"
_OF_GIT: Final[Mapping[str, Name]] = {"/info/refs": "git-refs", "/git-upload-pack": "git-upload-pack"}

_AT_THE_ROOT: Final[Mapping[str, Name]] = {
    "/healthz": "healthz",
    "/readyz": "readyz",
    "/.well-known/margo": "discovery",
    "/.well-known/margo/trust-bundle": "trust-bundle",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource and the variable parts of its path."""

    name: Name
    deployment_id: str = ""
    digest: str = ""
    device: str = ""


def find_resource(raw_path: bytes, base: str = "") -> Resource | None:
    """Return the resource at a path, or None where there is none.

    Args:
        raw_path: the path as sent, without query.
        base: a prefix that all paths of the API have, such as `/v1alpha2/margo`; empty for none.
    """
    try:
        path = raw_path.decode("ascii")
    except UnicodeDecodeError:
        return None
    if len(path) > MAX_PATH or _ESCAPES.search(path):
        return None
    if path in _AT_THE_ROOT:
        return Resource(_AT_THE_ROOT[path])
    if path.startswith(f"{base}{GIT_FOLDER}/"):
        of_git = _OF_GIT.get(path.removeprefix(f"{base}{GIT_FOLDER}"))
        return Resource(of_git) if of_git else None
    prefix = f"{base}/api/v1/"
    if not path.startswith(prefix):
        return None
    rest = path.removeprefix(prefix)
    kind, _, device = rest.partition("/")
    if kind == "capabilities":
        name = _decoded(device)
        return Resource("capabilities", device=name) if is_device_id(name) and _no_dots(name) else None
    match rest.split("/"):
        case ["deployments"]:
            return Resource("manifest")
        case ["freshness"]:
            return Resource("freshness")
        case ["deployments", name, last]:
            return _of_deployment(_decoded(name), last)
        case ["bundles", last] if _DIGEST.fullmatch(_decoded(last)):
            return Resource("bundle", digest=_decoded(last))
    return None


def _of_deployment(deployment_id: str, last: str) -> Resource | None:
    if not _UUID.fullmatch(deployment_id):
        return None
    if last == "status":
        return Resource("status", deployment_id=deployment_id)
    digest = _decoded(last)
    return Resource("deployment", deployment_id=deployment_id, digest=digest) if _DIGEST.fullmatch(digest) else None


def _decoded(segment: str) -> str:
    return unquote_to_bytes(segment).decode("latin-1")


def _no_dots(device: str) -> bool:
    """Whether no proxy on the way could have taken a segment for a step in the path."""
    return not any(segment in {".", ".."} for segment in device.split("/"))
