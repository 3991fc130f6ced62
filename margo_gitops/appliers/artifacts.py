"""The content of components, kept by digest below the applier's folder.

ARTIFACT-1  Nothing is used before its digest was verified; a cached entry is verified again at each use.
ARTIFACT-2  An entry that is damaged is fetched again.
ARTIFACT-3  Fetching is bounded in bytes and time (`web.download` over https); the digest decides anyway.
ARTIFACT-4  Entries appear in one step; nothing half fetched stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import file_digest
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from margo_gitops.appliers.applier import ApplierContext, Carried, storing
from margo_gitops.appliers.archives import DEFAULT_ARCHIVE_BOUNDS, ArchiveBounds, copy_folder, unpack
from margo_gitops.appliers.settings import Settings
from margo_gitops.digests import Digest
from margo_gitops.disk.folders import discard, new_file, new_folder, remove_tree, sweep
from margo_gitops.documents.deployment import Artifact
from margo_gitops.errors import (
    ApplierUnusable,
    ArtifactRefused,
    ArtifactUnavailable,
    ReferenceInvalid,
    SourceMisconfigured,
    TransportError,
)
from margo_gitops.registry.settings import RegistrySettings
from margo_gitops.values import KW_ONLY, dataclass, field
from margo_gitops.web.metering import Deadline

_CHUNK = 256 * 1024
_SILENCE_SECONDS = 30.0


@dataclass(eq=False)
class ArtifactCache:
    """Fetches the content of components, and keeps it until `prune`.

    Attributes:
        folder: where entries are, one per digest; made when needed.
        ca_file: PEM file of the authorities to trust for https; None trusts the system's.
        proxy_from_environment: whether downloads honour https_proxy and no_proxy.
        registries: how OCI registries are reached.
        bounds: what one component's content may need.
        carried: opens content that a person brought; asked first.
    """

    folder: Path
    _: KW_ONLY
    ca_file: Path | None = None
    proxy_from_environment: bool = False
    registries: RegistrySettings = field(default_factory=RegistrySettings)
    bounds: ArchiveBounds = DEFAULT_ARCHIVE_BOUNDS
    carried: Carried | None = None

    def file(self, artifact: Artifact, *, seconds: float) -> Path:
        """Return the verified archive of `artifact` as a file; a folder has no such file.

        Raises:
            ArtifactUnavailable, ArtifactRefused: as for `place`.
            StorageFailed: this machine's disk does not take it.
        """
        entry = self.folder / _name(artifact.digest)
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for _ in range(2):
                if entry.is_file():
                    with entry.open("rb") as archive:
                        if f"sha256:{file_digest(archive, 'sha256').hexdigest()}" == artifact.digest:
                            return entry
                try:
                    self._fetch(artifact, Deadline(seconds, min(_SILENCE_SECONDS, seconds)))
                except TransportError as error:
                    raise _unavailable(artifact, error.what) from error
        raise ArtifactRefused(f"{artifact.url} was damaged while it was kept", remedy="check the disk")

    def place(self, artifact: Artifact, folder: Path, *, seconds: float) -> None:
        """Put the verified content of `artifact` into the empty folder `folder`.

        Raises:
            ArtifactUnavailable: it cannot be fetched.
            ArtifactRefused: it has another digest, is too large, or not safe to unpack.
            StorageFailed: this device's disk does not take it.
        """
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._use(artifact.digest, folder):
                try:
                    self._fetch(artifact, Deadline(seconds, min(_SILENCE_SECONDS, seconds)))
                except TransportError as error:
                    raise _unavailable(artifact, error.what) from error
                if not self._use(artifact.digest, folder):
                    raise ArtifactRefused(f"{artifact.url} was damaged while it was kept", remedy="check the disk")

    def prune(self, in_use: Collection[Digest]) -> None:
        """Delete all entries but those in use."""
        keep = {_name(digest) for digest in in_use}
        with storing(self.folder):
            for path in list(self.folder.iterdir()) if self.folder.exists() else []:
                if path.name not in keep:
                    discard(path)

    def _use(self, digest: Digest, folder: Path) -> bool:
        """Put a cached entry into `folder`, if there is one and it is whole."""
        entry = self.folder / _name(digest)
        if entry.is_dir():
            if copy_folder(entry, folder, self.bounds) == digest:
                return True
            for path in list(folder.iterdir()):
                remove_tree(path)
            discard(entry)
            return False
        if not entry.is_file():
            return False
        # Verified and unpacked through one descriptor: the file cannot be swapped in between.
        with entry.open("rb") as archive:
            if f"sha256:{file_digest(archive, 'sha256').hexdigest()}" != digest:
                entry.unlink()
                return False
            archive.seek(0)
            unpack(archive, folder, self.bounds)
        return True

    def _fetch(self, artifact: Artifact, deadline: Deadline) -> None:
        sweep(self.folder)
        entry = self.folder / _name(artifact.digest)
        if self.carried is not None:
            with self.carried(artifact.digest, deadline) as read_carried:
                if read_carried is not None:
                    with new_file(entry) as path, path.open("wb") as target:
                        _check(artifact, self._copy(artifact, read_carried, target, deadline))
                    return
        url = urlsplit(artifact.url)
        if url.scheme == "https":
            with new_file(entry) as path, path.open("wb") as target:
                self._download(artifact, target, deadline)
            return

        if url.scheme == "oci":
            with new_file(entry) as path, path.open("wb") as target:
                self._pull(artifact, target, deadline)
            return

        source = _local_path(artifact)
        if source.is_dir():
            with new_folder(entry) as folder:
                try:
                    found = copy_folder(source, folder, self.bounds)
                except PermissionError as error:
                    raise _unavailable(artifact, str(error)) from error
                _check(artifact, found)
            return
        if source.exists() and not source.is_file():
            raise _unavailable(artifact, "it is neither a file nor a folder")
        try:
            reader = source.open("rb")
        except OSError as error:
            raise _unavailable(artifact, error.strerror or str(error)) from error

        def read(size: int) -> bytes:
            try:
                return reader.read(size)
            except OSError as error:
                raise _unavailable(artifact, error.strerror or str(error)) from error

        with reader, new_file(entry) as path, path.open("wb") as target:
            _check(artifact, self._copy(artifact, read, target, deadline))

    def _download(self, artifact: Artifact, target: BinaryIO, deadline: Deadline) -> None:
        # A device whose components come from its own disk does not load what speaks HTTP.
        from margo_gitops.web.download import download

        limit = self.bounds.packed + 2 * _CHUNK  # `_copy` is stricter, and says what was too large
        try:
            with download(
                artifact.url,
                limit,
                deadline,
                ca_file=self.ca_file,
                proxy_from_environment=self.proxy_from_environment,
            ) as answer:
                found = self._copy(artifact, answer.read, target, deadline)
                if answer.response.length:
                    raise _unavailable(artifact, f"the connection ended {answer.response.length} bytes too early")
        except SourceMisconfigured as error:
            raise ApplierUnusable(error.what, why=error.why, remedy=error.remedy) from error
        _check(artifact, found)

    def _pull(self, artifact: Artifact, target: BinaryIO, deadline: Deadline) -> None:
        """Read the blob from a mirror or its registry; one that has other bytes is passed over."""
        from margo_gitops.registry.client import RegistryClient
        from margo_gitops.registry.references import parse_reference

        avoid: set[str] = set()
        try:
            reference = parse_reference(artifact.url)
        except ReferenceInvalid as error:
            raise _unavailable(artifact, error.what) from error
        with RegistryClient(self.registries) as client:
            while True:
                limit = self.bounds.packed + 2 * _CHUNK
                with client.blob(reference, artifact.digest, limit=limit, deadline=deadline, avoid=avoid) as stream:
                    target.seek(0)
                    target.truncate()
                    found = self._copy(artifact, stream.read, target, deadline)
                if found == artifact.digest or stream.host == reference.host:
                    return _check(artifact, found)
                avoid.add(stream.host)

    def _copy(self, artifact: Artifact, read: Callable[[int], bytes], target: BinaryIO, deadline: Deadline) -> Digest:
        state = sha256_of()
        done = 0
        while chunk := read(_CHUNK):
            done += len(chunk)
            if done > self.bounds.packed:
                raise ArtifactRefused(f"{_shown(artifact)} is larger than {self.bounds.packed} bytes")
            deadline.left()
            state.update(chunk)
            target.write(chunk)
        return Digest(f"sha256:{state.hexdigest()}")


def create_artifact_cache(context: ApplierContext, settings: Settings) -> ArtifactCache:
    """Return an applier's cache, from the settings caFile and maxArtifactBytes (ApplierUnusable: one is wrong)."""
    return ArtifactCache(
        context.folder / "artifacts",
        ca_file=settings.path("caFile"),
        proxy_from_environment=context.proxy_from_environment,
        registries=context.registries,
        carried=context.carried,
        bounds=ArchiveBounds(packed=settings.number("maxArtifactBytes", ArchiveBounds().packed)),
    )


def _local_path(artifact: Artifact) -> Path:
    url = urlsplit(artifact.url)
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path.startswith("/"):
        raise _unavailable(artifact, "only https://..., oci://..., and file:///... on this device, can be fetched")
    if "\0" in (path := unquote(url.path)):
        raise _unavailable(artifact, "the path holds a NUL")
    return Path(path)


def _check(artifact: Artifact, found: Digest) -> None:
    if found != artifact.digest:
        raise ArtifactRefused(
            f"{_shown(artifact)} is not what the deployment promises",
            why=[f"expected {artifact.digest}", f"found    {found}"],
            remedy="publish the promised content again, or render the deployment with the new digest",
        )


def _unavailable(artifact: Artifact, reason: str) -> ArtifactUnavailable:
    return ArtifactUnavailable(
        f"{_shown(artifact)} cannot be fetched for component {artifact.component}",
        why=[reason],
        remedy="check that it is there and that this device may reach it; what runs keeps running",
    )


def _shown(artifact: Artifact) -> str:
    # User name, password and query may be credentials.
    url = urlsplit(artifact.url)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _name(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
