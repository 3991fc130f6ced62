"""The HTTP proxy that the environment names, for sources whose settings allow one."""

from __future__ import annotations

import base64
import http.client
import socket
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote, urlsplit

from margo_gitops.errors import SourceMisbehaved, SourceMisconfigured, SourceRefused
from margo_gitops.transport.web.metered_socket import MeteredSocket
from margo_gitops.transport.web.source import is_loopback


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy is, and the value of the `Proxy-Authorization` header it wants."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


def proxy_for(scheme: str, authority: str) -> Proxy | None:
    """Return the proxy of the environment for this server (`http_proxy`, `https_proxy`, `no_proxy`).

    None is asked for plain http on this machine: its own server may see a token, and no proxy on the way may.

    Raises:
        SourceMisconfigured: the variable holds no http:// URL.
    """
    if scheme == "http" and is_loopback(urlsplit(f"//{authority}").hostname):
        return None
    # Costly to import, and few devices need it.
    from urllib.request import getproxies_environment, proxy_bypass

    url = getproxies_environment().get(scheme)
    if not url or proxy_bypass(authority):
        return None
    try:
        address = urlsplit(url if "://" in url else f"http://{url}")
        host, port = address.hostname, address.port or 80
    except ValueError:
        host, port, address = None, 0, urlsplit("")
    if address.scheme != "http" or not host:
        raise SourceMisconfigured(
            f"the variable {scheme}_proxy holds no URL of an http:// proxy", remedy="give it as http://host:port"
        )
    if address.username is None:
        return Proxy(host, port)
    pair = f"{unquote(address.username)}:{unquote(address.password or '')}"
    return Proxy(host, port, "Basic " + base64.b64encode(pair.encode()).decode())


def open_tunnel(connection: MeteredSocket, proxy: Proxy, target: str) -> None:
    """Ask the proxy for a tunnel to `target`, host and port.

    Raises:
        SourceRefused: the proxy refuses.
        SourceMisbehaved: it answers with something else than HTTP.
        OSError: the connection broke.
    """
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(cast("socket.socket", connection), method="CONNECT")
    try:
        response.begin()
    except http.client.HTTPException as error:
        raise SourceMisbehaved("the proxy does not answer in HTTP") from error
    finally:
        response.close()
    if response.status != http.client.OK:
        raise SourceRefused(
            f"the proxy {proxy.host} refuses a tunnel to {target}: status {response.status}",
            remedy="let the proxy pass this server, or name it in no_proxy",
        )
