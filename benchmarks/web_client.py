"""What a device's web client costs: time to start and resident memory, ours beside urllib3 (decision D-25).

Each runs in a process of its own: import, make the client, one GET of 1 MiB. `pip install urllib3` first.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

CLIENTS = {
    "ours": """
from margo_gitops.web.connection import WebConnection
from margo_gitops.web.metering import Deadline, Meter
from margo_gitops.web.source import WebSource
def get(url):
    with WebConnection(WebSource(url), Meter()).exchange("GET", "/", {}, b"", 2 << 20, Deadline(30, 30)) as answer:
        while answer.read(65536): pass
""",
    "urllib3": """
import urllib3
def get(url):
    answer = urllib3.PoolManager(ssl_context=urllib3.util.create_urllib3_context()).request(
        "GET", url, preload_content=False, timeout=30)
    for _ in answer.stream(65536): pass
""",
}
PROBE = """
import os, sys, time
import margo_gitops.errors
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
begin, memory = time.process_time(), resident()
{client}
imported = time.process_time() - begin
get(sys.argv[1])
print(imported * 1000, (time.process_time() - begin) * 1000, resident() - memory)
"""


class _Megabyte(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 20))
        self.end_headers()
        self.wfile.write(bytes(1 << 20))

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def main() -> None:
    """Print the medians of eleven runs."""
    with HTTPServer(("127.0.0.1", 0), _Megabyte) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        print(f"{'client':<10} {'import, ms CPU':>15} {'with a GET':>12} {'resident, KiB':>14}")
        for name, client in CLIENTS.items():
            command = [sys.executable, "-c", PROBE.format(client=client), url]
            runs = [
                [
                    float(part)
                    for part in subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
                ]
                for _ in range(11)
            ]
            imported, whole, memory = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{name:<10} {imported:>15.0f} {whole:>12.0f} {memory:>14.0f}")
        server.shutdown()


if __name__ == "__main__":
    main()
