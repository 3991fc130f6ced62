"""What happens around the switch of a deployment: its locks are asked, and its hooks run.

SWITCH-1  A deployment switches once in a cycle: its locks are asked and its `before` hooks run when its first component
          is about to change or to go; what they say counts for the whole cycle.
SWITCH-2  `after` hooks run when its last component has changed; also at the end of a cycle in which `before` hooks ran,
          and the change did not come to its end. That they are due is written down before the first `before` hook runs,
          so a line that was drained is resumed after a power cut too, also if the state changed meanwhile.
SWITCH-3  What is gone from the state is removed by the locks and hooks that came with it last: they are remembered.
SWITCH-4  A person who asks for a change at once waits for no lock, nor does a deployment that goes back to what ran
          before (BACK-2); hooks run, and cannot put it off.
SWITCH-5  What is stopped for the update of another deployment (STAGE-1) switches too: its locks are asked before that
          update, unless it is stopped already, and its hooks run around the stop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from margo_gitops.agent.apply.steps import Change, Plan, Removal
from margo_gitops.agent.apply.workloads import DesiredDeployment
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.appliers.applier import Applier, OpenSecrets, Workload, WorkloadKey, no_secrets
from margo_gitops.documents.deployment import DeploymentExtension
from margo_gitops.documents.secrets import WantedSecret
from margo_gitops.documents.switching import DeviceLock, Hooks
from margo_gitops.errors import HookFailed, InstallFailed, LockHeld
from margo_gitops.values import KW_ONLY, dataclass, field, replace

if TYPE_CHECKING:
    from margo_gitops.agent.apply.hooks import HookRunner, Occasion
    from margo_gitops.agent.apply.locks import Locks
    from margo_gitops.agent.settings.configuration import HookSettings, LockSettings


@dataclass(frozen=True, slots=True)
class _Rules:
    """What surrounds the switch of a deployment.

    Attributes:
        version: of its application, the last that was installed; empty where it is not known.
    """

    name: str
    version: str = ""
    locks: tuple[DeviceLock, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)


_NOTHING: Final[Mapping[str, _Rules]] = {}


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is remembered of deployments that have locks or hooks, by their id.

    Attributes:
        deployments: their rules.
        due: the rules of those whose `before` hooks may have run, and no `after` hooks since.
    """

    FACT: ClassVar[str] = "switches"
    deployments: Mapping[str, _Rules] = field(default_factory=dict)
    due: Mapping[str, _Rules] = field(default_factory=dict)


@dataclass(eq=False)
class Switches:
    """Makes the switches of cycles.

    Attributes:
        clock: the time, seconds since the epoch.
        facts: keeps records.
        doubt: returns why the clock cannot be trusted; empty where it can.
        heartbeat: called before what may take a while.
        secrets: returns the values of secrets.
    """

    clock: Callable[[], float]
    facts: Facts
    _: KW_ONLY
    device: str = ""
    doubt: Callable[[], str] = lambda: ""
    heartbeat: Callable[[], None] = lambda: None
    lock_settings: LockSettings | None = None
    hook_settings: HookSettings | None = None
    secrets: OpenSecrets = no_secrets
    put_off: set[str] = field(default_factory=set, init=False)
    """Deployments whose first `before` hook wanted none of it, so that no `after` hooks are due: an idle cycle that
    asks it again writes nothing."""

    def begin(
        self,
        desired: Iterable[DesiredDeployment],
        plan: Plan,
        *,
        at_once: bool = False,
        stopped: Collection[WorkloadKey] = (),
    ) -> Switching:
        """Return the switches of a cycle.

        Args:
            at_once: whether a person wants no one to wait (SWITCH-4).
            stopped: what an earlier cycle stopped for an update (SWITCH-5).

        Raises:
            StorageFull, StateFolderUnusable: what must be remembered cannot be written.
        """
        memory = self.facts.get(_Memory)
        known = memory.deployments
        wanted = {item.id: item for item in desired}
        rules = {
            name: each for name, each in known.items() if name not in wanted and (name in plan.there or plan.silent)
        }
        for name, item in wanted.items():
            own = item.extension
            if own is not None and (own.locks or own.hooks or own.health):
                version = known[name].version if name in known else ""
                rules[name] = _Rules(item.document.metadata.name, version, own.locks, own.hooks or Hooks())
        steps: list[Change | Removal] = [*plan.changes, *plan.removals]
        begins = {_identity(step) for step in steps if step.is_switch}
        due = {name: each for name, each in memory.due.items() if name in begins or name not in self.put_off}
        self.put_off &= begins
        self.facts.put(_Memory(rules, due))
        said = {name: item.extension for name, item in wanted.items() if item.extension}
        halted = {key.deployment_id for key in stopped}
        secrets = {
            name: {secret.name: secret for each in item.workloads for secret in each.secrets.values()}
            for name, item in wanted.items()
        }
        return Switching(self, plan, rules, said, due, at_once=at_once, stopped=halted, secrets=secrets)

    def locks(self) -> Locks:
        """Return what asks locks; loaded where there is one."""
        from margo_gitops.agent.apply.locks import Locks

        folder = self.lock_settings.folder if self.lock_settings else None
        return Locks(folder, self.clock, self.facts, self.doubt, self.heartbeat)

    def hooks(self) -> HookRunner:
        """Return what runs hooks; loaded where there is one."""
        from margo_gitops.agent.apply.hooks import HookRunner

        return HookRunner(self.hook_settings, self.device, self.heartbeat, self.secrets)


