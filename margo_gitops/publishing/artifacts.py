"""Large artifacts on the operator's side: describe a file, cut it into chunks, put it where devices fetch it, check it.

LARGE-1  A file is stored under its digest, and its index under the same name and `.caibx`: nothing is replaced. The
         index is also there under its own digest, so that the same folder serves as a mirror.
LARGE-2  An index is made once, next to the file, and pushed as it is: the deployment names its digest.
LARGE-3  What is there already is not sent again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import file_digest
from pathlib import Path
from typing import Final

from margo_gitops.content.chunks import INDEX_SUFFIX, LARGEST_INDEX, Chunk, read_index, write_index
from margo_gitops.content.fetch import index_url
from margo_gitops.content.sources import Reach
from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.files import disk_errors, read_bounded, replace_file
from margo_gitops.disk.folders import new_file
from margo_gitops.documents.large_artifacts import ArtifactIndex, LargeArtifact
from margo_gitops.errors import ArtifactUnknown, PublishTargetUnusable, TransportError
from margo_gitops.progress import step
from margo_gitops.values import dataclass
from margo_gitops.web.metering import Deadline

AVERAGE_CHUNK: Final = 32 * 1024
"""Bytes of a chunk on average (D-52)."""
_PIECE: Final = 256 * 1024
_SECONDS: Final = 24 * 3600.0
_SILENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class DescribedFile:
    """A file that becomes an artifact.

    Attributes:
        index: the bytes of its chunk index.
    """

    path: Path
    digest: Digest
    size: int
    index: bytes

    @property
    def key(self) -> str:
        """Its name where it is stored (LARGE-1)."""
        return self.digest.removeprefix("sha256:")

    def artifact(self, name: str, urls: Sequence[str]) -> LargeArtifact:
        """Return how a deployment names it."""
        index = ArtifactIndex(sha256(self.index), len(self.index))
        return LargeArtifact(name, tuple(urls), self.digest, self.size, index)


def describe(path: Path) -> DescribedFile:
    """Return what a file is, and write its index next to it (LARGE-2).

    Raises:
        ArtifactUnknown: it cannot be read, is empty, or its index cannot be written.
    """
    beside = path.with_name(f"{path.name}{INDEX_SUFFIX}")
    with disk_errors(path, what="the file cannot be made an artifact", error=ArtifactUnknown):
        with path.open("rb") as file:
            digest = Digest(f"sha256:{file_digest(file, 'sha256').hexdigest()}")
            size = os.fstat(file.fileno()).st_size
        if not size:
            raise ArtifactUnknown(f"{path} is empty", remedy="name a file with content")
        index = _known_index(beside, path, size)
        if index is None:
            index = cut(path)
            replace_file(beside, index, mode=0o644)
        return DescribedFile(path, digest, size, index)


def cut(path: Path) -> bytes:
    """Return the chunk index of a file."""
    from fastcdc import fastcdc  # the operator's extra

    found = fastcdc(str(path), AVERAGE_CHUNK // 4, AVERAGE_CHUNK, AVERAGE_CHUNK * 4, fat=False, hf=hashlib.sha256)
    chunks = (Chunk(each.offset, each.offset + each.length, bytes.fromhex(each.hash)) for each in found)
    return write_index(chunks, average=AVERAGE_CHUNK)


def push(file: DescribedFile, target: str) -> list[str]:
    """Put a file and its index into a folder, a bucket or a registry; return what was sent.

    Args:
        target: a folder, `s3://bucket/prefix` or `oci://host/repository`.

    Raises:
        PublishTargetUnusable: the folder or bucket cannot be written.
        TransportError: the registry does not take it.
    """
    if target.startswith("s3://"):
        return _push_to_bucket(file, target)
    if target.startswith("oci://"):
        return _push_to_registry(file, target)
    folder = Path(target)
    sent = []
    with disk_errors(folder, what="the folder cannot be written", error=PublishTargetUnusable):
        for key, content in _objects(file):
            place = folder / key
            if place.is_file():
                continue
            with new_file(place) as made:
                if content is None:
                    _copy(file.path, made)
                else:
                    made.write_bytes(content)
                made.chmod(0o644)
            sent.append(key)
    return sent


def check(artifact: LargeArtifact, reach: Reach, *, whole: bool = False) -> Iterator[tuple[str, str]]:
    """Yield each place of an artifact with what is wrong there; empty where nothing is.

    Args:
        whole: whether to read all of it and compare its digest; otherwise its size, ranges and index are looked at.
    """
    for url in artifact.urls:
        try:
            problem = _problem(artifact, url, reach, whole=whole)
        except TransportError as error:
            problem = error.what
        yield url, problem


def _problem(artifact: LargeArtifact, url: str, reach: Reach, *, whole: bool) -> str:
    size = artifact.size_bytes
    deadline = Deadline(_SECONDS, _SILENCE)
    (source,) = reach.sources(artifact.digest, size, [url])
    with closing(source), source.open(0 if whole else size - 1, size, deadline) as incoming:
        state = hashlib.sha256()
        if whole:
            while piece := incoming.read(_PIECE):
                state.update(piece)
            if f"sha256:{state.hexdigest()}" != artifact.digest:
                return "it has other bytes than the deployment promises"
        elif incoming.start != size - 1:
            return "the server gives no ranges: a change is fetched as a whole"
        elif len(incoming.read(2)) != 1:
            return f"it does not have {size} bytes"
    if artifact.index is None:
        return ""
    (source,) = reach.sources(artifact.index.digest, artifact.index.size_bytes, [index_url(url)])
    with closing(source), source.open(0, artifact.index.size_bytes, deadline) as incoming:
        content = incoming.read(artifact.index.size_bytes)
    return "" if sha256(content) == artifact.index.digest else "its index is not the one that the deployment names"


def _known_index(beside: Path, path: Path, size: int) -> bytes | None:
    """Return the index that is next to a file, if it is newer and of its size."""
    try:
        if beside.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return None
        return read_index(read_bounded(beside, LARGEST_INDEX), size).content
    except (OSError, ValueError):
        return None


def _objects(file: DescribedFile) -> list[tuple[str, bytes | None]]:
    """Return the objects of a file by name; None for the file itself (LARGE-1)."""
    own = sha256(file.index).removeprefix("sha256:")
    return [(f"{file.key}{INDEX_SUFFIX}", file.index), (own, file.index), (file.key, None)]


def _push_to_bucket(file: DescribedFile, target: str) -> list[str]:
    from margo_gitops.state_repo.bucket import Bucket

    sent = []
    with closing(Bucket(target, PublishTargetUnusable)) as bucket:
        for key, content in _objects(file):
            if "" in bucket.keys(key):
                continue
            if content is None:
                with file.path.open("rb") as opened:
                    bucket.upload(key, opened, file.digest)
            else:
                bucket.put(key, content, "application/octet-stream", "public, max-age=31536000, immutable")
            sent.append(key)
    return sent


def _push_to_registry(file: DescribedFile, target: str) -> list[str]:
    from margo_gitops.registry.client import RegistryClient
    from margo_gitops.registry.manifests import Descriptor, write_manifest
    from margo_gitops.registry.pushing import push as push_to
    from margo_gitops.registry.references import parse_reference

    kind = "application/vnd.margo-gitops.artifact.v1"
    layers = (Descriptor(kind, file.digest, file.size), Descriptor(kind, sha256(file.index), len(file.index)))
    with RegistryClient() as client, file.path.open("rb") as opened:
        manifest = write_manifest(kind, layers)
        made = push_to(client, parse_reference(target), manifest, zip(layers, (opened, file.index), strict=True))
    return [str(made)]


def _copy(source: Path, target: Path) -> None:
    size = source.stat().st_size
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            writer.write(piece)
            step("copying", writer.tell(), size)
