"""Break the line between a device and its server at every few bytes of an update (scripts/faults line)."""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from device_world import RENDERER, World
from fault_points import FINE, Points
from server.serving import ServedFleet, served_fleet, until
from support.device_states import DEVICE, content

from margo_gitops.documents.nodes import Json
from margo_gitops.rendering.resolution import deployment_id

FAULTS = {
    # how many bytes from one point to the next; a stall costs the device's patience each time
    "cut": 7,  # the connection ends there
    "reset": 7,  # the connection is reset there
    "gone": 31,  # and no other is accepted until the next run
    "corrupt": 3,  # one bit is another
    "stall": 97,  # nothing comes any more
    "unsent": 31,  # the connection is reset after so many bytes of what the device sends
}
STATUSES = (429, 500, 502, 503, 504)  # instead of each answer in turn
_PATIENCE = {"connectTimeout": "1s", "readTimeout": "1s", "pullTimeout": "3s"}
_EXIT_CODES = {0, 3, 4, 5}


@dataclass
class Line:
    """A proxy that breaks what passes at one place, once, and counts what passed.

    Attributes:
        fault: what happens there: a name in FAULTS, a status of HTTP, or nothing.
        place: after how many bytes; with a status, instead of which answer.
        down, up: bytes that passed since it was set, to the device and from it; requests: answers asked for.
    """

    target: int
    fault: str = ""
    place: int = 0
    down: int = 0
    up: int = 0
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, fault: str = "", place: int = 0) -> None:
        """Break the line there; without a fault, repair it."""
        with self._lock:
            self.fault, self.place = fault, place
            self.down = self.up = self.requests = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        """Listen; yields the port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            yield listener.getsockname()[1]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = listener.accept()
                if self.fault == "gone" and self.down > self.place:
                    _reset(device)
                else:
                    threading.Thread(target=self._carry, args=(device,), daemon=True).start()

    def _carry(self, device: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        back = threading.Thread(target=self._answer, args=(server, device), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while part := device.recv(65_536):
                with self._lock:
                    before, self.up = self.up, self.up + len(part)
                    starts = part[:4] in (b"GET ", b"POST", b"PUT ", b"DELE")
                    self.requests += starts
                    broken = self.fault.isdecimal() and starts and self.requests == self.place
                if broken:
                    device.sendall(
                        f"HTTP/1.1 {self.fault} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                    )
                    break
                if self.fault == "unsent" and before <= self.place < self.up:
                    server.sendall(part[: self.place - before])
                    _reset(device)
                    break
                server.sendall(part)
        for end in (server, device):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        back.join()
        server.close()
        device.close()

    def _answer(self, server: socket.socket, device: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := server.recv(65_536):
                with self._lock:
                    before, self.down = self.down, self.down + len(part)
                    here = self.fault in FAULTS and self.fault != "unsent" and before <= self.place < self.down
                if not here:
                    device.sendall(part)
                    continue
                at = self.place - before
                if self.fault == "corrupt":
                    device.sendall(part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :])
                    continue
                device.sendall(part[:at])
                if self.fault == "stall":
                    while device.recv(65_536):
                        pass
                elif self.fault != "cut":
                    _reset(device)
                break
        with contextlib.suppress(OSError):
            device.shutdown(socket.SHUT_RDWR)


def _reset(end: socket.socket) -> None:
    """Close a connection so that the other end gets a reset."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)  # a thread that still reads would keep it open
        end.close()


