"""The configuration of the git server: nginx in front of `git http-backend`, one location for each way in."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# git http-backend refuses repositories of other users, and pushes, unless it is told otherwise.
_SETTINGS = {"safe.directory": "*", "http.uploadpack": "true", "http.receivepack": "{push}"}
_PORTS = ("http", "https", "mtls", "other_host")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in: a bearer token, or a user with a password."""

    token: str
    user: str
    password: str


def configuration(folder: Path, backend: Path, ports: Mapping[str, int], access: Access) -> str:
    """Return nginx.conf.

    Args:
        folder: of the git server: holds certificates and repositories, gets logs and temporary files.
        backend: the program git-http-backend.
        ports: on the loopback, for "http", "https", "mtls" and "other_host".
        access: what /token/ and /basic/ ask for.
    """
    basic = base64.b64encode(f"{access.user}:{access.password}".encode()).decode()
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/temporary/{kind};"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    servers = "\n".join(_server(name, folder, ports, _locations(folder, backend, ports)) for name in _PORTS)
    return f"""\
daemon off;
worker_processes 2;
pid {folder}/master;
error_log {folder}/error.log warn;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections 256; }}
http {{
  log_format requests escape=json '{{"port":$server_port,"method":"$request_method","uri":"$request_uri",'
    '"status":$status,"received":$request_length,"sent":$bytes_sent,"protocol":"$http_git_protocol"}}';
  access_log {folder}/access.log requests;
{temporary}
  client_max_body_size 256m;
  server_tokens off;
  types {{}}
  default_type text/html;
  map $http_authorization $token_fits {{ default 0; "Bearer {access.token}" 1; }}
  map $http_authorization $password_fits {{ default 0; "Basic {basic}" 1; }}
{servers}
}}
"""


def _server(name: str, folder: Path, ports: Mapping[str, int], locations: str) -> str:
    lines = [f"listen 127.0.0.1:{ports[name]}{'' if name == 'http' else ' ssl'};"]
    if name != "http":
        certificate = "other-host" if name == "other_host" else "server"
        lines += [f"ssl_certificate {folder}/{certificate}.pem;", f"ssl_certificate_key {folder}/{certificate}.key;"]
    if name == "mtls":
        lines += [f"ssl_client_certificate {folder}/authority.pem;", "ssl_verify_client on;"]
    return "  server {\n" + "".join(f"    {line}\n" for line in lines) + locations + "  }\n"


def _locations(folder: Path, backend: Path, ports: Mapping[str, int]) -> str:
    guards = {
        "open": "",
        "token": "if ($token_fits = 0) { return 401; } add_header WWW-Authenticate 'Bearer realm=\"git\"' always;",
        "basic": "if ($password_fits = 0) { return 401; } add_header WWW-Authenticate 'Basic realm=\"git\"' always;",
    }
    served = [
        f"    location ~ ^{prefix}/{way}/(?<repository>.*)$ {{\n"
        f"      {guard}\n{_backend(folder, backend, push=bool(prefix))}"
        # A device's requests are small (git subset, G-R-8); packs come with a push.
        f"      client_max_body_size {'256m' if prefix else '1m'};\n    }}\n"
        for prefix in ("", "/push")
        for way, guard in guards.items()
    ]
    # What stands between a device and its git host on bad days.
    others = [
        "location /moved/ { rewrite ^/moved/(.*)$ /open/$1 permanent; }",
        f"location /elsewhere/ {{ rewrite ^/elsewhere/(.*)$ http://localhost:{ports['http']}/open/$1 redirect; }}",
        "location /portal/ { return 200 '<html><body>Please sign in</body></html>'; }",
        "location /forbidden/ { return 403; }",
        "location /broken/ { return 500; }",
        "location /busy/ { add_header Retry-After 7 always; return 503; }",
        "location / { return 404; }",
    ]
    return "".join(served) + "".join(f"    {line}\n" for line in others)


def _backend(folder: Path, backend: Path, *, push: bool) -> str:
    parameters = {
        "SCRIPT_FILENAME": str(backend),
        "GIT_PROJECT_ROOT": f"{folder}/repositories",
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
        "PATH_INFO": "/$repository",
        "QUERY_STRING": "$query_string",
        "REQUEST_METHOD": "$request_method",
        "CONTENT_TYPE": "$content_type",
        "CONTENT_LENGTH": "$content_length",
        "REMOTE_ADDR": "$remote_addr",
        "SERVER_PROTOCOL": "$server_protocol",
        "HTTP_CONTENT_ENCODING": "$http_content_encoding",
        "HTTP_ACCEPT_ENCODING": "",
        "GIT_PROTOCOL": "$http_git_protocol",
    }
    for index, (key, value) in enumerate(_SETTINGS.items()):
        parameters[f"GIT_CONFIG_KEY_{index}"] = key
        parameters[f"GIT_CONFIG_VALUE_{index}"] = value.format(push=str(push).lower())
    lines = [f'fastcgi_param {name} "{value}";' for name, value in parameters.items()]
    # git says "do not keep this" in three headers; one is enough, and 90 bytes less in each answer to a poll.
    lines += [f"fastcgi_hide_header {name};" for name in ("Expires", "Pragma", "Cache-Control")]
    lines += ["add_header Cache-Control no-cache;"]
    lines += ["fastcgi_buffering off;", f"fastcgi_pass unix:{folder}/fcgiwrap.sock;"]
    return "".join(f"      {line}\n" for line in lines)
