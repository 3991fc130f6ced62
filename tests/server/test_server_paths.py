"""Which resource a path names, decided on the path as it was sent."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import is_device_id
from margo_gitops.server.paths import Resource, find_resource

ID = "2541c588-2b5a-5659-898c-f2128302b9a5"
DIGEST = sha256(b"x")


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/deployments", Resource("manifest")),
        (f"/api/v1/deployments/{ID}/{DIGEST}", Resource("deployment", deployment_id=ID, digest=DIGEST)),
        (
            f"/api/v1/deployments/{ID}/{DIGEST.replace(':', '%3A')}",
            Resource("deployment", deployment_id=ID, digest=DIGEST),
        ),
        (f"/api/v1/deployments/{ID}/status", Resource("status", deployment_id=ID)),
        (f"/api/v1/bundles/{DIGEST}", Resource("bundle", digest=DIGEST)),
        ("/api/v1/capabilities/gw-1", Resource("capabilities", device="gw-1")),
        ("/api/v1/capabilities/gw-1/press-07", Resource("capabilities", device="gw-1/press-07")),
        ("/api/v1/capabilities/gw-1%2Fpress-07", Resource("capabilities", device="gw-1/press-07")),
        ("/api/v1/capabilities/gw-1%2fpress-07", Resource("capabilities", device="gw-1/press-07")),
        ("/api/v1/capabilities/%61%7E", Resource("capabilities", device="a~")),
        ("/healthz", Resource("healthz")),
    ],
)
def test_every_resource_of_the_contract_has_its_path(path: str, resource: Resource) -> None:
    assert find_resource(path.encode()) == resource


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "*",
        "//api/v1/deployments",
        "/api//v1/deployments",
        "/api/v1//deployments",
        "/api/v1/deployments/",
        "/api/v1/deployments//",
        "/api/v1/%64eployments",
        "/api/v1/./deployments",
        "/api/v1/x/../deployments",
        "/api/v1/%2e%2e/v1/deployments",
        "/api%2Fv1/deployments",
        "/api/v1%2fdeployments",
        f"/api/v1/deployments%2F{ID}/{DIGEST}",
        f"/api/v1/deployments/{ID}%2F{DIGEST}",
        f"/api/v1/deployments/{ID}//{DIGEST}",
        f"/api/v1/deployments/{ID}/{DIGEST}/",
        f"/api/v1/deployments/{ID}/{DIGEST.upper()}",
        f"/api/v1/deployments/{ID}/{DIGEST}%00",
        f"/api/v1/deployments/{ID}/{DIGEST[:-1]}",
        f"/api/v1/deployments/{ID}/sha512:{'0' * 128}",
        f"/api/v1/deployments/{ID}",
        "/api/v1/deployments/not-a-uuid/status",
        f"/api/v1/bundles//{DIGEST}",
        f"/api/v1/bundles/../bundles/{DIGEST}",
        "/api/v1/capabilities",
        "/api/v1/capabilities/",
        "/api/v1/capabilities//gw-1",
        "/api/v1/capabilities/gw-1/",
        "/api/v1/capabilities/gw-1//press-07",
        "/api/v1/capabilities/gw-1%2F%2Fpress-07",
        "/api/v1/capabilities/gw-1%252Fpress-07",
        "/api/v1/capabilities/gw-1/../gw-2",
        "/api/v1/capabilities/gw-1/%2e%2e/gw-2",
        "/api/v1/capabilities/.",
        "/api/v1/capabilities/gw-1%00",
        "/api/v1/capabilities/gw-1%0a",
        "/api/v1/capabilities/gw-1%zz",
        "/api/v1/capabilities/gw-1%",
        "/api/v1/capabilities/%e4",
        "/api/v1/capabilities/gw-1\\press-07",
        "/api/v1/capabilities/" + "a" * 201,
        "/api/v1/clients/press-01/deployments",
        "/API/V1/deployments",
        "/healthz/",
        "/api/v1/deployments;x=1",
    ],
)
def test_a_path_that_is_not_exactly_a_resources_is_none(path: str) -> None:
    assert find_resource(path.encode()) is None


def test_bytes_beyond_ascii_are_no_path() -> None:
    assert find_resource("/api/v1/capabilities/ä".encode()) is None


def test_a_base_path_belongs_to_every_path() -> None:
    assert find_resource(b"/v1alpha2/margo/api/v1/deployments", "/v1alpha2/margo") == Resource("manifest")
    assert find_resource(b"/api/v1/deployments", "/v1alpha2/margo") is None
    assert find_resource(b"/v1alpha2/margo//api/v1/deployments", "/v1alpha2/margo") is None


@given(st.binary(max_size=300))
def test_whatever_comes_after_the_prefix_is_read_without_an_error(rest: bytes) -> None:
    found = find_resource(b"/api/v1/" + rest)
    if found is not None and found.device:
        assert is_device_id(found.device)
        assert "//" not in found.device
    if found is not None and found.deployment_id:
        uuid.UUID(found.deployment_id)
