"""An engine that crashes while the compose applier waits: on a real one of this test alone."""

import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testbed.docker_engine import crash_engine, start_engine, stop_engine
from testbed.places import state_folder
from workload_making import artifact_of, compose_archive, workload

from margo_gitops.appliers.applier import ApplierContext
from margo_gitops.appliers.compose import running as compose_running
from margo_gitops.appliers.compose.applier import create
from margo_gitops.errors import EngineUnavailable

pytestmark = pytest.mark.real

COMPOSE = """
services:
  web:
    image: margo-gitops-test/busybox:1
    command: [sh, -c, "trap 'exit 0' TERM; sleep 3600 & wait $$!"]
    restart: unless-stopped
    healthcheck: {test: [CMD-SHELL, "[ -e /ready ]"], interval: 1s, timeout: 1s, start_period: 1h}
"""


@pytest.fixture
def state(docker_engine):
    if not docker_engine.owned:
        pytest.skip("only an engine of the testbed may be killed")
    state = Path("/tmp", f"margo-gitops-crash-{uuid.uuid4().hex[:8]}")
    state.mkdir()
    (state / "packages").symlink_to(state_folder() / "packages")
    yield state
    stop_engine(state)
    (state / "packages").unlink()
    state.rmdir()


def test_an_update_becomes_healthy_although_its_engine_crashed_and_forgot_to_check(state, tmp_path, monkeypatch):
    environment = dict(start_engine(state, {"live-restore": True}).environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(compose_running, "_LATE_SECONDS", 1.0)
    applier = create(ApplierContext("press-07", tmp_path, {}))
    item = workload(artifact_of(compose_archive(COMPOSE), tmp_path), timeout="0m30s")

    def docker(*arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], env=environment, capture_output=True, text=True, timeout=30)
        return done.stdout.strip()

    with ThreadPoolExecutor(1) as others:
        installed = others.submit(applier.install, item)
        while not (found := docker("ps", "--quiet")) or "End" not in docker(
            "inspect", "--format", "{{json .State.Health}}", found
        ):
            time.sleep(0.1)
        crash_engine(state)
        docker("exec", found, "touch", "/ready")
        try:
            installed.result()
        except EngineUnavailable:  # asked while the engine was away: the next cycle goes on
            applier.install(item)
    assert [each.condition for each in applier.observe()] == ["running"]