@dataclass(eq=False)
class Switching:
    """The switches of one cycle.

    Attributes:
        rules: of deployments that have some, by id.
        wanted: what the renderer says of each wanted deployment, by id.
        stopped: deployments that an earlier cycle stopped, by id.
        secrets: of each wanted deployment, by its id and their names.
        due: the rules of deployments whose `after` hooks may be due, by id.
    """

    makes: Switches
    plan: Plan
    rules: dict[str, _Rules]
    wanted: Mapping[str, DeploymentExtension]
    due: dict[str, _Rules]
    _: KW_ONLY
    at_once: bool
    stopped: Collection[str]
    secrets: Mapping[str, Mapping[str, WantedSecret]]
    _asked: dict[str, LockHeld | HookFailed | None] = field(default_factory=dict, init=False)
    _open: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        # Hooks that failed after a change run again with it, after its pause.
        rests = [each for each in self.plan.changes if each.rests and each.failed == HookFailed.code]
        self._open = self.due.keys() - self.makes.put_off - {each.workload.key.deployment_id for each in rests}
        if any(rules.locks for rules in self.rules.values()):
            waiting = {each.workload.key.deployment_id for each in self.plan.changes if each.is_switch}
            waiting |= {key.deployment_id for name in waiting for _, key in self.plan.stops.get(name, ())}
            self.makes.locks().forget(waiting | {each.key.deployment_id for each in self.plan.removals})

    def before(self, step: Change | Removal, others: Sequence[str] = ()) -> LockHeld | None:
        """Return why a step that begins something must wait; None where it need not (SWITCH-1).

        Args:
            others: ids of the deployments that are stopped for it (SWITCH-5).

        Raises:
            HookFailed: a hook failed; nothing of the deployment was changed.
            StorageFull, StateFolderUnusable: since when it waits cannot be written.
        """
        named = [*others, _identity(step)] if step.is_switch else others
        group = [name for name in named if name in self.rules]
        new = [name for name in group if name not in self._asked]
        held = {name: error for name in new if (error := self._held(name)) is not None}
        self._asked.update(held)
        for name in new if not held else ():
            self._asked[name] = self._drained(name)
            if self._asked[name] is not None:
                break
        found = next((each for name in group if (each := self._asked.get(name)) is not None), None)
        if isinstance(found, HookFailed):
            raise found
        return found

    def after(self, step: Change | Removal) -> None:
        """Run the hooks of a deployment whose last component has changed or is gone.

        Raises:
            HookFailed: one failed.
            StorageFull, StateFolderUnusable: the version that is there now cannot be written.
        """
        identity = _identity(step)
        rules = self.rules.get(identity)
        if rules is None or not self._is_last(step):
            return
        is_begun = isinstance(step, Change) and step.reason in ("new", "changed", "unconfirmed")
        may = identity in self._asked and self._asked[identity] is None
        if may or is_begun or identity in self._open:
            self._open.discard(identity)
            if rules.hooks.after:
                self.makes.hooks().after(rules.hooks.after, self._occasion(identity, rules, "done"))
            self._note({identity: replace(rules, version=self._version(identity))}, over=identity)

    def prepared(self, change: Change) -> Workload:
        """Return the workload of a change, with what must hold when it is installed, if it is the last one."""
        identity = _identity(change)
        health = self.wanted[identity].health if identity in self.wanted else None
        if health is None or not self._is_last(change):
            return change.workload
        from margo_gitops.appliers.readiness import Readiness

        def hook(name: str) -> Sequence[str]:
            return self.makes.hooks().probe(name, self._occasion(identity, self.rules[identity]))

        return replace(
            change.workload, ready=Readiness(health, change.workload.longest_seconds, hook, self.makes.heartbeat)
        )

    def resumed(self, identity: str) -> None:
        """Run the hooks of a deployment that was stopped for another, and runs again (HookFailed: one failed)."""
        rules = self.rules.get(identity)
        self._open.discard(identity)
        if rules is not None and rules.hooks.after:
            self.makes.hooks().after(rules.hooks.after, self._occasion(identity, rules, "done"))
            self._note({}, over=identity)

    def end(self) -> Iterator[HookFailed]:
        """Run the hooks that follow what began and did not come to its end; yield what went wrong with them."""
        for identity in sorted(self._open & self.due.keys()):
            rules = self.due[identity]
            try:
                self.makes.hooks().after(rules.hooks.after, self._occasion(identity, rules, "failed"))
            except HookFailed as error:
                yield error
            self._note({}, over=identity)

    def _note(self, rules: Mapping[str, _Rules], *, due: Mapping[str, _Rules] = _NOTHING, over: str = "") -> None:
        """Write down other rules of deployments, and which `after` hooks are due now, or no longer."""
        self.rules.update(rules)
        self.due.update(due)
        self.due.pop(over, None)
        self.makes.facts.put(_Memory(self.rules, self.due))

    def _version(self, identity: str) -> str:
        return self.wanted[identity].application_version if identity in self.wanted else ""

    def _is_patient(self, identity: str) -> bool:
        return not (self.at_once or identity in self.plan.rolled_back)

    def _held(self, identity: str) -> LockHeld | None:
        rules, runs = self.rules[identity], identity in self.plan.there and identity not in self.stopped
        if not (rules.locks and runs and self._is_patient(identity)):
            return None
        return self.makes.locks().held(identity, rules.name, rules.locks)

    def _drained(self, identity: str) -> LockHeld | HookFailed | None:
        rules = self.rules[identity]
        if rules.hooks.before and rules.hooks.after:
            self._note({}, due={identity: rules})
        try:
            for name in rules.hooks.before:
                later = self.makes.hooks().before([name], self._occasion(identity, rules))
                if later is not None and self._is_patient(identity):
                    return later
                self._open.add(identity)
        except HookFailed as error:
            return error
        finally:
            (self.makes.put_off.discard if identity in self._open else self.makes.put_off.add)(identity)
        return None

    def _is_last(self, step: Change | Removal) -> bool:
        """Whether nothing of the deployment follows a step in the plan."""
        identity = _identity(step)
        removals = [each for each in self.plan.removals if each.key.deployment_id == identity]
        changes = [each for each in self.plan.changes if each.workload.key.deployment_id == identity]
        last = _key(changes[-1]) if changes else _key(removals[-1])
        return last == _key(step)

    def _occasion(self, identity: str, rules: _Rules, result: str = "") -> Occasion:
        from margo_gitops.agent.apply.hooks import Occasion

        planned = [each for each in self.plan.changes if each.workload.key.deployment_id == identity]
        changes = [each for each in planned if each.reason != "stopped"]
        removals = [each for each in self.plan.removals if each.key.deployment_id == identity]
        keys = [*(each.workload.key for each in changes), *(each.key for each in removals)] or [
            *(each.workload.key for each in planned),
            *(workload.key for _, workload in self.plan.kept if workload.key.deployment_id == identity),
        ]
        components = dict.fromkeys(key.component for key in keys)
        is_gone = not changes and identity not in self.wanted
        reason = "update" if changes else "remove" if removals or is_gone else "stop"
        reason = reason if is_gone or identity in self.plan.there else "install"
        return Occasion(
            rules.name,
            identity,
            tuple(components),
            self._version(identity),
            rules.version,
            reason,
            result,
            self.secrets.get(identity, {}),
        )


def _key(step: Change | Removal) -> WorkloadKey:
    return step.workload.key if isinstance(step, Change) else step.key


def _identity(step: Change | Removal) -> str:
    return _key(step).deployment_id


def check_installed(applier: Applier, workload: Workload, reason: str, interrupted: Callable[[], bool]) -> None:
    """Look whether an installed workload is ready (READY-3), or stays up, where its applier did not.

    Raises:
        InstallFailed: it does not; it is left as it is.
        StepInterrupted: the agent was asked to stop.
        ApplyError: the engine does not answer.
    """

    def degraded() -> list[str]:
        return [each.detail for each in applier.observe() if (each.key, each.condition) == (workload.key, "degraded")]

    name = f"{workload.deployment.metadata.name}/{workload.component.name}"
    ready = workload.ready
    if ready is not None and not ready.asked and (problem := ready.wait(degraded, interrupted)):
        error = InstallFailed(f"{name} is installed, but not ready", why=problem)
        error.reinstated = False
        raise error
    if reason == "degraded" and (problem := degraded()):  # with `wait: false`, nothing else looks
        raise InstallFailed(f"{name} was started again and does not stay up", why=problem)
