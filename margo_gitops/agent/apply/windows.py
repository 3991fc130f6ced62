"""Which deployments may change now: by the calendars that came with them, the device's clock, and what a person orders.

OPEN-1  A deployment changes only while all its calendars are open (margo_gitops/documents/calendars.py). One without
        calendars may change at any time.
OPEN-2  A deployment that is gone from the state is removed by the calendars that it had last: they are remembered.
OPEN-3  A time zone that the device does not know closes a calendar: it must not guess.
OPEN-4  A clock that cannot be trusted (margo_gitops/agent/apply/timetable.py, TIME-1 to TIME-3) closes a calendar too.
OPEN-5  Only the newest state counts when a calendar opens: what was missed meanwhile is not made up for.
OPEN-6  A deployment begins to change only if it fits into what is left of the opening: each of its components takes as
        long as the longest of its last three times here. What was never installed here takes no time.
OPEN-7  What has begun is finished, or goes back, after the opening and after a restart of the agent too. What failed
        waits for the next opening.
OPEN-8  Nothing begins while changes are suspended (agent/memory/orders.py). An order to apply passes calendars.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar, Final

from margo_gitops.agent.apply.timetable import Timetable, spoken
from margo_gitops.agent.apply.workloads import DesiredDeployment
from margo_gitops.agent.memory.facts import Facts
from margo_gitops.agent.memory.orders import Orders
from margo_gitops.appliers.applier import WorkloadKey
from margo_gitops.documents.maintenance import Calendar
from margo_gitops.errors import ChangeWaits, OutsideWindow
from margo_gitops.settings import spell_duration
from margo_gitops.values import dataclass, field

_LAST: Final = 3
_REMEDY: Final = "wait, or run `margo-gitops agent apply-now` on the device"


@dataclass(frozen=True, slots=True)
class _Calendars:
    """Calendars by the id of their deployment, of all that have some."""

    FACT: ClassVar[str] = "calendars"
    deployments: Mapping[str, tuple[Calendar, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Durations:
    """Seconds that the last installations of components took that have calendars, by key."""

    FACT: ClassVar[str] = "durations"
    components: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Digests of the components that deployments get which have begun to change and are not done, by id."""

    FACT: ClassVar[str] = "begun"
    deployments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class Windows:
    """Tells which deployments may change now.

    Attributes:
        timetable: what the clock says.
        facts: keeps records; raises StorageFull and StateFolderUnusable, as all methods here do.
        orders: what a person at the device orders; None: nothing.
    """

    timetable: Timetable
    facts: Facts
    orders: Orders | None = None
    _ruling: dict[str, tuple[str, tuple[Calendar, ...]]] = field(default_factory=dict, init=False)
    _wanted: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False)
    _begun: set[str] = field(default_factory=set, init=False)

    def closed(
        self, desired: Iterable[DesiredDeployment], there: Mapping[str, str], *, at_once: bool = False
    ) -> Mapping[str, ChangeWaits]:
        """Return why deployments may not change now, by id (OPEN-1 to OPEN-4, OPEN-8).

        Args:
            there: names of the deployments of which something is on the device, by id.
            at_once: whether to change what its calendars do not let change now.
        """
        wanted = {item.id: item for item in desired}
        calendars = {
            name: each
            for name, each in self.facts.get(_Calendars).deployments.items()
            if name not in wanted and name in there
        }
        calendars |= {name: item.calendars for name, item in wanted.items() if item.calendars}
        self.facts.put(_Calendars(calendars))
        self._wanted = {name: tuple(each.digest for each in item.workloads) for name, item in wanted.items()}
        self._ruling = {}
        kept = self.facts.get(_Begun).deployments
        begun = self._begun | {name for name, digests in kept.items() if digests == self._wanted.get(name)}
        # One that goes back is to become something else.
        self.facts.put(
            _Begun({name: self._wanted.get(name, ()) if name in self._begun else kept[name] for name in kept})
        )
        if self.orders is not None:
            self.orders.look()
            if self.orders.suspension is not None:
                return dict.fromkeys({*wanted, *there} - begun, self.orders.suspension)
        if at_once:
            return {}
        names = {**there, **{name: item.document.metadata.name for name, item in wanted.items()}}
        order = self.orders.applied if self.orders is not None else None
        self._ruling = {
            name: (names[name], each)
            for name, each in calendars.items()
            if name not in begun and not (order is not None and order.covers(name, names[name]))
        }
        found = {name: self._outside(*ruling) for name, ruling in self._ruling.items()}
        return {name: error for name, error in found.items() if error is not None}

    def too_short(self, deployment: str, components: Collection[WorkloadKey]) -> OutsideWindow | None:
        """Return why a deployment may not begin to change, because time is short (OPEN-6).

        Args:
            components: all of it that change.
        """
        if deployment not in self._ruling or deployment in self._begun:
            return None
        last = self.facts.get(_Durations).components
        seconds = sum(max(last.get(str(key), (0,))) for key in components)
        whole_minutes = -(-seconds // 60) * 60 if seconds > 60 else seconds
        return self._outside(*self._ruling[deployment], whole_minutes)

    def begins(self, deployment: str, components: Collection[WorkloadKey]) -> None:
        """Note that a deployment begins to change, right before it does (OPEN-7)."""
        if deployment in self._begun:
            return
        self._begun.add(deployment)
        if len(components) > 1:
            self.facts.put(_Begun({**self.facts.get(_Begun).deployments, deployment: self._wanted[deployment]}))

    def took(self, key: WorkloadKey, seconds: float) -> None:
        """Remember how long an installation took, where that matters (OPEN-6)."""
        if key.deployment_id in self._ruling and seconds >= 0:
            last = {
                name: each
                for name, each in self.facts.get(_Durations).components.items()
                if name.partition("/")[0] in self._wanted
            }
            self.facts.put(_Durations({**last, str(key): (*last.get(str(key), ()), round(seconds))[-_LAST:]}))

    def started(self) -> None:
        """Forget what a cycle began that came to no end: what of it is still wanted is kept by the journal."""
        self._begun.clear()

    def ended(self, *, held: bool) -> None:
        """Note that a cycle was not cut off: what has begun is done, or has failed (OPEN-7, ORDERED-3).

        Args:
            held: whether a lock keeps something from changing: an order to apply counts until it does not.
        """
        self.facts.put(_Begun())
        if self.orders is not None and not held:
            self.orders.carried_out()

    def _outside(self, name: str, calendars: tuple[Calendar, ...], seconds: float = 0) -> OutsideWindow | None:
        """Return why a change that takes so many seconds may not begin now."""
        whose = " and ".join(calendar.of for calendar in calendars)
        if doubt := self.timetable.doubt():
            return OutsideWindow(
                f"the deployment {name} waits: {doubt}, and {whose} needs the time",
                remedy="set the clock, or run `margo-gitops agent apply-now` on the device",
            )
        try:
            opening, any_opening = self.timetable.opening(calendars, seconds), self.timetable.opening(calendars)
        except (LookupError, ValueError, OSError) as error:
            return OutsideWindow(
                f"the deployment {name} waits: this device does not know the time zone of {whose}",
                why=[str(error)],
                remedy="install the time zones (tzdata), or name one that the device knows",
            )
        if any_opening is None:
            from margo_gitops.documents.calendars import never_open  # loaded where there is a calendar

            return OutsideWindow(
                f"the deployment {name} waits for a time that never comes: {never_open(calendars)}",
                remedy="correct spec.maintenance in the fleet repo, and render again",
            )
        if opening is None:
            return OutsideWindow(
                f"the deployment {name} waits for a time that never comes: it took {spell_duration(seconds)} the last"
                f" times, and no window of {whose} is that long",
                remedy="make a window longer, or run `margo-gitops agent apply-now` on the device",
            )
        if opening.start <= self.timetable.clock():
            return None
        short = [f"it took {spell_duration(seconds)} the last times, and less is left of this window"]
        return OutsideWindow(
            f"the deployment {name} waits until {spoken(opening.start, calendars)}, because of {whose}",
            why=short if any_opening.start <= self.timetable.clock() else (),
            remedy=_REMEDY,
        )
