"""Tell systemd how the service does (sd_notify); silent where systemd does not listen."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """The service manager that started this process, if one did.

    Attributes:
        heartbeat: seconds between two signs of life that it expects; None where it expects none.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        address = variables.get("NOTIFY_SOCKET", "")
        # An address that starts with @ lies in Linux's abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watchdog = variables.get("WATCHDOG_USEC", "")
        self.heartbeat = int(watchdog) / _MICROSECONDS / 2 if self._address and watchdog.isdecimal() else None

    def ready(self) -> None:
        """Say that the agent has started."""
        self._send("READY=1")

    def alive(self, status: str = "") -> None:
        """Give a sign of life, with a line for `systemctl status`."""
        self._send("WATCHDOG=1" + (f"\nSTATUS={status}" if status else ""))

    def stopping(self) -> None:
        """Say that the agent is about to end."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen must not stop the agent.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)
