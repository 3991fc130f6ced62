"""What time it is for a device whose clock may be wrong, or set back.

CLOCK-1  A signed time that the device's clock has reached is a floor for time: what has expired stays expired when the
         clock is set back later.
CLOCK-2  A signed time in the future says nothing: the clock of who signed may be wrong.
CLOCK-3  The floor is kept in two places, as the trust floor is; the later one counts.
CLOCK-4  The kernel says that its clock is set, or systemd-timesyncd did since the machine started. Where neither does,
         and a time service is there, the clock is not set; without a service it is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.recorded import recorded_number
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.errors import StateFolderUnusable, StorageFull
from margo_gitops.values import dataclass, field

_SEEN: Final = "clock.seen"
_SYNCHRONIZED: Final = "clock.synchronized"
"""The start of the machine (boot id) since which a time service set the clock."""
_TIME_SERVICES: Final = ("systemd/timesync", "chrony", "ntpd.pid", "ntpsec", "openntpd")
"""What a running time service keeps in /run."""
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns where no service keeps the clock right."""
_TIMEX_BYTES: Final = 512
"""More than a `struct timex` has on any machine; all zero it changes nothing."""


@dataclass(eq=False)
class DeviceClock:
    """Tells the time.

    Attributes:
        read: the time as the machine shows it, seconds since the epoch.
        store: where the floor is kept.
    """

    read: Callable[[], float]
    store: TwoPlaces
    _floor: datetime | None = field(default=None, init=False)
    _is_loaded: bool = field(default=False, init=False)

    def shown(self) -> datetime:
        """Return the time as the machine shows it."""
        return datetime.fromtimestamp(self.read(), UTC)

    def now(self) -> datetime:
        """Return the time: as shown, but not before the floor."""
        return max(self.shown(), self.floor or self.shown())

    @property
    def floor(self) -> datetime | None:
        """The latest signed time that this device has reached; None where it has seen none."""
        if not self._is_loaded:
            for content in self.store.read():
                with suppress(ValueError):
                    moment = datetime.fromisoformat(content.decode("ascii").strip()).astimezone(UTC)
                    self._floor = max(moment, self._floor or moment)
            self._is_loaded = True
        return self._floor

    def reach(self, moment: datetime) -> None:
        """Take a signed time as a floor, if the clock has reached it (CLOCK-1, CLOCK-2)."""
        if moment > self.shown() or (self.floor is not None and moment <= self.floor):
            return
        self._floor = moment
        # Without a place to keep it, it counts until the agent ends.
        with suppress(StateFolderUnusable, StorageFull):
            self.store.write(f"{moment.isoformat()}\n".encode())


@dataclass(frozen=True, slots=True)
class ClockMemory:
    """What the journal keeps of the clock.

    Attributes:
        find: returns whether a time service set the clock; None: not known.
    """

    journal: Journal
    find: Callable[[], bool | None] = lambda: is_synchronized()

    def seen(self) -> float | None:
        """Return the last time that counted here; None if it is not known."""
        return recorded_number(self.journal.facts().get(_SEEN))

    def keep(self, now: float) -> None:
        """Remember a time that counts."""
        self.journal.set_facts({_SEEN: repr(now)})

    def synchronized(self) -> bool | None:
        """Return whether a time service has set the clock since the machine started; None: not known."""
        from margo_gitops.disk.stamps import boot_id  # loaded where there is a calendar

        boot = boot_id()
        if boot and self.journal.facts().get(_SYNCHRONIZED) == boot:
            return True  # a service that has lost its source since then does not make the clock wrong
        found = self.find()
        if found and boot:
            self.journal.set_facts({_SYNCHRONIZED: boot})
        return found


def is_synchronized(run: Path = Path("/run"), kernel: Callable[[], bool] | None = None) -> bool | None:
    """Return whether a time service set the machine's clock since it started; None: not known (CLOCK-4).

    Args:
        run: where services say that they run.
        kernel: returns whether the kernel says that its clock is set; None: it is asked.
    """
    if (run / "systemd/timesync/synchronized").exists() or (kernel or _is_kernel_set)():
        return True
    return False if any((run / service).exists() for service in _TIME_SERVICES) else None


def _is_kernel_set() -> bool:
    import ctypes  # loaded where there is a calendar

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return bool(0 <= state < _TIME_ERROR)
