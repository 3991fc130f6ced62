"""The API of Docker and Podman over its unix socket, to look without a process for each look; reads only.

SOCKET-1  What it answers is bounded in bytes and time, head and body together; each look has a connection of its own.
SOCKET-2  Where it does not answer, or not as an engine does, the answer is None: the caller asks the engine's client,
          which says what is wrong.
SOCKET-3  A client that a person pointed at another engine (a context) is asked itself: this socket is not its engine's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from margo_gitops.appliers.probes import http_answer
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.nodes import Json

_UNIX: Final = "unix://"
_MOST_BYTES: Final = 4 * 1024 * 1024
_LONGEST_CONFIGURATION: Final = 1024 * 1024
_SECONDS: Final = 20.0
_OK: Final = 200


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
        if filters:
            target += ("&" if "?" in target else "?") + urlencode({"filters": json.dumps(filters)})
        try:
            status, body = http_answer(self._path, target, seconds=_SECONDS, most=_MOST_BYTES)
            answer: Json = json.loads(body) if status == _OK else None
        except (OSError, ValueError, RecursionError):
            return None
        return answer
