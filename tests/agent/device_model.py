"""A device that everything happens to, and what its documentation promises of it: checked at each effect and cycle.

The journal, the orders and the agent's rules are real; engines, hooks, disk and clock are of this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from device_world import DEVICE, deployment_bytes, deployment_id, parsed
from engine_double import Engine, EngineDouble, Killed
from test_reconciling import state
from test_windows import NIGHT, NIGHTS

from margo_gitops.agent.apply.hooks import HookRunner, Occasion
from margo_gitops.agent.apply.reconciler import Reconciler, Reconciliation
from margo_gitops.agent.apply.switches import Switches
from margo_gitops.agent.apply.workloads import desired_deployments
from margo_gitops.agent.memory.events import Event
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.orders import ApplyOrder, Orders, order_to_apply, resume, suspend
from margo_gitops.agent.memory.recorded import RecordedWorkload
from margo_gitops.agent.settings.configuration import LockSettings
from margo_gitops.appliers.applier import Observed, Workload, WorkloadKey
from margo_gitops.appliers.programs import Finished
from margo_gitops.digests import Digest
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.status import SEVERITY
from margo_gitops.errors import ApplyError, EngineUnavailable, InstallFailed, StorageFull
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import dataclass, replace

HOUR: Final = 3600.0
_NOTHING: Final = state({})
_NUMBERS: Final = {deployment_id(number): number for number in range(1, 10)}


@dataclass(frozen=True)
class App:
    """A deployment as the fleet repo says it."""

    greeting: str = "a"
    components: tuple[str, ...] = ("web",)
    on_failure: str = "hold"
    on_drift: str = "repair"
    lock: bool = False
    hooks: bool = False
    calendar: bool = False
    after: tuple[int, ...] = ()
    own: str = ""
    """A parameter of component web alone."""


def kind_of(number: int) -> str:
    return "custom" if number == 3 else "compose"


@cache
def _document(number: int, app: App):
    own: dict[str, Json] = {"onFailure": app.on_failure, "onDrift": app.on_drift}
    own |= {"locks": [{"name": "busy", "file": f"{number}.lock", "of": f"app-{number}"}]} if app.lock else {}
    own |= {"hooks": {"before": ["drain"], "after": ["resume"]}} if app.hooks else {}
    own |= {"maintenance": [NIGHTS]} if app.calendar else {}
    values: dict[str, Json] = {"GREETING": app.greeting}
    kind = kind_of(number)
    parameters = {"own": {"value": app.own, "targets": [{"pointer": "OWN", "components": ["web"]}]}}
    content = deployment_bytes(
        number,
        values=values,
        components=app.components,
        extension=own,
        kind=kind,
        after=app.after,
        parameters=parameters if "web" in app.components else {},
    )
    return parsed(content)


def trusted(apps: Mapping[int, App], version: int) -> TrustedState:
    """Return the state of these deployments, as if it was verified."""
    documents = tuple(_document(number, app) for number, app in sorted(apps.items()))
    return replace(_NOTHING, deployments=documents, manifest=replace(_NOTHING.manifest, manifest_version=version))


@cache
def content_of(number: int, app: App) -> Mapping[WorkloadKey, Digest]:
    found = desired_deployments([_document(number, replace(app, after=()))])
    return {each.key: each.digest for item in found for each in item.workloads}


class WatchedJournal(Journal):
    """A journal whose disk can be full, and whose agent can be killed before and after each record."""

    world: World

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.world.alive()
        if self.world.full:
            raise StorageFull("the disk is full")
        self.world.written += 1
        with super()._transaction():
            yield
        self.world.alive()


@dataclasses.dataclass
class WatchedEngine(EngineDouble):
    """An engine that asks the model whether each effect is allowed."""

    world: World = dataclasses.field(kw_only=True)

    def observe(self) -> Sequence[Observed]:
        self._answers()
        return super().observe()

    def stopped_by_hand(self, key: WorkloadKey) -> str:
        self._answers()
        return super().stopped_by_hand(key)

    def prepare(self, workload: Workload) -> None:
        self._answers()
        super().prepare(workload)

    def install(self, workload: Workload) -> None:
        with self.world.noting():
            self._install(workload)

    def _install(self, workload: Workload) -> None:
        self._answers()
        engine, key = self.engine, workload.key
        before = engine.running.get(key)
        is_well = key not in engine.half and key not in engine.conditions and key not in engine.by_hand
        if before == workload.digest and is_well:
            super().install(workload)
            return
        self.world.installs(key, workload.digest, before, is_well=is_well)
        if key in engine.conditions:  # what crashed is started again
            del engine.conditions[key]
            engine.half.add(key)
        was_half = key in engine.half
        try:
            super().install(workload)
        except InstallFailed:
            engine.by_hand.pop(key, None)  # what ran before runs again
            if before == workload.digest or was_half:
                engine.conditions[key] = "degraded"
            self.world.failed(key, workload.digest, before, is_well=is_well)
            raise
        self.world.installed(key, workload.digest)

    def remove(self, key: WorkloadKey) -> None:
        self._answers()
        with self.world.noting():
            self.world.removes(key)
        super().remove(key)
        for part in (self.engine.conditions, self.engine.by_hand, self.world.sound):
            part.pop(key, None)

    def _answers(self) -> None:
        self.world.effects += 1
        if not self.answers:
            raise EngineUnavailable("the engine does not answer")


class _Hooks(HookRunner):
    """Hooks that the model answers for: it comes as their settings."""

    def _run(self, when: str, name: str, occasion: Occasion) -> Finished:  # noqa: ARG002
        world: World = self.settings  # type: ignore[assignment]
        return Finished(world.hook(when, _NUMBERS[occasion.deployment_id]), "", "")


class _Switches(Switches):
    world: World

    def hooks(self) -> HookRunner:
        return _Hooks(self.world, DEVICE)  # type: ignore[arg-type]


class World:
    """A device, all that happens to it, and what must hold.

    Attributes:
        apps: what the newest state asks for.
        sound: what was installed well last, by key.
        begun: installations that began and have not ended, by key.
        quarantined: updates that failed over what ran, by key: digest and policy.
        gone_back: contents whose deployment went back, with their policy.
        good: what all of a deployment with `rollback` ran last.
        left: what a person stopped, paused, edited or removed under `respect`: what was wanted then.
        drained: deployments whose hook before has run, and none after.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.version = folder, NIGHT + 8 * HOUR, 1
        (folder / "locks").mkdir()
        self.apps: dict[int, App] = {}
        self.engines = {
            kind: WatchedEngine(Engine(), (kind,), alive=self.alive, world=self) for kind in ("compose", "custom")
        }
        self.events: list[Event] = []
        self.full, self.written, self.effects = False, 0, 0
        self.moments: int | None = None
        self.statuses: dict[str, int] = {"before": 0, "after": 0}
        self.sound: dict[WorkloadKey, Digest] = {}
        self.begun: dict[WorkloadKey, Digest] = {}
        self.removing: set[WorkloadKey] = set()
        self.quarantined: dict[WorkloadKey, tuple[Digest, str]] = {}
        self.gone_back: dict[int, tuple[Mapping[WorkloadKey, Digest], str]] = {}
        self.good: dict[int, Mapping[WorkloadKey, Digest]] = {}
        self.left: dict[WorkloadKey, Digest] = {}
        self.drained: set[int] = set()
        self.unresumed: set[int] = set()
        self.seen: dict[int, list[App]] = {}
        self.known: dict[int, App] = {}
        self.switched: set[int] = set()
        self.cut: dict[int, App] = {}
        self.there: set[int] = set()
        self.failing: list[tuple[WorkloadKey, Digest]] = []
        self.troubled: set[int] = set()
        self.retry = self.at_once = self.ordered = False
        self.suspended_until = 0.0
        self.broken: list[Exception] = []
        self.agent: tuple[WatchedJournal, Reconciler, Orders] | None = None
        self.orders_given = 0

    # The agent

    def born(self) -> tuple[WatchedJournal, Reconciler, Orders]:
        """Return the agent that runs, or a new one."""
        if self.agent is None:
            journal = WatchedJournal.open(self.folder / "journal.sqlite3", self.now)
            journal._connection.execute("PRAGMA synchronous = OFF")
            journal.world = self  # type: ignore[attr-defined]
            clock = lambda: self.now  # noqa: E731
            switches = _Switches(
                clock,
                Facts(journal.facts, journal.set_facts),
                device=DEVICE,
                lock_settings=LockSettings(self.folder / "locks"),
            )
            switches.world = self
            orders = Orders(self.folder, journal.facts, journal.set_facts, self.events.append, clock)
            appliers = dict(self.engines)
            reconciler = Reconciler(
                appliers,
                journal,
                self.events.append,
                clock,
                lambda: False,
                switches=switches,
                orders=orders,
                timer=clock,
            )
            self.agent = journal, reconciler, orders
        return self.agent

    def die(self) -> None:
        """End the agent, as a power cut does."""
        if self.agent is not None:
            self.agent[0]._connection.close()
            self.agent = None

    def alive(self) -> None:
        if self.moments is not None:
            self.moments -= 1
            if self.moments < 0:
                raise Killed

    def cycle(
        self, *, retry: bool = False, at_once: bool = False, dies_after: int | None = None
    ) -> Reconciliation | None:
        """Let the agent reconcile once; return None where it came to no end."""
        self._look(retry=retry, at_once=at_once)
        self.moments = dies_after
        try:
            journal, reconciler, _ = self.born()
            done = reconciler.reconcile(trusted(self.apps, self.version), patient=True, retry=retry, at_once=at_once)
        except Killed:
            self.die()
            self.moments = None
            self._check_effects()
            self._cut_off()
            return None
        except StorageFull:
            assert self.full
            self._check_effects()
            self._cut_off()
            return None
        finally:
            self.moments = None
        self._check_effects()
        self._ended(journal, done)
        return done

    def _cut_off(self) -> None:
        """Follow what the agent has written down as begun: it may finish that at any time (OPEN-7)."""
        journal, _, _ = self.born()
        begun = {row.key.deployment_id for row in journal.workloads() if row.state == "installing"}
        begun |= {name for name in _NUMBERS if name in journal.facts().get("begun", "")}
        numbers = self.switched | {_NUMBERS[name] for name in begun}
        self.cut |= {number: self.apps[number] for number in numbers if number in self.apps}

    def _check_effects(self) -> None:
        """Raise what an effect broke: the agent takes what an applier raises for a defect of the applier."""
        if self.broken:
            raise self.broken[0]

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        try:
            yield
        except ApplyError:
            raise
        except Exception as error:
            self.broken.append(error)
            raise

    def _look(self, *, retry: bool, at_once: bool) -> None:
        """Follow what a cycle may know that begins now."""
        self.retry, self.at_once = retry, at_once
        self.switched, self.failing = set(), []
        self.there = {_NUMBERS[key.deployment_id] for key in self.running}
        wanted = self.wanted
        for number, app in self.apps.items():
            self.seen.setdefault(number, []).append(app)
        for number in [*self.cut]:
            if content_of(number, self.cut[number]) != content_of(number, self.apps.get(number, App())):
                del self.cut[number]
        for key, (digest, policy) in [*self.quarantined.items()]:
            app = self.apps.get(_NUMBERS[key.deployment_id])
            if retry or app is None or wanted.get(key) != digest or app.on_failure != policy:
                del self.quarantined[key]
        for number, (content, policy) in [*self.gone_back.items()]:
            app = self.apps.get(number)
            if retry or app is None or content_of(number, app) != content or app.on_failure != policy:
                del self.gone_back[number]
        for key, digest in [*self.left.items()]:
            app = self.apps.get(_NUMBERS[key.deployment_id])
            if app is None or app.on_drift != "respect" or wanted.get(key) != digest or self._covered:
                del self.left[key]
        for number in [*self.good]:
            if number not in self.apps or self.apps[number].on_failure != "rollback":
                del self.good[number]

    # What the model knows

    @property
    def running(self) -> dict[WorkloadKey, Digest]:
        return {key: digest for engine in self.engines.values() for key, digest in engine.engine.running.items()}

    @property
    def wanted(self) -> dict[WorkloadKey, Digest]:
        return {key: digest for number, app in self.apps.items() for key, digest in content_of(number, app).items()}

    @property
    def suspended(self) -> bool:
        return self.now < self.suspended_until

    @property
    def _covered(self) -> bool:
        """Whether a person ordered that what waits changes now."""
        return self.at_once or (self.ordered and not self.suspended)

    def is_well(self, key: WorkloadKey) -> bool:
        return not any(
            key in part
            for each in self.engines.values()
            for part in (each.engine.half, each.engine.conditions, each.engine.by_hand)
        )

    def _open(self) -> bool:
        moment = datetime.fromtimestamp(self.now, UTC)
        return 1 <= moment.hour < 3  # 02:00 to 04:00 in Berlin, in winter

    def _may_switch(self, number: int, why: str, *, begun: bool) -> None:
        """Check that a deployment may change now (invariant 2)."""
        apps = (
            [self.apps[number]]
            if number in self.apps
            else [app for app in (*self.seen[number][-1:], self.known.get(number)) if app]
        )
        is_cut = number in self.cut
        if number in self.switched or begun:
            return
        self.switched.add(number)
        if is_cut:
            return
        assert not self.suspended, f"{why} while changes are suspended"
        assert any(not app.calendar for app in apps) or self._open() or self._covered, f"{why} outside its window"
        is_held = all(app.lock for app in apps) and self.lock(number).exists() and number in self.there
        assert not is_held or self.at_once, f"{why} while its lock is held"

    def lock(self, number: int) -> Path:
        return self.folder / "locks" / f"{number}.lock"

    # Effects

    def installs(self, key: WorkloadKey, digest: Digest, before: Digest | None, *, is_well: bool) -> None:
        number = _NUMBERS[key.deployment_id]
        app = self.apps.get(number)
        assert app is not None, f"{key} is installed and not wanted"
        name = f"app-{number}/{key.component}"
        goes_back = self.wanted.get(key) != digest
        if goes_back:
            assert app.on_failure == "rollback", f"{name}: other content than wanted is installed"
            assert self.good.get(number, {}).get(key) == digest, f"{name}: it does not go back to the last good one"
        assert self.left.get(key) != digest, f"{name}: what a person left is installed"
        if self.sound.get(key) != digest and not goes_back:
            self._may_switch(number, f"{name} is installed", begun=self.begun.get(key) == digest)
        if before not in (None, digest) and is_well:
            assert self.quarantined.get(key, ("",))[0] != digest, f"{name}: quarantined content is tried again"
        if number in self.gone_back and not goes_back:
            good = self.good.get(number, {})
            assert good.get(key) == digest, f"{name}: a rollback is undone"
        self.begun[key] = digest

    def failed(self, key: WorkloadKey, digest: Digest, before: Digest | None, *, is_well: bool) -> None:
        self.begun.pop(key, None)
        self.troubled.add(_NUMBERS[key.deployment_id])
        if before not in (None, digest) and is_well:
            self.failing.append((key, digest))
        else:
            self.sound.pop(key, None)

    def installed(self, key: WorkloadKey, digest: Digest) -> None:
        self.sound[key] = digest
        self.begun.pop(key, None)
        self.left.pop(key, None)

    def removes(self, key: WorkloadKey) -> None:
        number = _NUMBERS[key.deployment_id]
        app = self.apps.get(number)
        own = content_of(number, app) if app else {}
        goes_back = app is not None and app.on_failure == "rollback" and number in self.good
        if key in own:
            assert goes_back, f"{key} is removed and wanted"
            assert key not in self.good[number], f"{key} is removed and was good"
        running = self.running
        if app is not None:
            targets = [own, *([self.good[number]] if goes_back else [])]
            left = {row.key for row in self.born()[0].workloads() if row.code in ("MG1624", "MG1625")}
            runs = any(
                {item for item in target.items() if item[0] not in left} <= running.items() for target in targets
            )
            assert runs, f"{key} goes before its successor runs"
        for other, content in ((n, content_of(n, a)) for n, a in self.apps.items()):
            if self.apps[other].on_failure != "rollback":
                prepared = set().union(*(each.engine.prepared for each in self.engines.values()))
                assert set(content.values()) <= prepared, f"{key} goes before app-{other} is prepared"
        if not goes_back and key in running:
            self._may_switch(number, f"{key} is removed", begun=key in self.removing)
        self.removing.add(key)

    def hook(self, when: str, number: int) -> int:
        self.effects += 1
        self.alive()
        status = self.statuses[when]
        if when == "before" and status == 0:
            self.drained.add(number)
            self.unresumed.discard(number)
        if when == "after":
            (self.drained.discard if status == 0 else self.unresumed.add)(number)
        self.troubled |= {number} if status else set()
        self.alive()
        return status

    # After a whole cycle

    def _ended(self, journal: Journal, done: Reconciliation) -> None:
        rows = {row.key: row for row in journal.workloads()}
        for number, app in self.apps.items():
            self.known[number] = app
            own = [rows[key] for key in content_of(number, app) if key in rows]
            is_good = len(own) == len(content_of(number, app)) and all(row.state == "installed" for row in own)
            if app.on_failure == "rollback" and is_good:
                self.good[number] = content_of(number, app)
            if any(row.code == "MG1623" for row in rows.values() if _NUMBERS[row.key.deployment_id] == number):
                self.gone_back[number] = content_of(number, app), app.on_failure
        self.quarantined |= {
            key: (digest, self.apps[_NUMBERS[key.deployment_id]].on_failure) for key, digest in self.failing
        }
        self.cut, self.ordered = {}, self.ordered and (done.held or self.suspended)
        self.removing &= self.running.keys()
        assert self.drained <= self.unresumed, f"drained and not resumed: {self.drained - self.unresumed}"
        silent, wanted = {kind for kind, engine in self.engines.items() if not engine.answers}, self.wanted
        for key, row in rows.items():
            number = _NUMBERS[key.deployment_id]
            if key in wanted and row.state == "installed" and kind_of(number) not in silent:
                assert self.running.get(key) == row.wanted, f"{key} is reported as installed and does not run"
                assert wanted[key] == row.wanted, f"{key} is reported as installed and is not the newest"
                assert self.is_well(key), f"{key} is reported as installed and is not well"
            if key in wanted and kind_of(number) not in silent and not row.failure:
                assert row.code != "MG1601", f"{key}: the engine answers"
            if row.code == "MG1620" and self.statuses["before"] != 21:
                assert self.lock(number).exists(), f"{key}: it is not held"
        self._check_independent(silent)
        self._check_statuses(journal, rows)

    def _check_independent(self, silent: set[str]) -> None:
        """Check that what is well is not kept back by others (invariant 7)."""
        for number, app in self.apps.items():
            free = not (app.lock or app.hooks or app.calendar or app.after or self.suspended)
            content = content_of(number, app)
            if (
                free
                and number not in self.troubled
                and kind_of(number) not in silent
                and not content.keys() & self.left
            ):
                is_left = app.on_drift != "repair" and not all(self.is_well(key) for key in content)
                missing = content.items() - self.running.items()
                assert is_left or app.on_drift != "repair" or not missing, f"app-{number} is kept back by others"

    def _check_statuses(self, journal: Journal, rows: Mapping[WorkloadKey, RecordedWorkload]) -> None:
        for name, text in journal.outbox().items():
            status = json.loads(text)
            components = {each["name"]: each["state"] for each in status["components"]}
            assert {status["status"]["state"], *components.values()} <= set(SEVERITY)
            own = {key.component: row.state for key, row in rows.items() if key.deployment_id == name}
            if own:
                assert components == own, "the last status does not say what is so"
            else:
                assert status["status"]["state"] == "removed", "what is gone is not reported so"
            is_told = "MG1614" in text.decode()
            assert is_told <= self.suspended, "it says that changes are suspended"

    # What happens to it

    def change(self, apps: dict[int, App]) -> None:
        """Publish another state."""
        self.apps = apps
        self.version += 1

    def break_content(self, number: int, app: App, component: str) -> None:
        """Let this content of a component never come up."""
        digest = content_of(number, app)[WorkloadKey(deployment_id(number), component)]
        self.engines[kind_of(number)].broken.add(("install", digest))
        self.troubled.add(number)

    def suspend(self, hours: float) -> None:
        until = datetime.fromtimestamp(self.now, UTC) + timedelta(hours=hours)
        until = until.replace(second=0, microsecond=0)
        suspend(self.folder, "ada", "measuring", datetime.fromtimestamp(self.now, UTC), until)
        self.suspended_until = until.timestamp()

    def resume(self) -> None:
        resume(self.folder)
        self.suspended_until = 0.0

    def apply_now(self) -> None:
        self.orders_given += 1
        order_to_apply(self.folder, ApplyOrder(str(self.orders_given), "ada", "now"))
        self.ordered = True

    def meddle(self, key: WorkloadKey, how: str) -> None:
        """Let a person stop, pause, edit, remove or start a component, or let it crash."""
        engine = self.engines[kind_of(_NUMBERS[key.deployment_id])].engine
        app = self.apps.get(_NUMBERS[key.deployment_id])
        if key in engine.half:
            return
        self.quarantined.pop(key, None)
        if how == "start":
            self.left.pop(key, None)
            engine.by_hand.pop(key, None)
            engine.conditions.pop(key, None)
        elif how == "crash":
            if key not in engine.by_hand:
                engine.conditions[key] = "degraded"
        else:
            wanted = self.wanted.get(key)
            if wanted is not None and app and app.on_drift == "respect" and self._is_settled(key, wanted):
                self.left[key] = wanted
            engine.conditions.pop(key, None)
            if how == "remove":
                engine.running.pop(key)
                engine.by_hand.pop(key, None)
            else:
                engine.by_hand[key] = how

    def _is_settled(self, key: WorkloadKey, wanted: Digest) -> bool:
        """Whether a component runs as wanted, and the agent knows."""
        if self.running.get(key) != wanted or self.sound.get(key) != wanted or not self.is_well(key):
            return False
        journal, _, _ = self.born()
        return any(row.key == key and row.installed == wanted for row in journal.workloads())

    def restart_engines(self) -> None:
        """Let the engines forget who stopped what; what the agent has not seen by now counts as a crash."""
        journal, _, _ = self.born()
        known = {row.key for row in journal.workloads() if row.code == "MG1625"}
        for double in self.engines.values():
            for key in [key for key, how in double.engine.by_hand.items() if how == "stopped"]:
                del double.engine.by_hand[key]
                double.engine.conditions[key] = "degraded"
                if key not in known:
                    self.left.pop(key, None)

    def settle(self) -> None:
        """Let all that is wrong end, and check that the device comes to the newest state (invariants 5, 6)."""
        self.full, self.statuses = False, {"before": 0, "after": 0}
        self.resume()
        for double in self.engines.values():
            double.answers = True
            double.broken.clear()
            double.engine.by_hand.clear()
        for number in range(1, 4):
            self.lock(number).unlink(missing_ok=True)
        self.now = max(self.now, NIGHT)
        done = None
        for attempt in range(6):
            self.now += 86_400 - (self.now - NIGHT) % 86_400
            if attempt == 2:
                self.apply_now()
            done = self.cycle(retry=attempt == 2)
        assert done is not None
        assert done.complete, f"it does not come to an end: {[str(error) for error in done.failures]}"
        assert self.running == self.wanted
        assert all(self.is_well(key) for key in self.running)
        assert self.drained <= self.unresumed, "a line is left stopped"
        self.assert_idle()

    def assert_idle(self) -> None:
        """Check that a third cycle in a row finds nothing to write and nothing to do (invariant 5)."""
        self.cycle()
        self.cycle()
        before = self.written
        self.cycle()
        assert self.full or self.written == before, f"an idle cycle writes {self.written - before} times"
