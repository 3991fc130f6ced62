"""What serving costs: idle polls per second, bytes of a poll, time from a render to its devices, memory of who waits.

And what one connection of a stranger costs a device: it sends requests for /healthz without end, and reads no answer.

The server is a process of its own on the loopback; the clients are in this one, so on a small machine they take half of
the processor. Connections are kept, as devices keep them.

Usage: python benchmarks/serve.py [WAITING]        default: 10000
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from server.serving import ServedFleet, served_fleet  # noqa: E402

from margo_gitops.digests import sha256  # noqa: E402

POLLS = 20_000
CONNECTIONS = 32
RENDERS = 15
BURST = 200
"""So many connections are opened at once."""
TURNS = 7
"""So often polls are measured alone, then beside a stranger, of `TURN_POLLS` each."""
TURN_POLLS = 300
_HEAD_END = b"\r\n\r\n"
_STRANGER = """
import socket, sys
requests = b"GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" * 1000
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
            while True:
                connection.sendall(requests)
    except OSError:
        pass  # the server ended it: again
"""


class Device:
    """A device with one kept connection."""

    def __init__(self, fleet: ServedFleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.etag = ""
        self.sent = self.received = 0

    async def connect(self) -> None:
        """Connect."""
        self.reader, self.writer = await asyncio.open_connection(self.fleet.host, self.fleet.port)

    async def request(self, path: str, *headers: str) -> tuple[bytes, bytes]:
        """Return head and body of an answer."""
        token = f"Authorization: Bearer {self.fleet.tokens[self.name]}"
        message = "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", token, *headers, "", ""]).encode()
        self.writer.write(message)
        head = await self.reader.readuntil(_HEAD_END)
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        body = await self.reader.readexactly(int(length)) if length else b""
        self.sent, self.received = len(message), len(head) + len(body)
        return head, body

    async def poll(self, wait: int = 0) -> bytes | None:
        """Return a new manifest; None for nothing new."""
        held = [f"If-None-Match: {self.etag}"] if self.etag else []
        head, body = await self.request("/api/v1/deployments", *held, *([f"Prefer: wait={wait}"] if wait else []))
        if head.startswith(b"HTTP/1.1 304"):
            return None
        self.etag = head.lower().partition(b"etag: ")[2].partition(b"\r")[0].decode()
        return body


async def idle_polls(fleet: ServedFleet, names: list[str]) -> None:
    """Measure polls of devices that hold what there is."""
    devices = [Device(fleet, name) for name in names[:CONNECTIONS]]
    for device in devices:
        await device.connect()
        await device.poll()
    times: list[float] = []

    async def poll_on(device: Device) -> None:
        for _ in range(POLLS // CONNECTIONS):
            began = time.perf_counter()
            assert await device.poll() is None
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(poll_on(device) for device in devices))
    took = time.perf_counter() - began
    cuts = statistics.quantiles(times, n=100)
    print(f"idle polls, {CONNECTIONS} connections   {len(times) / took:8.0f} /s   p50 {cuts[49] * 1e3:.1f} ms", end="")
    print(f"   p99 {cuts[98] * 1e3:.1f} ms")
    print(f"bytes of an idle poll          {devices[0].sent:8d} up  {devices[0].received} down (HTTP, without TLS)")
    for device in devices:
        device.writer.close()


async def beside_stranger(fleet: ServedFleet, name: str) -> None:
    """Measure the polls of one device alone, and beside a connection that asks without reading."""
    device = Device(fleet, name)
    await device.connect()
    await device.poll()

    async def turn() -> list[float]:
        times = []
        for _ in range(TURN_POLLS):
            began = time.perf_counter()
            assert await device.poll() is None
            times.append(time.perf_counter() - began)
        return times

    alone: list[float] = []
    beside: list[float] = []
    for _ in range(TURNS):
        alone += await turn()
        with subprocess.Popen([sys.executable, "-c", _STRANGER, fleet.host, str(fleet.port)]) as stranger:
            try:
                await asyncio.sleep(0.5)
                beside += await turn()
            finally:
                stranger.kill()
    device.writer.close()
    for what, times in (("alone", alone), ("beside a stranger", beside)):
        cuts, floor = statistics.quantiles(times, n=100), statistics.median(alone)
        print(f"a device's poll, {what:<18} p50 {cuts[49] * 1e3:6.2f} ms   p99 {cuts[98] * 1e3:6.2f} ms", end="")
        print(f"   worst {max(times) * 1e3:6.2f} ms   p50 ratio {cuts[49] / floor:.1f}")


async def waiting(fleet: ServedFleet, names: list[str]) -> None:
    """Measure devices that wait, and how soon one of them has a render."""
    devices = [Device(fleet, name) for name in names]
    empty = memory(fleet)
    for start in range(0, len(devices), BURST):
        await asyncio.gather(*(device.connect() for device in devices[start : start + BURST]))
        await asyncio.gather(*(device.poll() for device in devices[start : start + BURST]))
        for device in devices[start : start + BURST]:
            device.writer.close()
    await asyncio.sleep(1)
    before = memory(fleet)
    print(
        f"states kept in memory          {len(devices):8d}      {(before - empty) / len(devices) / 1024:.1f} KiB each"
    )
    for start in range(0, len(devices), BURST):
        await asyncio.gather(*(device.connect() for device in devices[start : start + BURST]))
        await asyncio.gather(*(device.poll() for device in devices[start : start + BURST]))
    polls = [asyncio.create_task(device.poll(600)) for device in devices]
    await asyncio.sleep(5)
    each = (memory(fleet) - before) / len(devices)
    print(f"waiting devices                {len(devices):8d}      {each / 1024:.1f} KiB of memory each")

    first, times = devices[0], []
    for number in range(RENDERS):
        await asyncio.to_thread(fleet.render, {first.name: {"app": b"render: %d\n" % number}})
        rendered = time.perf_counter()
        manifest = await polls[0]
        assert manifest is not None
        _, body = await first.request(manifest.decode().partition('"url":"')[2].partition('"')[0])
        assert sha256(body).encode() in manifest
        times.append(time.perf_counter() - rendered)
        polls[0] = asyncio.create_task(first.poll(600))
    print(f"render to verified bundle      {statistics.median(times) * 1e3:8.0f} ms   worst {max(times) * 1e3:.0f} ms")
    for each_poll in polls:
        each_poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    for device in devices:
        device.writer.close()


def memory(fleet: ServedFleet) -> int:
    """Return the server's resident memory, in bytes."""
    assert fleet.process is not None
    status = Path(f"/proc/{fleet.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = [f"press-{number:05}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder, served_fleet(Path(folder)) as fleet:
        fleet.render({name: {"app": b"name: app\n" * 40} for name in names})
        fleet.tokens = {name: f"{number:064}" for number, name in enumerate(names)}
        fleet.write_tokens()
        fleet.start(limits={"requestsPerMinute": 1e9, "burst": 1_000_000, "waitSeconds": 600})
        asyncio.run(idle_polls(fleet, names))
        asyncio.run(beside_stranger(fleet, names[0]))
        asyncio.run(waiting(fleet, names))


if __name__ == "__main__":
    main()
