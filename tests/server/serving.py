"""The real server: a process on the loopback, over a state repo that the test renders into."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from support.command_line import preloaded_program
from support.git_cli import GIT_ENVIRONMENT
from support.preloaded import Forked
from support.state_publishing import Renderer

from margo_gitops.documents.state_layout import device_ref

HMI = b"id: hmi\n" + b"# a deployment document, long enough to be worth compressing\n" * 20
FLEET = {"press-01": {"hmi": HMI, "mes": b"b: 1\n"}, "press-02": {"hmi": HMI}, "idle-01": {}}

CAPABILITIES = {
    "properties": {
        "id": "press-01",
        "vendor": "Northstar",
        "modelNumber": "NIA-300",
        "serialNumber": "1",
        "cpus": [{"cores": 4, "architecture": "amd64"}],
        "memory": "8 Gi",
        "storage": "64 Gi",
        "peripherals": [],
        "interfaces": [{"type": "ethernet"}],
        "otelCollector": True,
        "supportedRuntimes": ["oci"],
        "supportedDeploymentTypes": ["compose"],
    },
    "labels": {"line": "3", "axes": [1, 2]},
}


def capabilities(device: str, **properties: Any) -> dict[str, Any]:
    return {**CAPABILITIES, "properties": {**CAPABILITIES["properties"], "id": device, **properties}}


def status(deployment: str, state: str = "installed", version: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "deploymentId": deployment,
        "adoptedManifestVersion": version,
        "status": {"state": state},
        "components": [{"name": "hmi", "state": state}],
        **more,
    }


class ServedFleet:
    """A state repo, tokens for its devices, and the server's process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.renderer = Renderer(folder / "state.git")
        self.tokens: dict[str, str] = {}
        self.process: Forked | None = None
        self.port = 0
        self.log = folder / "server.log"
        self.scheme = "http"
        self.host = "127.0.0.1"
        self.environment: Mapping[str, str] = GIT_ENVIRONMENT

    def render(self, devices: Mapping[str, Mapping[str, bytes]], **more: Any) -> None:
        self.renderer.publish(devices, **more)

    def token(self, device: str) -> str:
        """Give a device a token, which replaces the one it had."""
        self.tokens[device] = secrets.token_urlsafe(32)
        self.write_tokens()
        return self.tokens[device]

    def write_tokens(self, *more: str) -> None:
        lines = [f"{device} {hashed(token)}" for device, token in self.tokens.items()]
        fresh = self.folder / "device-tokens.new"
        fresh.write_text("\n".join(["# device tokens", *lines, *more, ""]))
        fresh.replace(self.folder / "device-tokens")

    def configure(self, **changes: Any) -> Path:
        document = {
            "apiVersion": "margo-gitops/v1",
            "kind": "ServerConfiguration",
            "stateRepo": "state.git",
            "listen": {"port": 0},
            "identity": {"bearer": {"tokens": "device-tokens"}},
            "reports": {"commitSeconds": 0.2},
            **changes,
        }
        file = self.folder / "server.yaml"
        file.write_text(json.dumps(document))
        return file

    def start(self, **changes: Any) -> ServedFleet:
        file = self.configure(**changes)
        if not (self.folder / "device-tokens").exists():
            self.write_tokens()
        with self.log.open("w") as log, Path(os.devnull).open() as nothing:
            streams = (nothing.fileno(), log.fileno(), log.fileno())
            arguments = ("serve", "--config", str(file))
            self.process = Forked(preloaded_program(), arguments, Path.cwd(), self.environment, streams)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = re.search(r"running on https?://\S+:([0-9]+)", self.log.read_text())
            if found:
                self.port = int(found[1])
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def stop(self, how: int = signal.SIGTERM, seconds: float = 20) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(seconds)
        self.process = None
        return code

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def client(self, device: str | None = None, **more: Any) -> httpx.Client:
        """Return a client that sends a device's token."""
        headers = {"Authorization": f"Bearer {self.tokens.get(device) or self.token(device)}"} if device else {}
        headers |= more.pop("headers", {})
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, **more)

    def raw(self, request: bytes) -> bytes:
        """Send bytes and return all that comes back: for requests that no HTTP library would send."""
        with socket.create_connection((self.host, self.port), timeout=20) as connection:
            connection.sendall(request)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def get_raw(self, path: str, token: str, method: str = "GET") -> bytes:
        """Request exactly this path; returns the response without its Date."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.host}",
            f"Authorization: Bearer {token}",
            "Connection: close",
        ]
        head = "\r\n".join([*lines, "", ""])
        return re.sub(rb"date: [^\r]*\r\n", b"", self.raw(head.encode("latin-1")))

    def connections(self) -> int:
        """Return how many clients are connected to the server (proc(5), net/tcp)."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] == "01" for row in rows)

    def manifest(self, device: str) -> dict[str, Any]:
        """Return the manifest that the device's branch holds."""
        return json.loads(self.renderer.git.run("show", f"{device_ref(device)}:manifest.json"))

    def reports(self) -> dict[str, Any]:
        """Return the branch of reports, by path without the two digits in front."""
        names = self.renderer.git.run("ls-tree", "-r", "--name-only", "refs/heads/reports").split()
        return {
            name.partition("/")[2]: json.loads(self.renderer.git.run("show", f"refs/heads/reports:{name}"))
            for name in names
        }


def hashed(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def until(holds: Any, seconds: float = 15) -> Any:
    """Return what `holds` returns, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(AssertionError):
            found = holds()
            if found:
                return found
        if time.monotonic() > deadline:
            raise AssertionError("it did not become true in time")
        time.sleep(0.02)


@contextlib.contextmanager
def served_fleet(folder: Path) -> Iterator[ServedFleet]:
    """A fleet whose server ends with the test."""
    fleet = ServedFleet(folder)
    try:
        yield fleet
    finally:
        if fleet.process is not None:
            fleet.process.kill()
            fleet.process.wait(20)
