"""scripts/margo-pull.sh and servers on their bad days; its reports; its polls for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.fleet import FleetFolder
from support.pull_script import SHELLS, Device, small_device

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_bundle, write_manifest
from margo_gitops.rendering.resolution import deployment_id

pytestmark = pytest.mark.real
TOKEN = "5f0c" * 16
MANIFEST = "/api/v1/deployments"
DEPLOYMENTS = {deployment_id("plant", "press-01", name): f"name: {name}\n".encode() for name in ("hmi", "mes", "opc")}


class Server:
    """Serves one state and notes what it is asked; `special` answers instead where it returns True."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.special: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
        self.resources: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append(("GET", self.path, b""))
                if server.special(self):
                    return
                content = server.resources.get(self.path)
                etag = f'"{sha256(content or b"")}"'
                code = 404 if content is None else 304 if self.headers["If-None-Match"] == etag else 200
                body = content if content is not None and code == 200 else b""
                answer(self, code, {"ETag": etag}, body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append(("POST", self.path, body))
                answer(self, server.statuses.get(self.path, 201), {}, b"")

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def serve(self, version: int, deployments: dict[str, bytes] | None = None) -> None:
        documents = DEPLOYMENTS if deployments is None else deployments
        self.resources = {f"{MANIFEST}/{name}/{sha256(content)}": content for name, content in documents.items()}
        if documents:
            bundle = write_bundle(documents)
            self.resources[f"/api/v1/bundles/{sha256(bundle)}"] = bundle
        self.resources[MANIFEST] = write_manifest(version, documents)

    def reports(self) -> list[dict]:
        return [json.loads(body) for method, _, body in self.asked if method == "POST"]


def answer(request: BaseHTTPRequestHandler, code: int, headers: dict[str, str], body: bytes) -> bool:
    request.send_response(code)
    for name, value in headers.items():
        request.send_header(name, value)
    if code != 304:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
    return True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


@pytest.fixture(params=SHELLS)
def device(tmp_path: Path, request: pytest.FixtureRequest) -> Device:
    return small_device(tmp_path / "device", request.param)


def test_no_answer_changes_nothing_and_is_worth_another_try(device: Device, server: Server):
    server.serve(1)
    assert device.pull(server.url, TOKEN).code == 0
    held = (device.state / "held").read_text()

    def broken(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b'{"bundle":')
        request.close_connection = True
        return True

    bad: dict[str, tuple[Callable[[BaseHTTPRequestHandler], bool], int, str]] = {
        "broken off": (broken, 3, "broke off"),
        "500": (lambda request: answer(request, 500, {}, b""), 3, "HTTP 500"),
        "429": (lambda request: answer(request, 429, {"Retry-After": "9"}, b""), 75, "busy"),
        "503": (lambda request: answer(request, 503, {}, b""), 75, "busy"),
        "403": (lambda request: answer(request, 403, {}, b""), 3, "HTTP 403"),
        "204": (lambda request: answer(request, 204, {}, b""), 3, "HTTP 204"),
    }
    for what, (special, code, words) in bad.items():
        server.special = special
        outcome = device.pull(server.url, TOKEN)
        assert (outcome.code, words in outcome.stderr) == (code, True), (what, outcome)
        assert (device.state / "held").read_text() == held
    server.http.server_close()
    assert device.pull("http://127.0.0.1:1", TOKEN).code == 3
    assert len(device.hooks()) == 1


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_are_never_followed(device: Device, server: Server, code: int):
    server.serve(1)
    good = server.resources[MANIFEST]
    server.resources["/elsewhere"] = good

    def moved(request: BaseHTTPRequestHandler) -> bool:
        return request.path == MANIFEST and answer(request, code, {"Location": "/elsewhere"}, b"")

    server.special = moved
    outcome = device.pull(server.url, TOKEN)
    assert (outcome.code, "redirect" in outcome.stderr) == (3, True), outcome
    assert [path for _, path, _ in server.asked] == [MANIFEST]


def test_an_endless_answer_is_cut(device: Device, server: Server):
    def endless(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            request.close_connection = True
        return True

    server.special = endless
    outcome = device.pull(server.url, TOKEN)
    assert (outcome.code, "larger than" in outcome.stderr) == (4, True), outcome


def test_a_304_that_nobody_asked_for_is_an_error(device: Device, server: Server):
    server.special = lambda request: answer(request, 304, {}, b"")
    assert "304 although" in device.pull(server.url, TOKEN).stderr


def test_a_base_url_may_have_a_prefix(device: Device, server: Server):
    server.serve(1)
    server.resources = {f"/v1alpha2/margo{path}": content for path, content in server.resources.items()}
    assert device.pull(f"{server.url}/v1alpha2/margo/", TOKEN).code == 0


def test_a_server_without_etag_is_polled_in_full(device: Device, server: Server):
    server.serve(1)
    server.special = lambda request: request.path == MANIFEST and answer(request, 200, {}, server.resources[MANIFEST])
    assert device.pull(server.url, TOKEN).code == 0
    assert device.pull(server.url, TOKEN).code == 0
    assert len(device.hooks()) == 1


def rendered(folder: Path) -> dict[str, bytes]:
    """Return real deployment documents: two components in one of them."""
    fleet = FleetFolder.from_template(folder)
    state = fleet.render()["press-01"]
    return dict(state.deployments)


def test_each_changed_deployment_is_reported_once(device: Device, server: Server, tmp_path: Path):
    documents = rendered(tmp_path / "fleet")
    server.serve(7, documents)
    assert device.pull(server.url, TOKEN, "--status", "yes").code == 0
    assert {report["deploymentId"] for report in server.reports()} == set(documents)
    for report in server.reports():
        assert report["status"] == {"state": "installed"}
        assert report["adoptedManifestVersion"] == 7
        assert report["components"]
        for component in report["components"]:
            assert component["state"] == "installed"
            assert f"name: {component['name']}".encode() in documents[report["deploymentId"]].replace(b'"', b"")
    posted = {path for method, path, _ in server.asked if method == "POST"}
    assert posted == {f"/api/v1/deployments/{name}/status" for name in documents}
    assert device.pull(server.url, TOKEN, "--status", "yes").code == 0
    assert len(server.reports()) == len(documents)


def test_a_removed_deployment_is_reported_as_removed(device: Device, server: Server):
    server.serve(1)
    device.pull(server.url, TOKEN, "--status", "yes")
    before = len(server.reports())
    server.serve(2, {})
    assert device.pull(server.url, TOKEN, "--status", "yes").code == 0
    assert {report["status"]["state"] for report in server.reports()[before:]} == {"removed"}
    assert len(server.reports()) == before + 3


def test_a_failed_hook_is_reported_with_an_error(device: Device, server: Server):
    server.serve(1)
    device.hook("exit 3")
    assert device.pull(server.url, TOKEN, "--status", "yes").code == 5
    states = [report["status"] for report in server.reports()]
    assert [state["state"] for state in states] == ["failed"] * 3
    assert states[0]["error"]["code"] == "hook-failed"
    device.hook()
    assert device.pull(server.url, TOKEN, "--status", "yes").code == 0
    assert [report["status"]["state"] for report in server.reports()[3:]] == ["installed"] * 3


def test_reports_that_nobody_took_are_sent_at_the_next_poll(device: Device, server: Server):
    server.serve(1)
    server.statuses = {f"{MANIFEST}/{name}/status": 500 for name in DEPLOYMENTS}
    outcome = device.pull(server.url, TOKEN, "--status", "yes")
    assert (outcome.code, "sent again" in outcome.stderr) == (0, True), outcome
    server.statuses = {}
    server.asked.clear()
    assert device.pull(server.url, TOKEN, "--status", "yes").code == 0
    assert len(server.reports()) == 3
    assert not (device.state / "reports").exists()


def test_it_goes_on_for_ever_and_ends_when_asked_to(device: Device, server: Server):
    server.serve(1)
    running = subprocess.Popen(
        device.command(server.url, TOKEN, "--every", "1"),
        env=device.environment(),
        cwd=device.folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_(lambda: len(server.asked) >= 4)
        server.serve(2)
        await_(lambda: len(device.hooks()) == 2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 143
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def test_f16_a_busy_server_decides_when_the_next_poll_comes(device: Device, server: Server):
    times: list[float] = []

    def busy(request: BaseHTTPRequestHandler) -> bool:
        times.append(time.monotonic())
        return answer(request, 503, {"Retry-After": "3"}, b"")

    server.special = busy
    running = subprocess.Popen(
        device.command(server.url, TOKEN, "--every", "1"),
        env=device.environment(),
        cwd=device.folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_(lambda: len(times) >= 2)
        assert times[1] - times[0] >= 3
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def await_(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