class Site:
    """A device, its server, and the line between them; each update changes one application and swaps another."""

    def __init__(self, folder: Path, fleet: ServedFleet, line: Line, port: int, way: str) -> None:
        self.fleet, self.line, self.number = fleet, line, 0
        self.world = World(folder / "device", device=DEVICE)
        (self.world.folder / "token").write_text(fleet.token(DEVICE))
        access: dict[str, Json] = {"tokenFile": "token", **_PATIENCE}
        path = "/git/state.git" if way == "git" else ""
        reports: Json = {"http": {"url": f"http://127.0.0.1:{port}", **access}} if way == "git" else None
        source: Json = {way: {"url": f"http://127.0.0.1:{port}{path}", **access}}
        self.world.configure(source=source, reports=reports)

    def update(self) -> None:
        """Render the next update."""
        self.number += 1
        names = ("hmi", "mes" if self.number % 2 else "opc")
        self.fleet.render({DEVICE: {name: content(name, f"{self.number}") for name in names}}, key=RENDERER)

    def there(self) -> dict[str, str]:
        """Return what runs: the value of each application."""
        found = {}
        for name in ("hmi", "mes", "opc"):
            file = self.world.output / deployment_id("plant", DEVICE, name) / "web" / "values.env"
            if file.exists():
                found[name] = file.read_text().strip().removeprefix("GREETING=").strip('"')
        return found

    def wanted(self, number: int) -> dict[str, str]:
        """Return what runs after an update."""
        return dict.fromkeys(("hmi", "mes" if number % 2 else "opc"), f"{number}")

    def trouble(self, fault: str, place: int) -> str:
        """Break the line in the next update, then run once without; return what is wrong, or that it came through."""
        self.update()
        self.line.set(fault, place)
        broken = self.world.agent("once")
        there = self.there()
        self.line.set()
        possible = {*self.wanted(self.number - 1).items(), *self.wanted(self.number).items()}
        said = f"{broken.stdout}{broken.stderr}"
        if "Traceback" in said or broken.returncode not in _EXIT_CODES:
            return f"ended with {broken.returncode}:\n{said}"
        if broken.returncode and "MG1" not in said:
            return f"ended with {broken.returncode} and did not say why:\n{said}"
        if not possible.issuperset(there.items()):
            return f"runs what was never asked for: {there}"
        if broken.returncode == 0 and there == self.wanted(self.number):
            return FINE  # the agent came through by itself
        again = self.world.agent("once")
        if again.returncode or self.there() != self.wanted(self.number):
            return f"did not recover: exit {again.returncode}, {self.there()}\n{again.stderr}\nbefore:\n{said}"
        return FINE

    def reported(self) -> bool:
        """Return whether the server has committed that the newest update runs."""
        last = deployment_id("plant", DEVICE, "hmi")
        states = [each for each in self.fleet.reports().values() if each.get("deploymentId") == last]
        version = self.fleet.manifest(DEVICE)["manifestVersion"]
        return [(each["adoptedManifestVersion"], each["status"]["state"]) for each in states] == [
            (version, "installed")
        ]


def main(arguments: argparse.Namespace) -> int:
    """Try all points, or a sample; returns the exit code."""
    with (
        tempfile.TemporaryDirectory(prefix="margo-gitops-faults-") as name,
        served_fleet(Path(name)) as fleet,
    ):
        fleet.render({DEVICE: {}}, key=RENDERER)
        fleet.token(DEVICE)
        # One device asks more often here than a server lets it.
        line = Line(fleet.start(limits={"requestsPerMinute": 1_000_000, "burst": 1_000_000}).port)
        with line.open() as port:
            return _attempt(Site(Path(name), fleet, line, port, arguments.way), arguments)


def _attempt(site: Site, arguments: argparse.Namespace) -> int:
    for _ in range(3):
        site.line.set()
        if (said := site.trouble("", 0)) != FINE:
            raise SystemExit(f"an update without a fault does not work: {said}")
    site.update()
    site.line.set()
    site.world.agent("once")
    down, up, requests = site.line.down, site.line.up, site.line.requests
    wanted = arguments.fault or [*FAULTS, "status"]
    every = [
        f"{fault} at {place}"
        for fault, step in FAULTS.items()
        if fault in wanted
        for place in range(1, up if fault == "unsent" else down, step)
    ]
    answers = range(1, requests + 1) if "status" in wanted else ()
    every += [f"status {status} at {place}" for status in STATUSES for place in answers]
    print(f"an update: {requests} requests, {up} bytes up, {down} down")
    tried = Points(every, arguments.resume, sample=arguments.sample, seed=arguments.seed, verbose=arguments.verbose)
    for name in tried.left():
        fault, place = name.removeprefix("status ").split(" at ")
        tried.note(name, site.trouble(fault, int(place)))
    until(site.reported)
    return 0 if tried.show() else 1
