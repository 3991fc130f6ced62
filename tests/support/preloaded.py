"""Commands of this project as processes that are forked, not started: a command costs no start and no imports.

A server process imports the command line once and forks a process for each command. So a command has an environment, a
working folder, streams, signals and an exit code of its own, as when a person starts it.

preloaded.py serve SOCKET READY     import everything, write to the descriptor READY, then run a command for each caller
preloaded.py run SOCKET ARGUMENT…   be such a caller: same output, same exit code
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_IMPORTED_LATE = (
    "jsonschema",
    "margo_gitops.appliers.compose.applier",
    "margo_gitops.appliers.files",
    "margo_gitops.server.service.run",
    "margo_gitops.transport.http.http_transport",
)
AS_INSTALLED = 'import sys; sys.modules["rfc3987_syntax"] = None'
"""Code that hides a grammar which development tools bring along and jsonschema compiles for 3 s; no operator has it."""
_HEAD = struct.Struct(">Q")
_ANSWER = struct.Struct(">q")


class Forked:
    """A command that runs, to be handled as a `subprocess.Popen`; it ends with this object.

    Args:
        path: the server's socket.
        arguments: of the command line.
        folder: where the command works.
        environment: all of its variables.
        streams: descriptors of its standard input, output and error.
    """

    def __init__(
        self,
        path: str | Path,
        arguments: Sequence[str],
        folder: str | Path,
        environment: Mapping[str, str],
        streams: tuple[int, int, int],
    ) -> None:
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
        message = json.dumps(request).encode()
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(path))
        socket.send_fds(self._connection, [_HEAD.pack(len(message))], streams)
        self._connection.sendall(message)
        self.pid: int = _HEAD.unpack(self._connection.recv(_HEAD.size))[0]

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for the signal that ended it; TimeoutError if it still runs after seconds."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            answer = self._connection.recv(_ANSWER.size)
            self.returncode = int(_ANSWER.unpack(answer)[0]) if answer else 70
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        try:
            return self.wait(0)
        except BlockingIOError:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal to a command that runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the command, and wait until it is gone."""
        self.send_signal(signal.SIGKILL)
        self.wait()


def serve(path: str, ready: int) -> None:
    """Import the command line, say so, and answer callers until the process is killed."""
    import gc
    import importlib
    import selectors

    from margo_gitops.cli.commands import COMMANDS

    exec(AS_INSTALLED)
    for target in (*COMMANDS.values(), *_IMPORTED_LATE):
        importlib.import_module(target.partition(":")[0])
    _find_fields()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as waiting:
        listener.bind(path)
        listener.listen(64)
        waiting.register(listener, selectors.EVENT_READ)
        os.write(ready, b"ready")
        os.close(ready)
        while True:
            for key, _ in waiting.select():
                if key.data is None:
                    _begin(listener, waiting)
                elif key.fileobj in waiting.get_map():
                    _end(key.data, waiting)


def _find_fields() -> None:
    """Find the fields of all documents, which a process does once, and each command would do again."""
    from margo_gitops.agent.settings.configuration import AgentConfiguration
    from margo_gitops.documents.schemas import DOCUMENT_SCHEMAS, SchemaKind, schema_files
    from margo_gitops.server.service.configuration import ServerConfiguration

    settings = SchemaKind(AgentConfiguration, ""), SchemaKind(ServerConfiguration, "")
    schema_files((*DOCUMENT_SCHEMAS, *settings), {})


class _Running:
    """A command and its caller."""

    def __init__(self, child: int, connection: socket.socket) -> None:
        self.child = child
        self.descriptor = os.pidfd_open(child)
        self.connection = connection


def _begin(listener: socket.socket, waiting: Any) -> None:
    import selectors

    connection, _ = listener.accept()
    head, streams, _, _ = socket.recv_fds(connection, _HEAD.size, 3)
    left, message = _HEAD.unpack(head)[0] if head else 0, b""
    while len(message) < left:
        message += connection.recv(65536)
    child = os.fork()
    if child == 0:
        waiting.close()
        connection.close()
        listener.close()
        _become(json.loads(message), streams)
    for each in streams:
        os.close(each)
    connection.sendall(_HEAD.pack(child))
    running = _Running(child, connection)
    waiting.register(running.descriptor, selectors.EVENT_READ, running)
    # Who hangs up takes the command along.
    waiting.register(connection, selectors.EVENT_READ, running)


def _end(running: _Running, waiting: Any) -> None:
    if os.waitid(os.P_PIDFD, running.descriptor, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        os.kill(running.child, signal.SIGKILL)
    _, status = os.waitpid(running.child, 0)
    waiting.unregister(running.descriptor)
    waiting.unregister(running.connection)
    os.close(running.descriptor)
    with running.connection, contextlib.suppress(OSError):
        running.connection.sendall(_ANSWER.pack(os.waitstatus_to_exitcode(status)))


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    code = 70
    try:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        _find_git_settings()
        os.chdir(request["folder"])
        sys.argv = ["margo-gitops", *request["arguments"]]
        code = _main()
    except BaseException:  # noqa: BLE001 - as the interpreter does
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def _find_git_settings() -> None:
    """Let libgit2 read the settings of this environment's person; it looked for them when it was imported."""
    import pygit2

    home = os.environ.get("HOME", "")
    paths = {pygit2.GIT_CONFIG_LEVEL_GLOBAL: home, pygit2.GIT_CONFIG_LEVEL_XDG: f"{home}/.config/git"}
    for level, path in paths.items():
        pygit2.settings.search_path[level] = path


def _main() -> int:
    from margo_gitops.cli.main import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    sys.exit(Forked(sys.argv[2], sys.argv[3:], Path.cwd(), os.environ, (0, 1, 2)).wait())
