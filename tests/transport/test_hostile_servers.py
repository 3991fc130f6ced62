"""Servers that never stop, lure, or pretend: a device takes a bounded amount, and shows its token to nobody else.

What a hostile pack, delta, tree, bundle or problem document may hold is in the tests of each reader.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pack_writing import COMMIT, TREE, entry, pack
from server.certificates import Authority

from margo_gitops.errors import SourceMisbehaved, SourceRefused, SourceUnreachable, TransportError
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.transport.git.device_tree import read_snapshot
from margo_gitops.transport.git.pack import Kind, object_id, read_pack
from margo_gitops.transport.git.pktline import PacketReader, packet
from margo_gitops.transport.git.protocol_v2 import read_fetch
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpLimits, HttpSource

TOKEN = "a-token-that-only-one-server-may-see"
KIB = 1024
GIT_LIMITS = GitLimits(pack_bytes=256 * KIB, listing_bytes=64 * KIB)
HTTP_LIMITS = HttpLimits(manifest_bytes=64 * KIB)
RESULT = b"Content-Type: application/x-git-upload-pack-result\r\n"
MANIFEST = b"Content-Type: application/vnd.margo.manifest.v1+json\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class HostileServer:
    """Answers every connection with the same bytes.

    Attributes:
        begin: what it says to a request.
        more: what it says from then on, without end; empty: it hangs up.
        first: what it says to the first request, if that is something else.
        pause: seconds between two bytes of `begin`.
        tls: of its connections; None for none.
        silent: whether it only listens.
        hasty: whether it answers the first bytes that come, whatever they are.
        heard: what came in, by connection.
    """

    begin: bytes = b""
    more: bytes = b""
    first: bytes = b""
    pause: float = 0
    tls: ssl.SSLContext | None = None
    silent: bool = False
    hasty: bool = False
    heard: list[bytes] = field(default_factory=list)
    port: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)

    def answer(self, plain: socket.socket) -> None:
        number = len(self.heard)
        self.heard.append(b"")
        with plain, contextlib.suppress(OSError):
            plain.settimeout(10)
            with self.tls.wrap_socket(plain, server_side=True) if self.tls else plain as connection:
                if self.first:
                    self._hear(connection, number, 1)
                    connection.sendall(self.first)
                self._hear(connection, number, 2 if self.first else 1)
                for at in range(0, len(self.begin), 1 if self.pause else len(self.begin) or 1):
                    connection.sendall(self.begin[at : at + 1] if self.pause else self.begin)
                    if self.pause and self.stopping.wait(self.pause):
                        return
                while self.more and not self.stopping.is_set():
                    connection.sendall(self.more)

    def _hear(self, connection: socket.socket, number: int, requests: int) -> None:
        while self.heard[number].count(b"\r\n\r\n") < requests:
            part = connection.recv(65536)
            self.heard[number] += part
            if not part or (self.silent and self.stopping.wait(10)):
                raise ConnectionError
            if self.hasty:
                return

    def is_innocent(self) -> bool:
        """Return whether it never saw the token."""
        return not any(TOKEN.encode() in each for each in self.heard)


@contextmanager
def hostile(server: HostileServer) -> Iterator[HostileServer]:
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=server.answer, args=(connection,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server
        finally:
            server.stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in [accepting, *threads]:
                thread.join()


Pull = Callable[..., object]


def pull_git(server: HostileServer, folder: Path, scheme: str = "http", **settings: object) -> GitTransport:
    source = GitSource(
        f"{scheme}://127.0.0.1:{server.port}/state.git", device="press-07", **with_token(folder, settings)
    )
    return GitTransport(source, GIT_LIMITS)


def pull_http(server: HostileServer, folder: Path, scheme: str = "http", **settings: object) -> HttpTransport:
    return HttpTransport(HttpSource(f"{scheme}://127.0.0.1:{server.port}", **with_token(folder, settings)), HTTP_LIMITS)


def with_token(folder: Path, settings: dict[str, object]) -> dict[str, object]:
    token = folder / "token"
    token.write_text(TOKEN)
    return {"token_file": token, "pull_seconds": 20, **settings}


BOTH = pytest.mark.parametrize("make", [pull_git, pull_http], ids=["git", "http"])


def refused(transport: GitTransport | HttpTransport) -> TransportError:
    with pytest.raises(TransportError) as caught:
        transport.pull(None)
    transport.close()
    assert TOKEN not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(OK, b"X: y\r\n" * 1000, id="headers"),
        pytest.param(OK + b"X: ", b"y" * 8192, id="one header"),
        pytest.param(b"HTTP/1.1 ", b"2" * 8192, id="status line"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 400, id="100 continue"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 400, id="100 continue with headers"),
        pytest.param(OK + RESULT + CHUNKED, b"1\r\n0\r\n" * 1000, id="chunks of git"),
        pytest.param(OK + MANIFEST + CHUNKED, b"1\r\n \r\n" * 1000, id="chunks of a manifest"),
        pytest.param(OK + RESULT + CHUNKED, b"0" * 8192, id="length of a chunk"),
        pytest.param(OK + RESULT + CHUNKED + b"4;", b"x" * 8192, id="chunk extension"),
        pytest.param(OK + RESULT + CHUNKED + b"4\r\n0000\r\n0\r\n", b"X: y\r\n" * 1000, id="trailers"),
        pytest.param(OK + RESULT + b"\r\n", packet(b"0" * 40 + b" refs/heads/x\n") * 100, id="refs"),
        pytest.param(OK + MANIFEST + b"\r\n", b" " * 8192, id="manifest without a length"),
        pytest.param(b"HTTP/1.1 500 no\r\n\r\n", b"x" * 8192, id="error page"),
        pytest.param(b"HTTP/1.1 503 no\r\nContent-Type: application/problem+json\r\n\r\n", b"[" * 8192, id="problem"),
    ],
)
@BOTH
def test_what_never_ends_is_left_after_a_bounded_amount(make: Pull, tmp_path: Path, begin: bytes, more: bytes) -> None:
    with hostile(HostileServer(begin, more)) as server:
        transport = make(server, tmp_path)
        tracemalloc.start()
        try:
            refused(transport)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert transport.cost.bytes_down < 1024 * KIB
    assert peak < 4 * 1024 * KIB


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(packet(b"\2still counting\r") * 100, id="progress"),
        pytest.param(packet(b"\1") * 1000, id="empty packets of the pack"),
        pytest.param(packet(b"\1P") * 1000, id="tiny packets of the pack"),
        pytest.param(packet(b"\1" + b"x" * 1000), id="pack"),
        pytest.param(packet(b"shallow " + b"0" * 40) * 100, id="shallow lines"),
    ],
)
def test_a_side_band_without_end_is_left_after_a_bounded_amount(tmp_path: Path, more: bytes) -> None:
    refs = packet(b"1" * 40 + b" refs/heads/devices/press-07\n") + b"0000"
    listing = OK + RESULT + b"Content-Length: %d\r\n\r\n" % len(refs) + refs
    begin = packet(b"shallow-info\n") if b"shallow" in more else packet(b"packfile\n")
    with hostile(HostileServer(OK + RESULT + b"\r\n" + begin, more, listing)) as server:
        transport = pull_git(server, tmp_path)
        assert isinstance(refused(transport), SourceMisbehaved)
        assert b"command=fetch" in server.heard[0]
    assert transport.cost.bytes_down < 2 * GIT_LIMITS.answer_bytes


@pytest.mark.parametrize("content", [b"\1", b"\1x", b"\2..."], ids=["empty", "one byte", "progress"])
def test_tiny_packets_are_refused_long_before_the_bound_on_bytes(content: bytes) -> None:
    small = packet(content) * 20_000
    stream = io.BytesIO(packet(b"packfile\n") + small)
    with pytest.raises(SourceMisbehaved, match="tiny packets"):
        list(read_fetch(PacketReader(stream.read, GitLimits().answer_bytes)))
    assert stream.tell() < 11_000 * len(packet(content))


@pytest.mark.parametrize(
    "begin",
    [b"H" * 20_000, OK + b"X: " + b"y" * 20_000, OK + RESULT + MANIFEST + b"\r\n" + b"0" * 20_000],
    ids=["status line", "headers", "body"],
)
@BOTH
def test_a_slow_drip_is_left_when_the_time_of_the_pull_is_over(make: Pull, tmp_path: Path, begin: bytes) -> None:
    with hostile(HostileServer(begin, pause=0.02)) as server:
        error = refused(make(server, tmp_path, pull_seconds=0.4, read_seconds=5))
        assert isinstance(error, SourceUnreachable)


@BOTH
def test_a_handshake_that_never_comes_is_left_in_time(make: Pull, tmp_path: Path) -> None:
    with hostile(HostileServer(silent=True)) as server:
        error = refused(make(server, tmp_path, "https", connect_seconds=0.2))
        assert "no TLS handshake" in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@BOTH
def test_a_redirect_to_another_host_brings_it_neither_token_nor_request(
    make: Pull, tmp_path: Path, status: int
) -> None:
    with hostile(HostileServer(OK + b"\r\n")) as lure:
        for target in (
            f"http://127.0.0.1:{lure.port}/",
            f"//127.0.0.1:{lure.port}/state.git",
            f"http://x@127.0.0.1:{lure.port}",
        ):
            begin = f"HTTP/1.1 {status} Over there\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
            with hostile(HostileServer(begin)) as server:
                error = refused(make(server, tmp_path))
                assert isinstance(error, SourceMisbehaved)
                assert len(server.heard) == 1
        assert lure.heard == []


@pytest.mark.parametrize(
    "challenge",
    ["Basic realm=x", 'Digest realm="x", nonce="y"', "Negotiate", "Bearer", 'Basic realm="x"\r\nConnection: close'],
)
@BOTH
def test_a_server_that_asks_again_and_again_is_told_once(make: Pull, tmp_path: Path, challenge: str) -> None:
    begin = f"HTTP/1.1 401 Who?\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()
    with hostile(HostileServer(begin)) as server:
        assert isinstance(refused(make(server, tmp_path)), SourceRefused)
        assert b"".join(server.heard).count(TOKEN.encode()) == 1
        assert b"".join(server.heard).count(b" HTTP/1.1\r\n") == 1


@BOTH
def test_a_device_without_a_token_answers_no_challenge(make: Pull, tmp_path: Path) -> None:
    begin = b"HTTP/1.1 401 Who?\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
    with hostile(HostileServer(begin)) as server:
        assert isinstance(refused(make(server, tmp_path, token_file=None)), SourceRefused)
        assert b"authorization" not in b"".join(server.heard).lower()
        assert len(server.heard) == 1


def contexts(folder: Path) -> dict[str, ssl.SSLContext | None]:
    """Return servers that a device must not tell anything: none of them is the one that it was sent to."""
    authority = Authority()
    genuine = authority.server().write(folder, "genuine")
    authority.issued.write(folder, "authority")
    stranger = Authority("nobody").server().write(folder, "stranger")
    other = authority.client("spiffe://plant.example/other").write(folder, "other")
    made: dict[str, ssl.SSLContext | None] = {"plain http": None}
    for name, files in (("another authority", stranger), ("another host", other), ("TLS 1.1", genuine)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        made[name] = context
    old = made["TLS 1.1"]
    assert old is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    return made


@pytest.mark.parametrize("pretender", ["plain http", "another authority", "another host", "TLS 1.1"])
@BOTH
def test_who_is_not_the_server_learns_no_token(make: Pull, tmp_path: Path, pretender: str) -> None:
    tls = contexts(tmp_path)[pretender]
    with hostile(HostileServer(OK + b"\r\n", tls=tls, hasty=tls is None)) as server:
        error = refused(make(server, tmp_path, "https", ca_file=tmp_path / "authority.pem"))
        assert isinstance(error, SourceUnreachable | SourceRefused)
        assert not any(b"HTTP/1.1" in each for each in server.heard)
    assert server.is_innocent()


def test_the_true_server_is_believed(tmp_path: Path) -> None:
    contexts(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "genuine.pem", tmp_path / "genuine.key")
    with hostile(HostileServer(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n", tls=context)) as server:
        assert isinstance(
            refused(pull_http(server, tmp_path, "https", ca_file=tmp_path / "authority.pem")), SourceRefused
        )
        assert not server.is_innocent()


@BOTH
def test_no_proxy_sees_a_token_that_was_to_stay_on_this_machine(
    make: Pull, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n"
    with hostile(HostileServer(answer)) as proxy, hostile(HostileServer(answer)) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        refused(make(server, tmp_path, proxy_from_environment=True))
        assert proxy.heard == []
        assert not server.is_innocent()


@BOTH
def test_a_proxy_that_talks_without_end_is_left(make: Pull, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile(HostileServer(b"HTTP/1.1 ", b"100 Continue\r\n\r\nHTTP/1.1 " * 400)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        transport = make(proxy, tmp_path, "https", proxy_from_environment=True)
        refused(transport)
    assert transport.cost.bytes_down < 256 * KIB
    assert proxy.is_innocent()


def test_a_tree_deeper_than_any_stack_is_refused_at_its_first_folder() -> None:
    depth = 3_000
    trees = [b""]
    for _ in range(depth):
        name = object_id(Kind.TREE, trees[-1])
        trees.append(b"40000 deployments\0" + bytes.fromhex(name.decode()))
    commit = b"tree " + object_id(Kind.TREE, trees[-1]) + b"\n\n"
    content = pack([entry(COMMIT, commit), *(entry(TREE, tree) for tree in trees)])
    found = read_pack(iter([content]), {}.get, GitLimits())
    assert len(found) == depth + 2
    with pytest.raises(SourceMisbehaved):
        read_snapshot(object_id(Kind.COMMIT, commit), found.get, GitLimits())
