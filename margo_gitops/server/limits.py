"""Limits for each device, never for an address: a plant has one address (failure mode F18)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from margo_gitops.cache import SizedCache
from margo_gitops.server.problems import OVERLOADED, TOO_MANY, RequestRefused
from margo_gitops.values import dataclass, field

_KEPT_BUCKETS: Final = 200_000
_OVERLOADED_SECONDS: Final = 5


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(eq=False)
class RateLimit:
    """A token bucket for each device: a burst at once, then a steady rate.

    Attributes:
        clock: seconds since some moment; never jumps.
    """

    per_minute: float
    burst: int
    clock: Callable[[], float]
    _buckets: SizedCache[str, _Bucket] = field(default_factory=lambda: SizedCache(_KEPT_BUCKETS), init=False)

    def take(self, client: str) -> int | None:
        """Count a request; return None if it may pass, or the seconds until one may."""
        wait = self.wait(client)
        if wait is None:
            self.spend(client, 1)
        return wait

    def spend(self, client: str, amount: float) -> None:
        """Count what a device did, also above its burst: then it waits longer."""
        self._bucket(client).tokens -= amount

    def wait(self, client: str) -> int | None:
        """Return the seconds until a device may do something; None: it may."""
        tokens = self._bucket(client).tokens
        return None if tokens >= 1 else max(1, int((1 - tokens) * 60 / self.per_minute) + 1)

    def _bucket(self, client: str) -> _Bucket:
        now = self.clock()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = _Bucket(float(self.burst), now)
            self._buckets.put(client, bucket)
        bucket.tokens = min(float(self.burst), bucket.tokens + (now - bucket.at) * self.per_minute / 60)
        bucket.at = now
        return bucket


@dataclass(eq=False)
class Admission:
    """Lets the requests of identified clients in, within the limits of each and of all.

    Attributes:
        per_device: how many requests of one device are worked on at once; `total` of all.
    """

    rates: RateLimit
    per_device: int
    total: int
    _devices: Counter[str] = field(default_factory=Counter, init=False)
    _count: int = field(default=0, init=False)

    def enter(self, client: str) -> None:
        """Let a client's request in, until `leave` (RequestRefused: 429 or 503, with a time to come back)."""
        wait = self.rates.take(client)
        if wait is not None:
            raise RequestRefused(TOO_MANY.later(wait))
        if self._count >= self.total or self._devices[client] >= self.per_device:
            busy = OVERLOADED if self._count >= self.total else TOO_MANY
            raise RequestRefused(busy.later(spread(client, _OVERLOADED_SECONDS)))
        self._devices[client] += 1
        self._count += 1

    def leave(self, client: str) -> None:
        """Count a client's request out."""
        self._count -= 1
        self._devices[client] -= 1
        if not self._devices[client]:
            del self._devices[client]


def spread(client: str, seconds: int) -> int:
    """Return a time to come back between `seconds` and twice that, always the same for a device.

    Devices that were sent away together do not come back together (failure mode F17).
    """
    return seconds + zlib.crc32(client.encode()) % (seconds + 1)
