"""When an installation counts: rules READY-1 to READY-3 of appliers.readiness."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from device_world import deployment_id
from engine_double import EngineDouble, Killed
from test_locks import HOOK_USER, answering, app, hook, hooks, killed_at
from test_reconciling import Device, state
from test_windows import NIGHT

from margo_gitops.agent.settings.configuration import HookSettings
from margo_gitops.appliers import readiness
from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.readiness import Readiness
from margo_gitops.documents.nodes import Json, Node, SourceText
from margo_gitops.documents.records import read
from margo_gitops.documents.switching import Health
from margo_gitops.errors import InstallFailed, InvalidDocument, StepInterrupted

__all__ = ["hooks"]

WEB_1 = f"{deployment_id(1)}/web"


class FlyingTime:
    """A clock that moves by what is slept."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> FlyingTime:
    time = FlyingTime()
    monkeypatch.setattr(readiness, "time", time)
    return time


def waited(health: Health, *failures: Sequence[str], inside: Callable[..., Sequence[str]] | None = None) -> list[str]:
    """Return why it is not ready; `failures` are what stopped at the first looks."""
    looks = iter(failures)
    asked = Readiness(health, 900, lambda _name: [])
    return asked.wait(lambda: next(looks, []), lambda: False, inside)


def test_each_look_is_a_sign_of_life():
    beats: list[int] = []
    asked = Readiness(Health(stays_up="20s", within="30s"), 900, lambda _name: [], lambda: beats.append(1))
    assert asked.wait(list, lambda: False) == []
    assert len(beats) > 20


@pytest.mark.parametrize(("answer", "ready"), [(b"HTTP/1.1 204 \r\n", True), (b"HTTP/1.1 503 \r\n", False)])
def test_http_is_ready_when_it_answers_2xx(answer: bytes, ready: bool):
    with answering(("127.0.0.1", 0), answer) as port:
        url = f"http://127.0.0.1:{port}/ready"
        found = waited(Health(http=url, within="3s"))
    assert found == ([] if ready else ["it did not become ready within 3s", f"{url} answers 503"])


def test_a_port_is_ready_when_it_takes_a_connection():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        assert waited(Health(tcp=place, within="2s"))[1:] == [f"{place}: Connection refused"]
        listener.listen()
        assert waited(Health(tcp=place)) == []


def test_a_command_runs_inside_where_the_engine_can():
    asked: list[tuple[str, Sequence[str]]] = []

    def inside(service: str, command: Sequence[str], _seconds: float) -> list[str]:
        asked.append((service, command))
        return ["not yet"] if len(asked) < 3 else []

    assert waited(Health(exec=("pg_isready",), service="db"), inside=inside) == []
    assert asked == [("db", ("pg_isready",))] * 3
    assert waited(Health(exec=("pg_isready",), within="1s"))[1] == (
        "its engine runs no command in a workload: use a hook"
    )


def test_it_stays_up_without_a_break(time: FlyingTime):
    assert waited(Health(stays_up="2m", within="5m")) == []
    assert time.now == 1120
    assert waited(Health(stays_up="2m", within="5m"), [], ["web was restarted"]) == ["web was restarted"]
    answers = iter([[], [], ["down"]])
    assert waited(Health(stays_up="3s", within="1m", exec=("x",)), inside=lambda *_: next(answers, [])) == []
    assert time.now == 1120 + 1 + 3 + 3


def test_a_device_waits_no_longer_than_it_wants(time: FlyingTime):
    assert Readiness(Health(stays_up="2d", within="3d"), 60, lambda _name: []).wait(list, lambda: False)
    assert time.now <= 1062


def test_who_is_asked_to_stop_does_not_wait():
    with pytest.raises(StepInterrupted):
        Readiness(Health(stays_up="2m", within="5m"), 900, lambda _name: []).wait(list, lambda: True)


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ({}, "asks for nothing"),
        ({"staysUp": "2m"}, "must be less than within, 60s"),
        ({"tcp": "127.0.0.1:1", "service": "db"}, "only exec runs in a service"),
        ({"tcp": "127.0.0.1:70000"}, "a port is at most 65535"),
        ({"tcp": "192.0.2.1:80"}, "127.0.0.1:PORT"),
        ({"http": "http://192.0.2.1/"}, "a URL of the device itself"),
    ],
)
def test_a_health_that_cannot_be_is_refused(health: Json, reason: str):
    with pytest.raises(InvalidDocument) as refused:
        read(Health, SourceText("health.yaml", Node.of(health)))
    assert reason in str(refused.value)


