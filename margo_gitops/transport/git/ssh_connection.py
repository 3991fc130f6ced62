"""Git over SSH: one session of the system's `ssh` for each pull (gitprotocol-v2, SSH transport).

`ssh` reads its own configuration, agent, known hosts and certificates, so that a site's rules hold here as well. A
session is not kept from pull to pull: `git upload-pack` reads loose refs once and would keep answering with old ones.
Where the handshake costs too much, `ControlMaster` in ssh's configuration keeps the connection below.

The protocol version travels as the variable GIT_PROTOCOL; the server must accept it (`AcceptEnv GIT_PROTOCOL`).
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import cast
from urllib.parse import unquote

from margo_gitops.errors import SourceMisconfigured, SourceRefused, SourceUnreachable, TransportError
from margo_gitops.transport.git.pktline import FLUSH
from margo_gitops.transport.git.protocol_v2 import UPLOAD_PACK
from margo_gitops.transport.git.source import GitSource
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.refusal import Read, shown
from margo_gitops.wording import how_it_ended

_KEPT_ENVIRONMENT = ("HOME", "USER", "LOGNAME", "PATH", "SSH_AUTH_SOCK")
_LONGEST_COMPLAINT = 4096
_CHUNK = 64 * 1024
_SSH_FAILED = 255
_END_SECONDS = 5
# What a git server says first may be followed by advice, as gitolite does.
_REASON = re.compile(rb"(?:remote: )?(?:fatal|error)\b", re.IGNORECASE)
_IDENTITY_REFUSED = re.compile(rb"permission denied|too many authentication failures", re.IGNORECASE)
_HOST_REFUSED = re.compile(rb"host key verification failed|remote host identification has changed", re.IGNORECASE)


class SshConnection:
    """Speaks with the SSH server of one source."""

    def __init__(self, source: GitSource, meter: Meter, service: str = UPLOAD_PACK) -> None:
        """Take the settings of an ssh source, and the service to speak with; nothing is opened yet."""
        self._source = source
        self._service = service
        self._meter = meter
        self._session: _Session | None = None

    @contextmanager
    def greet(self, limit: int, deadline: Deadline) -> Iterator[Read]:
        """Return a reader of the advertisement of capabilities; the packets in it are bounded by their reader."""
        del limit
        self.close()
        self._session = session = _Session(self._command(), self._meter)
        yield session.reader(deadline)

    @contextmanager
    def ask(self, request: bytes, limit: int, deadline: Deadline) -> Iterator[Read]:
        """Return a reader of the answer to `request`; the packets in it are bounded by their reader."""
        del limit
        if self._session is None:
            raise SourceUnreachable("the ssh session has ended")
        self._session.write(request, deadline)
        yield self._session.reader(deadline)

    def finish(self) -> None:
        """End the session as the protocol says."""
        if self._session is not None:
            self._session.bid_farewell()
        self.close()

    def close(self) -> None:
        """End the session at once."""
        if self._session is not None:
            self._session.end()
            self._session = None

    def _command(self) -> list[str]:
        source, address = self._source, self._source.address
        command = ["ssh", "-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "SetEnv=GIT_PROTOCOL=version=2"]
        command += ["-o", f"ConnectTimeout={max(1, round(source.connect_seconds))}", "-o", "ClearAllForwardings=yes"]
        for path in (source.ssh_identity, source.ssh_known_hosts):
            if path is not None and not os.access(path, os.R_OK):
                raise SourceMisconfigured(
                    f"the file {path} cannot be read", remedy="correct its path or its permissions"
                )
        if source.ssh_identity is not None:
            command += ["-i", str(source.ssh_identity), "-o", "IdentitiesOnly=yes"]
        if source.ssh_known_hosts is not None:
            hosts = str(source.ssh_known_hosts).replace("%", "%%")
            command += ["-o", f'UserKnownHostsFile="{hosts}"', "-o", "GlobalKnownHostsFile=none"]
            command += ["-o", "StrictHostKeyChecking=yes"]
        if address.port is not None:
            command += ["-p", str(address.port)]
        if address.username is not None:
            command += ["-l", address.username]
        # As git reads it: /~user/path is in that user's home.
        folder = unquote(address.path)
        folder = folder[1:] if folder.startswith("/~") else folder
        return [*command, "--", address.hostname or "", f"{self._service} {_quoted(folder)}"]


def _quoted(folder: str) -> str:
    # As git quotes: `git shell` at the other end takes nothing else.
    return "'" + folder.replace("'", "'\\''").replace("!", "'\\!'") + "'"


class _Session:
    """One running `ssh`."""

    def __init__(self, command: list[str], meter: Meter) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment | {"LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            raise SourceMisconfigured(
                f"ssh cannot be started: {error.strerror}", remedy="install the OpenSSH client on the device"
            ) from error
        self._stdin, self._stdout, self._stderr = (
            cast("FileIO", pipe) for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._open = [self._stdout, self._stderr]
        self._meter = meter
        self._complaint = b""
        self._arrived = bytearray()
        self._ended = False
        meter.requests += 1
        meter.connections += 1

    def write(self, request: bytes, deadline: Deadline) -> None:
        """Send a request; what the server says meanwhile is kept, so that neither side waits for the other."""
        rest = memoryview(request)
        while rest:
            # A pipe that can be written takes so much at once.
            ready, writable, _ = select.select(self._open, [self._stdin], [], deadline.wait())
            if ready:
                self._take(ready)
            if writable:
                try:
                    rest = rest[self._stdin.write(rest[: select.PIPE_BUF]) :]
                except BrokenPipeError:
                    raise self._refusal(deadline) from None
            elif not ready:
                raise deadline.silence()
            elif self._ended:
                raise self._refusal(deadline)
        self._meter.bytes_up += len(request)

    def reader(self, deadline: Deadline) -> Read:
        """Return a reader of what the server sends, until `deadline`."""

        def read(size: int) -> bytes:
            while len(self._arrived) < size and not self._ended:
                self._receive(deadline)
            if len(self._arrived) < size:
                raise self._refusal(deadline)
            taken = bytes(self._arrived[:size])
            del self._arrived[:size]
            return taken

        return read

    def bid_farewell(self) -> None:
        """Tell the server that nothing more comes, and give both sides the time to end."""
        try:
            self._stdin.write(FLUSH)
            self._stdin.close()
            self._process.wait(_END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            # `end` does it the hard way.
            return

    def end(self) -> None:
        """See ssh and what it started end; kill what does not."""
        with self._process as process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _receive(self, deadline: Deadline) -> None:
        ready, _, _ = select.select(self._open, [], [], deadline.wait())
        if not ready:
            raise deadline.silence()
        self._take(ready)

    def _take(self, ready: list[FileIO]) -> None:
        """Read what has arrived."""
        if self._stderr in ready:
            self._listen()
        if self._stdout in ready:
            arrived = self._stdout.read(_CHUNK)
            self._arrived += arrived
            self._meter.bytes_down += len(arrived)
            self._ended = not arrived

    def _listen(self) -> None:
        said = self._stderr.read(_CHUNK)
        self._complaint = (self._complaint + said)[-_LONGEST_COMPLAINT:]
        if not said:
            self._open.remove(self._stderr)

    def _refusal(self, deadline: Deadline) -> TransportError:
        # Not up to its end: a master connection in the background keeps standard error open.
        while self._stderr in self._open and select.select([self._stderr], [], [], min(1, deadline.wait()))[0]:
            self._listen()
        try:
            status = self._process.wait(min(_END_SECONDS, deadline.wait()))
        except subprocess.TimeoutExpired:
            status = None
        lines = [line for line in self._complaint.splitlines() if line.strip()]
        reason = next((line for line in lines if _REASON.match(line)), lines[-1] if lines else b"")
        said = shown(reason) if reason else how_it_ended(status)
        if _HOST_REFUSED.search(self._complaint):
            return SourceUnreachable(
                f"the ssh server is not the one known: {said}",
                remedy="compare the server's host key on a second way, then put it into the known hosts of the source",
            )
        if _IDENTITY_REFUSED.search(self._complaint):
            return SourceRefused(f"the ssh server refuses: {said}", remedy="let this device's key read the repository")
        if status is not None and (status < 0 or status == _SSH_FAILED):
            return SourceUnreachable(f"ssh failed: {said}", remedy="check the network and the server")
        return SourceRefused(f"the git server refuses: {said}", remedy="check the path of the repository in the URL")
