"""What a request asks for: Accept, Accept-Encoding, If-None-Match, Prefer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.manifest import MANIFEST_MEDIA_TYPE
from margo_gitops.server.requests import accepts, holds, takes_gzip, wait_seconds

ETAG = "sha256:0a25"


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "  ",
        "*/*",
        "application/*",
        MANIFEST_MEDIA_TYPE,
        MANIFEST_MEDIA_TYPE.upper(),
        f"text/html, {MANIFEST_MEDIA_TYPE};q=0.1",
        f"{MANIFEST_MEDIA_TYPE}; charset=utf-8",
        "text/html, */*;q=0.1",
        f"*/*;q=0, {MANIFEST_MEDIA_TYPE}",
    ],
)
def test_the_manifest_is_acceptable(accept: str | None) -> None:
    assert accepts(accept, MANIFEST_MEDIA_TYPE)


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "text/html, application/xml",
        f"{MANIFEST_MEDIA_TYPE};q=0",
        f"*/*, {MANIFEST_MEDIA_TYPE};q=0.000",
        "application/vnd.margo.manifest.v1",
        "application/vnd.margo.manifest.v2+json",
        "*/*;q=0",
        f"{MANIFEST_MEDIA_TYPE};q=often",
        "text/*",
    ],
)
def test_the_manifest_is_not_acceptable(accept: str) -> None:
    assert not accepts(accept, MANIFEST_MEDIA_TYPE)


@pytest.mark.parametrize("value", ["gzip", "br, gzip;q=0.5", "*", "GZIP", "x-gzip"])
def test_gzip_is_taken(value: str) -> None:
    assert takes_gzip(value)


@pytest.mark.parametrize("value", [None, "", "identity", "br", "gzip;q=0", "*;q=1, gzip;q=0", "gzipped"])
def test_gzip_is_not_taken(value: str | None) -> None:
    assert not takes_gzip(value)


@pytest.mark.parametrize(
    "value", [f'"{ETAG}"', f'W/"{ETAG}"', "*", f'"a", "{ETAG}"', f'"a,b" ,, "{ETAG}"', f' "{ETAG}" ']
)
def test_the_client_holds_it(value: str) -> None:
    assert holds(value, ETAG)


@pytest.mark.parametrize(
    "value", [None, "", ETAG, f'"{ETAG}', f'"{ETAG}" "b"', '"other"', f"'{ETAG}'", f'w/"{ETAG}"', f'"x", {ETAG}']
)
def test_the_client_does_not_hold_it_or_says_so_in_a_wrong_form(value: str | None) -> None:
    assert not holds(value, ETAG)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, None),
        ("wait=10", 10),
        ("wait=100", 55),
        ('wait="10"', 10),
        ("respond-async, wait=7; foo", 7),
        ("Wait = 5", 5),
        ("wait=5, wait=9", 5),
        ("wait=0", None),
        ("wait", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=99999999999999999999", None),
    ],
)
def test_how_long_a_client_would_wait(prefer: str | None, seconds: float | None) -> None:
    assert wait_seconds(prefer, 55) == seconds


def test_nobody_waits_where_waiting_is_off() -> None:
    assert wait_seconds("wait=10", 0) is None


@given(st.text())
def test_no_header_is_an_error(value: str) -> None:
    accepts(value, MANIFEST_MEDIA_TYPE)
    takes_gzip(value)
    holds(value, ETAG)
    wait_seconds(value, 55)