# In a cycle


@pytest.fixture
def device(tmp_path: Path, hooks: Path) -> Device:
    """Return a device that runs version 1 of a deployment."""
    device = Device(tmp_path, now=NIGHT)
    device.hook_settings = HookSettings(hooks, HOOK_USER, 60)
    assert device.reconcile(state({1: app(1)})).complete
    return device


class Asking(EngineDouble):
    """An applier that asks before it forgets what ran before, and puts it back."""

    def install(self, workload: Workload) -> None:
        before = self.engine.running.get(workload.key)
        super().install(workload)
        if workload.ready and (problem := workload.ready.wait(list, lambda: False)):
            if before is not None:
                self.engine.running[workload.key] = before
            raise InstallFailed("it is not ready", why=problem)


HEALTH: dict[str, Json] = {"tcp": "127.0.0.1:1", "within": "2s"}


def test_an_update_that_does_not_become_ready_is_put_back_and_quarantined(device: Device):
    before = dict(device.engine.running)
    assert device.reconcile(state({1: app(1, "new", health=HEALTH)}, 2), Asking(device.engine)).failures
    assert device.engine.running == before
    assert (device.recorded(WEB_1).state, device.recorded(WEB_1).failure) == ("failed", "quarantined")
    assert "127.0.0.1:1: Connection refused" in device.recorded(WEB_1).message


def test_the_agent_asks_where_the_applier_does_not(device: Device):
    newer = state({1: app(1, "new", health=HEALTH)}, 2)
    assert device.reconcile(newer, patient=True).failures
    failed = device.recorded(WEB_1)
    assert (failed.state, failed.failure, failed.code) == ("failed", "installing", "MG1604")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ready: Json = {**HEALTH, "tcp": f"127.0.0.1:{listener.getsockname()[1]}"}
        assert device.reconcile(state({1: app(1, "new", health=ready)}, 3)).complete
    assert device.reconcile(state({1: app(1, "new", health=ready)}, 3)).complete  # asked after a change alone


@pytest.mark.parametrize("applier", [EngineDouble, Asking])
def test_what_ran_before_comes_back_by_its_own_health(device: Device, applier: type[EngineDouble]):
    assert device.reconcile(state({1: app(1, onFailure="rollback")}, 2)).complete
    before = dict(device.engine.running)
    newer = state({1: app(1, "new", onFailure="rollback", health=HEALTH)}, 3)
    done = device.reconcile(newer, applier(device.engine))
    assert (device.engine.running, [error.code for error in done.failures]) == (before, ["MG1604", "MG1623"])
    assert device.recorded(WEB_1).code == "MG1623"


def test_what_comes_after_it_waits_until_it_is_ready(device: Device):
    after = {1: app(1, "new", health=HEALTH), 2: app(2, after=[deployment_id(1)])}
    device.reconcile(state(after, 2))
    assert device.states()[f"{deployment_id(2)}/web"] == "pending"


@pytest.mark.parametrize("moment", range(6))
def test_it_is_asked_again_wherever_the_agent_was_killed(device: Device, moment: int):
    newer = state({1: app(1, "new", health=HEALTH)}, 2)
    try:
        device.reconcile(newer, EngineDouble(device.engine, alive=killed_at(moment)))
    except Killed:
        pass
    else:
        assert device.recorded(WEB_1).state == "failed"
    assert device.reconcile(newer).failures


def test_a_hook_may_tell_whether_it_is_ready(device: Device):
    noted = hook(device, "line-ready", "exit 4")
    newer = state({1: app(1, "new", health={"hook": "line-ready", "within": "1s"})}, 2)
    assert device.reconcile(newer).failures
    assert (
        "the hook line-ready of the deployment app-1 failed\n  it ended with status 4" in device.recorded(WEB_1).message
    )
    assert noted.read_text().splitlines()[0] == "ready app-1 web none 1.0.0 update "
    hook(device, "line-ready", "")
    assert device.reconcile(newer).complete
