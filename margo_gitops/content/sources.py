"""The places that have a content: web servers, this device's own files, OCI registries, and mirrors before them.

REACH-1  A place is asked for a range, and may answer with everything: a source says where its answer begins.
REACH-2  Mirrors are asked first, by digest alone; the places that the deployment names come after them.
REACH-3  No place is believed: who reads compares digests. So a mirror may be reached without TLS.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from margo_gitops.digests import Digest
from margo_gitops.errors import ReferenceInvalid, SourceMisbehaved, SourceRefused
from margo_gitops.registry.settings import RegistrySettings
from margo_gitops.values import dataclass, field
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import Read


@dataclass(frozen=True, slots=True)
class Incoming:
    """Bytes of a file as they come.

    Attributes:
        start: where in the file the first byte is; 0 where a place knows no ranges.
        read: returns as many bytes as asked for; fewer only at the end.
    """

    start: int
    read: Read


class Source(Protocol):
    """A place that has one content.

    Attributes:
        name: for people, without credentials.
    """

    name: str

    def open(self, start: int, end: int, deadline: Deadline) -> AbstractContextManager[Incoming]:
        """Yield the bytes from `start` to `end`, or all of them; the block may stop anywhere.

        Raises:
            TransportError: this place does not have them, or does not answer.
        """

    def close(self) -> None:
        """Close what is open; it may be opened again."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How this device reaches places.

    Attributes:
        mirrors: URLs to which a digest is appended (64 hex digits); asked first, http or https.
        ca_file: authorities (PEM) to trust instead of the system's.
        proxy_from_environment: whether https_proxy and no_proxy count.
        meter: counts what was transferred.
        registries: how OCI registries are reached.
    """

    mirrors: Sequence[str] = ()
    ca_file: Path | None = None
    proxy_from_environment: bool = False
    meter: Meter = field(default_factory=Meter)
    registries: RegistrySettings = field(default_factory=RegistrySettings)

    def sources(self, digest: Digest, size: int, urls: Sequence[str]) -> list[Source]:
        """Return the places of a content, best first (REACH-2).

        Args:
            size: of the content.
            urls: https, file or oci.
        """
        name = digest.removeprefix("sha256:")
        mirrors = [self._web(f"{mirror}{name}", size, plain=True) for mirror in self.mirrors]
        return [*mirrors, *(self._source(url, digest, size) for url in urls)]

    def _source(self, url: str, digest: Digest, size: int) -> Source:
        if url.startswith("oci://"):
            return OciPlace(url, digest, size, self.registries)
        return FileSource(url) if urlsplit(url).scheme == "file" else self._web(url, size)

    def _web(self, url: str, size: int, *, plain: bool = False) -> WebPlace:
        return WebPlace(url, size, self, plain=plain)


@dataclass(eq=False)
class WebPlace:
    """A file on a web server."""

    url: str
    size: int
    reach: Reach
    plain: bool = False

    def __post_init__(self) -> None:
        from margo_gitops.web.ranged import RangedFile  # a device whose contents are its own does not speak HTTP

        self.name = shown(self.url)
        self._file = RangedFile(
            self.url,
            plain=self.plain,
            ca_file=self.reach.ca_file,
            proxy_from_environment=self.reach.proxy_from_environment,
            meter=self.reach.meter,
        )

    @contextmanager
    def open(self, start: int, end: int, deadline: Deadline) -> Iterator[Incoming]:
        """Yield a range, or all of the file."""
        with self._file.read(start, end, self.size, deadline) as (begins, read):
            yield Incoming(begins, read)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()


@dataclass(eq=False)
class OciPlace:
    """A blob of an OCI registry, or of its mirrors."""

    url: str
    digest: Digest
    size: int
    registries: RegistrySettings

    def __post_init__(self) -> None:
        from margo_gitops.registry.client import RegistryClient

        self.name = self.url
        self._client = RegistryClient(self.registries)

    @contextmanager
    def open(self, start: int, end: int, deadline: Deadline) -> Iterator[Incoming]:
        """Yield the rest of the blob from `start`, or all of it."""
        from margo_gitops.registry.references import parse_reference

        try:
            reference = parse_reference(self.url)
        except ReferenceInvalid as error:
            raise SourceRefused(error.what) from error
        with self._client.blob(
            reference, self.digest, start=start, limit=max(end, self.size), deadline=deadline
        ) as stream:
            yield Incoming(stream.start, stream.read)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@dataclass(eq=False)
class FileSource:
    """A file of this device."""

    url: str

    def __post_init__(self) -> None:
        self.name = shown(self.url)

    @contextmanager
    def open(self, start: int, end: int, deadline: Deadline) -> Iterator[Incoming]:
        """Yield the file from `start` on."""
        path = local_path(self.url)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise SourceRefused("it is not a file")
            file = path.open("rb")
            file.seek(start)
        except OSError as error:
            raise SourceRefused(error.strerror or str(error)) from error

        def read(size: int) -> bytes:
            deadline.left()
            try:
                return file.read(min(size, end - file.tell()))
            except OSError as error:
                raise SourceRefused(error.strerror or str(error)) from error

        with file:
            yield Incoming(start, read)

    def close(self) -> None:
        """Do nothing: nothing stays open."""


def local_path(url: str) -> Path:
    """Return the path of a file:// URL (SourceMisbehaved: it names another machine, or holds a NUL)."""
    address = urlsplit(url)
    path = unquote(address.path)
    if address.scheme != "file" or address.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise SourceMisbehaved("only https://..., and file:///... on this device, can be fetched")
    return Path(path)


def shown(url: str) -> str:
    """Return a URL without what may be a credential: user name, password and query."""
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
