"""A compose file that cannot run is found when its package is added and validated, not on the device."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import FleetFolder, parameter, profile

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.package_check import check_package
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.errors import Finding, PackageInvalid

SERVICE = "services:\n  web:\n    image: registry.example.com/web:1\n"


def findings(folder: Path, compose: str | bytes, *pointers: str, **files: str) -> list[Finding]:
    """Return what is found in a package with one component of this compose file."""
    fleet = FleetFolder.empty(folder / "fleet")
    part = profile()
    part["components"][0][OWN_EXTENSION] = {"artifact": {"path": "files"}}
    parameters = {f"p{at}": parameter("compose", pointer=each, value="x") for at, each in enumerate(pointers)}
    place = fleet.root / fleet.application("app", pin=False, deploymentProfiles=[part], parameters=parameters)
    (place / "files").mkdir(exist_ok=True)
    (place / "files/compose.yaml").write_bytes(compose if isinstance(compose, bytes) else compose.encode())
    for name, content in files.items():
        (place / "files" / name.replace("_", ".", 1)).write_text(content)
    try:
        return list(check_package(DiskTree(place), "app/").findings)
    except PackageInvalid as error:
        return list(error.findings)


def shown(found: list[Finding]) -> list[str]:
    return [f"{each.severity} {each.rule} {each.location}" for each in found]


WRONG = {
    "not YAML": ("services: [", "error R204 app/files/compose.yaml:1:11"),
    "no services": ("name: x\n", "error R208 app/files/compose.yaml:1:1"),
    "empty": ("", "error R208 app/files/compose.yaml"),
    "a key twice": (SERVICE + "    image: y\n", "error R204 app/files/compose.yaml:4:5"),
    "unknown key": (SERVICE + "    imagee: y\n", "error R208 app/files/compose.yaml:4:13"),
    "services as a list": ("services:\n  - web\n", "error R208 app/files/compose.yaml:1:1"),
    "a port that is a list": (SERVICE + "    ports:\n      - [80]\n", "error R208 app/files/compose.yaml:5:9"),
    "no image": ("services:\n  web:\n    tty: true\n", "error R208 app/files/compose.yaml:2:3"),
    "restart": (SERVICE + "    restart: sometimes\n", "error R208 app/files/compose.yaml:4:14"),
    "volume": (SERVICE + "    volumes: [data:/data]\n", "error R208 app/files/compose.yaml:4:5"),
    "network": (SERVICE + "    networks: [back]\n", "error R208 app/files/compose.yaml:4:5"),
    "secret": (SERVICE + "    secrets: [{source: key}]\n", "error R208 app/files/compose.yaml:4:5"),
    "depends_on": (SERVICE + "    depends_on: [db]\n", "error R208 app/files/compose.yaml:4:5"),
    "alias bomb": (
        "x-0: &a0 [1, 2]\n"
        + "".join(f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
        + SERVICE,
        "error R204 app/files/compose.yaml:1",
    ),
    "deep": ("x-a: " + "[" * 5000, "error R204 app/files/compose.yaml"),
    "writable folder": (SERVICE + "    volumes: ['./data:/data']\n", "error R212 app/files/compose.yaml:4:15"),
    "writable above": (SERVICE + "    volumes: ['../data:/data:rw']\n", "error R212 app/files/compose.yaml:4:15"),
    "writable bind": (
        SERVICE + "    volumes: [{type: bind, source: ./data, target: /data}]\n",
        "error R212 app/files/compose.yaml:4:15",
    ),
    "a misspelt variable": ("services: {web: {image: '${IMGAE}'}}\n", "error R210 app/files/compose.yaml:1:25"),
    "a required variable": (
        SERVICE + "    user: ${USER_ID:?set it}\n",
        "error R210 app/files/compose.yaml:4:11",
    ),
    "an empty variable": (SERVICE + "    hostname: $HOST\n", "warning R210 app/files/compose.yaml:4:15"),
    "a bad variable": (SERVICE + "    command: echo $(date)\n", "error R208 app/files/compose.yaml:4:14"),
}


@pytest.mark.parametrize(("compose", "expected"), WRONG.values(), ids=WRONG)
def test_a_compose_file_that_cannot_run_is_found_at_its_line(tmp_path: Path, compose: str, expected: str):
    assert shown(findings(tmp_path, compose)) == [expected]


RIGHT = {
    "restart with a count": "    restart: on-failure:5\n",
    "restart no": "    restart: no\n",
    "pull policy": "    pull_policy: every_12h\n",
    "a default": "    hostname: ${HOST:-edge}\n",
    "a default that is a variable": "    hostname: ${HOST:-${OTHER}}\n",
    "a plain dollar": "    command: echo $$HOME\n",
    "a given port": "    ports: ['${PORT}:80', '127.0.0.1:${PORT}:${PORT}/udp']\n",
    "a number from a variable": "    deploy: {replicas: '${PORT}'}\n    mem_limit: ${PORT}\n    privileged: ${PORT}\n",
    "read-only": "    volumes: ['./conf:/etc/app:ro', './conf:/x:ro,z']\n",
    "a read-only bind": "    volumes: [{type: bind, source: ./c, target: /c, read_only: true}]\n",
    "named": "    volumes: ['data:/data', '/srv:/srv', '/anonymous']\nvolumes: {data: }\n",
    "host": "    network_mode: host\n    privileged: true\n    devices: ['/dev/ttyUSB0:/dev/ttyUSB0']\n",
    "hooks": "    post_start: [{command: x}]\n    healthcheck: {test: [CMD, x], interval: 5s, start_interval: 1s}\n",
    "profiles": "    profiles: [debug]\n    scale: 0\n    init: true\n    gpus: all\n",
    "merge": "    <<: &a {tty: true}\n",
}


@pytest.mark.parametrize("more", RIGHT.values(), ids=RIGHT)
def test_what_compose_takes_has_no_errors(tmp_path: Path, more: str):
    assert [each for each in findings(tmp_path, SERVICE + more, "PORT") if each.rule != "R211"] == []


def test_variables_of_the_file_beside_it_are_known(tmp_path: Path):
    assert findings(tmp_path, "services: {web: {image: 'web:${TAG}'}}", _env="# tag\nexport TAG=1\n") == []


@pytest.mark.parametrize(
    ("environment", "used"),
    [("[PORT]", True), ("{PORT: }", True), ("{PORT: '${PORT}'}", True), ("[PORT=1]", False), ("{PORT: 1}", False)],
)
def test_a_pointer_that_the_file_does_not_use_is_a_warning(tmp_path: Path, environment: str, used: bool):
    found = findings(tmp_path, SERVICE + f"    environment: {environment}\n", "ENV.PORT")
    assert [(each.severity, each.rule) for each in found] == ([] if used else [("warning", "R211")])
    assert all(each.location and each.location.file == "app/margo.yaml" and each.location.line for each in found)


@pytest.mark.parametrize("pointer", ["PORTS.80", "services.web.port", "MY-PORT", "DOCKER_HOST", "ENV.PATH"])
def test_a_pointer_that_no_device_can_set_is_found(tmp_path: Path, pointer: str):
    found = findings(tmp_path, SERVICE, pointer)
    assert [(each.severity, each.rule) for each in found] == [("error", "R209")]
    assert pointer.removeprefix("ENV.") in found[0].message


@pytest.mark.parametrize("name", ["compose.yml", "docker-compose.yml"])
def test_a_compose_file_with_another_name_is_told_its_name(tmp_path: Path, name: str):
    findings(tmp_path, SERVICE)
    folder = tmp_path / "fleet/applications/app/1.0.0"
    (folder / "files/compose.yaml").rename(folder / "files" / name)
    with pytest.raises(PackageInvalid) as caught:
        check_package(DiskTree(folder))
    assert [each.remedy for each in caught.value.findings] == [f"rename files/{name} to compose.yaml"]
