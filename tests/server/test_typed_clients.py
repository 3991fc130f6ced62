"""Clients that a foreign generator made from the published OpenAPI files, through their first day with a real server.

`openapi-python-client` makes typed models and functions. What the published files have wrong is patched here, by name.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
import ssl
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType
from server.certificates import Authority, spiffe_id
from server.serving import capabilities, served_fleet, status, until
from server.signing_fleet import SigningFleet
from support.deployments import deployment, packaged
from support.signed_requests import SignedClient
from testbed.places import locked, state_folder

from margo_gitops.digests import sha256
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.rendering.resolution import deployment_id
from margo_gitops.transport.http.older_contract import older_capabilities, older_status

PUBLISHED = Path(__file__).parent / "published"
CURRENT, OLDER = "workload-management-api-1.0.0-rc.3.yaml", "workload-management-api-1.0.0.openapi.yaml"
DEVICE = "press-01"
STATES = ("pending", "installing", "installed", "failed", "removing", "removed")
# A generator knows no media types of others: a document is text, a bundle bytes.
MEDIA_TYPES = {
    "application/yaml": "text/plain",
    "application/problem+json": "application/json",
    "application/vnd.margo.bundle.v1+tar+gzip": "application/octet-stream",
}


def patched(document: Any) -> Any:
    """Return a published file with its two defects removed that a generator takes offence at."""
    schemas = document["components"]["schemas"]
    if schemas is None:
        # The older file is a template.
        document["components"]["schemas"] = yaml.safe_load((PUBLISHED / "older-schemas.yaml").read_text())
        return document
    # Required, although no such members exist (docs/documents.md, "Where the published contract is wrong", 1 and 2).
    for name, wrong in {"UnsignedAppStateManifest": "bundle.", "appDeploymentMetadata": "annotations"}.items():
        schema = schemas[name]
        schema["required"] = [each for each in schema["required"] if not each.startswith(wrong)]
    return document


def typed_client(file: str) -> ModuleType:
    """Return the package that was generated from a published file; it is made once for each content of the files."""
    source = yaml.safe_dump(patched(yaml.safe_load((PUBLISHED / file).read_text())))
    made = state_folder() / "typed-clients" / sha256(source.encode()).removeprefix("sha256:")[:16]
    name = "typed_" + made.name
    with locked(made):
        if not (made / "complete").exists():
            made.mkdir(parents=True, exist_ok=True)
            (made / "openapi.yaml").write_text(source)
            settings = ConfigFile(post_hooks=[], content_type_overrides=MEDIA_TYPES)
            config = Config.from_sources(settings, MetaType.NONE, made / "openapi.yaml", "utf-8", True, made / name)
            assert generate(config=config) == []
            (made / "complete").touch()
    sys.path.insert(0, str(made))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(made))


class Typed:
    """A generated package, and a client of it for one server."""

    def __init__(self, file: str, url: str, **more: Any) -> None:
        self.package = typed_client(file)
        self.models = importlib.import_module(f"{self.package.__name__}.models")
        self.client = self.package.Client(url, raise_on_unexpected_status=True, timeout=httpx.Timeout(30), **more)

    def ask(self, operation: str, *arguments: str, **more: Any) -> Any:
        """Call a function of the package, by its name without the beginning that all paths of a contract have."""
        method, _, rest = operation.partition(" ")
        name = re.compile(rf"{method}_api_v_?1_(clients_client_id_)?{rest}")
        folder = Path(importlib.import_module(f"{self.package.__name__}.api.default").__path__[0])
        (found,) = [file.stem for file in folder.iterdir() if name.fullmatch(file.stem)]
        module = importlib.import_module(f"{self.package.__name__}.api.default.{found}")
        return module.sync_detailed(*arguments, client=self.client, **more)

    def model(self, name: str, document: Any) -> Any:
        return getattr(self.models, name).from_dict(document)


class Signing(httpx.Auth):
    """Signs what a generated client sends."""

    requires_request_body = True

    def __init__(self, signer: SignedClient) -> None:
        self.signer = signer

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        signed = self.signer.signed(request.method, request.url.raw_path.decode(), request.content or None)
        for name in ("signature", "signature-input", "content-digest"):
            if name in signed.headers:
                request.headers[name] = signed.headers[name]
        yield request


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SigningFleet]:
    """A server of both contracts over TLS, and what it serves: two deployments, as the renderer writes them."""
    with served_fleet(tmp_path_factory.mktemp("typed")) as fleet:
        hmi = packaged(deployment(own=deployment_id("plant", DEVICE, "hmi"), wait=False))
        vision = deployment("helm", own=deployment_id("plant", DEVICE, "vision"), wait=True)
        fleet.render({DEVICE: {"hmi": write_yaml(hmi), "vision": write_yaml(vision)}})
        authority = Authority()
        authority.issued.write(fleet.folder, "bundle")
        authority.server().write(fleet.folder, "server")
        authority.client(spiffe_id(DEVICE)).write(fleet.folder, "client")
        (fleet.folder / "accepted").write_text(spiffe_id(DEVICE) + "\n")
        fleet.scheme = "https"
        made = SigningFleet(fleet)
        tls = {"certificate": "server.pem", "key": "server.key", "clientTrust": "bundle.pem"}
        made.start(identity={"mutualTls": {"accepted": "accepted"}}, rootCertificate="bundle.pem", tls=tls)
        yield made
        made.http.close()


@pytest.fixture
def typed(signing: SigningFleet) -> Iterator[Callable[..., Typed]]:
    made: list[Typed] = []

    def make(file: str, **more: Any) -> Typed:
        made.append(Typed(file, signing.fleet.url, **more))
        return made[-1]

    yield make
    for each in made:
        each.client.get_httpx_client().close()


def context(signing: SigningFleet, *, certificate: bool = False) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=signing.folder / "bundle.pem")
    if certificate:
        made.load_cert_chain(signing.folder / "client.pem", signing.folder / "client.key")
    return made


def first_day(typed: Typed, *of: str) -> dict[str, Any]:
    """Pull as the contract says, and return each document by its deployment id.

    Args:
        of: the arguments that each function has first.
    """
    listed = typed.ask("get deployments", *of)
    manifest = listed.parsed
    assert manifest.manifest_version == 1
    assert listed.headers["ETag"] == f'"{sha256(listed.content)}"'
    assert typed.ask("get deployments", *of, if_none_match=listed.headers["ETag"]).status_code == 304
    documents = {}
    for each in manifest.deployments:
        found = typed.ask("get deployments_deployment_id_digest", *of, str(each.deployment_id), each.digest)
        assert (sha256(found.content), len(found.content)) == (each.digest, each.size_bytes)
        documents[str(each.deployment_id)] = found.parsed
    bundle = typed.ask("get bundles_digest", *of, manifest.bundle.digest).parsed.payload.read()
    assert (sha256(bundle), len(bundle)) == (manifest.bundle.digest, manifest.bundle.size_bytes)
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        files = {member.name: archive.extractfile(member).read().decode() for member in archive.getmembers()}  # type: ignore[union-attr]
    assert files == {f"{name}.yaml": text for name, text in documents.items()}
    return {name: yaml.safe_load(text) for name, text in documents.items()}


def statuses(typed: Typed, name: str, convert: Callable[[bytes], bytes], *of: str) -> list[int]:
    """Report each state of a deployment, and return the answers."""
    bodies = (json.loads(convert(json.dumps(status(name, state)).encode())) for state in STATES)
    typed_bodies = [typed.model("DeploymentStatusManifest", body) for body in bodies]
    return [
        typed.ask("post deployments_deployment_id_status", *of, name, body=each).status_code for each in typed_bodies
    ]


def test_a_typed_client_of_the_current_contract(signing: SigningFleet, typed: Callable[..., Typed]) -> None:
    client = typed(CURRENT, verify_ssl=context(signing, certificate=True))
    said = client.model("DeviceCapabilitiesManifest", capabilities(DEVICE))
    assert [client.ask("put capabilities_device_id", DEVICE, body=said).status_code for _ in range(2)] == [201, 200]
    for name, document in first_day(client).items():
        read = client.model("AppDeploymentManifest", document)
        assert (read.id, read.metadata.device_id, read.spec.application_id) == (name, DEVICE, "com-acme-hmi")
        kind, (component,) = read.spec.deployment_profile.type_, read.spec.deployment_profile.components
        assert component.properties.wait is {"compose": False, "helm": True}[kind.value]
        assert component.properties.repository == "oci://registry.example.com/hmi"
        assert statuses(client, name, bytes) == [201, 200, 200, 200, 200, 200]
    refused = client.ask("get bundles_digest", sha256(b""))
    assert (refused.status_code, refused.parsed.status) == (404, 404)
    assert refused.parsed.type_.endswith("#invalid-bundle")
    refused = client.ask("get deployments", accept="application/json")
    assert refused.parsed.type_.endswith("#server-cannot-generate-response")
    said.properties.id = "press-02"
    refused = client.ask("put capabilities_device_id", DEVICE, body=said)
    assert (refused.status_code, refused.parsed.retryable) == (422, False)
    assert [error.field for error in refused.parsed.errors] == ["properties.id"]
    assert client.ask("delete capabilities_device_id", DEVICE).status_code == 204


def test_a_typed_client_of_the_older_contract(signing: SigningFleet, typed: Callable[..., Typed]) -> None:
    signer = signing.stranger()
    signing.accept(signer, DEVICE)
    client = typed(OLDER, verify_ssl=context(signing), httpx_args={"auth": Signing(signer)})
    authority = client.ask("get onboarding_certificate").parsed.certificate
    assert base64.b64decode(authority) == (signing.folder / "bundle.pem").read_bytes()
    request = {
        "apiVersion": "onboarding.margo.org/v1alpha1",
        "kind": "OnboardingRequest",
        "certificate": base64.b64encode(signer.der).decode(),
    }
    own = client.ask("post onboarding", body=client.model("PostApiV1OnboardingBody", request)).parsed.client_id
    document = json.loads(older_capabilities(json.dumps(capabilities(DEVICE)).encode(), own))
    said = client.model("DeviceCapabilitiesManifest", document)
    assert [client.ask(f"{method} capabilities", own, body=said).status_code for method in ("post", "put")] == [
        201,
        201,
    ]
    for name, document in first_day(client, own).items():
        read = client.model("ApplicationDeployment", document)
        assert read.to_dict() == document
        assert str(read.id) == str(read.metadata.annotations.id) == name
        assert read.metadata.annotations.application_id == "com-acme-hmi"
        kind, (component,) = read.spec.deployment_profile.type_, read.spec.deployment_profile.components
        assert component.properties.wait == {"compose": "false", "helm.v3": "true"}[kind.value]
        assert isinstance(component.properties.package_location, str) is (kind.value == "compose")
        assert statuses(client, name, older_status, own) == [200] * 6
        until(lambda name=name: f"{DEVICE}/status/{name}.json" in signing.fleet.reports())
    assert client.ask("get bundles_digest", own, sha256(b"")).status_code == 404
