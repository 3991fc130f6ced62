"""What the device's clock says about calendars: whether it can be trusted, what is open, and when to use the network.

TIME-1  A clock that shows a time before this program was written, or after 2099, is not set.
TIME-2  A clock that shows a time before a signed time that it had reached (CLOCK-1), more than a day before the held
        state was signed, or more than an hour before the last time that counted here, was set back.
TIME-3  A clock that its time service has not set since the machine started may show anything. With `clock: trust` it is
        trusted all the same, and so is one that was set back to before the last time that counted.
TIME-4  A device polls and reports only while its calendar of contact is open. `agent once --now`, `--retry` and SIGHUP
        poll at any time: a person asked.
TIME-5  A device polls at any time if its clock is not trusted, if it does not know the time zone, or while its next
        hours are more than 31 days away: it could not be repaired otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Final

from margo_gitops.documents.maintenance import Calendar
from margo_gitops.documents.workload_identity import own_extension
from margo_gitops.errors import DeploymentUnusable
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import dataclass, field

if TYPE_CHECKING:
    from margo_gitops.documents.calendars import Opening

_MOST_OPENINGS: Final = 1000
LONGEST_SILENCE: Final = 31 * 86_400.0
"""How long hours of contact may keep a device from polling (TIME-5)."""
WRITTEN: Final = 1_790_000_000.0
"""September 2026: a clock that shows less is not set."""
_LATEST: Final = 4_102_444_800.0
"""2100: calendars name no day after it."""
_TOLERANCE: Final = 3600.0
_SIGNERS_TOLERANCE: Final = 86_400.0
"""How far the clock of who signed may be ahead."""


@dataclass(eq=False)
class Timetable:
    """Tells what the calendars of a device say now.

    Attributes:
        clock: the time as the machine shows it, seconds since the epoch.
        floor: returns the newest signed time that the clock had reached; None for none.
        seen: returns the last time that counted here; None if it is not known.
        keep_seen: called with a time that counts, now and then.
        synchronized: returns whether a time service has set the clock since the machine started; None: not known.
        trusts: whether a clock counts that is not known to be set (TIME-3).
    """

    clock: Callable[[], float]
    floor: Callable[[], datetime | None] = lambda: None
    seen: Callable[[], float | None] = lambda: None
    keep_seen: Callable[[float], None] = lambda _now: None
    synchronized: Callable[[], bool | None] = lambda: None
    trusts: bool = False
    _openings: dict[tuple[tuple[Calendar, ...], float], tuple[float, Opening | None]] = field(
        default_factory=dict, init=False
    )
    _held: TrustedState | None = field(default=None, init=False)
    _contact: Calendar | None = field(default=None, init=False)

    def take(self, held: TrustedState | None) -> None:
        """Follow the held state: its date and its calendar of contact."""
        if held is not self._held:
            self._held, self._contact = held, _contact(held)

    def doubt(self) -> str:
        """Return why the clock is not trusted; empty where it is (TIME-1 to TIME-3)."""
        now = self.clock()
        if not WRITTEN <= now < _LATEST:
            return "the clock of this device is not set"
        signed = self._signed()
        if now < signed:
            return f"the clock of this device was set back: a state was signed at {_utc(signed)}"
        is_set = self.synchronized()
        seen = self.seen()
        if not is_set and not self.trusts:
            if seen is not None and now < seen - _TOLERANCE:
                return f"the clock of this device was set back: it showed {_utc(seen)} before"
            if is_set is False:
                return "the clock of this device was not set by its time service since the start"
        if seen is None or not seen <= now < seen + _TOLERANCE:
            self.keep_seen(now)
        return ""

    def _signed(self) -> float:
        """Return the time that the clock must have reached."""
        floor = self.floor()
        reached = floor.timestamp() if floor is not None else 0.0
        commit = self._held.snapshot.commit if self._held is not None else None
        return max(reached, parse_commit(commit).committed_at - _SIGNERS_TOLERANCE) if commit is not None else reached

    def contact(self) -> Opening | None:
        """Return when the device may poll: now, or the next time; None where at any time (TIME-4, TIME-5)."""
        if self._contact is None or self.doubt():
            return None
        try:
            opening = self.opening((self._contact,))
        except (LookupError, ValueError, OSError):
            return None
        return opening if opening and opening.start - self.clock() <= LONGEST_SILENCE else None

    def opening(self, calendars: tuple[Calendar, ...], least: float = 0.0) -> Opening | None:
        """Return the opening that counts now: the one that is, or the next; None if it does not come.

        It is looked for again when it is over, or the clock went back.

        Args:
            least: seconds of it that must be left.

        Raises:
            LookupError, ValueError, OSError: this device does not know the time zone.
        """
        from margo_gitops.documents.calendars import HORIZON_DAYS, next_opening  # loaded where there is a calendar

        now = self.clock()
        since, opening = self._openings.get((calendars, least), (float("inf"), None))
        until = opening.end - least if opening else since + HORIZON_DAYS * 43_200
        if not since <= now < until:
            opening = next_opening(calendars, now, zone, least)
            if len(self._openings) >= _MOST_OPENINGS:
                self._openings.clear()
            self._openings[calendars, least] = (now, opening)
        return opening


def zone(name: str) -> tzinfo:
    """Return the rules of a time zone (LookupError, ValueError, OSError: this device does not know it)."""
    from zoneinfo import ZoneInfo  # loaded where there is a calendar

    return ZoneInfo(name)


def spoken(moment: float, calendars: Sequence[Calendar]) -> str:
    """Return a time in words, as the clocks of the first calendar show it: "Sunday 2026-12-06 02:00 CET"."""
    from margo_gitops.documents import calendars as words  # loaded where there is a calendar

    return words.spoken(moment, zone(calendars[0].time_zone))


def _contact(held: TrustedState | None) -> Calendar | None:
    for document in held.deployments if held is not None else ():
        try:
            extension = own_extension(document)
        except DeploymentUnusable:
            continue
        if extension is not None and extension.contact is not None:
            return extension.contact
    return None


def _utc(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
