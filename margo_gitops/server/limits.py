"""Limits for each device, never for an address: a plant has one address (failure mode F18)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from margo_gitops.cache import SizedCache
from margo_gitops.server.problems import OVERLOADED, TOO_MANY, RequestRefused

_KEPT_BUCKETS: Final = 200_000
_OVERLOADED_SECONDS: Final = 5


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """A token bucket for each device: a burst at once, then a steady rate."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float]) -> None:
        """Limit requests."""
        self._rate = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._buckets: SizedCache[str, _Bucket] = SizedCache(_KEPT_BUCKETS)

    def take(self, client: str) -> int | None:
        """Count a request; return None if it may pass, else the seconds until one may."""
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
        return None if tokens >= 1 else max(1, int((1 - tokens) / self._rate) + 1)

    def _bucket(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = _Bucket(float(self._burst), now)
            self._buckets.put(client, bucket)
        bucket.tokens = min(float(self._burst), bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        return bucket


class InFlight:
    """How many requests of each device, and of all, are being worked on."""

    def __init__(self, per_device: int, total: int) -> None:
        self._per_device = per_device
        self._total = total
        self._devices: dict[str, int] = {}
        self.count = 0

    def enter(self, client: str) -> bool:
        """Count a request in; return whether its device has not too many already."""
        mine = self._devices.get(client, 0)
        if mine >= self._per_device or self.full:
            return False
        self._devices[client] = mine + 1
        self.count += 1
        return True

    @property
    def full(self) -> bool:
        """Whether there are too many of all devices."""
        return self.count >= self._total

    def leave(self, client: str) -> None:
        """Count a request out."""
        self.count -= 1
        mine = self._devices[client] - 1
        if mine:
            self._devices[client] = mine
        else:
            del self._devices[client]


class Admission:
    """Lets the requests of identified clients in, within the limits of each and of all."""

    def __init__(self, rates: RateLimit, in_flight: InFlight) -> None:
        self._rates = rates
        self._in_flight = in_flight

    def enter(self, client: str) -> None:
        """Let a client's request in, until `leave`.

        Raises:
            RequestRefused: 429 or 503, with a time to come back.
        """
        wait = self._rates.take(client)
        if wait is not None:
            raise RequestRefused(TOO_MANY.later(wait))
        if not self._in_flight.enter(client):
            busy = OVERLOADED if self._in_flight.full else TOO_MANY
            raise RequestRefused(busy.later(spread(client, _OVERLOADED_SECONDS)))

    def leave(self, client: str) -> None:
        """Count a client's request out."""
        self._in_flight.leave(client)


def spread(client: str, seconds: int) -> int:
    """Return a time to come back between `seconds` and twice that, always the same for a device.

    Devices that were sent away together do not come back together (failure mode F17).
    """
    return seconds + zlib.crc32(client.encode()) % (seconds + 1)
