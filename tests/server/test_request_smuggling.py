"""A second request hidden in the body of one: never taken for a request of its own, with or without nginx in front.

What a proxy takes for a body and the server for a request would be answered to whoever uses that connection next.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server.certificates import Authority
from server.serving import ServedFleet, until
from support.serve_proxy import nginx_before

MANIFEST = "/api/v1/deployments"
# Nothing else asks for this, so the log shows whether it was taken for a request.
HIDDEN = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
ENDED = b"0\r\n\r\n" + HIDDEN

CASES: dict[str, list[str]] = {
    "length and chunks": [f"Content-Length: {len(ENDED)}", "Transfer-Encoding: chunked"],
    "chunks and length": ["Transfer-Encoding: chunked", f"Content-Length: {len(ENDED)}"],
    "a coding nobody knows": [f"Content-Length: {len(ENDED)}", "Transfer-Encoding: xchunked"],
    "chunks that are not last": [f"Content-Length: {len(ENDED)}", "Transfer-Encoding: chunked, identity"],
    "chunks twice": [f"Content-Length: {len(ENDED)}", "Transfer-Encoding: chunked", "Transfer-Encoding: cow"],
    "a space before the colon": [f"Content-Length: {len(ENDED)}", "Transfer-Encoding : chunked"],
    "a folded line": [f"Content-Length: {len(ENDED)}", "X: y\r\n Transfer-Encoding: chunked"],
    "a bare CR": [f"Content-Length: {len(ENDED)}", "X: y\rTransfer-Encoding: chunked"],
    "a bare LF": [f"Content-Length: {len(ENDED)}", "X: y\nTransfer-Encoding: chunked"],
    "a tab in the value": [f"Content-Length: {len(ENDED)}", "Transfer-Encoding: \x0bchunked"],
    "two lengths": ["Content-Length: 0", f"Content-Length: {len(HIDDEN)}"],
    "a list of lengths": [f"Content-Length: 0, {len(HIDDEN)}"],
    "a length with a sign": [f"Content-Length: +{len(HIDDEN)}"],
    "a length in hexadecimal": [f"Content-Length: 0x{len(HIDDEN):x}"],
    "a length": [f"Content-Length: {len(HIDDEN)}"],
    "a wish for another protocol": ["Connection: Upgrade", "Upgrade: h2c", f"Content-Length: {len(HIDDEN)}"],
    "a length that is expected": ["Expect: 100-continue", f"Content-Length: {len(HIDDEN)}"],
}  # fmt: skip


def attacks(token: str) -> Iterator[bytes]:
    """Yield every case, in requests whose body is read and in those whose body nothing reads."""
    for lines in CASES.values():
        body = ENDED if any("ransfer-" in line for line in lines) else HIDDEN
        for method, path in (("PUT", "/api/v1/capabilities/press-02"), ("GET", "/healthz"), ("POST", "/healthz")):
            head = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *lines, "", ""]
            yield "\r\n".join(head).encode("latin-1") + body


def send(request: bytes, connection: socket.socket) -> None:
    """Send a request, and one that ends the connection; return when it has ended, or waits for more."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(0.3)
        connection.sendall(request + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while connection.recv(65536):
            pass


def taken_for_requests(fleet: ServedFleet) -> int:
    return fleet.log.read_text().count("route=/readyz")


def test_what_is_hidden_in_a_body_is_no_request(fleet: ServedFleet) -> None:
    fleet.start(log="all")
    for attack in attacks(fleet.tokens["press-02"]):
        send(attack, socket.create_connection((fleet.host, fleet.port), timeout=20))
    assert taken_for_requests(fleet) == 0
    send(HIDDEN, socket.create_connection((fleet.host, fleet.port), timeout=20))
    until(lambda: taken_for_requests(fleet) == 1)


@pytest.mark.real
def test_nginx_and_the_server_agree_where_a_request_ends(fleet: ServedFleet, tmp_path: Path) -> None:
    fleet.start(log="all")
    authority = Authority()
    context = ssl.create_default_context(cafile=str(authority.issued.write(tmp_path, "authority")[0]))
    with nginx_before(tmp_path / "nginx", fleet.port, *authority.server().write(tmp_path, "server")) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        headers = {"Authorization": f"Bearer {fleet.tokens['press-01']}"}
        with httpx.Client(base_url=url, headers=headers, verify=context, trust_env=False) as victim:
            for attack in attacks(fleet.tokens["press-02"]):
                plain = socket.create_connection(address, timeout=20)
                send(attack, context.wrap_socket(plain, server_hostname="127.0.0.1"))
                assert victim.get(MANIFEST).json() == fleet.manifest("press-01"), attack
    assert taken_for_requests(fleet) == 0
