"""Read a registry: manifests, blobs, tags, and what refers to a manifest (OCI distribution 1.1).

OCI-4  Everything is bounded in bytes and time, and no answer is followed further than three redirects. A redirect
            goes without credentials, over https.
OCI-5  What has a digest is verified here, or by who stores it: a blob is a stream that no one verified yet.
OCI-6  A mirror is asked only for what has a digest. What a tag means, only its own registry says.
OCI-7  A server that asks to wait is waited for where the caller says how long; a device comes back later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

from margo_gitops.digests import Digest, sha256
from margo_gitops.errors import RegistryLacks, RegistryMisbehaved, TransportError
from margo_gitops.registry.credentials import HostCredentials, find_credentials
from margo_gitops.registry.manifests import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    MOST_BYTES,
    Index,
    Manifest,
    read_foreign,
    read_index,
    read_manifest,
)
from margo_gitops.registry.references import Reference
from margo_gitops.registry.server import Patience, RegistryServer, drained, refused
from margo_gitops.registry.settings import RegistrySettings
from margo_gitops.values import dataclass
from margo_gitops.web.connection import WebAnswer
from margo_gitops.web.download import begins_at, download, range_headers
from margo_gitops.web.metering import Deadline
from margo_gitops.web.refusal import REDIRECTS, Read

_SECONDS: Final = 300.0
_SILENCE: Final = 30.0
_ACCEPT: Final = f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"
_MOST_TAGS: Final = 20_000
_MOST_PAGES: Final = 200
_PIECE: Final = 64 * 1024
_NEXT: Final = re.compile(r'<([^<>]+)>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest as a registry has it.

    Attributes:
        media_type: what the registry calls it.
        digest: of `content`.
        host: the registry or mirror that it came from.
    """

    content: bytes
    media_type: str
    digest: Digest
    host: str


@dataclass(frozen=True, slots=True)
class BlobStream:
    """A blob, or its rest. No one verified it yet.

    Attributes:
        read: returns as many bytes as asked for; fewer only at the end.
        start: where in the blob it begins; 0 where the server sends all of it.
        host: the registry or mirror that it comes from.
    """

    read: Read
    start: int
    host: str


@dataclass(frozen=True, slots=True)
class _Place:
    server: RegistryServer
    repository: str


