"""An S3-compatible bucket: whole objects by key, and conditional writes.

BUCKET-1  A write is whole or not at all, and carries its sha256, which the store compares.
BUCKET-2  A conditional write replaces exactly the object that was seen, or makes one where there was nothing. A store
          that ignores conditions is found out when the first one is made.
BUCKET-3  Credentials, region, endpoint and certificates come from the environment and files that every S3 program
          reads; this program adds none. None of them is in an error.
BUCKET-4  Each answer of a store is used, or is the bucket's error. Times are by the store's clock.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import BinaryIO, Final, Protocol, Self, cast
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from margo_gitops.digests import Digest
from margo_gitops.errors import Location, MargoGitopsError
from margo_gitops.values import dataclass

SCHEME: Final = "s3://"
_CHUNK: Final = 1024 * 1024
_CONFIG: Final = Config(
    connect_timeout=30,
    read_timeout=120,
    retries={"max_attempts": 5, "mode": "standard"},
    user_agent_extra="margo-gitops",
    # Many stores that speak S3 refuse the checksum headers that botocore sends by default since 1.36.
    request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
    response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
)
_MOST_PAGES: Final = 10_000
_UNREADABLE: Final = (ResponseParserError, LookupError, TypeError, ValueError, RecursionError)
"""What botocore and this module raise for an answer that S3 does not give: no header Date, a redirect in circles."""
_PASSWORD: Final = re.compile(r"(?<=://)[^/@\s]*@")
_CONFLICT: Final = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT: Final = {"NoSuchKey", "404"}
_UNCHANGED: Final = {"NotModified", "304"}


class _Body(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def read(self, amount: int | None = None) -> bytes: ...


class _Client(Protocol):
    """The calls of an S3 client that are used here."""

    def put_object(self, **arguments: object) -> dict[str, object]: ...
    def get_object(self, **arguments: object) -> dict[str, object]: ...
    def delete_object(self, **arguments: object) -> dict[str, object]: ...
    def list_objects_v2(self, **arguments: object) -> dict[str, object]: ...
    def close(self) -> None: ...


class ObjectMoved(Exception):
    """A conditional write found another object than the one that was seen."""


@dataclass(frozen=True, slots=True)
class HeldObject:
    """An object that was read.

    Attributes:
        tag: the store's ETag of it, for conditional requests.
        age: seconds since it was written, by the store's own clock.
    """

    content: bytes
    tag: str
    age: float


class Bucket:
    """A prefix of a bucket."""

    def __init__(self, url: str, error: type[MargoGitopsError]) -> None:
        """Use a bucket.

        Args:
            url: `s3://bucket` or `s3://bucket/prefix`.
            error: raised where the bucket cannot be used, here and by every method.
        """
        self.where = Location(url)
        self._error = error
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
            raise error(f"{url!r} is not a bucket", remedy="write s3://bucket or s3://bucket/prefix")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        with self._store_errors():
            self._client = cast("_Client", boto3.client("s3", config=_CONFIG))

    def close(self) -> None:
        """Close the connections to the store."""
        self._client.close()

    def get(self, key: str, limit: int | None = None) -> HeldObject | None:
        """Return an object of at most `limit` bytes; None where there is nothing."""
        with self._store_errors():
            answer = self._answer(key, _ABSENT)
            return None if answer is None else self._held(key, answer, limit)

    def get_unless(self, key: str, tag: str, limit: int) -> HeldObject | None:
        """Return an object; None where it still has this tag, or does not exist and the tag is empty."""
        with self._store_errors():
            condition = {"IfNoneMatch": tag} if tag else {}
            answer = self._answer(key, _UNCHANGED if tag else _ABSENT, **condition)
            return None if answer is None else self._held(key, answer, limit)

    def get_start(self, key: str, count: int) -> bytes:
        """Return the first bytes of an object."""
        with self._store_errors():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=f"bytes=0-{count - 1}")
            with cast("_Body", answer["Body"]) as body:
                return body.read(count)

    def download(self, key: str, most: int, file: BinaryIO) -> Digest:
        """Write the first `most` + 1 bytes of an object to a file; return their digest."""
        digest, left = hashlib.sha256(), most + 1
        with self._store_errors():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            with cast("_Body", answer["Body"]) as body:
                while left and (chunk := body.read(min(_CHUNK, left))):
                    digest.update(chunk)
                    file.write(chunk)
                    left -= len(chunk)
        return Digest(f"sha256:{digest.hexdigest()}")

    def put(self, key: str, content: bytes, media_type: str, caching: str) -> None:
        """Write an object."""
        with self._store_errors():
            digest = hashlib.sha256(content)
            self._put(key, content, digest.digest(), ContentType=media_type, CacheControl=caching)

    def upload(self, key: str, file: BinaryIO, digest: Digest) -> None:
        """Write an object from a file that has this digest."""
        with self._store_errors():
            self._put(key, file, bytes.fromhex(digest.removeprefix("sha256:")))

    def replace(self, key: str, content: bytes, tag: str | None) -> str:
        """Write an object in place of the one with this tag, or where there is nothing (None); return its tag.

        Raises:
            ObjectMoved: another object is there.
        """
        written = self._replace(key, content, {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag})
        if written is None:
            # A write whose answer was lost is sent again, and then meets itself.
            seen = self.get(key)
            if seen is None or seen.content != content:
                raise ObjectMoved(key)
            return seen.tag
        if tag is None and self._replace(key, content, {"IfNoneMatch": "*"}) is not None:
            raise self._error(
                "the store ignores the conditions of a write: two publishers would destroy each other's work",
                where=self.where,
                remedy="use a store with conditional writes (If-None-Match, If-Match), or a newer version of this one",
            )
        return written

    def _replace(self, key: str, content: bytes, condition: dict[str, str]) -> str | None:
        with self._store_errors():
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=content, CacheControl="no-cache", **condition
                )
            except ClientError as error:
                if _code(error) in _CONFLICT | _ABSENT:
                    return None
                raise
            return str(answer["ETag"])

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._store_errors():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def keys(self, folder: str) -> dict[str, float]:
        """Return the keys below a folder, without it, and when each was written, in seconds since 1970 by our clock."""
        found: dict[str, float] = {}
        skipped = len(self._prefix + folder)
        with self._store_errors():
            for page in self._pages(Prefix=self._prefix + folder):
                ahead = _date(page).timestamp() - time.time()
                for each in cast("list[dict[str, object]]", page.get("Contents", [])):
                    found[str(each["Key"])[skipped:]] = cast("datetime", each["LastModified"]).timestamp() - ahead
        return found

    def folders(self) -> list[str]:
        """Return the names of the folders directly below the prefix."""
        pages = self._pages(Prefix=self._prefix, Delimiter="/")
        entries = (entry for page in pages for entry in cast("list[dict[str, str]]", page.get("CommonPrefixes", [])))
        return [each["Prefix"].removeprefix(self._prefix).rstrip("/") for each in entries]

    def _pages(self, **arguments: object) -> Iterator[dict[str, object]]:
        with self._store_errors():
            for _ in range(_MOST_PAGES):
                page = self._client.list_objects_v2(Bucket=self._bucket, **arguments)
                yield page
                if not page.get("IsTruncated"):
                    return
                arguments["ContinuationToken"] = page["NextContinuationToken"]
        raise self._error(f"the store lists more than {_MOST_PAGES} pages", where=self.where)

    def _answer(self, key: str, none: set[str], **arguments: object) -> dict[str, object] | None:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **arguments)
        except ClientError as error:
            if _code(error) in none:
                return None
            raise

    def _held(self, key: str, answer: dict[str, object], limit: int | None) -> HeldObject:
        with cast("_Body", answer["Body"]) as body:
            content = body.read(None if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise self._error(f"{key} has more than {limit} bytes", where=self.where)
        age = _date(answer) - cast("datetime", answer["LastModified"])
        return HeldObject(content, str(answer["ETag"]), age.total_seconds())

    def _put(self, key: str, body: bytes | BinaryIO, digest: bytes, **arguments: object) -> None:
        checksum = base64.b64encode(digest).decode()
        self._client.put_object(
            Bucket=self._bucket, Key=self._prefix + key, Body=body, ChecksumSHA256=checksum, **arguments
        )

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, *_UNREADABLE) as error:
            said = _PASSWORD.sub("***@", str(error))
            if isinstance(error, _UNREADABLE):
                said = f"the store's answer is not S3's: {said}"
            raise self._error(
                "the bucket cannot be used",
                where=self.where,
                why=[said],
                remedy="see that the bucket exists and that credentials, region and endpoint are set as for every S3 "
                "program (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL)",
            ) from error


def _date(answer: dict[str, object]) -> datetime:
    """Return when the store answered, by its clock."""
    headers = cast("dict[str, dict[str, str]]", answer["ResponseMetadata"])["HTTPHeaders"]
    return parsedate_to_datetime(headers["date"])


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
