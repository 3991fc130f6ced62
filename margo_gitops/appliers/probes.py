"""Small questions to what runs on this device: an HTTP status, over loopback or a socket file. Nothing else is read.

An answer is untrusted: of it, the first line counts, and all of it has to come in time.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Final

_LONGEST_LINE: Final = 512
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r?\n)")


def http_status(place: tuple[str, int] | Path, path: str, *, seconds: float) -> int:
    """Return the status that GET has.

    Args:
        place: host and port, or a socket file.

    Raises:
        OSError: nothing answers there, or not in time.
        ValueError: what answers does not speak HTTP/1.
    """
    deadline = time.monotonic() + seconds
    with closing(_connected(place, seconds)) as connection:
        host = f"{place[0]}:{place[1]}" if isinstance(place, tuple) else "localhost"
        if ":" in host.rpartition(":")[0]:
            host = "[{}]:{}".format(*host.rsplit(":", 1))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        line = b""
        while b"\n" not in line and len(line) < _LONGEST_LINE:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
            chunk = connection.recv(_LONGEST_LINE)
            if not chunk:
                break
            line += chunk
    found = _STATUS.match(line)
    if found is None:
        raise ValueError("it does not answer in HTTP/1")
    return int(found[1])


def tcp_answers(place: tuple[str, int], *, seconds: float) -> None:
    """Return if something takes a connection there (OSError: nothing does, or not in time)."""
    _connected(place, seconds).close()


def _connected(place: tuple[str, int] | Path, seconds: float) -> socket.socket:
    if isinstance(place, tuple):
        return socket.create_connection(place, seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(seconds)
        connection.connect(str(place))
    except OSError:
        connection.close()
        raise
    return connection
