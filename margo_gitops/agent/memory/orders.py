"""What a person at the device orders: to suspend changes, or to make those that wait, once.

ORDERED-1  An order is a file in the state folder, replaced as a whole: who may write that folder may give orders,
           also while the agent does not run. A signal (SIGHUP) only makes a running agent look sooner than within a
           minute.
ORDERED-2  While changes are suspended, new state is fetched, verified and prepared, and nothing is switched. What
           runs is kept running. A suspension ends at its time, by the device's clock, or when a person resumes.
ORDERED-3  An order to apply counts once, for one cycle that is not cut off; the journal remembers which was carried
           out. A suspension comes before it.
ORDERED-4  A suspension that cannot be read counts, without an end: a line must not restart because of a damaged file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from margo_gitops.agent.memory.events import Event, Reason
from margo_gitops.agent.memory.state_folder import keep_file
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.declarations import About, Text
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.records import read, write
from margo_gitops.errors import MargoGitopsError, Suspended
from margo_gitops.values import dataclass, field

SUSPENDED_FILE: Final = "suspended.json"
APPLY_FILE: Final = "apply-now.json"
LONGEST_REASON: Final = 500
_MOST_BYTES: Final = 65_536
_CARRIED_OUT: Final = "orders.applied"
"""The fact that names the order to apply that was carried out last."""
_TOLD: Final = "orders.suspended"
"""The fact that holds the suspension that the events tell of."""
_MOMENT: Final = Text(max_length=40)


@dataclass(frozen=True, slots=True)
class Suspension:
    """Changes are suspended."""

    by: Annotated[str, About("The user who ordered it."), Text(max_length=200)]
    reason: Annotated[str, About("Why."), Text(min_length=1, max_length=LONGEST_REASON)]
    at: Annotated[str, About("When it was ordered, RFC 3339."), _MOMENT]
    until: Annotated[str, About("When it ends, RFC 3339."), _MOMENT]

    def __str__(self) -> str:
        return f"changes are suspended until {self.until} by {self.by}: {self.reason}"

    def is_over(self, now: float) -> bool:
        """Return whether it has ended; one whose end cannot be read has not."""
        try:
            return datetime.fromisoformat(self.until).timestamp() <= now
        except (ValueError, OverflowError):
            return False


@dataclass(frozen=True, slots=True)
class ApplyOrder:
    """What waits changes now, once."""

    id: Annotated[str, About("Of this order."), Text(max_length=100)]
    by: Annotated[str, About("The user who ordered it."), Text(max_length=200)]
    at: Annotated[str, About("When, RFC 3339."), _MOMENT]
    deployments: Annotated[tuple[str, ...], About("By name; empty for all.")] = ()

    def __str__(self) -> str:
        return f"{', '.join(self.deployments) or 'everything that waits'} changes now, ordered by {self.by}"

    def covers(self, *names: str) -> bool:
        """Return whether it is about a deployment with one of these names."""
        return not self.deployments or not set(names).isdisjoint(self.deployments)


_UNREADABLE: Final = Suspension("someone", "the order cannot be read", "?", "it is read or resumed")


@dataclass(eq=False)
class Orders:
    """The orders of a state folder, as the agent follows them.

    Attributes:
        recall: returns the facts of the journal.
        keep: keeps facts in the journal.
        record: is called with each order that begins or ends.
        clock: the time, seconds since the epoch.
    """

    folder: Path
    recall: Callable[[], Mapping[str, str]]
    keep: Callable[[dict[str, str]], None]
    record: Callable[[Event], None]
    clock: Callable[[], float]
    suspension: Suspended | None = field(default=None, init=False)
    applied: ApplyOrder | None = field(default=None, init=False)

    def look(self) -> None:
        """Find which orders count in this cycle: `suspension` and `applied` (ORDERED-2 to ORDERED-4)."""
        self.suspension = suspended(self.folder, self.clock())
        told, text = self.recall().get(_TOLD, ""), self.suspension.what if self.suspension else ""
        if text != told:
            self.record(Event(Reason.SUSPENDED, text) if text else Event(Reason.RESUMED, "changes are made again"))
            self.keep({_TOLD: text})
        order = None if self.suspension else read_apply_order(self.folder)
        self.applied = order if order is not None and order.id != self.recall().get(_CARRIED_OUT) else None

    def carried_out(self) -> None:
        """Remember that the order to apply was followed in a whole cycle (ORDERED-3)."""
        if self.applied is not None:
            self.keep({_CARRIED_OUT: self.applied.id})
            self.record(Event(Reason.APPLIED_NOW, f"{self.applied} at {self.applied.at}: done as far as it goes"))
            self.applied = None


def read_suspension(folder: Path) -> Suspension | None:
    """Return the suspension that was ordered, perhaps over by now; None where there was no order (ORDERED-4)."""
    content = _content(folder / SUSPENDED_FILE)
    if content == b"":
        return None
    try:
        return read(Suspension, read_json(content or b"", SUSPENDED_FILE))
    except MargoGitopsError:
        return _UNREADABLE


def suspended(folder: Path, now: float) -> Suspended | None:
    """Return why nothing changes now; None where nothing is suspended."""
    found = read_suspension(folder)
    if found is None or found.is_over(now):
        return None
    remedy = "wait, or run `margo-gitops agent resume` on the device"
    return Suspended(str(found), why=[f"since {found.at}"], remedy=remedy)


def read_apply_order(folder: Path) -> ApplyOrder | None:
    """Return the newest order to apply, perhaps carried out by now; None for one that cannot be read."""
    content = _content(folder / APPLY_FILE)
    try:
        return read(ApplyOrder, read_json(content, APPLY_FILE)) if content else None
    except MargoGitopsError:
        return None


def is_carried_out(order: ApplyOrder, facts: Mapping[str, str]) -> bool:
    """Return whether an order was followed, as the journal says."""
    return facts.get(_CARRIED_OUT) == order.id


def suspend(folder: Path, by: str, reason: str, now: datetime, until: datetime) -> Suspension:
    """Order that nothing changes until a time (StateFolderUnusable, StorageFull: it cannot be written)."""
    order = Suspension(by, reason, _moment(now), _moment(until))
    _keep(folder / SUSPENDED_FILE, write_json(write(order)))
    return order


def resume(folder: Path) -> None:
    """End a suspension (StateFolderUnusable, StorageFull: it cannot be written)."""
    _keep(folder / SUSPENDED_FILE, b"")


def order_to_apply(folder: Path, order: ApplyOrder) -> None:
    """Order that what waits is changed once (StateFolderUnusable, StorageFull: it cannot be written)."""
    _keep(folder / APPLY_FILE, write_json(write(order)))


def _keep(path: Path, content: bytes) -> None:
    keep_file(path, content, mode=0o644)


def _content(path: Path) -> bytes | None:
    """Return what a file holds: nothing where it does not exist, None where it cannot be read."""
    try:
        return read_bounded(path, _MOST_BYTES)
    except FileNotFoundError:
        return b""
    except OSError:
        return None


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="minutes")
