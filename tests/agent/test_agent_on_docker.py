"""From a commit to a container: the agent with the compose applier on a real Docker engine."""

import fcntl
import json
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from device_world import World, deployment_bytes, deployment_id
from test_locks import HOOK_USER, hooks
from testbed.docker_engine import DockerEngine
from testbed.test_image import TEST_IMAGE

from margo_gitops.agent.agent import working_agent
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.settings.environment import Environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.digests import folder_digest, sha256
from margo_gitops.documents.nodes import Json

__all__ = ["hooks"]
pytestmark = pytest.mark.real

COMPOSE = f"""
services:
  web:
    image: {TEST_IMAGE}
    command: [sh, -c, "echo $$GREETING; [ $$GREETING != broken ] || exit 3; trap 'exit 0' TERM; sleep 3600 & wait $$!"]
    environment:
      GREETING: "${{GREETING}}"
    healthcheck:
      test: [CMD-SHELL, "[ $$GREETING != sick ]"]
      interval: 1s
      start_period: 1h
"""


class Site(World):
    """A device on the shared engine, under a name of its own."""

    engine: dict[str, str]

    def docker(self, *arguments: str, check: bool = True) -> str:
        return subprocess.run(
            ["docker", *arguments], env=self.engine, capture_output=True, check=check, timeout=60, text=True
        ).stdout

    def containers(self) -> list[str]:
        """Return the id of each running container of this device."""
        return self.docker("ps", "-q", "--filter", f"label=org.margo-gitops.device={self.device}").split()

    def greetings(self) -> list[str]:
        """Return the greeting of each running container of this device."""
        listed = self.containers()
        if not listed:
            return []
        return [
            item.partition("=")[2]
            # A container that went away since it was listed makes inspect fail, and print the others all the same.
            for container in json.loads(self.docker("inspect", *listed, check=False))
            for item in container["Config"]["Env"]
            if item.startswith("GREETING=")
        ]

    def application(self, greeting: str, image: str = TEST_IMAGE, *, number: int = 0, **own: Json) -> dict[int, bytes]:
        folder = self.folder / "application"
        folder.mkdir(exist_ok=True)
        text = COMPOSE.replace(TEST_IMAGE, image)
        (folder / "compose.yaml").write_text(text)
        digest = folder_digest({"compose.yaml": sha256(text.encode())})
        artifact: Json = {"component": "web", "url": folder.as_uri(), "digest": digest}
        values: dict[str, Json] = {"GREETING": greeting}
        number ^= int(self.device.removeprefix("press-"))  # ids are the fleet's: no two devices share one
        extension: dict[str, Json] = {"artifacts": [artifact], **own}
        return {number: deployment_bytes(number, values=values, extension=extension, device=self.device)}


