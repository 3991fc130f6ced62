"""Which resource a path names, decided on the path as it was sent."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import is_device_id
from margo_gitops.server.contracts.current import ROUTES
from margo_gitops.server.routing import RouteTable

ID = "2541c588-2b5a-5659-898c-f2128302b9a5"
DIGEST = sha256(b"x")
DEPLOYMENT = "/api/v1/deployments/{deploymentId}/{digest}"


def found(path: bytes, base: str = "") -> tuple[str, dict[str, str]] | None:
    """Return the resource at a path, and its parameters."""
    match = RouteTable(ROUTES, base).find(path)
    return (match.route.template, dict(match.parameters)) if match else None


@pytest.mark.parametrize(
    ("path", "template", "parameters"),
    [
        ("/api/v1/deployments", "/api/v1/deployments", {}),
        (
            f"/api/v1/deployments/{ID}/{DIGEST}",
            "/api/v1/deployments/{deploymentId}/{digest}",
            {"deploymentId": ID, "digest": DIGEST},
        ),
        (
            f"/api/v1/deployments/{ID}/{DIGEST.replace(':', '%3A')}",
            DEPLOYMENT,
            {"deploymentId": ID, "digest": DIGEST},
        ),
        (f"/api/v1/deployments/{ID}/status", "/api/v1/deployments/{deploymentId}/status", {"deploymentId": ID}),
        (f"/api/v1/bundles/{DIGEST}", "/api/v1/bundles/{digest}", {"digest": DIGEST}),
        ("/api/v1/capabilities/gw-1", "/api/v1/capabilities/{deviceId}", {"deviceId": "gw-1"}),
        ("/api/v1/capabilities/gw-1/press-07", "/api/v1/capabilities/{deviceId}", {"deviceId": "gw-1/press-07"}),
        ("/api/v1/capabilities/gw-1%2Fpress-07", "/api/v1/capabilities/{deviceId}", {"deviceId": "gw-1/press-07"}),
        ("/api/v1/capabilities/gw-1%2fpress-07", "/api/v1/capabilities/{deviceId}", {"deviceId": "gw-1/press-07"}),
        ("/api/v1/capabilities/%61%7E", "/api/v1/capabilities/{deviceId}", {"deviceId": "a~"}),
        ("/healthz", "/healthz", {}),
    ],
)
def test_every_resource_of_the_contract_has_its_path(path: str, template: str, parameters: dict[str, str]) -> None:
    assert found(path.encode()) == (template, parameters)


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
    assert found(path.encode()) is None


def test_bytes_beyond_ascii_are_no_path() -> None:
    assert found("/api/v1/capabilities/ä".encode()) is None


def test_a_base_path_belongs_to_every_path() -> None:
    assert found(b"/v1alpha2/margo/api/v1/deployments", "/v1alpha2/margo") == ("/api/v1/deployments", {})
    assert found(b"/api/v1/deployments", "/v1alpha2/margo") is None
    assert found(b"/v1alpha2/margo//api/v1/deployments", "/v1alpha2/margo") is None


@given(st.binary(max_size=300))
def test_whatever_comes_after_the_prefix_is_read_without_an_error(rest: bytes) -> None:
    match = found(b"/api/v1/" + rest)
    parameters = match[1] if match else {}
    if "deviceId" in parameters:
        assert is_device_id(parameters["deviceId"])
        assert "//" not in parameters["deviceId"]
    if "deploymentId" in parameters:
        uuid.UUID(parameters["deploymentId"])


def test_a_link_of_a_manifest_has_a_path_with_the_prefix_and_one_without() -> None:
    for path in (f"/api/v1/bundles/{DIGEST}", f"/api/v1/deployments/{ID}/{DIGEST}"):
        assert found(path.encode(), "/v1/margo") == found(f"/v1/margo{path}".encode(), "/v1/margo") is not None
    for path in ("/api/v1/deployments", f"/api/v1/deployments/{ID}/status", "/api/v1/capabilities/a"):
        assert found(path.encode(), "/v1/margo") is None


@pytest.mark.parametrize("path", ["/api/v1/deployments/x/status", f"/api/v1/deployments/x/{DIGEST}"])
def test_a_value_that_no_deployment_has_is_a_deployment_that_is_not_there(path: str) -> None:
    table = RouteTable(ROUTES)
    assert table.find(path.encode()) is None
    assert table.missing(path.encode()).fragment == "deployment-not-found"
    assert table.missing(b"/api/v1/nothing").fragment == ""
