"""nginx and Caddy with the configurations of docs/deploy/, on free ports of the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.certificates import make_certificates
from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.packages import program, unpack
from testbed.places import state_folder

from support.real import require_program, unavailable

_SHIPPED = Path(__file__).parents[2] / "docs" / "deploy"
TOKENS = {"press-01": "5f0c" * 16, "mixer-01": "77aa" * 16}
SPIFFE_ID = "spiffe://plant.example/margo/wfm/main/client/press-01"
_SETTLE_SECONDS = 20


@dataclass
class StaticServer:
    """A running web server over published files.

    Attributes:
        http: base URL without TLS; https: with it.
        folder: of the server: authority.pem, client.pem, client.key, error.log.
        published: the folder that is served.
    """

    http: str
    https: str
    folder: Path
    published: Path
    tokens: Mapping[str, str] = field(default_factory=lambda: TOKENS)


@contextmanager
def nginx(folder: Path, published: Path) -> Iterator[StaticServer]:
    """Serve a published folder by the shipped configuration; a test's fixture wraps this."""
    found = require_program("nginx", "nginx")
    for name in ("margo", "temporary"):
        (folder / name).mkdir(parents=True)
    make_certificates(folder)
    tokens = "".join(f'"Bearer {token}" {device};\n' for device, token in TOKENS.items())
    (folder / "margo" / "tokens.map").write_text(tokens, encoding="ascii")
    (folder / "margo" / "certificates.map").write_text('"SUCCESS:CN=testbed client" press-01;\n', encoding="ascii")
    for source, name in (("server.pem",) * 2, ("server.key",) * 2, ("authority.pem", "devices-ca.pem")):
        shutil.copy(folder / source, folder / "margo" / name)
    ports = free_ports(2)
    shipped = (_SHIPPED / "nginx.conf").read_text(encoding="utf-8")
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{ports[0]} ssl; listen 127.0.0.1:{ports[1]};",
        "/etc/nginx/margo/": f"{folder}/margo/",
        "/srv/margo/": f"{published}/",
    }
    for old, new in changes.items():
        assert old in shipped
        shipped = shipped.replace(old, new)
    temporary = "".join(
        f"  {kind}_temp_path {folder}/temporary/{kind};\n"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    (folder / "site.conf").write_text(shipped, encoding="utf-8")
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user}worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;\n"
        f"events {{ worker_connections 64; }}\nhttp {{\n  access_log {folder}/access.log;\n{temporary}"
        f"  include {folder}/site.conf;\n}}\n",
        encoding="utf-8",
    )
    with running([str(found), "-c", str(folder / "nginx.conf"), "-p", str(folder)], ports[0], folder / "error.log"):
        yield StaticServer(f"http://127.0.0.1:{ports[1]}", f"https://localhost:{ports[0]}", folder, published)


@contextmanager
def caddy(folder: Path, published: Path) -> Iterator[StaticServer]:
    """Serve a published folder by the shipped configuration, as `nginx` does."""
    try:
        found = program("caddy") or unpack("caddy", "caddy", state_folder() / "packages")
    except (UnavailableError, OSError) as error:
        unavailable(f"no caddy: {error}")
    (folder / "margo").mkdir(parents=True)
    make_certificates(folder)
    tokens = "".join(f'"Bearer {token}" {device}\n' for device, token in TOKENS.items())
    (folder / "margo" / "tokens.map").write_text(tokens, encoding="ascii")
    (folder / "margo" / "certificates.map").write_text(f"{SPIFFE_ID} press-01\n", encoding="ascii")
    for source, name in (("server.pem",) * 2, ("server.key",) * 2, ("authority.pem", "devices-ca.pem")):
        shutil.copy(folder / source, folder / "margo" / name)
    ports = free_ports(1)
    shipped = (_SHIPPED / "Caddyfile").read_text(encoding="utf-8")
    changes = {
        "https://margo.example {": f"https://localhost:{ports[0]} {{\n\tbind 127.0.0.1",
        "/etc/caddy/margo/": f"{folder}/margo/",
        "/srv/margo/": f"{published}/",
    }
    for old, new in changes.items():
        assert old in shipped
        shipped = shipped.replace(old, new)
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(options + shipped, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    command = [str(found), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, ports[0], folder / "caddy.log", environment):
        yield StaticServer("", f"https://localhost:{ports[0]}", folder, published)


@contextmanager
def running(command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
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
