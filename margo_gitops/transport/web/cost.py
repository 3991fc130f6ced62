"""What pulling costs, counted where the bytes pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What a transport has used so far.

    Attributes:
        requests: HTTP requests sent, or sessions opened with an SSH server; reading a local folder needs none.
        bytes_up: bytes sent: HTTP with its headers, before TLS; git's own protocol before SSH.
        bytes_down: bytes received, counted alike.
        connections: connections opened.
    """

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0

    def __sub__(self, earlier: Cost) -> Cost:
        """Return what was used since `earlier`."""
        return Cost(
            self.requests - earlier.requests,
            self.bytes_up - earlier.bytes_up,
            self.bytes_down - earlier.bytes_down,
            self.connections - earlier.connections,
        )


class Meter:
    """Counts for one transport."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.requests = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.connections = 0

    def read(self) -> Cost:
        """Return what was counted so far."""
        return Cost(self.requests, self.bytes_up, self.bytes_down, self.connections)
