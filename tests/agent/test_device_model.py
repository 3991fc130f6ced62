"""Everything that can happen to a device, mixed at random: what docs/maintenance.md, docs/locks.md and
docs/failure-and-drift.md promise holds after each step, and it comes to the newest state when all is well again."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_model import HOUR, App, World
from device_world import deployment_id
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from test_windows import NIGHT

from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.values import replace

NUMBERS = st.integers(1, 3)
COMPONENTS = st.sampled_from([("web",), ("db", "web"), ("db", "hmi"), ("hmi",)])


class DeviceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.world = World(Path(self.scratch.name))
        self.before: list[dict[int, App]] = [{}]

    def publish(self, apps: dict[int, App]) -> None:
        self.before.append(self.world.apps)
        self.world.change(apps)

    @rule(
        number=NUMBERS,
        greeting=st.sampled_from("abc"),
        components=COMPONENTS,
        on_failure=st.sampled_from(["hold", "rollback", "continue"]),
        on_drift=st.sampled_from(["repair", "respect", "report"]),
        guarded=st.sets(st.sampled_from(["lock", "hooks", "calendar"])),
        waits=st.booleans(),
    )
    def deploy(self, number, greeting, components, on_failure, on_drift, guarded, waits) -> None:
        after = (1,) if waits and number == 2 and 1 in self.world.apps else ()
        app = App(greeting, components, on_failure, on_drift, **dict.fromkeys(guarded, True), after=after)
        self.publish({**self.world.apps, number: app})

    @rule(
        number=NUMBERS,
        greeting=st.sampled_from("abc"),
        own=st.sampled_from("ab"),
        components=st.none() | COMPONENTS,
        cut=st.none() | st.integers(0, 60),
    )
    def update(self, number, greeting, own, components, cut) -> None:
        if app := self.world.apps.get(number):
            new = replace(app, greeting=greeting, own=own, components=components or app.components)
            self.publish({**self.world.apps, number: new})
            if cut is not None:
                self.power_cut(cut)

    @rule(number=NUMBERS)
    def retire(self, number) -> None:
        apps = {each: app for each, app in self.world.apps.items() if each != number}
        self.publish({each: replace(app, after=()) for each, app in apps.items()})

    @rule()
    def revert(self) -> None:
        self.publish(self.before[-1])

    @rule(retry=st.sampled_from([False, False, False, True]), at_once=st.sampled_from([False, False, False, True]))
    def cycle(self, retry, at_once) -> None:
        self.world.cycle(retry=retry, at_once=at_once)

    @rule(minutes=st.sampled_from([1, 2, 61]), count=st.integers(1, 3))
    def live(self, minutes, count) -> None:
        for _ in range(count):
            self.world.now += 60 * minutes
            self.world.cycle()

    @rule(moment=st.integers(0, 40))
    def power_cut(self, moment) -> None:
        self.world.cycle(dies_after=moment)
        self.world.die()

    @rule(number=NUMBERS, step=st.sampled_from(["prepare", "install"]), component=st.sampled_from(["web", "db", "hmi"]))
    def spoil(self, number, step, component) -> None:
        self.world.troubled.add(number)
        for double in self.world.engines.values():
            double.broken ^= {(step, f"app-{number}/{component}")}

    @rule(when=st.sampled_from(["before", "after"]), status=st.sampled_from([0, 0, 1, 21]))
    def hooks(self, when, status) -> None:
        self.world.statuses[when] = status

    @rule(number=NUMBERS)
    def lock(self, number) -> None:
        path = self.world.lock(number)
        path.unlink() if path.exists() else path.touch()

    @rule(hours=st.sampled_from([-72, -2, 1, 6, 17, 24]))
    def clock(self, hours) -> None:
        self.world.now += hours * HOUR

    @rule()
    def night(self) -> None:
        self.world.now += 86_400 - (self.world.now - NIGHT) % 86_400

    @rule(at=st.integers(0, 5), how=st.sampled_from(["stopped", "paused", "remove", "crash", "start"]))
    def person(self, at, how) -> None:
        keys: list[WorkloadKey] = sorted(self.world.running)
        if keys:
            self.world.meddle(keys[at % len(keys)], how)

    @rule(kind=st.sampled_from(["compose", "custom"]))
    def engine(self, kind) -> None:
        double = self.world.engines[kind]
        double.answers = not double.answers

    @rule()
    def engines_restart(self) -> None:
        self.world.restart_engines()

    @rule()
    def disk(self) -> None:
        self.world.full = not self.world.full

    @rule(order=st.sampled_from(["suspend", "resume", "apply now"]))
    def order(self, order) -> None:
        {
            "suspend": lambda: self.world.suspend(3),
            "resume": self.world.resume,
            "apply now": self.world.apply_now,
        }[order]()

    @rule()
    def rest(self) -> None:
        self.world.assert_idle()

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self.world.die()
            self.scratch.cleanup()


def test_whatever_happens_a_device_keeps_its_promises_and_comes_to_the_newest_state() -> None:
    few = settings.default.max_examples < 100  # a run of all tests says the same each time; a long one searches
    run_state_machine_as_test(DeviceMachine, settings=settings(stateful_step_count=20 if few else 40, derandomize=few))


# What the machine or its making found


TWO = App("a", ("db", "web"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.now = NIGHT
    yield world
    world.settle()
    world.die()


def runs(world: World, app: App) -> None:
    """Let the device run a deployment."""
    world.change({1: app})
    assert world.cycle()
    assert world.running == world.wanted


def key(component: str) -> WorkloadKey:
    return WorkloadKey(deployment_id(1), component)


def codes(world: World) -> dict[str, str]:
    journal, _, _ = world.born()
    return {row.key.component: row.code for row in journal.workloads()}


def each_power_cut(world: World, app: App, then: dict[int, App], *, first: int = 0) -> Iterator[None]:
    """Let the device run a deployment, change to another state and be cut off, at one moment later each time."""
    for moment in itertools.count(first):
        runs(world, app)
        world.change(then)
        done = world.cycle(dies_after=moment)
        yield
        if done is not None:
            return


def test_a_device_that_is_cut_off_where_an_update_fails_goes_back(world: World) -> None:
    newer = replace(TWO, greeting="b", on_failure="rollback")
    world.break_content(1, newer, "web")
    for _ in each_power_cut(world, replace(TWO, on_failure="rollback"), {1: newer}, first=22):
        world.cycle()
        assert codes(world) == {"db": "MG1623", "web": "MG1623"}


def test_f11_an_engine_that_was_silent_and_restarted_does_not_start_what_a_person_stopped(world: World) -> None:
    runs(world, replace(TWO, on_drift="respect"))
    world.meddle(key("db"), "stopped")
    for answers in (True, False, True):
        world.engines["compose"].answers = answers
        world.cycle()
        world.restart_engines()
        assert codes(world)["db"] == "MG1625"


def test_f11_what_a_person_stopped_is_not_the_moment_to_try_an_update_in_quarantine(world: World) -> None:
    runs(world, replace(TWO, on_drift="respect"))
    newer = replace(TWO, on_drift="respect", own="b")
    world.break_content(1, newer, "web")
    world.change({1: newer})
    world.cycle()
    world.meddle(key("web"), "stopped")
    world.now += 2 * HOUR
    world.cycle()
    assert codes(world)["web"] == "MG1625"
    world.meddle(key("web"), "start")
    world.cycle()
    assert (codes(world)["web"], world.wanted.keys()) == ("MG1604", world.running.keys())


def test_a_removal_that_was_cut_off_is_no_persons(world: World) -> None:
    app = replace(TWO, on_drift="respect")
    for _ in each_power_cut(world, app, {}):
        world.change({1: app})
        world.cycle()
        assert world.running == world.wanted


@pytest.mark.parametrize("then", [{1: replace(TWO, greeting="b", hooks=True)}, {}], ids=["update", "removal"])
def test_a_line_that_was_drained_is_resumed_after_a_power_cut_whatever_is_asked_for_by_then(
    world: World, then: dict[int, App]
) -> None:
    for _ in each_power_cut(world, replace(TWO, hooks=True), then):
        world.change({1: replace(TWO, hooks=False)} if then else {})
        world.cycle()  # checks that nothing is left drained


def test_a_line_that_was_drained_is_resumed_though_what_failed_before_a_power_cut_rests(world: World) -> None:
    newer = replace(TWO, hooks=True, greeting="b")
    world.break_content(1, newer, "db")
    for _ in each_power_cut(world, replace(TWO, hooks=True), {1: newer}, first=20):
        world.cycle()  # checks that nothing is left drained


def test_the_hooks_after_a_change_that_failed_run_again_though_it_crashed_meanwhile(world: World) -> None:
    runs(world, replace(TWO, hooks=True))
    world.statuses["after"] = 1
    world.change({1: replace(TWO, hooks=True, greeting="b")})
    world.cycle()
    world.meddle(key("web"), "crash")
    world.statuses["after"], world.now = 0, world.now + HOUR
    world.cycle()
    assert not world.drained


def test_what_waits_for_a_lock_says_so_again_after_an_engine_was_silent(world: World) -> None:
    runs(world, replace(TWO, lock=True))
    world.lock(1).touch()
    world.change({1: replace(TWO, lock=True, greeting="b")})
    for answers in (True, False, True):
        world.engines["compose"].answers = answers
        world.cycle()
    assert codes(world)["db"] == "MG1620"


def test_a_hook_that_says_later_in_an_open_window_costs_no_write(world: World) -> None:
    runs(world, replace(TWO, hooks=True, calendar=True))
    world.statuses["before"] = 21
    world.change({1: replace(TWO, hooks=True, calendar=True, greeting="b")})
    world.assert_idle()


def test_a_lock_in_a_window_lets_nothing_begin_that_a_power_cut_would_finish_later(world: World) -> None:
    app = replace(TWO, calendar=True, lock=True)
    runs(world, app)
    before = world.running
    for moment in range(10, 40):
        world.now = NIGHT
        world.lock(1).touch()
        world.change({1: replace(app, greeting="b")})
        world.cycle(dies_after=moment)
        world.lock(1).unlink()
        world.now += 8 * HOUR
        world.cycle()
        assert world.running == before


def test_what_crashes_beside_an_update_that_waits_or_failed_is_started_again(world: World) -> None:
    app = App("a", ("web", "db"), calendar=True)
    runs(world, app)
    world.now += 8 * HOUR
    world.change({1: replace(app, own="b")})
    for wrong in ("closed", "quarantined"):
        world.cycle()
        world.meddle(key("db"), "crash")
        world.cycle()
        assert world.is_well(key("db")), wrong
        world.break_content(1, world.apps[1], "web")
        world.now = NIGHT + 86_400


def test_what_a_person_orders_at_once_is_finished_after_a_power_cut_too(world: World) -> None:
    world.now += 8 * HOUR
    newer = {1: replace(TWO, calendar=True, greeting="b")}
    for moment in range(60):
        world.now = NIGHT + moment * 86_400
        runs(world, replace(TWO, calendar=True))
        old, world.now = world.running, world.now + 8 * HOUR
        world.change(newer)
        done = world.cycle(at_once=True, dies_after=moment)
        world.cycle()
        assert world.running in (old, world.wanted)
        if done:
            return


def test_the_last_status_of_what_is_gone_says_nothing_of_a_suspension(world: World) -> None:
    world.suspend(8)
    world.engines["compose"].answers = False
    world.change({1: TWO})
    world.cycle()
    world.engines["compose"].answers = True
    world.change({})
    world.cycle()
    world.resume()
    world.cycle()  # checks the statuses


def test_content_that_failed_is_not_tried_again_because_it_was_refused_for_a_while(world: World) -> None:
    for policy in ("hold", "rollback"):
        app = replace(TWO, greeting=policy, on_failure=policy)
        runs(world, app)
        newer = replace(app, own="b")
        world.break_content(1, newer, "web")
        refused = replace(newer, after=(9,))
        for state in (newer, refused, newer):
            world.change({1: state})
            world.cycle()
        assert codes(world)["web"] == {"hold": "MG1604", "rollback": "MG1623"}[policy]
