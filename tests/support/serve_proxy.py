"""nginx and Caddy in front of `margo-gitops serve`, with the configurations of docs/deploy/, on free loopback ports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.git_server import free_ports

from support.web_servers import run_caddy, run_nginx, shipped


@contextmanager
def nginx_before(folder: Path, server_port: int, certificate: Path, key: Path) -> Iterator[str]:
    """Run nginx before a server; yields its base URL. `folder` must not exist."""
    folder.mkdir(parents=True)
    shutil.copy(certificate, folder / "server.pem")
    shutil.copy(key, folder / "server.key")
    (port,) = free_ports(1)
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{server_port};",
        "/etc/nginx/margo/": f"{folder}/",
    }
    with run_nginx(folder, shipped("serve-nginx.conf", changes), port):
        yield f"https://127.0.0.1:{port}"


@contextmanager
def caddy_before(folder: Path, server_port: int, certificate: Path, key: Path, authority: Path) -> Iterator[str]:
    """Run Caddy before a server; yields its base URL. `folder` must not exist."""
    folder.mkdir(parents=True)
    for source, name in ((certificate, "server.pem"), (key, "server.key"), (authority, "devices-ca.pem")):
        shutil.copy(source, folder / name)
    (port,) = free_ports(1)
    changes = {
        "https://margo.example {": f"https://localhost:{port} {{\n\tbind 127.0.0.1",
        "reverse_proxy 127.0.0.1:8080": f"reverse_proxy 127.0.0.1:{server_port}",
        "/etc/caddy/margo/": f"{folder}/",
    }
    with run_caddy(folder, shipped("serve.Caddyfile", changes), port):
        yield f"https://localhost:{port}"
