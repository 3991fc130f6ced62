"""Small questions to what runs on this device, over loopback or a socket file.

An answer is untrusted: it is bounded in bytes, and all that is read of it has to come in time.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import Final

_LONGEST_LINE: Final = 512
_CHUNK: Final = 64 * 1024
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
    with closing(asked(place, path, "1.1", seconds)) as connection:
        line = b""
        while b"\n" not in line and len(line) < _LONGEST_LINE and (chunk := _more(connection, deadline)):
            line += chunk
    return status_of(line)


def http_answer(place: Path, path: str, *, seconds: float, most: int) -> tuple[int, bytes]:
    """Return the status and the body that GET has over a socket file.

    Args:
        most: bytes that all of the answer may have.

    Raises:
        OSError: nothing answers there, or not in time.
        ValueError: what answers does not speak HTTP/1, or says too much.
    """
    deadline = time.monotonic() + seconds
    answer = bytearray()
    with closing(asked(place, path, "1.0", seconds)) as connection:
        while chunk := _more(connection, deadline):
            answer += chunk
            if len(answer) > most:
                raise ValueError(f"it answers more than {most} bytes")
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    return status_of(head + b"\r\n"), body


def tcp_answers(place: tuple[str, int], *, seconds: float) -> None:
    """Return if something takes a connection there (OSError: nothing does, or not in time)."""
    _connected(place, seconds).close()


def asked(place: tuple[str, int] | Path, path: str, version: str, seconds: float) -> socket.socket:
    """Return a connection on which the answer to a GET comes.

    Args:
        version: of HTTP. In 1.0, the answer ends with the connection, and has no chunks.

    Raises:
        OSError: nothing answers there.
        ValueError: this is not a path of a URL.
    """
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise ValueError(f"{path!r} is not a path of a URL")
    connection = _connected(place, seconds)
    try:
        host = f"{place[0]}:{place[1]}" if isinstance(place, tuple) else "localhost"
        if ":" in host.rpartition(":")[0]:
            host = "[{}]:{}".format(*host.rsplit(":", 1))
        request = f"GET {path} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("ascii"))
    except OSError:
        connection.close()
        raise
    return connection


def _more(connection: socket.socket, deadline: float) -> bytes:
    """Return what comes next, nothing at the end (OSError: not in time)."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(left)
    return connection.recv(_CHUNK)


def status_of(line: bytes) -> int:
    """Return the status that an answer begins with (ValueError: it does not speak HTTP/1)."""
    found = _STATUS.match(line)
    if found is None:
        raise ValueError("it does not answer in HTTP/1")
    return int(found[1])


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
