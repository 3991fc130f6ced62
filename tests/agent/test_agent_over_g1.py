"""The agent over the older contract: onboarded once, the same state as by git and the current one, reports back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from device_world import RENDERER, World
from server.certificates import Authority
from server.serving import ServedFleet, served_fleet, until
from support.device_states import DEVICE, RENDERS, files, held
from support.signed_requests import certificate, pem_of, private_key

from margo_gitops.digests import sha256
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import write_yaml

pytestmark = pytest.mark.real

CAPABILITIES: Json = {
    "properties": {
        "id": DEVICE,
        "vendor": "Northstar",
        "modelNumber": "NIA-300",
        "serialNumber": "1",
        "cpus": [{"cores": 4, "architecture": "amd64"}, {"cores": 2, "architecture": "amd64"}],
        "memory": "8 Gi",
        "storage": "64 Gi",
        "peripherals": [{"type": "gpu"}],
        "interfaces": [{"type": "ethernet"}],
        "otelCollector": True,
        "supportedRuntimes": ["oci"],
        "supportedDeploymentTypes": ["compose"],
    },
    "labels": {"line": "3"},
}


class OlderFleet:
    """A server of both contracts, and devices that sign; in the strict profile with a prefix, and behind TLS."""

    def __init__(self, fleet: ServedFleet, profile: str) -> None:
        self.fleet = fleet
        self.profile = profile
        strict = profile == "strict"
        self.base = "/v1alpha2/margo" if strict else ""
        self.tls: dict[str, str] = {}
        self.trust: dict[str, Json] = {}
        if strict:
            authority = Authority()
            certificate, key = authority.server().write(fleet.folder, "server")
            self.tls = {"certificate": str(certificate), "key": str(key)}
            self.trust = {"caFile": str(authority.issued.write(fleet.folder, "authority")[0])}
            fleet.scheme = "https"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        self.fleet.token(DEVICE)
        signatures = {
            "accepted": "certificates",
            "publicUrls": [f"{self.fleet.scheme}://127.0.0.1:{self.port}"],
            "profile": self.profile,
        }
        identity = {"bearer": {"tokens": "device-tokens"}, "signatures": signatures}
        more = {"tls": self.tls} if self.tls else {}
        self.fleet.start(identity=identity, listen={"port": self.port, "basePath": self.base}, **more)

    @property
    def url(self) -> str:
        return f"{self.fleet.url}{self.base}"

    def device(self, folder: Path, algorithm: str = "ecdsa-p256-sha256", **more: Json) -> World:
        """Return a device that signs, and that the server accepts."""
        key = private_key(algorithm, 11)
        leaf = certificate(key, DEVICE)
        world = World(folder, device=DEVICE)
        (folder / "device.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        (folder / "device.key").write_bytes(pem_of(key))
        (folder / "capabilities.yaml").write_bytes(write_yaml(CAPABILITIES))
        with (self.fleet.folder / "certificates").open("a") as file:
            file.write(f"{DEVICE} {sha256(leaf.public_bytes(Encoding.DER))}\n")
        signed: Json = {
            **self.trust,
            "contract": "g1",
            "signingCertificate": "device.pem",
            "signingKey": "device.key",
            **({"signatureAlgorithm": algorithm} if algorithm.startswith("rsa") else {}),
            **more,
        }
        assert isinstance(signed, dict)
        world.configure(source={"http": {"url": self.url, **signed}}, capabilities=["capabilities.yaml"])
        return world


BOTH = pytest.mark.parametrize("older", ["specification", "strict"], indirect=True)


@pytest.fixture
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OlderFleet]:
    with served_fleet(tmp_path) as fleet:
        fleet.render({DEVICE: RENDERS[0], "press-02": {}}, key=RENDERER)
        (tmp_path / "certificates").write_text("")
        made = OlderFleet(fleet, getattr(request, "param", "specification"))
        made.start()
        yield made


@BOTH
def test_the_same_state_by_git_over_the_current_contract_and_over_the_older_one(
    older: OlderFleet, tmp_path: Path
) -> None:
    by_git = World(tmp_path / "git", device=DEVICE)
    by_git.configure(source={"git": {"url": f"file://{tmp_path}/state.git"}})
    current = World(tmp_path / "current", device=DEVICE)
    (current.folder / "token").write_text(older.fleet.tokens[DEVICE])
    current.configure(
        source={"http": {"url": older.url, "tokenFile": "token", "reportStatus": False, **older.trust}},
    )
    signed = older.device(tmp_path / "signed")
    for number, rendered in enumerate(RENDERS):
        if number:
            older.fleet.render({DEVICE: rendered}, key=RENDERER)
        for world in (by_git, current, signed):
            result = world.agent("once")
            assert result.returncode == 0, result.stderr
        assert len(held(signed.state)) == 1 + len(rendered)
        assert held(signed.state) == held(current.state) == held(by_git.state)
        assert files(signed.output) == files(current.output) == files(by_git.output)
    assert "unchanged" in signed.agent("once").stdout
    until(lambda: states(older.fleet) == ["removed"] * 3)


def states(fleet: ServedFleet) -> list[str]:
    reports = fleet.reports().values()
    return [report["status"]["state"] for report in reports if "deploymentId" in report]


@pytest.mark.parametrize("algorithm", ["ecdsa-p384-sha384", "rsa-pss-sha256"])
def test_a_device_reports_in_the_older_shapes(older: OlderFleet, tmp_path: Path, algorithm: str) -> None:
    world = older.device(tmp_path / "world", algorithm)
    result = world.agent("once")
    assert result.returncode == 0, result.stderr
    reports = until(lambda: len(older.fleet.reports()) == 3 and older.fleet.reports())
    properties = reports[f"{DEVICE}/capabilities/{DEVICE}.json"]["properties"]
    assert (properties["id"], properties["cpus"]) == (DEVICE, [{"cores": 4, "architecture": "amd64"}])
    assert properties["memory"] == "8 Gi"
    assert states(older.fleet) == ["installed", "installed"]
    client_id = json.loads((world.state / "client-id.json").read_text())["clientId"]
    log = older.fleet.renderer.git.run("log", "--format=%B", "refs/heads/reports")
    assert f"Reported-By: {DEVICE} (signature {client_id})" in log


def test_a_device_is_onboarded_once(older: OlderFleet, tmp_path: Path) -> None:
    world = older.device(tmp_path / "world")
    assert world.agent("once").returncode == 0
    kept = (world.state / "client-id.json").read_bytes()
    assert world.agent("once").returncode == 0
    assert (world.state / "client-id.json").read_bytes() == kept
    assert (world.state / "client-id.json").stat().st_mode & 0o777 == 0o600


@BOTH
def test_a_device_that_has_lost_its_id_gets_it_again_or_is_told_how(older: OlderFleet, tmp_path: Path) -> None:
    world = older.device(tmp_path / "world")
    assert world.agent("once").returncode == 0
    kept = (world.state / "client-id.json").read_bytes()
    (world.state / "client-id.json").write_bytes(kept[:40])
    result = world.agent("once")
    if older.profile == "specification":
        assert (result.returncode, (world.state / "client-id.json").read_bytes()) == (0, kept)
        return
    assert result.returncode == 3
    assert "MG1450" in result.stderr
    assert "clientId" in result.stderr
    source = world.settings["source"]
    assert isinstance(source, dict)
    assert isinstance(source["http"], dict)
    world.configure(
        source={"http": {**source["http"], "clientId": json.loads(kept)["clientId"]}}, trust={"unsigned": True}
    )
    assert world.agent("once").returncode == 0


def test_a_server_that_has_lost_its_registry_knows_the_device_again(older: OlderFleet, tmp_path: Path) -> None:
    world = older.device(tmp_path / "world")
    assert world.agent("once").returncode == 0
    before = json.loads((world.state / "client-id.json").read_text())["clientId"]
    older.fleet.stop()
    for file in (tmp_path / "state.git" / "margo-gitops").glob("clients.sqlite*"):
        file.unlink()
    older.start()
    recovered = world.agent("once")
    assert recovered.returncode == 0, recovered.stderr
    assert json.loads((world.state / "client-id.json").read_text())["clientId"] != before


def test_a_device_that_nobody_accepts_is_told_so_and_keeps_what_runs(older: OlderFleet, tmp_path: Path) -> None:
    world = older.device(tmp_path / "world")
    assert world.agent("once").returncode == 0
    runs = files(world.output)
    (older.fleet.folder / "certificates").write_text("")
    result = world.agent("once")
    assert result.returncode == 3
    assert "403" in result.stderr
    assert files(world.output) == runs
    stranger = older.device(tmp_path / "stranger", "ecdsa-p384-sha384")
    (older.fleet.folder / "certificates").write_text("")
    result = stranger.agent("once")
    assert result.returncode == 3
    assert "MG1450" in result.stderr
    assert "Client rejected" in result.stderr


def test_what_may_be_wrong_with_a_signature_is_told(older: OlderFleet, tmp_path: Path) -> None:
    unknown = f"http://localhost:{older.port}{older.base}"
    world = older.device(tmp_path / "world", url=unknown, clientId="8c1a5c8e-7f2f-4f7e-9c9b-9d41c5f6a111")
    result = world.agent("once")
    assert result.returncode == 3
    assert "401" in result.stderr
    assert "check the device's clock, that the server knows itself by the URL" in result.stderr
