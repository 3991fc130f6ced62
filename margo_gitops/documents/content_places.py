"""Where an image or an archive comes from, as host and path, and whether that is in a place that is allowed. Pure."""

from __future__ import annotations

import re

_UPWARDS = re.compile(r"(^|[/\\]|%2f|%5c)(\.|%2e){2}([/\\]|%2f|%5c|$)", re.IGNORECASE)
"""`..` as a part of a path; a server may decode it."""


def place_of(reference: str) -> str:
    """Return host and path of an image's name, an `oci://` reference or a URL.

    An image without a host is Docker Hub's, as every engine takes it: `busybox` is docker.io/library/busybox.
    """
    scheme, separator, rest = reference.partition("://")
    if separator:
        return reference if scheme == "file" else _without_user(rest)
    name = reference.partition("@")[0]
    host, slash, path = name.partition("/")
    # With a capital letter it is a host, too: no repository of Docker Hub has one (distribution, reference grammar).
    if not slash or not ("." in host or ":" in host or host == "localhost" or host != host.lower()):
        host, path = "docker.io", name if slash else f"library/{name}"
    last = path.rpartition("/")[2]
    tagged = path[: len(path) - len(last)] + last.partition(":")[0]
    if host.lower() in ("index.docker.io", "registry-1.docker.io"):
        host = "docker.io"
    return f"{host.lower()}/{tagged}"


def _without_user(rest: str) -> str:
    # A host ends at the first of these (RFC 3986, section 3.2): in `evil.example?@ghcr.io/acme` it is evil.example.
    end = re.search(r"[/?#\\]|$", rest)
    host, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    return f"{host.rpartition('@')[2].lower()}{path}"


def below(place: str, allowed: str) -> bool:
    """Whether a place is the allowed one, or is below it: a path is a prefix by whole parts."""
    if _UPWARDS.search(place):
        return False
    host, slash, path = allowed.rstrip("/").partition("/")
    wanted = f"{host.lower()}{slash}{path}"
    return place == wanted or place.startswith(f"{wanted}/")
