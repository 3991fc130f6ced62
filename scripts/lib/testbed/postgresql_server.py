"""A PostgreSQL server on a free port of the loopback, with a database for each who asks."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.packages import require
from testbed.processes import SEARCH_PATH, run

_USER = "margo"
_ATTEMPTS = 5
_BINARIES = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class PostgresqlServer:
    """A running PostgreSQL server.

    Attributes:
        folder: its state.
        port: on 127.0.0.1.
        password: of the user margo, who may do everything.
    """

    folder: Path
    port: int
    password: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what `psql` needs."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": _USER,
            "PGPASSWORD": self.password,
            "PGDATABASE": "postgres",
        }

    def url(self, database: str = "postgres", *, port: int = 0) -> str:
        """Return the URL of a database, with the password; `port`: of something in between."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def add_database(self) -> str:
        """Make an empty database; return its name."""
        name = f"test_{secrets.token_hex(8)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Return what a statement says, a line for each row."""
        arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]
        environment = {"PATH": SEARCH_PATH, **self.environment, "PGDATABASE": database}
        return run([_binary("psql"), *arguments], environment=environment)


def find_postgresql_server(state: Path) -> PostgresqlServer | None:
    """Return the PostgreSQL server if it runs."""
    folder = state / "postgresql"
    if not processes.find("postgres", folder):
        return None
    try:
        return PostgresqlServer(folder, **json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def start_postgresql_server(state: Path) -> PostgresqlServer:
    """Return the PostgreSQL server, started if need be.

    Raises:
        UnavailableError: what is missing and how to get it.
    """
    running = find_postgresql_server(state)
    if running:
        return running
    stop_postgresql_server(state)
    if _version() is None:
        # Debian keeps the server out of the PATH.
        require({"the PostgreSQL server": "postgresql"})

    folder = state / "postgresql"
    folder.mkdir(parents=True, mode=0o700)
    password = secrets.token_urlsafe(24)
    home = _home(folder)
    try:
        shutil.rmtree(home, ignore_errors=True)  # of a run whose state folder was deleted
        home.mkdir(mode=0o700)
        (home / "password").write_text(password, encoding="ascii")
        for path in (home, home / "password") if os.geteuid() == 0 else ():
            shutil.chown(path, "postgres", "postgres")
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        names = ["-D", home / "data", "-U", _USER, f"--pwfile={home / 'password'}"]
        run([*_as_postgres(), _binary("initdb"), *options, *names], environment={"PATH": SEARCH_PATH}, folder=home)
        return _serve(folder, password)
    except UnavailableError:
        stop_postgresql_server(state)
        raise


def stop_postgresql_server(state: Path) -> None:
    """Stop the PostgreSQL server and remove its state."""
    folder = state / "postgresql"
    if folder.exists():
        processes.stop("postgres", folder, patience=2)  # it waits for those who are connected
        shutil.rmtree(_home(folder), ignore_errors=True)
        shutil.rmtree(folder)


def _home(folder: Path) -> Path:
    """Return the folder of the database: for root one in /tmp, because `postgres` may enter no folder of root's."""
    return folder / "home" if os.geteuid() else Path("/tmp", f"margo-gitops-postgresql-{zlib.crc32(bytes(folder)):08x}")


def _serve(folder: Path, password: str) -> PostgresqlServer:
    for _ in range(_ATTEMPTS):
        (port,) = free_ports(1)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 200,
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [*_as_postgres(), _binary("postgres"), "-D", _home(folder) / "data", *arguments]
        processes.start("postgres", command, folder, {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"})
        server = PostgresqlServer(folder, port, password)
        if _starts(server):
            known = folder / "server.json"
            known.touch(mode=0o600)
            known.write_text(json.dumps({"port": port, "password": password}), encoding="ascii")
            return server
        processes.stop("postgres", folder)
    raise UnavailableError(
        f"PostgreSQL does not start:\n    {processes.tail(folder / 'postgres.log')}", "run it by hand to see why"
    )


def _starts(server: PostgresqlServer) -> bool:
    ended = lambda: not processes.find("postgres", server.folder)  # noqa: E731
    return processes.wait_until(lambda: _answers(server) or ended(), 20) and not ended()


def _answers(server: PostgresqlServer) -> bool:
    try:
        server.execute("SELECT 1")
    except UnavailableError:
        return False
    return True


def _version() -> Path | None:
    found = [path.parent.parent for path in _BINARIES.glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.name), default=None)


def _binary(name: str) -> Path:
    version = _version()
    if version is None:
        raise UnavailableError("the package postgresql brought no server", f"see {_BINARIES}")
    return version / "bin" / name


def _as_postgres() -> Sequence[str | Path]:
    """Return how root starts a program that root may not run: as the user that the package made."""
    if os.geteuid() != 0:
        return []
    return [Path("/usr/bin/setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"]
