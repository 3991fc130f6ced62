"""The API of Docker and Podman over its unix socket, to look without a process for each look; reads only.

SOCKET-1  What it answers is bounded in bytes and time, head and body together; each look has a connection of its own.
SOCKET-2  Where it does not answer, or not as an engine does, the answer is None: the caller asks the engine's client,
          which says what is wrong.
SOCKET-3  A client that a person pointed at another engine (a context) is asked itself: this socket is not its engine's.
SOCKET-4  What it tells by itself comes over one more connection, which is never waited for. More at once than the bound
          ends it. The events of others are left out. An event only makes the agent look, and proves nothing.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from margo_gitops.appliers.applier import Told
from margo_gitops.appliers.compose.source import plain, text
from margo_gitops.appliers.probes import asked, http_answer, status_of
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.nodes import Json

_UNIX: Final = "unix://"
_MOST_BYTES: Final = 4 * 1024 * 1024
_LONGEST_CONFIGURATION: Final = 1024 * 1024
_SECONDS: Final = 20.0
_OK: Final = 200
_EVENTS: Final = ("die", "stop", "pause", "unpause", "destroy", "health_status", "load", "import", "tag", "pull")
_CONNECT_SECONDS: Final = 1.0
_CHUNK: Final = 64 * 1024
_MOST_AT_ONCE: Final = 256 * 1024


def engine_socket(client: str, environment: Mapping[str, str]) -> Path | None:
    """Return where the engine of a client listens; None where only the client knows (SOCKET-3).

    Args:
        client: its program, `docker` or `podman`.
        environment: that it gets.
    """
    host = environment.get("DOCKER_HOST", "")
    if host:
        return Path(host.removeprefix(_UNIX)) if host.startswith(_UNIX) else None
    if Path(client).name != "docker":
        return None
    folder = environment.get("DOCKER_CONFIG") or str(Path(environment.get("HOME", "/")) / ".docker")
    try:
        configuration = json.loads(read_bounded(Path(folder) / "config.json", _LONGEST_CONFIGURATION))
    except FileNotFoundError:
        configuration = {}
    except (OSError, ValueError, RecursionError):
        return None
    named = configuration.get("currentContext", "default") if isinstance(configuration, dict) else ""
    return Path("/var/run/docker.sock") if named in ("", "default") else None


class EngineSocket:
    """Asks one engine.

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, target: str, filters: Mapping[str, Sequence[str]] | None = None) -> Json | None:
        """Return what the engine answers to a GET; None where it gives no usable answer (SOCKET-2).

        Args:
            target: an absolute path.
            filters: as the API has them.
        """
        try:
            status, body = http_answer(self._path, _filtered(target, filters), seconds=_SECONDS, most=_MOST_BYTES)
            answer: Json = json.loads(body) if status == _OK else None
        except (OSError, ValueError, RecursionError):
            return None
        return answer

    def events(self, label: str, value: str) -> EngineEvents:
        """Connect to what the engine tells of images, and of containers with this label (OSError: it does not answer).

        The engine can filter by label only where it then tells of no image.
        """
        target = _filtered("/events", {"type": ("container", "image"), "event": _EVENTS})
        return EngineEvents(asked(self._path, target, "1.0", _CONNECT_SECONDS), label, value)


class EngineEvents:
    """What an engine tells, as long as it lives (SOCKET-4).

    Args:
        connection: on which it answers.
        label, value: of the containers that count.
    """

    def __init__(self, connection: socket.socket, label: str, value: str) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._label, self._value = label, value
        self._has_begun = False
        self._rest = bytearray()

    def fileno(self) -> int:
        """Return what becomes readable when it tells something."""
        return self._connection.fileno()

    def close(self) -> None:
        """Listen no longer."""
        self._connection.close()

    def take(self) -> set[Told]:
        """Return what it told since the last call, without waiting.

        Raises:
            OSError: it has ended.
            ValueError: it does not answer as an engine does, or tells too much.
        """
        try:
            while chunk := self._connection.recv(_CHUNK):
                self._rest += chunk
                if len(self._rest) > _MOST_AT_ONCE:
                    raise ValueError(f"it tells more than {_MOST_AT_ONCE} bytes at once")
        except BlockingIOError:
            pass
        else:
            raise ConnectionResetError("it ended")
        if not self._has_begun:
            head, blank, rest = self._rest.partition(b"\r\n\r\n")
            if not blank:
                return set()
            if (status := status_of(bytes(head) + b"\r\n")) != _OK:
                raise ValueError(f"it answers {status}")
            self._has_begun, self._rest = True, rest
        *lines, self._rest = self._rest.split(b"\n")
        return set(filter(None, map(self._told, lines)))

    def _told(self, line: bytearray) -> Told | None:
        try:
            event = plain(json.loads(line))
        except (ValueError, RecursionError):
            return None
        if text(event, "Type") == "image":
            return "pulled" if text(event, "Action") == "pull" else "loaded"
        named = plain(plain(event.get("Actor")).get("Attributes"))
        return "changed" if text(event, "Type") == "container" and text(named, self._label) == self._value else None


def _filtered(target: str, filters: Mapping[str, Sequence[str]] | None) -> str:
    """Return a target with filters, as the API has them."""
    return (
        f"{target}{'&' if '?' in target else '?'}{urlencode({'filters': json.dumps(filters)})}" if filters else target
    )