class RegistryClient:
    """Reads registries, each over one kept connection. Not for two threads at a time."""

    def __init__(
        self,
        settings: RegistrySettings | None = None,
        *,
        patience: Patience | None = None,
        credentials: Callable[[str], HostCredentials | None] | None = None,
    ) -> None:
        """Take the settings; nothing is opened or read yet.

        Args:
            patience: how long servers that ask for it are waited for, in all; None: not at all.
            credentials: returns those for a host; None: they are in the file that the settings name.
        """
        self._settings = settings or RegistrySettings()
        self._patience = patience or Patience(0)
        self._credentials = credentials or partial(_credentials, self._settings.credentials_file)
        self._servers: dict[str, RegistryServer] = {}

    def close(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def server(self, host: str) -> RegistryServer:
        """Return what speaks with a host."""
        if host not in self._servers:
            self._servers[host] = RegistryServer(self._settings, host, self._patience, self._credentials)
        return self._servers[host]

    def check_login(self, host: str, *, deadline: Deadline | None = None) -> None:
        """Ask a registry whether it knows this user (RegistryRefused: it does not; TransportError: no answer)."""
        deadline = deadline or Deadline(_SECONDS, _SILENCE)
        with self.server(host).exchange("GET", "/v2/", "", {}, b"", MOST_BYTES, deadline) as answer:
            if answer.status != HTTPStatus.OK:
                raise refused(host, answer, "the registry")
            drained(answer)

    def fetch(self, reference: Reference, *, deadline: Deadline | None = None) -> Fetched:
        """Return the manifest or index that a reference means, verified if it names a digest.

        Raises:
            ReferenceInvalid: it names no version.
            RegistryLacks, RegistryRefused, RegistryMisbehaved, TransportError: there is no usable answer.
        """
        deadline = deadline or Deadline(_SECONDS, _SILENCE)
        places = self._places(reference, ()) if reference.digest else [self._own(reference)]
        failures: list[tuple[str, TransportError]] = []
        for place in places:
            try:
                return self._fetch(place, reference, deadline)
            except TransportError as error:
                failures.append((place.server.host, error))
        raise _failure(failures)

    def manifest(self, reference: Reference, *, deadline: Deadline | None = None) -> tuple[Manifest, bytes, Digest]:
        """Return the manifest that a reference means, its exact bytes and their digest; errors as those of `fetch`."""
        found = self.fetch(reference, deadline=deadline)
        return read_manifest(found.content, str(reference)), found.content, found.digest

    @contextmanager
    def blob(
        self,
        reference: Reference,
        digest: Digest,
        *,
        start: int = 0,
        limit: int,
        deadline: Deadline | None = None,
        avoid: Collection[str] = (),
    ) -> Iterator[BlobStream]:
        """Yield a blob of a repository from `start`. What the block leaves of it costs the connection.

        Args:
            limit: bytes that the answer may have.
            avoid: hosts that are not asked: their bytes had another digest.

        Raises:
            TransportError: neither the registry nor a mirror has a usable answer.
        """
        deadline = deadline or Deadline(_SECONDS, _SILENCE)
        failures: list[tuple[str, TransportError]] = []
        for place in self._places(reference, avoid):
            with ExitStack() as stack:
                try:
                    target = f"/v2/{place.repository}/blobs/{digest}"
                    answer = stack.enter_context(self._get(place, target, {}, limit, deadline, start))
                    begin = begins_at(answer, start)
                except TransportError as error:
                    failures.append((place.server.host, error))
                    continue
                yield BlobStream(answer.read, begin, place.server.host)
                return
        raise _failure(failures)

    def content(self, reference: Reference, digest: Digest, most: int, *, deadline: Deadline | None = None) -> bytes:
        """Return a small blob, verified.

        Raises:
            RegistryMisbehaved: it has another digest everywhere, or more than `most` bytes.
            TransportError: neither the registry nor a mirror has a usable answer.
        """
        avoid: set[str] = set()
        while True:
            with self.blob(reference, digest, limit=most, deadline=deadline, avoid=avoid) as stream:
                content = stream.read(most + 1)
            if sha256(content) == digest:
                return content
            avoid.add(stream.host)
            if stream.host == reference.host:
                raise RegistryMisbehaved(f"{reference.host} has other content than {digest}")

    def tags(self, reference: Reference, *, deadline: Deadline | None = None) -> list[str]:
        """Return the tags of a repository, at most 20,000, in the order of the registry.

        Raises:
            RegistryLacks: there is no such repository.
            RegistryMisbehaved: there are more, or the list does not end.
        """
        deadline = deadline or Deadline(_SECONDS, _SILENCE)
        place = self._own(reference)
        target: str | None = f"/v2/{reference.repository}/tags/list?n=1000"
        found: list[str] = []
        for _ in range(_MOST_PAGES):
            content, link = self._page(place, target or "", deadline)
            found += read_foreign(_TagList, content, f"the tags of {reference.place}").tags or ()
            target = _next_page(link, target or "", place.server.url)
            if target is None or len(found) > _MOST_TAGS:
                break
        if target is not None or len(found) > _MOST_TAGS:
            raise RegistryMisbehaved(f"{reference.place} has more than {_MOST_TAGS} tags, or a list without an end")
        return found

    def referrers(self, reference: Reference, digest: Digest, *, deadline: Deadline | None = None) -> Index:
        """Return the manifests that say something about one: by the API, or by the tag where there is no API.

        (OCI distribution 1.1, listing referrers and the referrers tag schema.)
        """
        deadline = deadline or Deadline(_SECONDS, _SILENCE)
        place = self._own(reference)
        with suppress(RegistryLacks):
            content, _ = self._page(place, f"/v2/{reference.repository}/referrers/{digest}", deadline)
            return read_index(content, f"the referrers of {reference.place}@{digest}")
        with suppress(RegistryLacks):
            found = self.fetch(reference.at(referrers_tag(digest)), deadline=deadline)
            return read_index(found.content, f"the referrers of {reference.place}@{digest}")
        return Index(2, ())

    def _page(self, place: _Place, target: str, deadline: Deadline) -> tuple[bytes, str]:
        with self._get(place, target, {"Accept": f"application/json, {INDEX}"}, MOST_BYTES, deadline) as answer:
            return answer.read(MOST_BYTES + 1), answer.header("Link") or ""

    def _own(self, reference: Reference) -> _Place:
        return _Place(self.server(reference.host), reference.repository)

    def _places(self, reference: Reference, avoid: Collection[str]) -> list[_Place]:
        """Return where a digest of a repository is asked for: mirrors in order, then the registry."""
        mirrored = []
        for mirror in self._settings.access(reference.host).mirrors:
            host, _, path = mirror.partition("/")
            repository = f"{path}/{reference.repository}" if path else reference.repository
            mirrored.append(_Place(self.server(host.lower()), repository))
        return [place for place in (*mirrored, self._own(reference)) if place.server.host not in avoid]

    def _fetch(self, place: _Place, reference: Reference, deadline: Deadline) -> Fetched:
        target = f"/v2/{place.repository}/manifests/{reference.name}"
        with self._get(place, target, {"Accept": _ACCEPT}, MOST_BYTES, deadline) as answer:
            content = answer.read(MOST_BYTES + 1)
            media_type = (answer.header("Content-Type") or "").partition(";")[0].strip()
        digest = sha256(content)
        if reference.digest not in (None, digest):
            raise RegistryMisbehaved(
                f"{place.server.host} has another manifest than {reference}",
                why=[f"expected {reference.digest}", f"found    {digest}"],
            )
        return Fetched(content, media_type, digest, place.server.host)

    @contextmanager
    def _get(
        self,
        place: _Place,
        target: str,
        headers: dict[str, str],
        limit: int,
        deadline: Deadline,
        start: int | None = None,
    ) -> Iterator[WebAnswer]:
        """Yield an answer that is a success, from where the registry says that it is.

        Args:
            start: where in a blob it begins, which the block may read in part; None: it is not a blob.
        """
        whole, start = start is None, start or 0
        server = place.server
        scope = f"repository:{place.repository}:pull"
        with ExitStack() as stack:
            asked = {**headers, **range_headers(start)}
            answer = stack.enter_context(
                server.exchange("GET", target, scope, asked, b"", limit, deadline, whole=whole)
            )
            location = answer.header("Location") if answer.status in REDIRECTS else None
            if location is None and answer.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                begins_at(answer, start)
                yield answer
                return
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                drained(answer)  # a server that knows no open ranges: all of it, then
            elif location is None:
                raise refused(server.host, answer, place.repository)
            else:
                drained(answer)
        if location is None:
            with self._get(place, target, headers, limit, deadline, 0) as answer:
                yield answer
            return
        elsewhere = download(
            _joined(f"{server.url}{target}", location),
            limit,
            deadline,
            start=start,
            whole=whole,
            ca_file=server.ca_file,
            proxy_from_environment=self._settings.proxy_from_environment,
        )
        with elsewhere as answer:
            yield answer


def _credentials(file: Path | None, host: str) -> HostCredentials | None:
    return find_credentials(file, host) if file is not None else None


@dataclass(frozen=True, slots=True)
class _TagList:
    tags: tuple[str, ...] | None = None


def referrers_tag(digest: Digest) -> str:
    """Return the tag of the list of what refers to a manifest, in a registry without the API."""
    return digest.replace(":", "-")


def _next_page(link: str, target: str, url: str) -> str | None:
    found = _NEXT.search(link[:_PIECE])
    if found is None:
        return None
    address = urlsplit(_joined(f"{url}{target}", found[1]))
    # Only the path counts: credentials do not follow a link to another host.
    if not address.path.startswith("/v2/") or not found[1].isascii() or not found[1].isprintable() or " " in found[1]:
        raise RegistryMisbehaved("the list of tags continues somewhere else")
    return address.path + (f"?{address.query}" if address.query else "")


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        raise RegistryMisbehaved("the registry names a place that is not a URL") from None


def _failure(failures: list[tuple[str, TransportError]]) -> TransportError:
    """Return what the last one that was asked says, with what the others said."""
    if not failures:
        return RegistryMisbehaved("every host that may have it had other content")
    error = failures[-1][1]
    error.why = (*error.why, *(f"{host}: {each.what}" for host, each in failures[:-1]))
    return error
