"""From `app new` to a running container on a device that only knows `oci://`: every command of the author's page."""

import json
import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest
from support.command_line import margo_gitops, put_program
from support.fleet import FleetFolder
from support.git_cli import GIT_ENVIRONMENT
from support.real import require_program
from testbed.test_image import TEST_IMAGE

from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.yaml_text import read_yaml

PAGE = Path(__file__).parents[2] / "docs/start/application-author.md"
BLOCKS = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class Author:
    """Runs the page's commands against a registry, in a home of its own."""

    def __init__(self, folder, registry):
        self.folder, self.registry = folder, registry
        self.supplier = f"acme-{uuid.uuid4().hex[:8]}"
        certificates = folder / "home/.config/containers/certs.d" / registry.host
        certificates.mkdir(parents=True)
        (certificates / "ca.crt").write_bytes(registry.ca_file.read_bytes())
        (folder / "bin").mkdir()
        put_program(folder / "bin")
        (folder / "password").write_text(registry.password)
        self.environment = {
            **GIT_ENVIRONMENT,
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }

    def run(self, block, cwd):
        commands = (
            block.replace("registry.example.com", self.registry.host)
            .replace("acme", self.supplier)
            .replace("--username ada", f"--username {self.registry.user}")
        )
        script = ["sh", "-e", "-c", commands]
        done = subprocess.run(script, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.mark.real
def test_the_page_of_an_author_leads_to_a_running_container(tmp_path, oci_registry, docker_engine):
    author = Author(tmp_path, oci_registry)
    new, pushed, signed, added = BLOCKS
    author.run(new, tmp_path)
    compose = tmp_path / "hello/margo.yaml"
    compose.write_text(compose.read_text().replace("docker.io/library/busybox:1.36", TEST_IMAGE))
    said = author.run(pushed, tmp_path)
    assert "pushed component hello" in said
    assert "pushed package" in said
    assert oci_registry.password not in said
    said = author.run(signed, tmp_path)
    assert "is signed with this key" in said
    skopeo_reads_it(author, tmp_path)

    device = f"press-{uuid.uuid4().int % 10**8}"
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.device(device)
    fleet.commit()
    author.run(added.replace("supplier.pub", "../supplier.pub"), fleet.root)
    lock = read_yaml((fleet.root / "applications.lock").read_bytes(), "lock").root
    assert re.fullmatch(r"oci://.*/hello:0\.1\.0@sha256:[0-9a-f]{64}", lock.text("applications", 0, "source"))
    deployment = rendered_deployment(fleet, device)
    (artifact,) = deployment["spec"][OWN_EXTENSION]["artifacts"]
    component = deployment["spec"]["deploymentProfile"]["components"][0]
    assert artifact["url"] == f"{component['properties']['repository']}:{component['properties']['revision']}"

    configuration = tmp_path / "agent.yaml"
    configuration.write_text(
        json.dumps(
            {
                "apiVersion": "margo-gitops/v1",
                "kind": "AgentConfiguration",
                "device": device,
                "stateFolder": "agent",
                "source": {"git": {"url": f"file://{tmp_path / 'state.git'}"}},
                "trust": {"unsigned": True},
                "appliers": {"compose": {}},
                "registries": {
                    "credentialsFile": str(oci_registry.credentials_file),
                    "hosts": [{"host": oci_registry.host, "caFile": str(oci_registry.ca_file)}],
                },
            }
        )
    )
    engine = dict(docker_engine.environment)
    done = margo_gitops("agent", "once", "--config", configuration, cwd=tmp_path, environment=engine)
    listed = subprocess.run(
        ["docker", "ps", "-q", "--filter", f"label=org.margo-gitops.device={device}"],
        env=engine, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    try:
        assert (done.code, len(listed)) == (0, 1), done
        container = subprocess.run(["docker", "inspect", *listed], env=engine, capture_output=True, check=True).stdout
        assert "GREETING=Servus" in json.loads(container)[0]["Config"]["Env"]
    finally:
        subprocess.run(["docker", "rm", "-f", *listed], env=engine, capture_output=True, check=False)
    outdated_and_upgraded(author, fleet, tmp_path)


def rendered_deployment(fleet, device):
    files = fleet.git.run("--git-dir", "../state.git", "ls-tree", "-r", "--name-only", f"devices/{device}").split()
    name = next(file for file in files if file.startswith("deployments/"))
    content = fleet.git.run("--git-dir", "../state.git", "show", f"devices/{device}:{name}")
    return read_yaml(content.encode(), name).root.plain()


def skopeo_reads_it(author, folder):
    skopeo = require_program("skopeo", "skopeo")
    place = f"{author.registry.host}/{author.supplier}"
    named = [
        f"--authfile={author.registry.credentials_file}",
        f"--cert-dir={folder / 'home/.config/containers/certs.d' / author.registry.host}",
    ]
    for name in ("hello", "components/hello"):
        command = [skopeo, "inspect", "--raw", *named, f"docker://{place}/{name}:0.1.0"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        assert json.loads(raw)["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        assert sha256(raw)


def outdated_and_upgraded(author, fleet, folder):
    description = folder / "hello/margo.yaml"
    description.write_text(description.read_text().replace("0.1.0", "0.2.0"))
    author.run("margo-gitops app push hello oci://registry.example.com/acme/hello\n", folder)
    outdated = subprocess.run(
        [author.folder / "bin/margo-gitops", "app", "outdated"], cwd=fleet.root, env=author.environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (outdated.returncode, "0.1.0 -> 0.2.0" in outdated.stdout) == (1, True), outdated
    upgrade = "margo-gitops app upgrade com-acme-hello oci://registry.example.com/acme/hello:0.2.0"
    assert "0.1.0 -> 0.2.0: hello" in author.run(upgrade, fleet.root)
    author.run("! margo-gitops app add oci://registry.example.com/acme/hello:0.2.0 --key ../supplier.pub", fleet.root)
    description.write_text(description.read_text().replace("Says a greeting", "Says another greeting"))
    author.run("! margo-gitops app push hello oci://registry.example.com/acme/hello", folder)
    assert "replaced package" in author.run(
        "margo-gitops app push hello oci://registry.example.com/acme/hello --replace", folder
    )
