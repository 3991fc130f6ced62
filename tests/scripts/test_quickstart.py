"""`scripts/quickstart`: what a person sees in the first minute, with a Docker engine and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.real import require_program
from testbed.docker_engine import DockerEngine
from testbed.kubernetes_cluster import KubernetesCluster

CHECKOUT = Path(__file__).parents[2]


def quickstart(environment: Mapping[str, str], *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COV_", "COVERAGE_"))}
    done = subprocess.run(
        [CHECKOUT / "scripts/quickstart", *arguments],
        env={**kept, "MARGO_GITOPS_VENV": sys.prefix, "NO_COLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("missing", "remedy"), [("nothing", "a full disk, or a folder that"), ("import ensurepip", "install python3-venv")]
)
def test_a_virtual_environment_that_cannot_be_made_says_why(tmp_path: Path, missing: str, remedy: str):
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase $2 in venv) echo "No space left on device" >&2; exit 1 ;; '
        f'"{missing}") exit 1 ;; *) exec {sys.executable} "$@" ;; esac\n'
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", ". scripts/lib/venv.sh && make_venv"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHON": str(python), "MARGO_GITOPS_VENV": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "No space left" in done.stderr, remedy in done.stderr) == (2, True, True), done.stderr


def test_without_an_engine_it_applies_files_and_shows_the_device_converge(tmp_path: Path):
    require_program("ssh-keygen", "openssh-client")
    said = quickstart({"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "TMPDIR": str(tmp_path)})
    assert "get their applications as files" in said
    assert 'press-01 ran:  GREETING="Grüezi from press-01"' in said
    assert 'press-01 runs: GREETING="Guten Morgen, press-01"' in said
    assert "from site north  sites/north.yaml:9:15" in said
    assert 'Good "git" signature' in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_with_an_engine_the_container_runs_with_the_new_environment(docker_engine: DockerEngine, tmp_path: Path):
    path = f"{docker_engine.environment['PATH']}:{os.environ['PATH']}"
    said = quickstart({**docker_engine.environment, "PATH": path, "TMPDIR": str(tmp_path)})
    assert "run their applications as containers" in said
    assert "press-01 ran:  GREETING=Grüezi from press-01" in said
    assert "press-01 runs: GREETING=Guten Morgen, press-01" in said
    assert "line-monitor-1" in said
    assert list(tmp_path.iterdir()) == []
    left = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", "ancestor=margo-gitops-quickstart/shell:1"],
        env=dict(docker_engine.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert left.stdout == ""


def test_on_a_cluster_a_chart_is_installed_updated_rolled_back_and_removed(
    kubernetes_cluster: KubernetesCluster, helm_program: Path, tmp_path: Path
):
    path = f"{helm_program.parent}:{kubernetes_cluster.environment['PATH']}:{os.environ['PATH']}"
    said = quickstart({**kubernetes_cluster.environment, "PATH": path, "TMPDIR": str(tmp_path)}, "--kubernetes")
    greetings = re.findall(r"^greeting-chart-\S+ +Running +(.*)$", said, re.MULTILINE)
    hello, morning = "Hello from cell-01 on line 2", "Good morning from cell-01 on line 2"
    assert greetings == [hello, morning, morning, morning]
    assert "cell-01 has adopted version 3: failed" in said
    assert list(tmp_path.iterdir()) == []
    left = kubernetes_cluster.kubectl(
        "get", "namespaces", "-o", "jsonpath={.items[?(@.status.phase=='Active')].metadata.name}"
    )
    assert "quickstart-" not in left
