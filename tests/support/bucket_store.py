"""An S3-compatible store in this process: moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime

import pytest

BUCKET = "plant"
URL = f"s3://{BUCKET}/state"


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables that let an S3 program use the store, and nothing of this machine."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }


@contextmanager
def running_store() -> Iterator[str]:
    """Run a store; yield its endpoint."""
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def store_client() -> Iterator:
    """Yield boto3's client of the store in the environment."""
    boto3 = pytest.importorskip("boto3")
    with closing(boto3.client("s3")) as client:
        yield client


def empty_store() -> None:
    """Remove every bucket."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()


def keys() -> dict[str, tuple[str, datetime]]:
    """Return every key of the bucket, with ETag and time."""
    with store_client() as client:
        found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {each["Key"]: (each["ETag"], each["LastModified"]) for each in found}
