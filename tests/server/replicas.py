"""Several servers: mirrors of one state repo, one PostgreSQL database, nginx in front as docs/deploy/ ships it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from server.certificates import Authority
from server.serving import ServedFleet, status, until
from support.web_servers import run_nginx, shipped
from testbed.git_server import free_ports
from testbed.postgresql_server import PostgresqlServer

COUNT = 3
_HEAD_END = b"\r\n\r\n"


class Replicas:
    """A fleet, and servers of it behind one address.

    Attributes:
        fleet: the state repo that renders go to, and the tokens; it starts no server.
        port: of nginx, on 127.0.0.1 without TLS.
    """

    def __init__(self, folder: Path, postgresql: PostgresqlServer) -> None:
        self.folder = folder
        self.fleet = ServedFleet(folder)
        self.postgresql = postgresql
        self.database = postgresql.add_database()
        self.port, *self._ports = free_ports(1 + COUNT)
        self.servers = [ServedFleet(folder / f"replica-{number}") for number in range(1, COUNT + 1)]
        authority = Authority()
        self.files = (
            *authority.server("margo.example").write(folder, "server"),
            authority.issued.write(folder, "authority")[0],
        )
        (folder / "database-url").write_text(postgresql.url(self.database) + "\n")

    def start(self, number: int) -> None:
        """Start the server of this number, counted from 0."""
        many = 100_000_000
        self.servers[number].start(
            stateRepo="mirror.git",
            mirror={"url": (self.folder / "state.git").as_uri(), "fetchSeconds": 5},
            listen={"port": self._ports[number]},
            tls={"certificate": str(self.files[0]), "key": str(self.files[1])},
            identity={"bearer": {"tokens": str(self.folder / "device-tokens")}},
            reports={"postgresql": {"urlFile": str(self.folder / "database-url")}, "commitSeconds": 1},
            limits={"requestsPerMinute": many, "burst": many},
        )

    @contextmanager
    def running(self, connections: int = 1024) -> Iterator[None]:
        """Run all servers, and nginx in front."""
        changes = {f"serve-{number + 1}:8443": f"127.0.0.1:{port}" for number, port in enumerate(self._ports)}
        changes |= {
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port};",
            "/etc/nginx/margo/": f"{self.folder}/nginx/",
        }
        nginx = self.folder / "nginx"
        nginx.mkdir()
        for source, name in zip(self.files, ("server.pem", "server.key", "servers-ca.pem"), strict=True):
            shutil.copy(source, nginx / name)
        try:
            for number in range(COUNT):
                self.start(number)
            with run_nginx(nginx, shipped("replicas/nginx.conf", changes), self.port, connections):
                yield
        finally:
            for server in self.servers:
                if server.process is not None:
                    server.process.kill()
                    server.process.wait(20)

    def query(self, statement: str) -> str:
        """Return what the database answers."""
        return self.postgresql.execute(statement, self.database).strip()

    def settle(self) -> None:
        """Wait until every report is committed."""
        until(lambda: self.query("SELECT count(*) FROM report WHERE committed = 0") == "0", 600)

    def history(self) -> Counter[str]:
        """Return how often each file of the branch of reports was written by a commit."""
        said = self.fleet.renderer.git.run("log", "--format=", "--name-only", "--root", "refs/heads/reports")
        return Counter(line for line in said.splitlines() if line)


@dataclass
class Counts:
    """What devices saw, and what is there at the end."""

    acknowledged: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    polls: Counter[str] = field(default_factory=Counter)
    renders_seen: int = 0
    seconds: float = 0.0
    ended: int = 0


class Device:
    """A device that reports one after the other on one connection, and waits for changes on another."""

    def __init__(self, replicas: Replicas, name: str, counts: Counts) -> None:
        self.name, self.counts = name, counts
        self._port = replicas.port
        self._token = replicas.fleet.tokens[name]
        self.version = 0
        self.etag = ""

    async def report(self, deployments: list[str]) -> None:
        """Report on each deployment until it is acknowledged."""
        async with _Connection(self._port) as connection:
            for deployment in deployments:
                body = json.dumps(status(deployment)).encode()
                while True:
                    answer = await self._ask(connection, "POST", f"deployments/{deployment}/status", body)
                    self.counts.answers[answer[0]] += 1
                    if answer[0] in ("200", "201"):
                        self.counts.acknowledged += 1
                        break
                    await asyncio.sleep(0.2)

    async def wait_for_changes(self, last: asyncio.Event) -> None:
        """Poll until the event; a poll waits for 5 seconds at most, or it could meet the end of all servers."""
        async with _Connection(self._port) as connection:
            while not last.is_set():
                held = [f"If-None-Match: {self.etag}", "Prefer: wait=5"] if self.etag else []
                code, head, body = await self._ask(connection, "GET", "deployments", b"", *held)
                self.counts.polls[code] += 1
                if code == "200":
                    self.etag = head.partition(b"etag: ")[2].partition(b"\r")[0].decode()
                    version = json.loads(body)["manifestVersion"]
                    assert version > self.version, f"sent back from {self.version} to {version}"
                    self.counts.renders_seen += bool(self.version)
                    self.version = version
                elif code != "304":
                    await asyncio.sleep(0.2)

    async def _ask(
        self, connection: _Connection, method: str, path: str, body: bytes, *headers: str
    ) -> tuple[str, bytes, bytes]:
        lines = [
            f"{method} /api/v1/{path} HTTP/1.1",
            "Host: margo.example",
            f"Authorization: Bearer {self._token}",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            *headers,
        ]
        try:
            return await connection.ask("\r\n".join([*lines, "", ""]).encode() + body)
        except (OSError, asyncio.IncompleteReadError) as error:
            await connection.close()
            return type(error).__name__, b"", b""


class _Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None

    async def ask(self, message: bytes) -> tuple[str, bytes, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(message)
        head = (await reader.readuntil(_HEAD_END)).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
        body = await reader.readexactly(int(length)) if length else b""
        if b"connection: close" in head:
            await self.close()
        return head[9:12].decode(), head, body


async def _in_turn(replicas: Replicas, hows: Sequence[int], counts: Counts, total: int) -> None:
    """End and start servers in turn, spread over the acknowledged reports."""
    for turn, how in enumerate(hows):
        while counts.acknowledged < total * (turn + 1) // (len(hows) + 1):
            await asyncio.sleep(0.02)
        await asyncio.to_thread(replicas.servers[turn % COUNT].stop, how, 60)
        await asyncio.to_thread(replicas.start, turn % COUNT)
        counts.ended += 1


def reports_of(replicas: Replicas, devices: Iterable[str]) -> dict[str, list[str]]:
    """Return the deployments that each device reports on: all of its own."""
    return {
        device: [each["deploymentId"] for each in replicas.fleet.manifest(device)["deployments"]] for device in devices
    }


def under_load(
    replicas: Replicas,
    deployments: dict[str, list[str]],
    hows: Sequence[int],
    render: dict[str, dict[str, bytes]],
) -> Counts:
    """Let all devices report and wait for changes while servers end and start in turn, and a render lands.

    Args:
        deployments: what each device reports on.
        hows: signals that end the servers, one after the other, evenly spread over the reports.
        render: what is rendered in the middle.
    """
    return asyncio.run(_under_load(replicas, deployments, hows, render))


async def _under_load(
    replicas: Replicas, deployments: dict[str, list[str]], hows: Sequence[int], render: dict[str, dict[str, bytes]]
) -> Counts:
    counts = Counts()
    devices = [Device(replicas, name, counts) for name in deployments]
    total = sum(map(len, deployments.values()))
    began, last = time.monotonic(), asyncio.Event()
    polling = [asyncio.create_task(each.wait_for_changes(last)) for each in devices]
    while sum(each.version > 0 for each in devices) < len(devices):
        await asyncio.sleep(0.05)
    ending = asyncio.create_task(_in_turn(replicas, hows, counts, total))
    reporting = [asyncio.create_task(each.report(deployments[each.name])) for each in devices]
    while counts.acknowledged < total // 2:
        await asyncio.sleep(0.05)
    await asyncio.to_thread(replicas.fleet.render, render)
    await asyncio.gather(*reporting)
    counts.seconds = time.monotonic() - began
    await ending
    deadline = time.monotonic() + 60
    while counts.renders_seen < len(devices) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    last.set()
    for each in polling:
        each.cancel()
    await asyncio.gather(*polling, return_exceptions=True)
    failed = [each.exception() for each in polling if each.done() and not each.cancelled() and each.exception()]
    assert not failed, failed[:3]
    return counts
