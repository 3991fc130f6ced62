"""What a device sends and receives on the wire: TLS, TCP and IP included, as a mobile network counts it.

An agent as people install it polls `serve` over TLS, alone on the loopback of a network namespace. The interface counts
the bytes. `margo-gitops budget` calculates with these figures.

Usage: unshare --net python benchmarks/wire.py        needs root; half a minute
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from server.certificates import Authority  # noqa: E402
from server.serving import ServedFleet, served_fleet, until  # noqa: E402
from support.device_states import DEVICE, content  # noqa: E402

SECONDS = 20
"""So long polls are counted."""


def rendered(version: int) -> dict[str, dict[str, bytes]]:
    """Return a state of two deployments, of which a new version changes one line."""
    return {DEVICE: {"hmi": content("hmi", f"version {version}"), "mes": content("mes", "hello")}}


def on_the_wire() -> tuple[int, int]:
    """Return bytes and packets that the loopback has carried."""
    row = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.startswith("    lo:"))
    return int(row.split()[9]), int(row.split()[10])


def configuration(fleet: ServedFleet, folder: Path, way: str) -> Path:
    """Write the agent's configuration for a way to the server."""
    source: dict[str, Any] = {"url": fleet.url, "tokenFile": str(folder / "token"), "caFile": str(folder / "ca.pem")}
    if way == "git":
        source["url"] += "/git/state.git"
    document = {
        "apiVersion": "margo-gitops/v1",
        "kind": "AgentConfiguration",
        "device": DEVICE,
        "stateFolder": str(folder / f"state-{way}"),
        "source": {"git" if way == "git" else "http": {**source, **({"wait": "2s"} if way == "wait" else {})}},
        "trust": {"unsigned": True},
        "poll": {"interval": "1s"},
        "appliers": {"files": {"folder": str(folder / f"workloads-{way}")}},
    }
    file = folder / f"{way}.yaml"
    file.write_text(json.dumps(document))
    return file


def measure(fleet: ServedFleet, folder: Path, way: str) -> None:
    """Print what one way costs."""
    command = [sys.executable, "-m", "margo_gitops", "agent"]
    file = configuration(fleet, folder, way)
    adopted = folder / f"state-{way}"
    version = 1
    fleet.render(rendered(version))
    subprocess.run([*command, "once", "--config", file], check=False, capture_output=True)
    began, _ = on_the_wire()
    for _ in range(3):
        subprocess.run([*command, "once", "--config", file], check=False, capture_output=True)
    print(f"{way}: a poll on a new connection  {(on_the_wire()[0] - began) / 3:.0f} bytes")
    with subprocess.Popen([*command, "run", "--config", file], stderr=subprocess.DEVNULL) as agent:
        time.sleep(5)
        began, packets = on_the_wire()
        time.sleep(SECONDS)
        ended, more = on_the_wire()
        each = 2 if way == "wait" else 1
        print(f"{way}: a poll on a kept connection {(ended - began) * each / SECONDS:.0f} bytes, ", end="")
        print(f"{(more - packets) * each / SECONDS:.1f} packets")
        version += 1
        began, _ = on_the_wire()
        fleet.render(rendered(version))
        until(lambda: any(b"version 2" in each.read_bytes() for each in adopted.rglob("*") if each.is_file()))
        time.sleep(5)
        print(f"{way}: a change with its polls of five seconds {on_the_wire()[0] - began} bytes")
        agent.terminate()


def main() -> None:
    """Measure each way."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name, served_fleet(Path(name)) as fleet:
        folder = Path(name)
        authority = Authority()
        authority.issued.write(folder, "ca")
        authority.server().write(folder, "server")
        fleet.scheme = "https"
        (folder / "token").write_text(fleet.token(DEVICE))
        fleet.render(rendered(0))
        fleet.start(tls={"certificate": "server.pem", "key": "server.key"})
        for way in ("git", "http", "wait"):
            measure(fleet, folder, way)


if __name__ == "__main__":
    main()
