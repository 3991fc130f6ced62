"""What time it is for a device whose clock may be wrong, or set back.

CLOCK-1  A signed time that the device's clock has reached is a floor for time: what has expired stays expired when the
         clock is set back later.
CLOCK-2  A signed time in the future says nothing: the clock of who signed may be wrong.
CLOCK-3  The floor is kept in two places, as the trust floor is; the later one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.errors import StateFolderUnusable, StorageFull
from margo_gitops.values import dataclass, field


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
