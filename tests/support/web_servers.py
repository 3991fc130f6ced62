"""nginx and Caddy as programs: with a site's configuration, on a port of the loopback, for as long as a test needs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.packages import program, unpack
from testbed.places import state_folder

from support.real import require_program, unavailable

_SHIPPED = Path(__file__).parents[2] / "docs" / "deploy"
_SETTLE_SECONDS = 20


def shipped(name: str, changes: Mapping[str, str]) -> str:
    """Return a configuration of docs/deploy/ with what a site changes in it; each must be there."""
    content = (_SHIPPED / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in content
        content = content.replace(old, new)
    return content


@contextmanager
def run_nginx(folder: Path, site: str, port: int, connections: int = 256) -> Iterator[None]:
    """Run nginx with one site's configuration; its files are in `folder`: access.log, error.log."""
    found = require_program("nginx", "nginx")
    (folder / "temporary").mkdir(parents=True)
    (folder / "site.conf").write_text(site, encoding="utf-8")
    temporary = "".join(
        f"  {kind}_temp_path {folder}/temporary/{kind};\n"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user}worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;\n"
        f"events {{ worker_connections {connections}; }}\nhttp {{\n  access_log {folder}/access.log;\n{temporary}"
        f"  include {folder}/site.conf;\n}}\n",
        encoding="utf-8",
    )
    with _running([str(found), "-c", str(folder / "nginx.conf"), "-p", str(folder)], port, folder / "error.log"):
        yield


@contextmanager
def run_caddy(folder: Path, site: str, port: int) -> Iterator[None]:
    """Run Caddy with one site's configuration; its files are in `folder`."""
    try:
        found = program("caddy") or unpack("caddy", "caddy", state_folder() / "packages")
    except (UnavailableError, OSError) as error:
        unavailable(f"no caddy: {error}")
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(options + site, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    command = [str(found), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with _running(command, port, folder / "caddy.log", environment):
        yield


@contextmanager
def _running(command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server while the context lasts; it listens on `port` when the context begins."""
    with log.with_suffix(".out").open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not _listens(port):
            said = log.with_suffix(".out").read_text(encoding="utf-8", errors="replace")
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
