"""How the agent says how it is: rules HEALTH-1 to HEALTH-6 of agent.service.health, and its metrics."""

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from device_world import World, deployment_bytes
from prometheus_client.parser import text_string_to_metric_families

from margo_gitops.agent import run
from margo_gitops.agent.agent import Parts, working_agent
from margo_gitops.agent.cycle import Outcome
from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.service.health import MOST_CLIENTS, TEXTFILE_SECONDS, HealthWatch, answer, ask, listening
from margo_gitops.agent.service.loop import Interruptions, Service, ServiceManager
from margo_gitops.agent.service.metrics import PREFIX
from margo_gitops.agent.service.schedule import Schedule
from margo_gitops.agent.settings.environment import read_environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.errors import AgentMisconfigured, SourceUnreachable
from margo_gitops.values import replace

STARTED = 1_700_000_000.0


@dataclass
class Watched:
    """A device with a watch, in a time of its own."""

    world: World
    now: float = 0.0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = self.made()

    def made(self, *, counters: bool = True) -> HealthWatch:
        settings = load_configuration(self.world.config, read_environment({}))
        watch = HealthWatch.of(settings, lambda: STARTED + self.now, counters=counters)
        watch.timer = lambda: self.now
        watch.alive()
        return watch

    @contextlib.contextmanager
    def agent(self) -> Iterator[Parts]:
        settings = load_configuration(self.world.config, read_environment({}))
        with (
            Interruptions() as interruptions,
            working_agent(settings, "json", interruptions, lambda: STARTED + self.now, watch=self.watch) as parts,
        ):
            yield parts

    def cycle(self, parts: Parts) -> Outcome:
        self.watch.began()
        outcome = parts.cycle.run()
        self.watch.ended(outcome)
        return outcome

    def asked(self, path: str) -> tuple[int, str]:
        head, _, body = answer(f"GET {path} HTTP/1.1\r\n\r\n".encode(), self.watch).decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    def samples(self) -> dict[str, float]:
        return samples(self.asked("/metrics")[1])


def samples(text: str) -> dict[str, float]:
    """Return the value of each series: `name{label=value,...}` without our prefix."""
    found = {}
    for family in text_string_to_metric_families(text):
        for item in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in item.labels.items() if name != "id")
            found[item.name.removeprefix(PREFIX) + (f"{{{labels}}}" if labels else "")] = item.value
    return found


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    world = World(tmp_path)
    world.configure(health={"listen": f"unix:{tmp_path}/health"}, poll={"interval": "60s"})
    return Watched(world)


def test_ready_is_who_holds_a_verified_state(watched: Watched) -> None:
    assert watched.asked("/readyz")[0] == 503
    with watched.agent() as parts:
        watched.cycle(parts)
        assert watched.asked("/readyz") == (503, "no verified state is held yet\n"), "the source has nothing"
        watched.world.publish({1: deployment_bytes(1)})
        watched.cycle(parts)
        assert watched.asked("/readyz") == (200, "ok\n")


def test_unhealthy_is_who_does_not_poll_for_two_intervals(watched: Watched) -> None:
    watched.watch.due(60)
    for now, status in ((60, 200), (120, 200), (121, 503)):
        watched.now = now
        assert watched.asked("/healthz")[0] == status, now
    assert "overdue by 61 seconds" in watched.asked("/healthz")[1]


def test_a_source_that_is_away_makes_no_agent_unhealthy(watched: Watched) -> None:
    watched.watch.due(3600)
    watched.now = 3600
    assert watched.asked("/healthz")[0] == 200


def test_unhealthy_is_whose_cycle_hangs(watched: Watched) -> None:
    watched.watch.began()
    watched.now += 2_100
    watched.watch.alive()
    watched.now += 2_100
    assert watched.asked("/healthz")[0] == 200, "a step may take longestTimeout twice"
    watched.now += 100
    assert watched.asked("/healthz")[0] == 503


def test_the_service_says_when_it_cycles_and_when_it_polls_next(watched: Watched) -> None:
    seen: list[str] = []

    class Life:
        def run(self, *, poll: bool, **_: object) -> Outcome:
            seen.append("polls" if poll else "applies")
            watched.now += 3_000 * poll
            seen.append(watched.watch.problem() and "hangs")
            return Outcome("unchanged", 7, None, None)

        def stopping(self) -> bool:
            return seen.count("polls") == 2

        def take_poll(self) -> bool:
            return False

        def wait(self, seconds: float, _files: object = ()) -> None:
            watched.now += seconds + 61
            seen.append(watched.watch.problem().partition(" by")[0])

    life = Life()
    Service(
        cycles=life,
        schedule=Schedule("press-07", 60, 0),
        waiting=life,
        manager=ServiceManager({}),
        record=watched.events.append,
        clock=lambda: watched.now,
        timer=lambda: watched.now,
        watch=watched.watch,
    ).run()
    assert seen == ["applies", "", "polls", "hangs", "the next poll is overdue", "polls", "hangs"]
    assert watched.watch.problem() == ""


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405"),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"\x16\x03\x01 hello", b"400"),
        (b"", b"400"),
        (b"GET /healthz", b"400"),
    ],
)
def test_every_request_has_an_answer(watched: Watched, request_head: bytes, status: bytes) -> None:
    got = answer(request_head, watched.watch)
    assert got.split()[1] == status
    assert (got.partition(b"\r\n\r\n")[2] == b"") == request_head.startswith(b"HEAD")


