import subprocess
import uuid

import pytest

pytestmark = pytest.mark.real


def docker(engine, *arguments):
    done = subprocess.run(
        ["docker", *arguments], env=dict(engine.environment), capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_the_engine_answers_and_has_compose_v2(docker_engine):
    assert docker(docker_engine, "version", "--format", "{{.Server.Os}}") == "linux"
    assert docker(docker_engine, "compose", "version", "--short").lstrip("v").startswith(("2.", "3.", "4.", "5."))


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_two_test_images_differ_in_a_variable(docker_engine, version):
    command = [
        "run",
        "--rm",
        "--network=none",
        f"margo-gitops-test/busybox:{version}",
        "sh",
        "-c",
        "echo $IMAGE_VERSION",
    ]

    assert docker(docker_engine, *command) == version


def test_a_workload_answers_on_a_published_port_and_reaches_another_by_name(docker_engine, tmp_path):
    (tmp_path / "compose.yaml").write_text(
        """
services:
  web:
    image: margo-gitops-test/busybox:1
    command: [sh, -c, 'echo hello > /var/www/index.html; exec httpd -f -p 80 -h /var/www']
  visitor:
    image: margo-gitops-test/busybox:2
    depends_on: [web]
    command: [sh, -c, 'until wget -qO- http://web/; do sleep 0.1; done']
"""
    )
    compose = ["compose", "--project-directory", str(tmp_path), "-p", f"visit-{uuid.uuid4()}"]
    try:
        docker(docker_engine, *compose, "up", "--detach")
        docker(docker_engine, "wait", docker(docker_engine, *compose, "ps", "--all", "--quiet", "visitor"))
        assert "hello" in docker(docker_engine, *compose, "logs", "visitor")
    finally:
        docker(docker_engine, *compose, "down", "--volumes", "--timeout", "0")
