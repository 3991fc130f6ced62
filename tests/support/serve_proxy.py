"""nginx and Caddy in front of `margo-gitops serve`, with the configurations of docs/deploy/, on free loopback ports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.git_server import free_ports
from testbed.packages import program, unpack
from testbed.places import state_folder

from support.real import require_program, unavailable
from support.static_server import running

_SHIPPED = Path(__file__).parents[2] / "docs" / "deploy"


def changed(shipped: str, changes: Mapping[str, str]) -> str:
    """Return a shipped configuration with what a site changes in it; each must be there."""
    content = (_SHIPPED / shipped).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in content
        content = content.replace(old, new)
    return content


@contextmanager
def nginx_before(folder: Path, server_port: int, certificate: Path, key: Path) -> Iterator[str]:
    """Run nginx before a server; yields its base URL. `folder` must not exist."""
    found = require_program("nginx", "nginx")
    (folder / "temporary").mkdir(parents=True)
    shutil.copy(certificate, folder / "server.pem")
    shutil.copy(key, folder / "server.key")
    (port,) = free_ports(1)
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{server_port};",
        "/etc/nginx/margo/": f"{folder}/",
    }
    (folder / "site.conf").write_text(changed("serve-nginx.conf", changes), encoding="utf-8")
    temporary = "".join(
        f"  {kind}_temp_path {folder}/temporary/{kind};\n"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user}worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{\n  access_log off;\n{temporary}  include {folder}/site.conf;\n}}\n",
        encoding="utf-8",
    )
    with running([str(found), "-c", str(folder / "nginx.conf"), "-p", str(folder)], port, folder / "error.log"):
        yield f"https://127.0.0.1:{port}"


@contextmanager
def caddy_before(folder: Path, server_port: int, certificate: Path, key: Path, authority: Path) -> Iterator[str]:
    """Run Caddy before a server; yields its base URL. `folder` must not exist."""
    try:
        found = program("caddy") or unpack("caddy", "caddy", state_folder() / "packages")
    except (UnavailableError, OSError) as error:
        unavailable(f"no caddy: {error}")
    folder.mkdir(parents=True)
    for source, name in ((certificate, "server.pem"), (key, "server.key"), (authority, "devices-ca.pem")):
        shutil.copy(source, folder / name)
    (port,) = free_ports(1)
    changes = {
        "https://margo.example {": f"https://localhost:{port} {{\n\tbind 127.0.0.1",
        "reverse_proxy 127.0.0.1:8080": f"reverse_proxy 127.0.0.1:{server_port}",
        "/etc/caddy/margo/": f"{folder}/",
    }
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(options + changed("serve.Caddyfile", changes), encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    command = [str(found), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, port, folder / "caddy.log", environment):
        yield f"https://localhost:{port}"
