"""The engine's API over its socket: rules SOCKET-1 to SOCKET-3; what a real engine says is in test_compose_engine."""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from margo_gitops.appliers import probes
from margo_gitops.appliers.compose import engine_socket as module
from margo_gitops.appliers.compose.engine import _LABELS, ComposeEngine
from margo_gitops.appliers.compose.engine_socket import EngineSocket, engine_socket

LISTED = (
    b'[{"Id": "abc", "State": "Running", "Status": "Up 2 minutes", "Labels": {"com.docker.compose.service": "web"}}]'
)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return what lets a socket answer every request with these bytes, and then with others again and again."""
    listeners: list[socket.socket] = []
    ending = threading.Event()

    def serving(answer: bytes, goes_on: bytes = b"") -> Path:
        path = tmp_path / "s"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        connection.sendall(answer)
                        while goes_on and not ending.wait(0.01):
                            connection.sendall(goes_on)
                    except OSError:
                        continue

        threading.Thread(target=work, daemon=True).start()
        return path

    yield serving
    ending.set()
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def client(folder: Path) -> ComposeEngine:
    """Return an engine whose client lists one container, `cli`."""
    script = folder / "docker"
    line = "\t".join(["cli", "running", '"Up"', *['""'] * len(_LABELS)])
    script.write_text(f"#!/bin/sh\nprintf '%s\\n' '{line}'\n")
    script.chmod(0o755)
    return ComposeEngine((str(script), "compose"), {"PATH": "/usr/bin:/bin"}, EngineSocket(folder / "s"))


def test_a_look_is_a_request_and_no_process(serve, tmp_path):
    serve(answer(LISTED))
    engine = ComposeEngine(("/nowhere/docker", "compose"), {}, EngineSocket(tmp_path / "s"))
    (found,) = engine.containers("org.margo-gitops.device", "press-07")
    assert (found.identity, found.state, found.status, found.service) == ("abc", "running", "Up 2 minutes", "web")


def test_an_image_that_is_there_is_seen_without_a_process(serve, tmp_path):
    serve(answer(b'{"Id": "sha256:abc"}'))
    engine = ComposeEngine(("/nowhere/docker", "compose"), {}, EngineSocket(tmp_path / "s"))
    assert engine.has_image("registry.example.com:5000/plant/hmi@sha256:abc")


@pytest.mark.parametrize("known", [True, False])
def test_the_client_has_the_last_word_about_an_image(serve, tmp_path, known):
    serve(answer(b'{"message": "No such image"}', "404 Not Found"))
    engine = client(tmp_path)
    (tmp_path / "docker").write_text(f"#!/bin/sh\nexit {int(not known)}\n")
    assert engine.has_image("hmi") is known


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        answer(b"[{", "200 OK"),
        answer(b"[" * 100_000),
        answer(LISTED, "500 Internal Server Error"),
        answer(LISTED)[:-5],
        answer(json.dumps(["x" * 5 * 1024 * 1024]).encode()),
    ],
    ids=["nothing", "another program", "half", "too deep", "an error", "cut off", "too much"],
)
def test_where_the_socket_gives_no_usable_answer_the_client_is_asked(serve, tmp_path, says):
    serve(says)
    assert [each.identity for each in client(tmp_path).containers("x", "y")] == ["cli"]


def test_without_a_socket_the_client_is_asked(tmp_path):
    assert [each.identity for each in client(tmp_path).containers("x", "y")] == ["cli"]


@pytest.mark.parametrize(
    ("says", "goes_on"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[", b""),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"["),
    ],
    ids=["silence", "never its turn", "a head letter by letter", "a body letter by letter"],
)
def test_an_engine_that_says_no_answer_is_not_waited_for_without_end(serve, tmp_path, monkeypatch, says, goes_on):
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    serve(says, goes_on)
    assert EngineSocket(tmp_path / "s").ask("/containers/json") is None


def test_an_id_that_is_no_id_reaches_no_engine(tmp_path):
    with pytest.raises(ValueError, match="not a path of a URL"):
        probes.http_answer(tmp_path / "s", "/containers/x HTTP/1.1\r\n\r\nDELETE /containers/y", seconds=1, most=1)


@pytest.mark.parametrize("entry", [7, None, "x", {"Id": 7, "State": [], "Labels": "x"}])
def test_an_entry_of_another_shape_is_no_container_of_ours(serve, tmp_path, entry):
    serve(answer(json.dumps([entry]).encode()))
    assert [each.key for each in client(tmp_path).containers("x", "y")] == [None]


def test_only_the_engine_of_the_client_is_asked(tmp_path):
    home = {"HOME": str(tmp_path)}
    assert engine_socket("docker", home) == Path("/var/run/docker.sock")
    assert engine_socket("docker", {"DOCKER_HOST": "unix:///run/podman/podman.sock"}) == Path("/run/podman/podman.sock")
    assert engine_socket("docker", {"DOCKER_HOST": "tcp://10.0.0.1:2375"}) is None
    assert engine_socket("podman", home) is None
    (tmp_path / ".docker").mkdir()
    for text, known in (("{}", True), ('{"currentContext": "default"}', True), ('{"currentContext": "far"}', False)):
        (tmp_path / ".docker" / "config.json").write_text(text)
        assert (engine_socket("docker", home) is not None) is known
    (tmp_path / ".docker" / "config.json").write_text("{")
    assert engine_socket("docker", home) is None


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


def event(kind: str, action: str, device: str = "press-07") -> bytes:
    named = {"org.margo-gitops.device": device}
    return json.dumps({"Type": kind, "Action": action, "Actor": {"Attributes": named}}).encode() + b"\n"


@pytest.fixture
def listen(serve) -> Iterator[Callable[..., set[str]]]:
    """Return what an engine tells that answers with these bytes, and then with others again and again."""
    opened = []

    def listening(answer: bytes, goes_on: bytes = b"") -> set[str]:
        opened.append(EngineSocket(serve(answer, goes_on)).events("org.margo-gitops.device", "press-07"))
        found: set[str] = set()
        while select.select([opened[-1]], [], [], 5)[0]:
            try:
                found |= opened[-1].take()
            except ConnectionResetError:
                break
            if "changed" in found:
                break
        return found

    yield listening
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (event("container", "die", "press-08"), set()),
        (event("network", "destroy"), set()),
        (event("image", "load"), {"loaded"}),
        (event("image", "pull"), {"pulled"}),
        (b"[]\n{\n\xff\n" + b"[" * 100_000 + b'\n{"Type": 7, "Actor": "x"}\n', set()),
    ],
    ids=["of another device", "of no container", "an image", "a pulled image", "no events"],
)
def test_what_an_engine_tells_of_us_and_of_images_counts(listen, said, told):
    assert listen(HEAD[:20], HEAD[20:] + said + event("container", "die")) == {*told, "changed"}


@pytest.mark.parametrize(
    ("answer", "goes_on", "why"),
    [
        (b"HTTP/1.0 500 Internal Server Error\r\n\r\n", b"x", "it answers 500"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", b"x", "does not answer in HTTP/1"),
        (HEAD, b"x" * 65536, "more than 262144 bytes at once"),
        (b"HTTP/1.0 200 OK\r\n", b"x" * 65536, "more than 262144 bytes at once"),
    ],
    ids=["an error", "another program", "a line without end", "a head without end"],
)
def test_what_is_no_engine_or_tells_too_much_is_not_listened_to(listen, answer, goes_on, why):
    with pytest.raises(ValueError, match=why):
        listen(answer, goes_on)


def test_an_engine_that_ends_tells_no_more(listen, tmp_path):
    assert listen(HEAD) == set()
    with pytest.raises(OSError, match="No such file"):
        EngineSocket(tmp_path / "none").events("x", "y")
