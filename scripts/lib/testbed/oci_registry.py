"""OCI registries on a free port of the loopback, over TLS, for one user.

`registry` is Debian's docker-registry, which keeps blobs on disk and knows ranges, and no referrers.
`registry-referrers` is go-containerregistry's registry, which keeps all in memory and knows referrers.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.certificates import make_certificates
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.go_programs import REGISTRY, build_registry, go_program
from testbed.packages import unpack
from testbed.processes import SEARCH_PATH

USER = "testbed"
PASSWORD = "testbed-password"  # bcrypt takes a program that Python lacks, so its hash is written down
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuLxgU70LtKCiEBnEtnFcgRDLtC680wFe\n"
_ATTEMPTS = 5
_SETTINGS = """\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: "{folder}/data"}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
  secret: testbed
  tls: {{certificate: "{folder}/server.pem", key: "{folder}/server.key"}}
auth:
  htpasswd: {{realm: testbed, path: "{folder}/htpasswd"}}
"""


@dataclass(frozen=True, slots=True)
class OciRegistry:
    """A running registry.

    Attributes:
        folder: its state.
        port: on 127.0.0.1.
    """

    folder: Path
    port: int

    @property
    def host(self) -> str:
        """Return what references begin with."""
        return f"127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """Return the certificate of the authority that signed the server's."""
        return self.folder / "authority.pem"

    @property
    def user(self) -> str:
        """Return who may read and write."""
        return USER

    @property
    def password(self) -> str:
        """Return the password of the user."""
        return PASSWORD

    @property
    def credentials_file(self) -> Path:
        """Return a file like Docker's config.json that has the user's password for this registry."""
        return self.folder / "config.json"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what a person needs to try the registry by hand."""
        return {
            "TESTBED_REGISTRY": self.host,
            "TESTBED_REGISTRY_CA_FILE": str(self.ca_file),
            "REGISTRY_AUTH_FILE": str(self.credentials_file),
        }


def find_registry(state: Path) -> OciRegistry | None:
    """Return docker-registry if it runs."""
    return _find(state / "registry")


def start_registry(state: Path) -> OciRegistry:
    """Return docker-registry, started if need be (UnavailableError: what is missing, and how to get it)."""
    program = unpack("docker-registry", "docker-registry", state / "packages")

    def command(folder: Path, port: int) -> list[str | Path]:
        (folder / "htpasswd").write_text(_HTPASSWD, encoding="ascii")
        (folder / "config.yml").write_text(_SETTINGS.format(folder=folder, port=port), encoding="utf-8")
        return [program, "serve", folder / "config.yml"]

    return find_registry(state) or _start(state / "registry", command)


def stop_registry(state: Path) -> None:
    """Stop docker-registry, and delete what is in it."""
    _stop(state / "registry")


def find_referrers_registry(state: Path) -> OciRegistry | None:
    """Return the registry with referrers if it runs."""
    return _find(state / "registry-referrers")


def start_referrers_registry(state: Path) -> OciRegistry:
    """Return the registry with referrers, started if need be (UnavailableError: it cannot be built)."""
    program = referrers_program(state)

    def command(folder: Path, port: int) -> list[str | Path]:
        named = {"address": f"127.0.0.1:{port}", "user": USER, "password": PASSWORD}
        named |= {"certificate": f"{folder}/server.pem", "key": f"{folder}/server.key"}
        return [program, *(f"-{name}={value}" for name, value in named.items())]

    return find_referrers_registry(state) or _start(state / "registry-referrers", command)


def stop_referrers_registry(state: Path) -> None:
    """Stop the registry with referrers, and with it what is in it."""
    _stop(state / "registry-referrers")


def referrers_program(state: Path) -> Path:
    """Return the program, built if need be (UnavailableError: it cannot be)."""
    return go_program("registry", state / "packages" / f"registry-referrers-{REGISTRY}", build_registry, 1, extra=True)


def _find(folder: Path) -> OciRegistry | None:
    if not processes.find("registry", folder):
        return None
    try:
        return OciRegistry(folder, **json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _start(folder: Path, command: Callable[[Path, int], list[str | Path]]) -> OciRegistry:
    _stop(folder)
    folder.mkdir(parents=True, mode=0o700)
    problem = ""
    try:
        make_certificates(folder)
        for _ in range(_ATTEMPTS):
            (port,) = free_ports(1)
            processes.start("registry", command(folder, port), folder, {"PATH": SEARCH_PATH, "HOME": str(folder)})
            if _starts(folder, port):
                return _started(OciRegistry(folder, port))
            problem = processes.tail(folder / "registry.log")
            processes.stop("registry", folder)
    except UnavailableError:
        _stop(folder)
        raise
    _stop(folder)
    raise UnavailableError(f"the registry does not start:\n    {problem}", "run it by hand to see why")


def _started(server: OciRegistry) -> OciRegistry:
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    server.credentials_file.touch(mode=0o600)
    server.credentials_file.write_text(json.dumps({"auths": {server.host: {"auth": login}}}), encoding="ascii")
    (server.folder / "server.json").write_text(json.dumps({"port": server.port}), encoding="ascii")
    return server


def _starts(folder: Path, port: int) -> bool:
    ended = lambda: not processes.find("registry", folder)  # noqa: E731
    return processes.wait_until(lambda: _answers(port) or ended(), 20) and not ended()


def _stop(folder: Path) -> None:
    if folder.exists():
        processes.stop("registry", folder)
        shutil.rmtree(folder)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
