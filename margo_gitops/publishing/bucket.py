"""An S3-compatible bucket as the target: keys are the URLs of the API, so a CDN needs no rewriting.

    <prefix>/<encoded device>/api/v1/deployments                      the manifest
    <prefix>/<encoded device>/api/v1/deployments/<id>/<digest>
    <prefix>/<encoded device>/api/v1/bundles/<digest>
    <prefix>/<encoded device>/api/v1/freshness                        the proof of freshness
    <prefix>/<encoded device>/manifests/<digest>                      when each manifest was published

BUCKET-1  A write is whole or not at all, and carries its sha256, which the store compares.
BUCKET-2  The lock is an object that is made only if it does not exist, and replaced only if it is the one that was
          seen (conditional writes); it is renewed while work continues, and another publisher takes it over when it is
          stale.
BUCKET-3  Credentials, region and endpoint come from the environment and files that every S3 program reads; this
          program adds none.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, Protocol, Self, cast
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import is_encoded_device_id
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, MAX_PROOF_BYTES
from margo_gitops.documents.manifest import MANIFEST_MEDIA_TYPE
from margo_gitops.errors import Location, PublishBusy, PublishTargetUnusable
from margo_gitops.publishing.layout import (
    BUNDLES,
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

LOCK_KEY: Final = ".margo-gitops-publish"
STALE_SECONDS: Final = 900
_RENEW_SECONDS: Final = 60
_CONFIG: Final = Config(
    connect_timeout=30,
    read_timeout=120,
    retries={"max_attempts": 5, "mode": "standard"},
    user_agent_extra="margo-gitops",
    # Many stores that speak S3 refuse the checksum headers that botocore sends by default since 1.36.
    request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
    response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
)
_CONFLICT: Final = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT: Final = {"NoSuchKey", "404"}


class _Client(Protocol):
    """The calls of an S3 client that are used here."""

    def put_object(self, **arguments: object) -> dict[str, object]: ...
    def get_object(self, **arguments: object) -> dict[str, object]: ...
    def delete_object(self, **arguments: object) -> dict[str, object]: ...
    def list_objects_v2(self, **arguments: object) -> dict[str, object]: ...
    def close(self) -> None: ...


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
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
            raise PublishTargetUnusable(f"{url!r} is not a bucket", remedy="write s3://bucket or s3://bucket/prefix")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self.clock = clock
        self.where = Location(url)
        self._lock = ""
        self._renewed = 0.0
        with self._store_errors():
            self._client = cast("_Client", boto3.client("s3", config=_CONFIG))

    def close(self) -> None:
        """Close the connections to the store."""
        self._client.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the bucket's lock object."""
        with self._store_errors():
            self._take_lock()
        try:
            yield
        finally:
            with self._store_errors():
                self._release()

    def devices(self) -> Iterable[str]:
        names = [prefix.removeprefix(self._prefix).rstrip("/") for prefix in self._list("", folders=True)]
        return [name for name in names if is_encoded_device_id(name)]

    def manifest(self, device: str) -> bytes | None:
        return self._get(f"{device}/{DEPLOYMENTS}", MAX_MANIFEST_BYTES)

    def objects(self, device: str) -> frozenset[str]:
        found = set()
        for folder in (DEPLOYMENTS, BUNDLES):
            keys = self._list(f"{device}/{folder}/")
            found |= {key.removeprefix(f"{self._prefix}{device}/") for key in keys}
        return frozenset(found)

    def read(self, device: str, path: str) -> bytes | None:
        return self._get(f"{device}/{path}", None)

    def manifests(self, device: str) -> list[DatedManifest]:
        keys = self._list(f"{device}/{MANIFESTS}/")
        return [DatedManifest(key.rpartition("/")[2], changed) for key, changed in keys.items()]

    def delete(self, device: str, path: str) -> None:
        with self._store_errors():
            self._renew()
            self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}{device}/{path}")

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
        holder = f"{socket.gethostname()} {os.getpid()}\n".encode()
        key = self._prefix + LOCK_KEY
        try:
            answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=holder, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) not in _CONFLICT:
                raise
            answer = self._take_over(key, holder)
        self._lock, self._renewed = str(answer["ETag"]), time.monotonic()

    def _take_over(self, key: str, holder: bytes) -> dict[str, object]:
        busy = PublishBusy(
            "another publisher works on this target",
            where=self.where,
            remedy=f"let it finish, then publish again; a dead one's lock is void after {STALE_SECONDS // 60} minutes",
        )
        try:
            seen = self._client.get_object(Bucket=self._bucket, Key=key)
            cast("_Body", seen["Body"]).close()
            # Both times are the store's own: this machine's clock may be wrong.
            headers = cast("dict[str, dict[str, str]]", seen["ResponseMetadata"])["HTTPHeaders"]
            age = (parsedate_to_datetime(headers["date"]) - cast("datetime", seen["LastModified"])).total_seconds()
            if age < STALE_SECONDS:
                raise busy
            return self._client.put_object(Bucket=self._bucket, Key=key, Body=holder, IfMatch=seen["ETag"])
        except ClientError as error:
            if _code(error) in _CONFLICT | _ABSENT:
                raise busy from error
            raise

    def _release(self) -> None:
        key = self._prefix + LOCK_KEY
        try:
            held = self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return
            raise
        with cast("_Body", held["Body"]):
            ours = held["ETag"] == self._lock
        if ours:
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < _RENEW_SECONDS:
            return
        # Another body, another ETag: a publisher that saw the old lock as stale cannot replace the renewed one.
        body = f"{socket.gethostname()} {os.getpid()} {time.monotonic()}\n".encode()
        key = self._prefix + LOCK_KEY
        try:
            answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfMatch=self._lock)
        except ClientError as error:
            if _code(error) in _CONFLICT | _ABSENT:
                raise PublishBusy("another publisher took this target over", where=self.where) from error
            raise
        self._lock, self._renewed = str(answer["ETag"]), time.monotonic()

    def _put(self, key: str, content: bytes, media_type: str, caching: str) -> None:
        with self._store_errors():
            self._renew()
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=content,
                ContentType=media_type,
                CacheControl=caching,
                ChecksumSHA256=base64.b64encode(hashlib.sha256(content).digest()).decode(),
            )

    def _get(self, key: str, limit: int | None) -> bytes | None:
        with self._store_errors():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            with cast("_Body", answer["Body"]) as body:
                content = body.read(None if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise PublishTargetUnusable(f"{key} has more than {limit} bytes", where=self.where)
        return content

    def _list(self, prefix: str, *, folders: bool = False) -> dict[str, float]:
        """Return keys with the time of their last change, or the folders directly below a prefix."""
        found: dict[str, float] = {}
        more: dict[str, object] = {"Delimiter": "/"} if folders else {}
        with self._store_errors():
            while True:
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **more)
                for entry in cast("list[dict[str, object]]", page.get("CommonPrefixes" if folders else "Contents", [])):
                    if folders:
                        found[str(entry["Prefix"])] = 0.0
                    else:
                        found[str(entry["Key"])] = cast("datetime", entry["LastModified"]).timestamp()
                if not page.get("IsTruncated"):
                    return found
                more["ContinuationToken"] = page["NextContinuationToken"]

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise PublishTargetUnusable(
                "the bucket cannot be used",
                where=self.where,
                why=[str(error)],
                remedy="see that the bucket exists and that credentials, region and endpoint are set as for every S3 "
                "program (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL)",
            ) from error


class _Body(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def read(self, amount: int | None) -> bytes: ...
    def close(self) -> None: ...


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