@pytest.mark.parametrize("kind", ["port", "socket"])
def test_a_thread_answers_whatever_clients_do(tmp_path: Path, watched: Watched, kind: str) -> None:
    address = f"unix:{tmp_path}/h" if kind == "socket" else "127.0.0.1:0"
    with listening(address, watched.watch) as listener:
        place = listener.getsockname()
        here = address if kind == "socket" else f"localhost:{place[1]}"
        for sent in (b"", b"GET", b"x" * 5000):
            with socket.socket(listener.family) as client:
                client.connect(place)
                client.sendall(sent)
        assert ask(here, "/healthz") == (200, "ok\n")
        assert ask(here, "/readyz")[0] == 503
        assert ask(here, "/metrics")[1] == watched.watch.text
    with pytest.raises(SourceUnreachable):
        ask(here, "/healthz")


def test_slow_clients_keep_no_other_from_its_answer(watched: Watched) -> None:
    with contextlib.ExitStack() as ending:
        listener = ending.enter_context(listening("127.0.0.1:0", watched.watch))
        place = listener.getsockname()
        slow = [ending.enter_context(socket.create_connection(place)) for _ in range(MOST_CLIENTS + 8)]
        for client in slow[::2]:
            client.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert ask(f"localhost:{place[1]}", "/healthz") == (200, "ok\n")
        slow[0].settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert slow[0].recv(1) == b""  # the oldest of too many


def test_an_agent_works_where_another_program_listens_in_its_place(watched: Watched) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        watched.world.configure(health={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        settings = load_configuration(watched.world.config, read_environment({}))
        with run._listening(settings, watched.watch, watched.events.append):
            assert [(event.reason, event.code) for event in watched.events] == [(Reason.HEALTH_UNSAID, "MG1701")]


def test_a_socket_of_a_killed_agent_is_replaced_and_nothing_else(tmp_path: Path, watched: Watched) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "h"))
    left.close()
    with listening(f"unix:{tmp_path}/h", watched.watch):
        assert ask(f"unix:{tmp_path}/h", "/healthz")[0] == 200
    assert not (tmp_path / "h").exists()
    (tmp_path / "h").write_text("precious")
    with pytest.raises(AgentMisconfigured), listening(f"unix:{tmp_path}/h", watched.watch):
        pass
    assert (tmp_path / "h").read_text() == "precious"


def test_metrics_say_what_the_device_does(watched: Watched) -> None:
    name = 'odd"na\\me'
    watched.world.publish({1: deployment_bytes(1), 2: deployment_bytes(2, after=[2])})
    with watched.agent() as parts:
        watched.cycle(parts)
        watched.now += 60
        watched.cycle(parts)
        found = watched.samples()
        watched.world.repository.path.rename(watched.world.folder / "gone.git")
        watched.now += 60
        watched.cycle(parts)
        later = watched.samples()
    assert found["held_manifest_version"] == 1
    assert found["polls_total{result=new}"] == found["polls_total{result=unchanged}"] == 1
    assert found["polls_total{result=refused}"] == 0
    assert found["last_poll_timestamp_seconds"] == found["last_answered_poll_timestamp_seconds"] == STARTED + 60
    assert found["deployments{state=installed}"] == 1
    assert found["deployment_state{deployment=app-1,state=installed}"] == 1
    assert found["complete"] == 0
    assert sum(value for key, value in found.items() if key.startswith("obstacles")) == 1
    assert found["events_total{reason=StateTrusted}"] == 1
    assert "received_bytes_total" in found
    assert later["polls_total{result=failed}"] == 1
    assert sum(value for key, value in later.items() if key.startswith("poll_failures_total")) == 1
    assert later["last_poll_timestamp_seconds"] - later["last_answered_poll_timestamp_seconds"] == 60
    watched.watch.metrics._states = {(name, "1"): "failed"}
    escaped = samples(watched.watch.metrics.text(parts.cycle.transport.cost))
    assert escaped[f"deployment_state{{deployment={name},state=failed}}"] == 1


