"""git over ssh: an OpenSSH server of the testbed's own on the loopback, which runs nothing but git."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import processes
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.packages import program, require
from testbed.processes import SEARCH_PATH, run

PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "git": "git"}
_ATTEMPTS = 5
_GIT_SETTINGS = (
    "GIT_CONFIG_NOSYSTEM=1",
    "GIT_CONFIG_GLOBAL=/dev/null",
    "GIT_CONFIG_COUNT=1",
    "GIT_CONFIG_KEY_0=safe.directory",
    "GIT_CONFIG_VALUE_0=*",
)
# sshd as root wants this empty folder, which is not of Debian's package; it stays, as another sshd may use it.
_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running ssh server for git.

    Attributes:
        folder: its state.
        port: on 127.0.0.1.
        user: whom it lets in: the user who runs it.
    """

    folder: Path
    port: int
    user: str

    @property
    def identity_file(self) -> Path:
        """Return the private key that it lets in."""
        return self.folder / "identity"

    @property
    def other_identity_file(self) -> Path:
        """Return a private key that it does not let in."""
        return self.folder / "other-identity"

    @property
    def known_hosts_file(self) -> Path:
        """Return a known_hosts file with its host key."""
        return self.folder / "known_hosts"

    @property
    def other_known_hosts_file(self) -> Path:
        """Return a known_hosts file with another key for the same host and port, as after an attack."""
        return self.folder / "other_known_hosts"

    @property
    def command(self) -> str:
        """Return a GIT_SSH_COMMAND that reaches it, with nothing of the person's own ssh configuration."""
        return ssh_command(self.identity_file, self.known_hosts_file)

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what a person needs to try the server by hand."""
        return {
            "TESTBED_SSH_URL": f"ssh://{self.user}@127.0.0.1:{self.port}",
            "TESTBED_SSH_IDENTITY_FILE": str(self.identity_file),
            "TESTBED_SSH_KNOWN_HOSTS_FILE": str(self.known_hosts_file),
            "GIT_SSH_COMMAND": self.command,
        }

    def url(self, repository: Path) -> str:
        """Return the URL of a repository on this machine; its user may read and push whatever he may on disk."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{repository.absolute()}"


def find_ssh_server(state: Path) -> SshServer | None:
    """Return the ssh server if it runs."""
    folder = state / "ssh"
    if not processes.find("sshd", folder):
        return None
    try:
        return SshServer(folder, **json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def start_ssh_server(state: Path) -> SshServer:
    """Return the ssh server, started if need be.

    Raises:
        UnavailableError: what is missing and how to get it.
    """
    running = find_ssh_server(state)
    if running:
        return running
    stop_ssh_server(state)
    require(PROGRAMS)

    folder = state / "ssh"
    folder.mkdir(parents=True, mode=0o700)
    for name in ("identity", "other-identity"):
        make_key(folder / name)
    shutil.copy(folder / "identity.pub", folder / "authorized_keys")
    try:
        return SshServer(folder, **serve(folder, f'ForceCommand {program("git")} shell -c "$SSH_ORIGINAL_COMMAND"'))
    except UnavailableError:
        stop_ssh_server(state)
        raise


def stop_ssh_server(state: Path) -> None:
    """Stop the ssh server and remove its state."""
    folder = state / "ssh"
    if folder.exists():
        processes.stop("sshd", folder)
        shutil.rmtree(folder)


def ssh_command(identity: Path, known_hosts: Path) -> str:
    """Return a GIT_SSH_COMMAND with nothing of the person's own ssh configuration."""
    return (
        f"ssh -F none -i {identity} -o IdentitiesOnly=yes -o BatchMode=yes"
        f" -o StrictHostKeyChecking=yes -o UserKnownHostsFile={known_hosts}"
    )


def make_key(path: Path) -> None:
    """Make a key without a passphrase."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path])


def serve(folder: Path, setting: str) -> dict[str, Any]:
    """Start sshd on a free port; `server.json` in the folder gets the port and the user, which are returned.

    Args:
        folder: has `authorized_keys`; gets `known_hosts`, and `other_known_hosts` with another key for the same host.
        setting: a line of its configuration.

    Raises:
        UnavailableError: it does not start.
    """
    if os.geteuid() == 0:
        _SEPARATION.mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "other-host_key"):
        make_key(folder / name)
    for _ in range(_ATTEMPTS):
        (port,) = free_ports(1)
        if _start(folder, port, setting):
            for name in ("", "other-"):
                kind, key = (folder / f"{name}host_key.pub").read_text(encoding="ascii").split()[:2]
                known = folder / f"{name.replace('-', '_')}known_hosts"
                known.write_text(f"[127.0.0.1]:{port} {kind} {key}\n", encoding="ascii")
            found = {"port": port, "user": pwd.getpwuid(os.geteuid()).pw_name}
            (folder / "server.json").write_text(json.dumps(found), encoding="ascii")
            return found
        problem = processes.tail(folder / "sshd.log")
        processes.stop("sshd", folder)
    raise UnavailableError(f"sshd does not start:\n    {problem}", "run it by hand to see why")


def _start(folder: Path, port: int, setting: str) -> bool:
    settings = f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding no
AllowAgentForwarding no
X11Forwarding no
PermitTunnel no
PermitTTY no
PrintMotd no
MaxStartups 100
AcceptEnv GIT_PROTOCOL
SetEnv {" ".join(_GIT_SETTINGS)}
{setting}
"""
    written = folder / "sshd_config"
    written.write_text(settings, encoding="utf-8")
    processes.start("sshd", [program("sshd") or "sshd", "-D", "-e", "-f", written], folder, {"PATH": SEARCH_PATH})
    return processes.wait_until(lambda: _answers(port) or not processes.find("sshd", folder), 20) and bool(
        processes.find("sshd", folder)
    )


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
