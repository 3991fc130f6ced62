"""The command line of this project as a process that is forked, not started: a hundred polls cost no hundred imports.

preloaded.py serve SOCKET           import everything, then run a command for each caller
preloaded.py run SOCKET ARGUMENT…   be that caller: same output, same exit code
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
from pathlib import Path


def run(path: str, arguments: list[str]) -> int:
    import json

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        message = json.dumps(
            {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
        ).encode()
        descriptors = array.array("i", [0, 1, 2])
        head = len(message).to_bytes(8)
        connection.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes())])
        connection.sendall(message)
        answer = connection.recv(8)
        return int.from_bytes(answer) if answer else 1


def serve(path: str) -> None:
    import margo_gitops.agent.agent
    import margo_gitops.appliers.files
    import margo_gitops.cli.agent
    import margo_gitops.cli.main
    import margo_gitops.transport.git.git_transport
    import margo_gitops.transport.git.http_connection
    import margo_gitops.transport.http.http_transport  # noqa: F401 - for the forks

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                _answer(connection, listener)


def _answer(connection: socket.socket, listener: socket.socket) -> None:
    import json

    size = array.array("i").itemsize
    head, sent, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * size))
    if not sent:
        return
    descriptors = array.array("i")
    descriptors.frombytes(sent[0][2][: 3 * size])
    left, message = int.from_bytes(head), b""
    while len(message) < left:
        message += connection.recv(65536)
    request = json.loads(message)
    child = os.fork()
    if child == 0:
        connection.close()
        listener.close()
        _become(request["arguments"], request["environment"], request["folder"], list(descriptors))
    for each in descriptors:
        os.close(each)
    ended = os.pidfd_open(child)
    # Who is killed for taking too long takes the command with it.
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(ended)
    try:
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, signed=True)[-8:])
    except (BrokenPipeError, OverflowError):
        return


def _become(arguments: list[str], environment: dict[str, str], folder: str, descriptors: list[int]) -> None:
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["margo-gitops", *arguments]
        from margo_gitops.cli.main import main

        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(run(sys.argv[2], sys.argv[3:]))