@pytest.fixture
def site(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", device=f"press-{uuid.uuid4().int % 10**8}")
    site.engine = dict(docker_engine.environment)
    site.configure(appliers={"compose": {}})
    yield site
    site.publish({})
    site.agent("once", **site.engine)


def test_commits_become_containers_updates_replace_them_and_failures_leave_them(site: Site) -> None:
    site.publish(site.application("hello"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["hello"]), result.stderr

    site.publish(site.application("welcome"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["welcome"]), result.stderr

    site.publish(site.application("broken"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (5, ["welcome"]), result.stderr

    site.publish(site.application("mended"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["mended"]), result.stderr

    # Somebody removes the container while there is no network: it comes back.
    site.docker("rm", "-f", *site.containers())
    site.repository.path.rename(site.folder / "unplugged.git")
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (3, ["mended"]), result.stderr
    (site.folder / "unplugged.git").rename(site.repository.path)

    site.publish({})
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, []), result.stderr


def test_a_lock_a_hook_and_a_health_of_the_application_decide_about_an_update(site: Site, hooks: Path) -> None:
    user: dict[str, Json] = {"user": HOOK_USER} if HOOK_USER else {}
    site.configure(appliers={"compose": {}}, locks={"folder": "locks"}, hooks={"folder": str(hooks), **user})
    (site.folder / "locks").mkdir()
    hook = hooks / "drain"
    hook.write_text("#!/bin/sh\necho line 3 still runs\nexit 21\n")
    hook.chmod(0o755)
    own: dict[str, Json] = {
        "health": {"exec": ["sh", "-c", "[ $GREETING != late ]"], "within": "4s", "staysUp": "1s"},
        "locks": [{"name": "batch", "flock": "batch", "of": "deployment app"}],
    }
    site.publish(site.application("hello", **own))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["hello"]), result.stderr

    site.publish(site.application("welcome", **own))
    with (site.folder / "locks/batch").open("w") as batch:
        fcntl.flock(batch, fcntl.LOCK_EX)
        result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (75, ["hello"]), result.stderr
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["welcome"]), result.stderr

    site.publish(site.application("late", **own, hooks={"before": ["drain"]}))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (75, ["welcome"]), result.stderr
    assert "line 3 still runs" in result.stderr
    hook.write_text("#!/bin/sh\nexit 0\n")
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (5, ["welcome"]), result.stderr
    assert "web: sh did not end with 0" in result.stderr
    assert "web: <GREETING>" in result.stderr


def test_without_an_engine_the_agent_says_so_and_forgets_nothing(site: Site) -> None:
    site.publish(site.application("hello"))
    assert site.agent("once", **site.engine).returncode == 0
    gone = {**site.engine, "DOCKER_HOST": f"unix://{site.folder}/no-engine.sock"}
    site.publish(site.application("welcome"))
    result = site.agent("once", **gone)
    assert result.returncode == 5
    assert "MG1601" in result.stderr
    assert site.greetings() == ["hello"]
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["welcome"]), result.stderr


def test_a_revert_comes_through_and_a_stop_is_obeyed_while_an_update_waits_to_become_healthy(site: Site) -> None:
    site.configure(appliers={"compose": {}}, poll={"interval": "1h", "jitter": "1s"})
    site.publish(site.application("hello"))
    assert site.agent("once", **site.engine).returncode == 0
    site.publish(site.application("sick"))
    with subprocess.Popen(site.command("run"), env=site.environment(**site.engine)) as running:
        try:
            eventually(lambda: site.greetings() == ["sick"])
            site.publish(site.application("hello"))
            running.send_signal(signal.SIGHUP)
            eventually(lambda: site.greetings() == ["hello"])
            site.publish(site.application("sick"))
            running.send_signal(signal.SIGHUP)
            eventually(lambda: site.greetings() == ["sick"])
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)
    assert running.returncode == 0
    site.publish(site.application("hello"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, site.greetings()) == (0, ["hello"]), result.stderr


def test_what_the_engine_tells_repairs_a_killed_container_and_ends_the_pause_of_a_missing_image(site: Site) -> None:
    site.configure(appliers={"compose": {}}, poll={"interval": "1h", "jitter": "1s"})
    site.publish(site.application("hello"))
    image = f"localhost:9/margo-gitops-test/{site.device}"
    log = site.folder / "log"

    def told(what: str, times: int = 1) -> None:
        eventually(lambda: log.read_text().count(what) >= times, 45)  # in any case, an agent looks every minute

    with (
        log.open("w") as errors,
        subprocess.Popen(site.command("run"), env=site.environment(**site.engine), stderr=errors) as running,
    ):
        try:
            told("WorkloadInstalled")
            begun = time.monotonic()
            site.docker("kill", *site.containers())
            told("WorkloadInstalled", 2)
            print(f"from the kill to running again: {time.monotonic() - begun:.1f} s")
            site.publish(site.application("welcome", image))
            running.send_signal(signal.SIGHUP)
            told("MG1602")
            site.docker("tag", TEST_IMAGE, image)
            told("WorkloadInstalled", 3)
            assert site.greetings() == ["welcome"]
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)
            site.docker("image", "rm", "--force", image, check=False)
    assert running.returncode == 0


def eventually(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_a_monitor_is_stopped_while_its_gateway_is_updated_also_by_an_agent_that_is_killed(site: Site) -> None:
    def plant(gateway: str) -> dict[int, bytes]:
        monitor = site.application("monitor", number=1, onDrift="respect")
        return site.application(gateway, stop=[deployment_id(*monitor)]) | monitor

    site.configure(appliers={"compose": {}}, poll={"interval": "1h", "jitter": "1s"})
    site.publish(plant("hello"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, sorted(site.greetings())) == (0, ["hello", "monitor"]), result.stderr
    site.publish(plant("welcome"))
    result = site.agent("once", **site.engine)
    assert (result.returncode, sorted(site.greetings())) == (0, ["monitor", "welcome"]), result.stderr
    assert "WorkloadStopped" in result.stderr
    site.publish(plant("sick"))
    with subprocess.Popen(site.command("run"), env=site.environment(**site.engine)) as running:
        eventually(lambda: site.greetings() == ["sick"])
        running.kill()
    for gateway in ("broken", "hello"):  # nothing asks for the update that was cut off any more
        site.publish(plant(gateway))
        result = site.agent("once", **site.engine)
        assert "monitor" in site.greetings(), result.stderr
    assert (result.returncode, sorted(site.greetings())) == (0, ["hello", "monitor"]), result.stderr


POLICED = f"""
services:
  app:
    image: {TEST_IMAGE}
    command: [sh, -c, "[ $$GREETING != broken ] || exit 3; trap 'exit 0' TERM; sleep 3600 & wait $$!"]
    environment: [GREETING]
    restart: unless-stopped
    network_mode: none
"""


def test_each_policy_of_a_failing_update_and_of_what_a_person_changes(site: Site) -> None:
    folder = site.folder / "policed"
    folder.mkdir()
    (folder / "compose.yaml").write_text(POLICED)
    digest = folder_digest({"compose.yaml": sha256(POLICED.encode())})
    first = int(site.device.removeprefix("press-"))

    policies = (("continue", "repair"), ("hold", "report"), ("rollback", "respect"))

    def deployments(*greetings: dict[str, str]) -> dict[int, bytes]:
        """Return a deployment for each policy, with the greetings of its components in order."""
        found = {}
        for number, (on_failure, on_drift), each in zip(range(first, first + 3), policies, greetings, strict=True):
            artifacts: Json = [{"component": name, "url": folder.as_uri(), "digest": digest} for name in each]
            parameters: dict[str, Json] = {
                name: {"value": greeting, "targets": [{"pointer": "GREETING", "components": [name]}]}
                for name, greeting in each.items()
            }
            found[number] = deployment_bytes(
                number,
                values={"OTHER": "value"},
                components=tuple(each),
                extension={"artifacts": artifacts, "onFailure": on_failure, "onDrift": on_drift},
                parameters=parameters,
                device=site.device,
            )
        return found

    def seen() -> list[str]:
        """Return what runs of each deployment: component, greeting, state."""
        listed = site.docker("ps", "-aq", "--filter", f"label=org.margo-gitops.device={site.device}").split()
        found: dict[str, list[str]] = {}
        for each in json.loads(site.docker("inspect", *listed)) if listed else []:
            labels = each["Config"]["Labels"]
            greeting = next(item[9:] for item in each["Config"]["Env"] if item.startswith("GREETING="))
            what = f"{labels['org.margo-gitops.component']} {greeting} {each['State']['Status']}"
            found.setdefault(labels["org.margo-gitops.deployment-id"], []).append(what)
        return ["; ".join(sorted(parts)).replace(" running", "") for _, parts in sorted(found.items())]

    def once(*options: str) -> int:
        return site.agent("once", *options, **site.engine).returncode

    old, fails = {"db": "old", "web": "old"}, {"db": "new", "web": "broken"}
    site.publish(deployments(old, old, old))
    assert (once(), seen()) == (0, ["db old; web old"] * 3)
    names = [[f"{name}-{deployment_id(first + at)}-app-1" for at in range(3)] for name in ("db", "web")]
    site.docker("stop", "--time", "0", *names[0])
    site.docker("rm", "--force", *names[1])
    assert (once(), seen()) == (5, ["db old; web old", "db old exited", "db old exited"])
    assert (once("--now"), seen()) == (0, ["db old; web old"] * 3)

    site.publish(deployments({"web": "broken", "db": "new"}, fails, fails))
    after = ["db new; web old", "db new; web old", "db old; web old"]
    assert (once(), seen()) == (5, after)
    listed = site.containers()
    assert (once(), seen()) == (5, after), "the same state changes nothing more"
    assert site.containers() == listed


def test_a_window_opens_and_the_container_changes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 12, 1, 12, tzinfo=UTC)
    for name, value in site.engine.items():
        monkeypatch.setenv(name, value)
    site.configure(appliers={"compose": {}}, clock="trust")

    def once() -> list[str]:
        """Do one cycle at this time; return what runs."""
        configuration = load_configuration(site.config, Environment())
        with Interruptions() as calls, working_agent(configuration, "text", calls, now.timestamp) as parts:
            parts.cycle.run()
        return site.greetings()

    nights: Json = {"days": "FREQ=DAILY", "start": "02:00", "duration": "1h"}
    calendar: Json = {"timeZone": "Europe/Berlin", "of": "site north", "windows": [nights]}
    site.publish(site.application("day"))
    assert once() == ["day"]
    site.publish(site.application("night", maintenance=[calendar]))
    assert once() == ["day"]
    site.docker("kill", *site.containers())
    now = datetime(2026, 12, 2, 0, 59, tzinfo=UTC)
    assert once() == ["day"]  # it runs until then (STEP-15)
    now = datetime(2026, 12, 2, 1, 0, tzinfo=UTC)
    assert once() == ["night"]
