"""docs/replicas.md and docs/deploy/replicas/: what they configure is valid, and fits together."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from testbed.docker_engine import DockerEngine

from margo_gitops.server.service.configuration import ServerConfiguration, load_server_configuration

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "deploy" / "replicas"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (DOCS / "replicas.md").read_text(encoding="utf-8"), re.DOTALL)
OBJECTS = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def configuration() -> ServerConfiguration:
    return load_server_configuration(FOLDER / "server.yaml")


def test_the_examples_of_the_page_are_parts_of_valid_configurations(tmp_path: Path) -> None:
    head = "apiVersion: margo-gitops/v1\nkind: ServerConfiguration\nidentity: {none: {}}\n"
    from_git, from_bucket, reports = EXAMPLES
    for mirror in (from_git, from_bucket):
        (tmp_path / "server.yaml").write_text(head + mirror + reports)
        found = load_server_configuration(tmp_path / "server.yaml")
        assert found.mirror is not None
        assert found.mirror.is_bucket == (mirror == from_bucket)
        assert found.reports.postgresql is not None


def test_the_manifest_mounts_what_the_configuration_names_and_waits_for_the_polls(
    configuration: ServerConfiguration,
) -> None:
    (pod,) = [each["spec"]["template"]["spec"] for each in OBJECTS if each["kind"] == "StatefulSet"]
    labels = {"app.kubernetes.io/name": "margo-gitops"}
    for each in OBJECTS:
        selector = each["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    (container,) = pod["containers"]
    mounts = tuple(each["mountPath"] for each in container["volumeMounts"])
    assert all(str(path).startswith(mounts) for path in named(configuration))
    assert container["ports"] == [{"name": "https", "containerPort": configuration.listen.port}]
    assert pod["terminationGracePeriodSeconds"] >= configuration.limits.wait_seconds


@pytest.mark.real
def test_compose_takes_the_file_and_every_replica_has_what_the_configuration_names(
    docker_engine: DockerEngine, configuration: ServerConfiguration
) -> None:
    command = ["docker", "compose", "-f", str(FOLDER / "compose.yaml"), "config", "--format", "json"]
    done = subprocess.run(
        command, env={**docker_engine.environment, "HOME": "/nonexistent"}, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    replicas = {name: each for name, each in services.items() if name.startswith("serve-")}
    assert len(replicas) == 3
    mirrors = set()
    for each in replicas.values():
        (mirror,) = each["volumes"]
        mirrors.add(mirror["source"])
        mounted = tuple(part["target"] for part in (mirror, *each["secrets"], *each["configs"]))
        assert all(str(path).startswith(mounted) for path in named(configuration))
        assert each["stop_grace_period"] == "1m0s"
    assert len(mirrors) == 3, "a mirror is for one server"
    nginx = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    assert set(re.findall(r"server (serve-\d):8443", nginx)) == set(replicas)


def named(configuration: ServerConfiguration) -> list[Path]:
    """Return the paths that a configuration names."""
    assert configuration.tls is not None
    assert configuration.identity.bearer is not None
    assert configuration.reports.postgresql is not None
    url = configuration.reports.postgresql.url_file
    assert url is not None
    tls = configuration.tls
    return [configuration.state_repo, tls.certificate, tls.key, configuration.identity.bearer.tokens, url]
