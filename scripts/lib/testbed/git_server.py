"""A git server over http and https: nginx and `git http-backend` on free ports of the loopback."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.certificates import make_certificates
from testbed.errors import UnavailableError
from testbed.nginx_configuration import Access, configuration
from testbed.packages import program, require
from testbed.processes import SEARCH_PATH, run

_PROGRAMS = {"nginx": "nginx", "fcgiwrap": "fcgiwrap", "openssl": "openssl", "git": "git"}
_PORTS = ("http", "https", "mtls", "other_host")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ServedRepository:
    """A repository that the git server serves.

    Attributes:
        path: the repository on disk; what changes there is served at once.
        route: what stands behind the way in, in each URL.
        ports: as in GitServer.
    """

    path: Path
    route: str
    ports: Mapping[str, int]

    def http(self, way: str = "open") -> str:
        """Return the URL over http.

        Args:
            way: open, token, basic; push/open, push/token, push/basic to push as well; moved (301), elsewhere
                (302 to another host name), portal (a page instead of git), forbidden (403), broken (500), busy (503).
        """
        return f"http://127.0.0.1:{self.ports['http']}/{way}/{self.route}"

    def https(self, way: str = "open") -> str:
        """Return the URL over https, whose certificate is of the testbed's own authority; `way` as for http."""
        return f"https://localhost:{self.ports['https']}/{way}/{self.route}"

    def mtls(self, way: str = "open") -> str:
        """Return the URL over https where the server asks for a client certificate; `way` as for http."""
        return f"https://localhost:{self.ports['mtls']}/{way}/{self.route}"

    def other_host(self, way: str = "open") -> str:
        """Return a URL whose server shows a valid certificate of another host; `way` as for http."""
        return f"https://localhost:{self.ports['other_host']}/{way}/{self.route}"


