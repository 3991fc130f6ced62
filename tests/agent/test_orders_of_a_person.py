"""`agent suspend`, `resume` and `apply-now`, as a person gives them: with and without an agent that runs."""

import json
import os
from pathlib import Path

import pytest
from device_world import World, deployment_bytes

from margo_gitops.agent.memory.state_folder import lock_folder
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.disk.locks import lock_holder

NEVER = {"timeZone": "UTC", "of": "site north", "blackouts": [{"from": "2026-01-01", "until": "2099-01-01"}]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a device with a deployment that waits for a time that never comes."""
    world = World(tmp_path)
    world.publish({1: deployment_bytes(1, extension={"maintenance": [NEVER]})})
    return world


def status(world: World) -> dict:
    return json.loads(world.agent("status", "--output", "json").stdout)


def test_a_person_suspends_resumes_and_applies(world: World) -> None:
    assert world.agent("resume").stdout.startswith("changes were not suspended; ")
    waits = world.agent("once")
    assert (waits.returncode, waits.stdout) == (
        75,
        "poll: new; holds version 1; what is missing waits: margo-gitops agent status\n",
    )
    said = world.agent("suspend", "--reason", "the line is measured", "--for", "4h", SUDO_USER="ada")
    assert (said.returncode, said.stdout.count("by ada: the line is measured; no agent runs here now")) == (0, 1)
    assert (world.state / "suspended.json").stat().st_mode & 0o777 == 0o644
    refused = world.agent("apply-now")
    assert refused.returncode == 75
    assert "by ada: the line is measured [MG1614]" in refused.stderr
    assert "remedy: wait, or run `margo-gitops agent resume` on the device" in refused.stderr
    assert status(world)["applyNow"] is None
    assert status(world)["suspended"]["reason"] == "the line is measured"
    assert world.agent("once", "--now").returncode == 75, "a suspension comes before a person's --now"
    assert "held up  changes are suspended until" in world.agent("status").stdout
    assert "[MG1614]" in world.agent("status").stdout
    assert world.agent("resume").returncode == 0
    assert status(world)["suspended"] is None

    unknown = world.agent("apply-now", "app-7")
    assert unknown.returncode == 2
    assert "app-7 is not a deployment of this device; it has: app-1" in unknown.stderr
    assert world.agent("apply-now", "app-1", SUDO_USER="ada").returncode == 0
    assert world.agent("apply-now", "app-1", SUDO_USER="bob").returncode == 0
    assert status(world)["applyNow"]["deployments"] == ["app-1"]
    assert world.value(1) is None
    assert world.agent("once").returncode == 0
    assert world.value(1) is not None
    assert status(world)["applyNow"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--reason", "x"), "say how long"),
        (("--reason", "x", "--for", "4h", "--until", "2026-12-24T18:00+01:00"), "say how long"),
        (("--reason", " ", "--for", "4h"), "are a reason"),
        (("--reason", "x", "--until", "tomorrow"), "write 2026-12-24T18:00+01:00"),
        (("--reason", "x", "--until", "2026-12-24T18:00"), "it names no time zone"),
        (("--reason", "x", "--until", "2020-12-24T18:00Z"), "ends in the future"),
        (("--reason", "x", "--for", "32d"), "within 31 days"),
    ],
)
def test_a_suspension_has_a_reason_and_an_end(world: World, options: tuple[str, ...], said: str) -> None:
    refused = world.agent("suspend", *options)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (world.state / "suspended.json").exists()


def test_a_running_agent_is_called(world: World) -> None:
    lock = world.state / "lock"
    with Interruptions() as interruptions, lock_folder(lock):
        assert lock_holder(lock) == os.getpid()
        said = world.agent("resume").stdout
        assert f"the agent (process {os.getpid()}) obeys now" in said
        interruptions.wait(60)
        assert interruptions.take_poll()
    assert lock_holder(lock) is None, "a number that is left in the file is no agent"
