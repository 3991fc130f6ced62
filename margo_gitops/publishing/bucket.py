"""An S3-compatible bucket as the target: keys are the URLs of the API, so a CDN needs no rewriting.

    <prefix>/<encoded device>/api/v1/deployments                      the manifest
    <prefix>/<encoded device>/api/v1/deployments/<id>/<digest>
    <prefix>/<encoded device>/api/v1/bundles/<digest>
    <prefix>/<encoded device>/api/v1/commits/<digest of the manifest>
    <prefix>/<encoded device>/api/v1/freshness                        the proof of freshness
    <prefix>/<encoded device>/manifests/<digest>                      when each manifest was published

The lock is an object that is made only if it does not exist, and replaced only if it is the one that was seen. It is
renewed while work continues, and another publisher takes it over when it is stale.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import is_encoded_device_id
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, MAX_PROOF_BYTES
from margo_gitops.documents.manifest import MANIFEST_MEDIA_TYPE
from margo_gitops.errors import PublishBusy, PublishTargetUnusable
from margo_gitops.publishing.layout import (
    BUNDLES,
    COMMITS,
    DEPLOYMENTS,
    FRESHNESS,
    MANIFEST_CACHING,
    MANIFESTS,
    MAX_MANIFEST_BYTES,
    OBJECT_CACHING,
    DatedManifest,
    PublishedObject,
    PublishTarget,
)
from margo_gitops.state_repo.bucket import Bucket, ObjectMoved

LOCK_KEY: Final = ".margo-gitops-publish"
STALE_SECONDS: Final = 900
_RENEW_SECONDS: Final = 60
_LOCK_BYTES: Final = 4096


class BucketTarget(PublishTarget):
    """A prefix of a bucket that one publisher at a time writes."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Use a bucket.

        Args:
            url: `s3://bucket` or `s3://bucket/prefix`.
            clock: returns seconds since 1970.

        Raises:
            PublishTargetUnusable: the URL has another form, or the environment names no region or credentials.
        """
        self.bucket = Bucket(url, PublishTargetUnusable)
        self.where = self.bucket.where
        self.clock = clock
        self._lock = ""
        self._renewed = 0.0

    def close(self) -> None:
        """Close the connections to the store."""
        self.bucket.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the bucket's lock object."""
        self._take_lock()
        try:
            yield
        finally:
            held = self.bucket.get(LOCK_KEY, _LOCK_BYTES)
            if held is not None and held.tag == self._lock:
                self.bucket.delete(LOCK_KEY)

    def devices(self) -> Iterable[str]:
        return [name for name in self.bucket.folders() if is_encoded_device_id(name)]

    def manifest(self, device: str) -> bytes | None:
        return self._get(f"{device}/{DEPLOYMENTS}", MAX_MANIFEST_BYTES)

    def objects(self, device: str) -> frozenset[str]:
        folders = (f"{folder}/" for folder in (DEPLOYMENTS, BUNDLES, COMMITS))
        return frozenset(f"{folder}{key}" for folder in folders for key in self.bucket.keys(f"{device}/{folder}"))

    def read(self, device: str, path: str) -> bytes | None:
        return self._get(f"{device}/{path}", None)

    def manifests(self, device: str) -> list[DatedManifest]:
        return [DatedManifest(key, changed) for key, changed in self.bucket.keys(f"{device}/{MANIFESTS}/").items()]

    def delete(self, device: str, path: str) -> None:
        self._renew()
        self.bucket.delete(f"{device}/{path}")

    def put(self, device: str, wanted: PublishedObject, content: bytes) -> None:
        self._put(f"{device}/{wanted.path}", content, wanted.media_type, OBJECT_CACHING)

    def switch(self, device: str, manifest: bytes) -> None:
        digest = sha256(manifest)
        current = self.manifest(device)
        if current is not None:
            dated = {each.digest: each.published for each in self.manifests(device)}
            since = dated.get(sha256(current), 0.0)
            for name, published in dated.items():
                if published > since:  # a publisher died before the device was told of it
                    self.delete(device, f"{MANIFESTS}/{name}")
        self._put(f"{device}/{MANIFESTS}/{digest}", manifest, MANIFEST_MEDIA_TYPE, OBJECT_CACHING)
        self._put(f"{device}/{DEPLOYMENTS}", manifest, MANIFEST_MEDIA_TYPE, MANIFEST_CACHING)

    def proof(self, device: str) -> bytes | None:
        return self._get(f"{device}/{FRESHNESS}", MAX_PROOF_BYTES)

    def put_proof(self, device: str, shard: str, content: bytes) -> None:  # noqa: ARG002  # a bucket has no links
        self._put(f"{device}/{FRESHNESS}", content, FRESHNESS_MEDIA_TYPE, MANIFEST_CACHING)

    def _take_lock(self) -> None:
        busy = PublishBusy(
            "another publisher works on this target",
            where=self.where,
            remedy=f"let it finish, then publish again; a dead one's lock is void after {STALE_SECONDS // 60} minutes",
        )
        holder = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}\n".encode()
        try:
            try:
                self._lock = self.bucket.replace(LOCK_KEY, holder, None)
            except ObjectMoved:
                seen = self.bucket.get(LOCK_KEY, _LOCK_BYTES)
                if seen is None or seen.age < STALE_SECONDS:
                    raise busy from None
                self._lock = self.bucket.replace(LOCK_KEY, holder, seen.tag)
        except ObjectMoved as error:
            raise busy from error
        self._renewed = time.monotonic()

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < _RENEW_SECONDS:
            return
        # Another body, another ETag: a publisher that saw the old lock as stale cannot replace the renewed one.
        body = f"{socket.gethostname()} {os.getpid()} {time.monotonic()}\n".encode()
        try:
            self._lock = self.bucket.replace(LOCK_KEY, body, self._lock)
        except ObjectMoved as error:
            raise PublishBusy("another publisher took this target over", where=self.where) from error
        self._renewed = time.monotonic()

    def _put(self, key: str, content: bytes, media_type: str, caching: str) -> None:
        self._renew()
        self.bucket.put(key, content, media_type, caching)

    def _get(self, key: str, limit: int | None) -> bytes | None:
        held = self.bucket.get(key, limit)
        return None if held is None else held.content
