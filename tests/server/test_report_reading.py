"""Reports as devices send them: read safely, and written in one normal form."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.serving import capabilities, status

from margo_gitops.server.problems import RequestRefused
from margo_gitops.server.reports.reading import device_in_fleet, read_capabilities, read_status, summary

ID = "2541c588-2b5a-5659-898c-f2128302b9a5"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("properties", "labels", "deploymentId", "status", "components", "adoptedManifestVersion", "deviceId", "kind")


@given(st.binary(max_size=400))
def test_whatever_bytes_come_they_are_read_or_refused(body: bytes) -> None:
    for profile in ("lenient", "strict"):
        with pytest.raises(RequestRefused):
            read_capabilities(body, "press-01", profile)
        with pytest.raises(RequestRefused):
            read_status(body, ID, profile)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), st.sampled_from(["lenient", "strict"]))
def test_whatever_json_comes_it_is_read_or_refused(change: dict, profile: str) -> None:
    for document, read in (
        (status(ID), lambda body: read_status(body, ID, profile).content),
        (capabilities("press-01"), lambda body: read_capabilities(body, "press-01", profile)),
    ):
        with contextlib.suppress(RequestRefused):
            content = read(json.dumps(document | change).encode())
            assert read(content) == content, "the normal form is its own normal form"


@given(st.permutations(list(capabilities("press-01")["properties"])), st.integers(0, 7))
def test_documents_that_say_the_same_have_one_normal_form(order: list[str], indent: int) -> None:
    properties = capabilities("press-01")["properties"]
    document = {"properties": {name: properties[name] for name in order}}
    body = json.dumps(document, indent=indent).encode()
    plain = json.dumps({"properties": properties}).encode()
    assert read_capabilities(body, "press-01", "strict") == read_capabilities(plain, "press-01", "strict")


def test_a_name_too_long_for_a_file_is_422() -> None:
    device = "a/" + "_" * 190
    with pytest.raises(RequestRefused) as caught:
        device_in_fleet("a", device)
    assert caught.value.problem.status == 422


def test_a_report_is_summed_up_in_a_few_words() -> None:
    content = read_status(json.dumps(status(ID)).encode(), ID, "strict").content
    assert summary(content, ("status", ID)) == f"status {ID} installed"
    assert summary(None, ("capabilities", "press-01")) == "capabilities press-01 removed"
