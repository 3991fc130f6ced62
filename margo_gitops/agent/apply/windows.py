"""Which deployments may change now, by the calendars that came with them and the clock of the device.

OPEN-1  A deployment changes only while all its calendars are open (margo_gitops/documents/calendars.py). One without
        calendars may change at any time.
OPEN-2  A deployment that is gone from the state is removed by the calendars that it had last: they are remembered.
OPEN-3  A time zone that the device does not know closes a calendar: it must not guess.
OPEN-4  A clock that cannot be trusted (margo_gitops/agent/apply/timetable.py, TIME-1 to TIME-3) closes a calendar too.
OPEN-5  Only the newest state counts when a calendar opens: what was missed meanwhile is not made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final

from margo_gitops.agent.apply.timetable import Timetable, spoken
from margo_gitops.agent.apply.workloads import DesiredDeployment
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.maintenance import Calendar
from margo_gitops.documents.records import read, write
from margo_gitops.errors import MargoGitopsError, OutsideWindow
from margo_gitops.values import dataclass, field

_REMEMBERED: Final = "calendars"
"""The fact that holds the calendars of all deployments that have some, by id."""


@dataclass(frozen=True, slots=True)
class _Calendars:
    """Calendars by the id of their deployment."""

    deployments: Mapping[str, tuple[Calendar, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class Windows:
    """Tells which deployments may change now.

    Attributes:
        timetable: what the clock says.
        recall: returns the facts of the journal.
        keep: keeps facts in the journal.
    """

    timetable: Timetable
    recall: Callable[[], Mapping[str, str]]
    keep: Callable[[dict[str, str]], None]

    def closed(self, desired: Iterable[DesiredDeployment], there: Container[str]) -> dict[str, OutsideWindow]:
        """Return why deployments may not change now, by id (OPEN-1 to OPEN-4).

        Args:
            there: ids of the deployments of which something is on the device.

        Raises:
            StorageFull, StateFolderUnusable: the calendars cannot be written.
        """
        wanted = {item.id: item for item in desired}
        text = self.recall().get(_REMEMBERED, "")
        before = _read(text)
        calendars = {name: each for name, each in before.items() if name not in wanted and name in there}
        calendars |= {name: item.calendars for name, item in wanted.items() if item.calendars}
        if calendars != before:
            self.keep({_REMEMBERED: write_json(write(_Calendars(calendars))).decode()})
        found = {
            name: self._closed(wanted[name].document.metadata.name if name in wanted else name, each)
            for name, each in calendars.items()
        }
        return {name: error for name, error in found.items() if error is not None}

    def _closed(self, name: str, calendars: tuple[Calendar, ...]) -> OutsideWindow | None:
        whose = " and ".join(calendar.of for calendar in calendars)
        if doubt := self.timetable.doubt():
            return OutsideWindow(
                f"the deployment {name} waits: {doubt}, and {whose} needs the time",
                remedy="set the clock, or run `margo-gitops agent once --now` on the device",
            )
        try:
            opening = self.timetable.opening(calendars)
        except (LookupError, ValueError, OSError) as error:
            return OutsideWindow(
                f"the deployment {name} waits: this device does not know the time zone of {whose}",
                why=[str(error)],
                remedy="install the time zones (tzdata), or name one that the device knows",
            )
        if opening is None:
            return OutsideWindow(
                f"the deployment {name} waits for a time that never comes: {whose} are not open at once",
                remedy="correct spec.maintenance in the fleet repo, and render again",
            )
        if opening.start <= self.timetable.clock():
            return None
        return OutsideWindow(
            f"the deployment {name} waits until {spoken(opening.start, calendars)}, because of {whose}",
            remedy="wait, or run `margo-gitops agent once --now` on the device",
        )


def _read(text: str) -> dict[str, tuple[Calendar, ...]]:
    """Return what a fact says; nothing where this agent did not write it."""
    try:
        return dict(read(_Calendars, read_json(text.encode(), "calendars")).deployments) if text else {}
    except MargoGitopsError:
        return {}