@dataclass(frozen=True, slots=True)
class GitServer:
    """A running git server.

    Attributes:
        folder: its state.
        ports: loopback ports by name: http, https, mtls, other_host.
        token: what /token/ wants as a bearer token.
        basic: user and password for /basic/.
    """

    folder: Path
    ports: Mapping[str, int]
    token: str
    basic: tuple[str, str]

    @property
    def ca_file(self) -> Path:
        """Return the certificate of the authority that signed the servers' certificates."""
        return self.folder / "authority.pem"

    @property
    def token_file(self) -> Path:
        """Return a file that holds the token and a line's end, readable by its owner only."""
        return self.folder / "token"

    @property
    def password_file(self) -> Path:
        """Return a file that holds the password and a line's end, readable by its owner only."""
        return self.folder / "password"

    @property
    def client_certificate(self) -> Path:
        """Return the certificate that the mtls port takes."""
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        """Return the key of `client_certificate`."""
        return self.folder / "client.key"

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what a person needs to try the server by hand."""
        return {
            "TESTBED_GIT_REPOSITORIES": str(self.folder / "repositories"),
            "TESTBED_GIT_HTTP": f"http://127.0.0.1:{self.ports['http']}",
            "TESTBED_GIT_HTTPS": f"https://localhost:{self.ports['https']}",
            "TESTBED_GIT_MTLS": f"https://localhost:{self.ports['mtls']}",
            "TESTBED_GIT_CA_FILE": str(self.ca_file),
            "TESTBED_GIT_TOKEN_FILE": str(self.token_file),
            "TESTBED_GIT_USER": self.basic[0],
            "TESTBED_GIT_PASSWORD_FILE": str(self.password_file),
            "TESTBED_GIT_CLIENT_CERTIFICATE": str(self.client_certificate),
            "TESTBED_GIT_CLIENT_KEY": str(self.client_key),
        }

    def add_repository(self, source: Path | None = None, name: str = "repository") -> ServedRepository:
        """Serve a repository under a route of its own, however many share the name.

        Args:
            source: a repository, bare or not, that is served where it is; None makes a new bare one.
            name: the last part of its URLs, without ".git".
        """
        route = f"{secrets.token_hex(8)}/{name}.git"
        served = self.folder / "repositories" / route
        served.parent.mkdir(parents=True)
        if source is None:
            git = {"PATH": SEARCH_PATH, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
            run(["git", "init", "--quiet", "--bare", "--initial-branch=main", served], environment=git)
        else:
            served.symlink_to(source.absolute())
        return ServedRepository(source or served, route, self.ports)

    def requests(self, repository: ServedRepository) -> Sequence[Mapping[str, str | int]]:
        """Return the finished requests for a repository, oldest first.

        Each has: port, method, uri, status, received and sent (bytes), protocol (the Git-Protocol header). The server
        writes a request down after its answer: poll for it.
        """
        lines = (self.folder / "access.log").read_text(encoding="utf-8").splitlines()
        requests: list[Mapping[str, str | int]] = [json.loads(line) for line in lines]
        return [request for request in requests if repository.route in str(request["uri"])]


def find_git_server(state: Path) -> GitServer | None:
    """Return the git server if it runs."""
    folder = state / "git"
    if not processes.find("nginx", folder) or not processes.find("fcgiwrap", folder):
        return None
    try:
        known = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return GitServer(folder, known["ports"], known["token"], (known["user"], known["password"]))


def start_git_server(state: Path) -> GitServer:
    """Return the git server, started if need be.

    Raises:
        UnavailableError: what is missing and how to get it.
    """
    running = find_git_server(state)
    if running:
        return running
    stop_git_server(state)
    require(_PROGRAMS)

    folder = state / "git"
    for name in ("repositories", "temporary"):
        (folder / name).mkdir(parents=True, mode=0o700)
    make_certificates(folder)
    access = Access(secrets.token_urlsafe(24), "device", secrets.token_urlsafe(16))
    _write_secret(folder / "token", f"{access.token}\n")
    _write_secret(folder / "password", f"{access.password}\n")
    try:
        _start_backend(folder)
        return _serve(folder, access)
    except UnavailableError:
        stop_git_server(state)
        raise


def stop_git_server(state: Path) -> None:
    """Stop the git server and remove its state, with the repositories it made."""
    folder = state / "git"
    if folder.exists():
        processes.stop("nginx", folder)
        processes.stop("fcgiwrap", folder)
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _start_backend(folder: Path) -> None:
    fcgiwrap = program("fcgiwrap")
    address = folder / "fcgiwrap.sock"
    arguments = [fcgiwrap or "fcgiwrap", "-c", "4", "-f", "-s", f"unix:{address}"]
    processes.start("fcgiwrap", arguments, folder, {"PATH": SEARCH_PATH, "HOME": str(folder)})
    if not processes.wait_until(lambda: address.exists() or not processes.find("fcgiwrap", folder), 10):
        raise UnavailableError("fcgiwrap does not start", f"see {folder / 'fcgiwrap.log'}")


def _serve(folder: Path, access: Access) -> GitServer:
    problem = ""
    for _ in range(_ATTEMPTS):
        # A free port may be taken by somebody else before nginx gets to it.
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        if _start_nginx(folder, ports, access):
            known = {"ports": ports, "token": access.token, "user": access.user, "password": access.password}
            _write_secret(folder / "server.json", json.dumps(known))
            return GitServer(folder, ports, access.token, (access.user, access.password))
        problem = f"{processes.tail(folder / 'nginx.log')}\n    {processes.tail(folder / 'error.log')}"
        processes.stop("nginx", folder)
    raise UnavailableError(f"nginx does not start:\n    {problem}", "run it by hand to see why")


def _start_nginx(folder: Path, ports: Mapping[str, int], access: Access) -> bool:
    backend = Path(run(["git", "--exec-path"]).strip()) / "git-http-backend"
    written = folder / "nginx.conf"
    _write_secret(written, configuration(folder, backend, ports, access))
    arguments = [program("nginx") or "nginx", "-c", written, "-p", folder, "-e", folder / "error.log"]
    processes.start("nginx", arguments, folder, {"PATH": SEARCH_PATH})
    address = f"http://127.0.0.1:{ports['http']}/broken/"
    return processes.wait_until(lambda: answers(address, 500) or not processes.find("nginx", folder), 20) and bool(
        processes.find("nginx", folder)
    )


def answers(address: str, status: int) -> bool:
    """Return whether a server answers with this status, or with success."""
    # Proxies of the environment do not lead to the loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == status
    except OSError:
        return False


def _write_secret(path: Path, content: str) -> None:
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")
