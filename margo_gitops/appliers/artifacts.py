"""The content of components, kept by digest below the applier's folder.

C-1  Nothing is used before its digest was verified; a cached entry is verified again at each use.
C-2  An entry that is damaged is fetched again.
C-3  Fetching is bounded in bytes and time; redirects stay on https, three at most, and the digest decides anyway.
C-4  Entries appear in one step; nothing half fetched stays.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import unquote, urlsplit

from margo_gitops.appliers.archives import DEFAULT_ARCHIVE_BOUNDS, ArchiveBounds, copy_folder, unpack
from margo_gitops.appliers.storage import new_file, new_folder, remove_tree, storing, sweep
from margo_gitops.digests import Digest
from margo_gitops.documents.deployment import Artifact
from margo_gitops.errors import ApplierUnusable, ArtifactRefused, ArtifactUnavailable

_CHUNK = 256 * 1024
_SILENCE_SECONDS = 30.0
_REDIRECTS = 3


class ArtifactCache:
    """Fetches the content of components, and keeps it until `prune`.

    Args:
        folder: where entries lie, one per digest; made when needed.
        ca_file: PEM file of the authorities to trust for https; None trusts the system's.
        bounds: what one component's content may need.
    """

    def __init__(
        self, folder: Path, *, ca_file: Path | None = None, bounds: ArchiveBounds = DEFAULT_ARCHIVE_BOUNDS
    ) -> None:
        self._folder = folder
        self._ca_file = ca_file
        self._bounds = bounds

    def place(self, artifact: Artifact, folder: Path, *, seconds: float) -> None:
        """Put the verified content of `artifact` into the empty folder `folder`.

        Args:
            artifact: what, where from, and its digest.
            folder: exists and is empty; the caller deletes it on failure.
            seconds: how long fetching may take.

        Raises:
            ArtifactUnavailable: it cannot be fetched.
            ArtifactRefused: it has another digest, is too large, or not safe to unpack.
            StorageFailed: this device's disk does not take it.
        """
        with storing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._use(artifact.digest, folder):
                self._fetch(artifact, time.monotonic() + seconds)
                if not self._use(artifact.digest, folder):
                    raise ArtifactRefused(f"{artifact.url} was damaged while it was kept", remedy="check the disk")

    def prune(self, in_use: Collection[Digest]) -> None:
        """Delete all entries but those in use."""
        keep = {_name(digest) for digest in in_use}
        with storing(self._folder):
            for path in list(self._folder.iterdir()) if self._folder.exists() else []:
                if path.name in keep:
                    continue
                if path.is_dir():
                    remove_tree(path)
                else:
                    path.unlink(missing_ok=True)

    def _use(self, digest: Digest, folder: Path) -> bool:
        """Put a cached entry into `folder`, if there is one and it is whole."""
        entry = self._folder / _name(digest)
        if entry.is_dir():
            if copy_folder(entry, folder, self._bounds) == digest:
                return True
            for path in list(folder.iterdir()):
                remove_tree(path) if path.is_dir() else path.unlink()
            remove_tree(entry)
            return False
        if not entry.is_file():
            return False
        # Verified and unpacked through one descriptor: nobody can swap the file in between.
        with entry.open("rb") as archive:
            if _digest(archive) != digest:
                entry.unlink()
                return False
            archive.seek(0)
            unpack(archive, folder, self._bounds)
        return True

    def _fetch(self, artifact: Artifact, deadline: float) -> None:
        sweep(self._folder)
        entry = self._folder / _name(artifact.digest)
        url = urlsplit(artifact.url)
        if url.scheme == "https":
            with new_file(entry) as path, path.open("wb") as target:
                self._download(artifact, target, deadline)
            return

        source = _local_path(artifact)
        if source.is_dir():
            with new_folder(entry) as folder:
                try:
                    found = copy_folder(source, folder, self._bounds)
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
        with reader, new_file(entry) as path, path.open("wb") as target:
            self._copy(artifact, reader, target, deadline)

    def _download(self, artifact: Artifact, target: BinaryIO, deadline: float) -> None:
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=self._tls()), _HttpsRedirects(), _NoPlainHttp()
        )
        try:
            request = urllib.request.Request(artifact.url, headers={"User-Agent": "margo-gitops"})  # noqa: S310
            seconds = max(min(_SILENCE_SECONDS, deadline - time.monotonic()), 0.1)
            response = opener.open(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            error.close()
            raise _unavailable(artifact, f"the server answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unavailable(artifact, str(getattr(error, "reason", error))) from error
        with response:
            self._copy(artifact, response, target, deadline)

    def _copy(self, artifact: Artifact, source: IO[bytes], target: BinaryIO, deadline: float) -> None:
        state = sha256_of()
        done = 0
        while True:
            try:
                chunk = source.read1(_CHUNK) if isinstance(source, http.client.HTTPResponse) else source.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _unavailable(artifact, str(error) or type(error).__name__) from error
            if not chunk:
                break
            done += len(chunk)
            if done > self._bounds.packed:
                raise ArtifactRefused(f"{_shown(artifact)} is larger than {self._bounds.packed} bytes")
            if time.monotonic() > deadline:
                raise _unavailable(artifact, f"it took too long; {done} bytes had come")
            state.update(chunk)
            target.write(chunk)
        if isinstance(source, http.client.HTTPResponse) and source.length:
            raise _unavailable(artifact, f"the connection ended {source.length} bytes too early")
        _check(artifact, Digest(f"sha256:{state.hexdigest()}"))

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ApplierUnusable(
                f"{self._ca_file} cannot be read as certificates", why=[str(error)], remedy="correct caFile"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError("the server redirects to something that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _NoPlainHttp(urllib.request.HTTPHandler):
    """Never speaks http, whatever leads there."""

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        raise urllib.error.URLError(f"{req.type} is not https")


def _local_path(artifact: Artifact) -> Path:
    url = urlsplit(artifact.url)
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path.startswith("/"):
        raise _unavailable(artifact, "only https://..., and file:///... on this device, can be fetched")
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


def _digest(reader: BinaryIO) -> Digest:
    state = sha256_of()
    while chunk := reader.read(_CHUNK):
        state.update(chunk)
    return Digest(f"sha256:{state.hexdigest()}")


def _name(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
