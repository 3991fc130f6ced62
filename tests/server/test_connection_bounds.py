"""What a stranger may send before, in and after a request: bounded, and never a way to say who one is."""

from __future__ import annotations

import base64
import contextlib
import socket
from pathlib import Path

import pytest
from server.certificates import Authority, spiffe_id
from server.git_requests import REPOSITORY, command
from server.serving import ServedFleet, until

_SENT = 24 * 1024 * 1024
"""Bytes that are sent without end; far more than any bound, and than what is between two sockets."""


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def memory(fleet: ServedFleet) -> int:
    """Return the bytes that the server's process holds."""
    assert fleet.process is not None
    status = Path(f"/proc/{fleet.process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_credentials_after_the_body_are_none(reading: ServedFleet) -> None:
    token = reading.tokens["press-01"]
    lines = ("Git-Protocol: version=2", "Connection: close", "Transfer-Encoding: chunked", "Trailer: Authorization")
    request = head(f"{REPOSITORY}/git-upload-pack", *lines) + chunked(command("ls-refs")) + b"0\r\n"
    trailers = [
        f"Authorization: Bearer {token}",
        f"Authorization: Basic {base64.b64encode(f'x:{token}'.encode()).decode()}",
        "X: y",
    ]
    answers = {line: reading.raw(request + line.encode() + b"\r\n\r\n").partition(b"\r\n")[0] for line in trailers}
    assert set(answers.values()) == {b"HTTP/1.1 401 Unauthorized"}


def test_a_certificate_after_the_body_is_none_though_a_trusted_proxy_hands_it_on(fleet: ServedFleet) -> None:
    (fleet.folder / "accepted").write_text(f"{spiffe_id('press-01')}\n")
    fleet.start(identity={"clientCert": {"proxies": ["127.0.0.1"], "accepted": "accepted"}})
    forwarded = f"Client-Cert: :{base64.b64encode(Authority().client(spiffe_id('press-01')).der).decode()}:"
    lines = ("Git-Protocol: version=2", "Connection: close", "Transfer-Encoding: chunked")
    path, body = f"{REPOSITORY}/git-upload-pack", chunked(command("ls-refs")) + b"0\r\n"
    assert b" 200 OK" in fleet.raw(head(path, forwarded, *lines) + body + b"\r\n")
    assert b" 403 Forbidden" in fleet.raw(head(path, *lines) + body + forwarded.encode() + b"\r\n\r\n")


@pytest.mark.parametrize("known", [True, False], ids=["device", "stranger"])
@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(b"0\r\n", b"a: b\r\n" * 4096, id="trailers"),
        pytest.param(b"", b"1\r\nx\r\n" * 4096, id="chunks"),
        pytest.param(b"1;", b"x" * 16_384, id="chunk extension"),
        pytest.param(b"", b"0" * 16_384, id="length of a chunk"),
    ],
)
def test_a_request_without_end_is_cut_off_and_takes_no_memory(
    reading: ServedFleet, begin: bytes, more: bytes, known: bool
) -> None:
    authorization = (f"Authorization: Bearer {reading.tokens['press-01']}",) if known else ()
    before = memory(reading)
    with socket.create_connection((reading.host, reading.port), timeout=20) as connection:
        connection.sendall(head(f"{REPOSITORY}/git-upload-pack", *authorization, "Transfer-Encoding: chunked") + begin)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < _SENT:
                connection.sendall(more)
                sent += len(more)
    assert sent < _SENT
    assert memory(reading) - before < 16 * 1024 * 1024


def test_the_largest_report_in_the_smallest_chunks_is_read(reading: ServedFleet) -> None:
    body = b" " * 200_000 + b"{}"
    lines = ("Connection: close", "Transfer-Encoding: chunked", f"Authorization: Bearer {reading.tokens['press-01']}")
    request = head("/api/v1/capabilities/press-01", *lines, method="PUT")
    answer = reading.raw(request + chunked(*(bytes([byte]) for byte in body)) + b"0\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 422 "))
    assert b"properties" in answer or b"errors" in answer


def test_one_connection_more_than_allowed_is_closed_and_the_others_go_on(fleet: ServedFleet) -> None:
    fleet.start(limits={"connections": 3})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((fleet.host, fleet.port), timeout=20)) for _ in range(3)]
        until(lambda: fleet.connections() == 3)
        with socket.create_connection((fleet.host, fleet.port), timeout=20) as fourth:
            assert fourth.recv(1) == b""
        held[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[0].recv(100).startswith(b"HTTP/1.1 200 OK")
        held[1].close()
        assert b" 200 OK" in until(lambda: answered(fleet))


def test_few_requests_may_come_before_their_turn_and_many_end_the_connection(fleet: ServedFleet) -> None:
    fleet.start()
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    ending = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert fleet.raw(one * 8 + ending).count(b" 200 OK") == 9
    many = b""
    with contextlib.suppress(ConnectionError):
        many = fleet.raw(one * 5000)
    assert many.count(b" 200 OK") < 50
    assert b" 200 OK" in fleet.raw(ending)
    assert "Invalid" not in fleet.log.read_text()


def answered(fleet: ServedFleet) -> bytes:
    """Return the answer to a new connection; nothing where there was no place for it."""
    with contextlib.suppress(ConnectionError):
        return fleet.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return b""
