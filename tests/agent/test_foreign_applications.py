"""Descriptions as suppliers publish them, in older shapes, from `app add` to running containers on the real engine."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from device_world import World
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from testbed.docker_engine import DockerEngine
from testbed.test_image import TEST_IMAGE

pytestmark = pytest.mark.real

SERVE = """command: [sh, -c, "trap 'exit 0' TERM; mkdir -p /tmp/www; echo $$SHOWN > /tmp/www/index.html;
      httpd -f -p 80 -h /tmp/www & wait $$!"]"""
SLEEP = """command: [sh, -c, "trap 'exit 0' TERM; sleep 3600 & wait $$!"]"""

OFFICE = {
    # The shape of the signed REST previews: helm.v3 and compose, pointers with ENV, no profile ids.
    "margo.yaml": """
apiVersion: margo.org/v1-alpha1
kind: ApplicationDescription
metadata:
  id: com-example-office
  name: Office
  version: 1.0.0
  catalog:
    organization: [{name: Example, site: https://example.com}]
deploymentProfiles:
  - type: helm.v3
    components:
      - name: office-chart
        properties: {repository: oci://registry.example.com/charts/office, revision: 1.0.0, wait: "true"}
  - type: compose
    components:
      - name: office
        properties: {packageLocation: https://example.com/office.tar.gz, wait: "true", timeout: 2m}
        x-margo-gitops-extensions: {artifact: {path: office}}
parameters:
  port:
    value: 8080
    targets: [{pointer: ENV.WEB_PORT, components: [office]}]
  adminPassword:
    value: changeme
    targets: [{pointer: ENV.ADMIN_PASSWORD, components: [office]}]
configuration:
  sections:
    - name: General
      settings: [{parameter: port, name: Port, schema: port}]
  schema: [{name: port, dataType: integer, minValue: 1, maxValue: 65535}]
""",
    "office/compose.yaml": f"""
version: "3.8"
x-base: &base
  image: {TEST_IMAGE}
  restart: unless-stopped
services:
  db:
    <<: *base
    {SLEEP}
    environment: [ADMIN_PASSWORD]
    volumes: ["db:/var/lib/data"]
    healthcheck: {{test: [CMD, "true"], interval: 1s}}
  cache:
    <<: *base
    {SLEEP}
  web:
    <<: *base
    {SERVE}
    environment: {{SHOWN: office}}
    ports: ["127.0.0.1:${{WEB_PORT}}:80"]
    volumes: ["web:/srv", "./conf/site.conf:/etc/site.conf:ro"]
    depends_on:
      db: {{condition: service_healthy}}
      cache: {{condition: service_started}}
volumes: {{db: , web: }}
""",
    "office/conf/site.conf": "title = Office\n",
}

SENSORS = {
    # The shape of the GitOps drafts: `kind: application`, docker-compose, requiredResources, no ids.
    "margo.yaml": """
apiVersion: margo.org/v1-alpha1
kind: application
metadata:
  id: com-example-sensors
  name: Sensor dashboard
  version: 0.3.1
  catalog:
    organization: [{name: Example, site: https://example.com}]
deploymentProfiles:
  - type: docker-compose
    components:
      - name: sensors
        properties: {packageLocation: https://example.com/sensors.tar.gz}
        x-margo-gitops-extensions: {artifact: {path: sensors}}
    requiredResources: {cpu: {cores: 1, architectures: [x86_64]}, memory: 512Mi, storage: 1Gi}
parameters:
  dashboardPort:
    value: 3000
    targets: [{pointer: DASHBOARD_PORT, components: [sensors]}]
  brokerPort:
    value: 1883
    targets: [{pointer: BROKER_PORT, components: [sensors]}]
""",
    "sensors/compose.yaml": f"""
services:
  setup:
    image: {TEST_IMAGE}
    command: [sh, -c, "echo ready > /data/ready"]
    volumes: [{{type: volume, source: data, target: /data}}]
    restart: on-failure:3
  broker:
    image: {TEST_IMAGE}
    {SERVE}
    environment: {{SHOWN: broker}}
    ports: ["127.0.0.1:${{BROKER_PORT:-1883}}:80"]
    volumes: ["data:/data"]
    depends_on: {{setup: {{condition: service_completed_successfully}}}}
  dashboard:
    image: {TEST_IMAGE}
    {SERVE}
    environment: {{SHOWN: dashboard}}
    ports: [{{target: 80, published: "${{DASHBOARD_PORT}}", host_ip: 127.0.0.1}}]
    depends_on: [broker]
volumes: {{data: }}
""",
}


@pytest.fixture
def device(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[World]:
    device = World(tmp_path / "device", device=f"press-{uuid.uuid4().int % 10**8}")
    device.configure(appliers={"compose": {"removeVolumes": True}})
    yield device
    device.publish({}, version=1000)
    device.agent("once", **docker_engine.environment)


def free_ports(count: int) -> list[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as one, closing(socket.create_server(("127.0.0.1", 0))) as two:
        return [each.getsockname()[1] for each in (one, two)][:count]


def page(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode().rpartition("\r\n")[2].strip()


def package(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_older_descriptions_of_three_services_become_running_containers(
    docker_engine: DockerEngine, device: World, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    private = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)  # device_world.RENDERER
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    key.chmod(0o600)
    fleet = FleetFolder.empty(
        tmp_path / "fleet",
        stateRepo=str(device.repository.path),
        artifacts={"baseUrl": f"{(tmp_path / 'fleet/applications').as_uri()}/"},
    )
    fleet.device(device.device)
    fleet.commit()

    def run(*arguments: str | Path) -> Outcome:
        done = margo_gitops(*arguments, cwd=fleet.root)
        assert done.code == 0, done
        return done

    web, dashboard = free_ports(2)
    (broker,) = free_ports(1)
    for name, files in (("office", OFFICE), ("sensors", SENSORS)):
        run("app", "add", package(tmp_path / name, files))
    fleet.deployment("office", "com-example-office", parameters={"port": web, "adminPassword": "secret-of-office"})
    ports = {"dashboardPort": dashboard, "brokerPort": broker}
    fleet.deployment("sensors", "com-example-sensors", version="0.3.1", parameters=ports)
    fleet.commit()
    run("validate")
    run("render", "--signing-key", key)

    done = device.agent("once", **docker_engine.environment)
    assert done.returncode == 0, done.stderr
    assert [page(port) for port in (web, dashboard, broker)] == ["office", "dashboard", "broker"]
    status = json.loads(device.agent("status", "--output", "json").stdout)
    assert [each["status"]["status"]["state"] for each in status["deployments"]] == ["installed", "installed"]

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        fleet.deployment("office", "com-example-office", parameters={"port": port, "adminPassword": "secret-of-office"})
        fleet.commit()
        run("render", "--signing-key", key)
        done = device.agent("once", **docker_engine.environment)
        assert done.returncode == 5, done.stderr
    # The reason, with the port that is taken and without the password, is what the device says and reports.
    reported = device.agent("status", "--output", "json").stdout
    for told in (device.agent("status").stdout, reported):
        assert f":{port}" in told, told
        assert "secret-of-office" not in told
    assert page(web) == "office"
