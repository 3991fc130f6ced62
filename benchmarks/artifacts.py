#!/usr/bin/env python3
"""What a large artifact costs a device: interrupted nine times, changed by 1 %, and in memory.

Usage: python benchmarks/artifacts.py [--megabytes 200]

The web server is in another process and counts what leaves it. It has a small send buffer and a bounded rate, as a
narrow line has: what is on the way when a device is killed is lost. The device is a process that fetches by the agent's
own code. Needs root: a small disk is mounted and filled.
"""

import argparse
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process, Value
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, TypeAlias

from margo_gitops.content.fetch import Fetcher, Wanted
from margo_gitops.content.sources import Reach
from margo_gitops.content.store import ContentStore
from margo_gitops.digests import Digest
from margo_gitops.documents.records import write
from margo_gitops.errors import MargoGitopsError
from margo_gitops.publishing.artifacts import describe, push

RATE = 40_000_000
"""Bytes in a second that leave the server."""
PIECE = 32 * 1024
Count: TypeAlias = "Synchronized[int]"


class Files(BaseHTTPRequestHandler):
    """Serves ranges of files, counts bytes, and resets a connection where it is told to."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a range."""
        path = Path(self.server.folder, self.path.lstrip("/"))
        start, end = (int(each) for each in re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{path.stat().st_size}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        self.server.requests.value += 1
        with path.open("rb") as file:
            file.seek(start)
            left = end + 1 - start
            while left and (piece := file.read(min(PIECE, left))):
                if self.server.reset.value and self.server.sent.value >= self.server.reset.value:
                    self.server.reset.value = 0
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    self.close_connection = True
                    self.connection.close()
                    return
                self.wfile.write(piece)
                self.server.sent.value += len(piece)
                left -= len(piece)
                time.sleep(len(piece) / RATE)

    def setup(self) -> None:
        """Keep little on the way."""
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        super().setup()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def serve(folder: str, port: int, sent: Count, requests: Count, reset: Count) -> None:
    """Serve a folder until the process ends."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Files)
    server.folder, server.sent, server.requests, server.reset = folder, sent, requests, reset
    server.handle_error = lambda *_: None
    server.serve_forever()


def memory(word: str) -> float:
    """Return a line of the process's status, in MB."""
    return int(re.search(rf"{word}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def device(folder: str, wanted: str, mirror: str, indexed: str) -> None:
    """Fetch, in this process; print what it took."""
    idle = memory("VmRSS")
    fetcher = Fetcher(ContentStore(Path(folder), keep_free=0), Reach(mirrors=[mirror]))
    began = time.process_time()
    said = json.loads(wanted)
    index = (Digest(said["index"]["digest"]), said["index"]["sizeBytes"]) if indexed else None
    try:
        fetcher.fetch(Wanted("model", Digest(said["digest"]), said["sizeBytes"], (), index), seconds=3600)
    except MargoGitopsError as error:
        print(json.dumps({"error": error.code}))
        sys.exit(3)
    peak = memory("VmHWM") - idle
    print(json.dumps({"memory": peak, "cpu": time.process_time() - began, "fetched": fetcher.fetched}))


class Line:
    """The server, and the devices behind it."""

    def __init__(self, served: str) -> None:
        self.sent, self.requests, self.reset = Value("q", 0), Value("q", 0), Value("q", 0)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.mirror = f"http://127.0.0.1:{port}/"
        self.server = Process(target=serve, args=(served, port, self.sent, self.requests, self.reset), daemon=True)
        self.server.start()
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)

    def start(self, store: Path, artifact: str, indexed: bool) -> subprocess.Popen[str]:
        """Start a device."""
        command = [sys.executable, __file__, "--device", str(store), artifact, self.mirror, "yes" if indexed else ""]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def whole(self, store: Path, artifact: str, indexed: bool) -> dict[str, Any]:
        """Let a device fetch to the end."""
        before, asked = self.sent.value, self.requests.value
        device = self.start(store, artifact, indexed)
        said = json.loads(device.communicate()[0])
        return {**said, "sent": self.sent.value - before, "requests": self.requests.value - asked}

    def interrupted(self, store: Path, artifact: str, size: int, indexed: bool) -> dict[str, Any]:
        """Interrupt a device nine times: three kills, three resets, three full disks."""
        before, asked = self.sent.value, self.requests.value
        places = [before + size * (each + 1) // 10 for each in range(9)]
        device = self.start(store, artifact, indexed)
        for number, place in enumerate(places):
            if number % 3 == 1:
                self.reset.value = place
                while self.reset.value and device.poll() is None:
                    time.sleep(0.005)
                continue
            while self.sent.value < place and device.poll() is None:
                time.sleep(0.002)
            if number % 3 == 0:
                device.send_signal(signal.SIGKILL)
            else:
                fill(store)
                device.wait()
                empty(store)
            device.wait()
            device = self.start(store, artifact, indexed)
        said = json.loads(device.communicate()[0])
        return {**said, "sent": self.sent.value - before, "requests": self.requests.value - asked}


def fill(store: Path) -> None:
    """Fill the disk."""
    with Path(store.parent, "filler").open("ab", 0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass


def empty(store: Path) -> None:
    """Give the room back."""
    Path(store.parent, "filler").write_bytes(b"")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--device", nargs=4)
    options = parser.parse_args()
    if options.device:
        device(*options.device)
        return
    size = options.megabytes * 1_000_000
    chance = random.Random(15)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = bytearray(chance.randbytes(size))
        paths = []
        for version in (1, 2):
            path = folder / f"model-{version}"
            path.write_bytes(content)
            paths.append(path)
            for _ in range(20):  # 1 % in 20 places, and bytes inserted in 5
                at = chance.randrange(len(content) - size // 2000)
                content[at : at + size // 2000] = chance.randbytes(size // 2000)
            for _ in range(5):
                at = chance.randrange(len(content))
                content[at:at] = chance.randbytes(chance.randrange(1000, 20000))
        began = time.process_time()
        files = [describe(path) for path in paths]
        cut = (time.process_time() - began) / 2
        for file in files:
            push(file, str(folder / "served"))
        said = [json.dumps(write(file.artifact("model", ["https://files.example/model"]))) for file in files]
        line = Line(str(folder / "served"))
        rows = [
            ("whole file, with index", line.whole(folder / "a", said[0], True), files[0].size),
            ("1 % changed", line.whole(folder / "a", said[1], True), files[1].size),
        ]
        disk = folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={options.megabytes * 3 // 2}m", "x", disk], check=True)
        try:
            (disk / "filler").touch()
            for indexed in (True, False):
                what = f"9 interruptions, {'with' if indexed else 'without'} index"
                rows.append((what, line.interrupted(disk / "b", said[0], files[0].size, indexed), files[0].size))
                shutil.rmtree(disk / "b")
        finally:
            subprocess.run(["umount", disk], check=True)
            line.server.terminate()
    print("| What | Bytes sent | of the file | Requests | CPU s | MB above idle |\n|---|---:|---:|---:|---:|---:|")
    for what, got, of in rows:
        cells = (what, f"{got['sent']:,}", f"{100 * got['sent'] / of:.2f} %", got["requests"])
        print("|", " | ".join(map(str, cells)), f"| {got['cpu']:.1f} | {got['memory']:.0f} |")
    print(f"\nto describe and cut a file: {cut:.1f} CPU s")


if __name__ == "__main__":
    main()
