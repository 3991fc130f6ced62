"""nginx and Caddy with the configurations of docs/deploy/, on free ports of the loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.certificates import make_certificates
from testbed.git_server import free_ports

from support.web_servers import run_caddy, run_nginx, shipped

TOKENS = {"press-01": "5f0c" * 16, "mixer-01": "77aa" * 16}
SPIFFE_ID = "spiffe://plant.example/margo/wfm/main/client/press-01"


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
    _prepare(folder, '"Bearer {token}" {device};\n', '"SUCCESS:CN=testbed client" press-01;\n')
    ports = free_ports(2)
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{ports[0]} ssl; listen 127.0.0.1:{ports[1]};",
        "/etc/nginx/margo/": f"{folder}/margo/",
        "/srv/margo/": f"{published}/",
    }
    with run_nginx(folder, shipped("nginx.conf", changes), ports[0]):
        yield StaticServer(f"http://127.0.0.1:{ports[1]}", f"https://localhost:{ports[0]}", folder, published)


@contextmanager
def caddy(folder: Path, published: Path) -> Iterator[StaticServer]:
    """Serve a published folder by the shipped configuration, as `nginx` does."""
    _prepare(folder, '"Bearer {token}" {device}\n', f"{SPIFFE_ID} press-01\n")
    ports = free_ports(1)
    changes = {
        "https://margo.example {": f"https://localhost:{ports[0]} {{\n\tbind 127.0.0.1",
        "/etc/caddy/margo/": f"{folder}/margo/",
        "/srv/margo/": f"{published}/",
    }
    with run_caddy(folder, shipped("Caddyfile", changes), ports[0]):
        yield StaticServer("", f"https://localhost:{ports[0]}", folder, published)


def _prepare(folder: Path, token_line: str, certificates: str) -> None:
    """Write certificates and who the devices are, as the shipped configurations read them."""
    (folder / "margo").mkdir(parents=True)
    make_certificates(folder)
    tokens = "".join(token_line.format(token=token, device=device) for device, token in TOKENS.items())
    (folder / "margo" / "tokens.map").write_text(tokens, encoding="ascii")
    (folder / "margo" / "certificates.map").write_text(certificates, encoding="ascii")
    for source, name in (("server.pem",) * 2, ("server.key",) * 2, ("authority.pem", "devices-ca.pem")):
        shutil.copy(folder / source, folder / "margo" / name)
