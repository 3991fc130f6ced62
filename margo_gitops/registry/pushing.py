"""Write to a registry: blobs, manifests, and what refers to a manifest (OCI distribution 1.1, push).

UPLOAD-1  What is there already is not sent again. Blobs come before the manifest that names them.
UPLOAD-2  An upload goes to the registry alone: a place on another host that it names for it is refused.
UPLOAD-3  Where a registry has no API for referrers, the list that a tag names is kept, as the standard says.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin, urlsplit

from margo_gitops.digests import Digest, sha256
from margo_gitops.errors import RegistryLacks, RegistryMisbehaved
from margo_gitops.registry.client import RegistryClient, referrers_tag
from margo_gitops.registry.manifests import (
    EMPTY_BYTES,
    INDEX,
    MANIFEST,
    Descriptor,
    Manifest,
    read_index,
    read_manifest,
    write_index,
)
from margo_gitops.registry.references import Reference
from margo_gitops.registry.server import drained, refused
from margo_gitops.values import replace
from margo_gitops.web.connection import Body
from margo_gitops.web.metering import Deadline

_SMALL: Final = 64 * 1024
_SECONDS: Final = 3600.0
_SILENCE: Final = 60.0


def push_blob(client: RegistryClient, reference: Reference, digest: Digest, content: Body) -> bool:
    """Put a blob into a repository; False: it was there.

    Raises:
        TransportError: the registry does not take it.
    """
    server, scope = client.server(reference.host), _scope(reference)
    deadline = Deadline(_SECONDS, _SILENCE)
    blob = f"/v2/{reference.repository}/blobs/{digest}"
    with server.exchange("HEAD", blob, scope, {}, b"", _SMALL, deadline) as answer:
        if answer.status == HTTPStatus.OK:
            return False
    begin = f"/v2/{reference.repository}/blobs/uploads/"
    with server.exchange("POST", begin, scope, {}, b"", _SMALL, deadline) as answer:
        if answer.status != HTTPStatus.ACCEPTED:
            raise refused(server.host, answer, f"an upload to {reference.repository}")
        drained(answer)
        location = answer.header("Location") or ""
    target = _upload_target(f"{server.url}{begin}", location, digest)
    headers = {"Content-Type": "application/octet-stream"}
    with server.exchange("PUT", target, scope, headers, content, _SMALL, deadline) as answer:
        if answer.status != HTTPStatus.CREATED:
            raise refused(server.host, answer, f"an upload to {reference.repository}")
        drained(answer)
    return True


def push_manifest(
    client: RegistryClient, reference: Reference, content: bytes, media_type: str = MANIFEST
) -> Reference:
    """Put a manifest into a repository, whose blobs are there; return where, with its digest.

    Args:
        reference: with the tag it gets; without one, it has only its digest.

    Raises:
        TransportError: the registry does not take it, or calls it by another digest.
    """
    server, digest = client.server(reference.host), sha256(content)
    target = f"/v2/{reference.repository}/manifests/{reference.tag or digest}"
    headers = {"Content-Type": media_type}
    deadline = Deadline(_SECONDS, _SILENCE)
    with server.exchange("PUT", target, _scope(reference), headers, content, _SMALL, deadline) as answer:
        if answer.status != HTTPStatus.CREATED:
            raise refused(server.host, answer, f"a manifest in {reference.repository}")
        drained(answer)
        named, listed = answer.header("Docker-Content-Digest"), answer.header("OCI-Subject") is not None
    if named not in (None, digest):
        raise RegistryMisbehaved(f"{server.host} keeps other bytes than were pushed", why=[f"it calls them {named}"])
    manifest = read_manifest(content, str(reference)) if media_type == MANIFEST else None
    if manifest is not None and manifest.subject is not None and not listed:
        _list_referrer(client, reference, manifest, Descriptor(media_type, digest, len(content)))
    return Reference(reference.host, reference.repository, reference.tag, digest)


def push(
    client: RegistryClient, reference: Reference, manifest: bytes, blobs: Iterable[tuple[Descriptor, Body]]
) -> Reference:
    """Put a manifest and its blobs into a repository; return where, with its digest."""
    for descriptor, content in blobs:
        push_blob(client, reference, descriptor.digest, content)
    config = read_manifest(manifest, str(reference)).config
    if config.digest == sha256(EMPTY_BYTES):
        push_blob(client, reference, config.digest, EMPTY_BYTES)
    return push_manifest(client, reference, manifest)


def _list_referrer(client: RegistryClient, reference: Reference, manifest: Manifest, pushed: Descriptor) -> None:
    """Add a manifest to the list of what refers to its subject (OCI distribution, referrers tag schema)."""
    assert manifest.subject is not None  # noqa: S101  # of the caller
    place = reference.at(referrers_tag(manifest.subject.digest))
    known: tuple[Descriptor, ...] = ()
    with suppress(RegistryLacks):
        known = read_index(client.fetch(place).content, str(place)).manifests
    if any(each.digest == pushed.digest for each in known):
        return
    listed = replace(pushed, artifact_type=manifest.kind, annotations=manifest.annotations)
    push_manifest(client, place, write_index((*known, listed)), INDEX)


def _upload_target(url: str, location: str, digest: Digest) -> str:
    try:
        address, own = urlsplit(urljoin(url, location)), urlsplit(url)
    except ValueError:
        address, own = urlsplit(""), urlsplit(url)
    # A proxy before the registry may make it say http and another port: the connection stays the one of the settings.
    usable = location.isascii() and location.isprintable() and " " not in location
    if not location or not usable or address.hostname != own.hostname:
        raise RegistryMisbehaved("the registry wants an upload to go somewhere else")
    query = f"{address.query}&" if address.query else ""
    return f"{address.path}?{query}digest={digest.replace(':', '%3A')}"


def _scope(reference: Reference) -> str:
    return f"repository:{reference.repository}:pull,push"
