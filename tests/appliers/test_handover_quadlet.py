"""QUADLET-1 to QUADLET-4: Podman's units of a Compose component, as Podman's own generator reads them."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from support.real import unavailable
from testbed.errors import UnavailableError
from testbed.packages import unpack
from testbed.places import state_folder
from workload_making import artifact_of, compose_archive, workload

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.files import create
from margo_gitops.appliers.handover.forms import object_name
from margo_gitops.appliers.handover.quadlet import build
from margo_gitops.errors import WorkloadUnsupported

ROOT = Path(__file__).parents[2]
ID = "9f0c8a1e-56c5-4f0e-9d5a-0c6f6c3f0a11"
ODD = "a \"b\" 'c' \\d $HOME ${HOME} 100% %n"
COMPOSE = r"""
services:
  web:
    image: registry.example.com/acme/hmi:${TAG:-1.0}
    command: ["serve", "--title", "a \"b\" 'c' \\d $$HOME $${HOME} 100% %n"]
    environment:
      GREETING:
      ADDRESS: "http://${HOST}/"
      UNSET:
    ports: ["8080:80", "127.0.0.1:9000:9000/udp"]
    volumes: ["data:/var/lib/data", "data:/ro:ro"]
    depends_on: [db]
    restart: unless-stopped
    healthcheck: {test: ["CMD", "wget", "http://localhost/"], interval: 5s, retries: 3}
  db:
    image: registry.example.com/db:1
    user: "10:10"
    read_only: true
    entrypoint: ["/bin/db", "a b"]
    environment: ["A=b=c", "GREETING"]
    healthcheck: {test: "pg_isready -U $$USER"}
volumes: {data: }
"""


def item(values=None, **more):
    return workload(more.pop("artifact", None), values, deployment_id=ID, **more)


def arguments(line):
    """What systemd starts: it takes quotes away, and reads `%%` and `$$` as one."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


@pytest.mark.real
def test_podman_reads_the_units(tmp_path):
    """QUADLET-3: each argument is the one that Compose would pass."""
    try:
        program = unpack("podman", "quadlet", state_folder() / "packages", newer=True)
    except UnavailableError as error:
        unavailable(f"quadlet: {error}")
    artifact = artifact_of(compose_archive(COMPOSE), tmp_path)
    applier = create(ApplierContext("press-07", tmp_path, {"folder": str(tmp_path / "out"), "format": "quadlet"}))
    chosen = item({"GREETING": ODD, "HOST": "h"}, artifact=artifact)
    applier.install(chosen)
    units = tmp_path / "out" / ID / "hmi" / "quadlet"
    done = subprocess.run(
        [program, "--dryrun"], env={"QUADLET_UNIT_DIRS": str(units)}, capture_output=True, text=True, check=True
    )
    assert not [line for line in done.stderr.splitlines() if "rror" in line or "arning" in line]
    started = {
        words[words.index("--name") + 1]: words
        for line in done.stdout.splitlines()
        if line.startswith("ExecStart=") and "--name" in (words := arguments(line.partition("=")[2]))
    }
    name = object_name(chosen.key)
    web, database = started[f"{name}.web"], started[f"{name}.db"]
    assert web[-4:] == ["registry.example.com/acme/hmi:1.0", "serve", "--title", ODD]
    assert [web[at + 1] for at, word in enumerate(web) if word == "--env"] == ["ADDRESS=http://h/", f"GREETING={ODD}"]
    assert {f"{name}.v.data:/var/lib/data", f"{name}.v.data:/ro:ro", "8080:80", "--sdnotify=healthy"} <= set(web)
    assert web[web.index("--health-cmd") + 1] == json.dumps(["wget", "http://localhost/"])
    assert database[database.index("--entrypoint") + 1] == json.dumps(["/bin/db", "a b"])
    assert database[database.index("--health-cmd") + 1] == "pg_isready -U $USER"
    assert [database[at + 1] for at, word in enumerate(database) if word == "--env"] == ["A=b=c", f"GREETING={ODD}"]


@pytest.mark.parametrize(
    ("services", "line"),
    [
        ("  a:\n    image: a\n    privileged: true\n", 4),
        ("  a:\n    image: a\n    network_mode: host\n", 4),
        ("  a:\n    image: a\n    cap_add: [NET_ADMIN]\n", 4),
        ("  a:\n    image: a\n    cap_drop: ['A b']\n", 4),
        ("  a:\n    image: a\n    volumes: ['/:/host']\n", 4),
        ("  a:\n    image: a\n    volumes: ['./conf:/etc']\n", 4),
        ("  a:\n    image: a\n    ports: ['80:${PORT?}']\n", 4),
        ("  a:\n    image: a\n    depends_on: {b: {condition: service_healthy}}\n", 4),
        ("  a:\n    image: a\n    restart: sometimes\n", 4),
        ("  a.b:\n    image: a\n", 2),
        ('  a:\n    image: "a\\n[Service]"\n', 3),
    ],
    ids=[
        "privileged",
        "host-network",
        "added-right",
        "odd-right",
        "host",
        "content",
        "variable",
        "conditions",
        "restart",
        "name",
        "line-end",
    ],
)
def test_what_has_no_unit_is_refused_with_its_line(services, line):
    """QUADLET-1, QUADLET-4."""
    with pytest.raises(WorkloadUnsupported) as refused:
        build(item(), "compose.yaml", f"services:\n{services}".encode())
    assert refused.value.where is not None
    assert abs(refused.value.where.line - line) <= 1


def test_the_application_of_the_scaffold_has_units():
    compose = (
        ROOT / "repo-template/applications/com-example-greeting/1.0.0/components/greeting/compose.yaml"
    ).read_bytes()
    values = {"IMAGE": "docker.io/library/busybox:1.36", "GREETING": "Hello"}
    unit = next(
        text for name, text in build(item(values), "compose.yaml", compose).items() if name.endswith(".container")
    )
    lines = unit.decode().splitlines()
    assert {"Network=none", "ReadOnly=true", "DropCapability=ALL", "Restart=always"} <= set(lines)
    assert not [line for line in lines if line.startswith("NetworkAlias")]


def test_no_value_adds_a_setting():
    """QUADLET-3: a line end in a value would be a line in the unit."""
    for compose in ("services: {a: {image: a, environment: {X: }}}", "services: {a: {image: a, command: $X}}"):
        with pytest.raises(WorkloadUnsupported):
            build(item({"X": "a\n[Service]\nExecStartPre=/bin/rm"}), "compose.yaml", compose.encode())


def test_names_never_meet():
    """QUADLET-2: Quadlet makes a service `X-volume` of each volume X."""
    compose = b"services: {a: {image: i}, a-volume: {image: i}}\nvolumes: {a: }\n"
    services = [
        name.replace(".container", "").replace(".volume", "-volume").replace(".network", "-network")
        for name in build(item(), "compose.yaml", compose)
    ]
    assert len(services) == len(set(services)) == 4