def test_an_outage_is_not_forgotten_by_a_restart(watched: Watched) -> None:
    watched.world.publish({1: deployment_bytes(1)})
    with watched.agent() as parts:
        watched.cycle(parts)
    watched.world.repository.path.rename(watched.world.folder / "gone.git")
    watched.now += 3_600
    watched.watch = watched.made()
    with watched.agent() as parts:
        watched.cycle(parts)
        found = watched.samples()
    assert found["last_answered_poll_timestamp_seconds"] == STARTED
    assert found["last_poll_timestamp_seconds"] == STARTED + 3_600


def test_a_planned_downtime_is_no_alert(watched: Watched) -> None:
    with watched.agent() as parts:
        outcome = watched.cycle(parts)
        before = watched.samples()["quiet"]
        watched.watch.ended(replace(outcome, quiet=True))
    assert (before, watched.samples()["quiet"]) == (0, 1)
    page = (Path(__file__).parents[2] / "docs/health.md").read_text()
    assert f"{PREFIX}quiet == 0" in page.partition("DeviceHearsNothing")[2].partition("- alert")[0]


def test_each_metric_is_documented_and_named_as_prometheus_wants_it(watched: Watched) -> None:
    families = list(text_string_to_metric_families(watched.watch.text))
    names = {family.name + "_total" * (family.type == "counter") for family in families}
    page = (Path(__file__).parents[2] / "docs/health.md").read_text()
    assert names == set(re.findall(rf"`({PREFIX}[a-z_]+)`", page)), "docs/health.md lists them all"
    assert {family.type for family in families} == {"counter", "gauge"}
    units = [name for name in names if "bytes" in name or "time" in name]
    assert all(name.endswith(("_seconds", "_bytes_total")) for name in units)
    alerted = set(re.findall(rf"{PREFIX}[a-z_]+", page.partition("groups:")[2]))
    assert alerted <= names


def test_the_textfile_is_written_when_something_changed_or_a_minute_went_by(watched: Watched) -> None:
    file = watched.world.folder / "agent.prom"
    watched.world.configure(health={"textfile": str(file)})
    watched.watch = watched.made()
    watched.world.publish({1: deployment_bytes(1)})

    def written(parts: Parts) -> bool:
        before = file.stat().st_mtime_ns if file.exists() else None
        file.exists() and file.unlink()
        watched.cycle(parts)
        return file.exists() and file.stat().st_mtime_ns != before

    with watched.agent() as parts:
        assert written(parts)
        watched.now += TEXTFILE_SECONDS - 1
        assert not written(parts), "only times and counters changed"
        watched.now += 1
        assert written(parts)
        watched.world.publish({1: deployment_bytes(1), 2: deployment_bytes(2)})
        assert written(parts)
        assert samples(file.read_text())["deployments{state=installed}"] == 2
        assert file.stat().st_mode & 0o777 == 0o644


def test_a_textfile_that_cannot_be_written_is_said_once_and_stops_nothing(watched: Watched) -> None:
    watched.world.configure(health={"textfile": "nowhere/agent.prom"})
    watched.watch = watched.made()
    with watched.agent() as parts:
        for _ in range(3):
            watched.cycle(parts)
        unsaid = [item for item in parts.journal.events() if item.reason == Reason.HEALTH_UNSAID.value]
    assert [item.count for item in unsaid] == [1]


def test_one_poll_of_a_timer_writes_metrics_without_counters(watched: Watched) -> None:
    file = watched.world.folder / "agent.prom"
    watched.world.configure(health={"textfile": "agent.prom"})
    watched.world.publish({1: deployment_bytes(1)})
    assert watched.world.agent("once").returncode == 0
    found = samples(file.read_text())
    assert found["held_manifest_version"] == found["complete"] == 1
    assert not [name for name in found if "_total" in name]


def test_a_container_asks_the_agent_with_its_own_program(watched: Watched) -> None:
    world = watched.world
    assert world.agent("health").returncode == 3
    with listening(f"unix:{world.folder}/health", watched.watch):
        assert world.agent("health").returncode == 0
        asked = world.agent("health", "--ready")
        assert (asked.returncode, asked.stdout) == (1, "no verified state is held yet\n")
    world.configure(health={"textfile": "agent.prom"})
    assert world.agent("health").returncode == 2


@pytest.mark.parametrize(
    "health",
    [{}, {"listen": "0.0.0.0:9465"}, {"listen": "127.0.0.1:70000"}, {"listen": "unix:relative"}, {"listen": "[::]:1"}],
)
def test_health_is_said_to_this_machine_only(watched: Watched, health: dict[str, str]) -> None:
    watched.world.configure(health=health)
    with pytest.raises(AgentMisconfigured):
        watched.made()
