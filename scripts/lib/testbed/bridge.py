"""The bridge of the testbed's own engine, so that docker0 and the addresses of others stay as they are."""

from __future__ import annotations

import ipaddress
import json
import zlib
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.processes import run

# Docker takes the networks of projects from the start of these ranges, the bridge itself comes from their end.
POOLS = ("10.213.0.0/16", "172.29.0.0/16", "192.168.128.0/17")
_INTERFACES = Path("/sys/class/net")


def bridge_name(folder: Path) -> str:
    """Return the interface name that belongs to the engine in `folder`; at most 15 bytes."""
    return f"mgt{zlib.crc32(bytes(folder)):08x}"


def make_bridge(name: str) -> None:
    """Make the bridge with an address from a range that no route of this machine uses.

    Raises:
        UnavailableError: no such right, or no free range.
    """
    if (_INTERFACES / name).exists():
        return
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    taken = [ipaddress.IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
    for pool in POOLS:
        for network in reversed(list(ipaddress.IPv4Network(pool).subnets(new_prefix=24))):
            if not any(network.overlaps(other) for other in taken):
                try:
                    run(["ip", "link", "add", name, "type", "bridge"])
                except UnavailableError as error:
                    remedy = "run this privileged, or name an engine that runs by DOCKER_HOST"
                    raise UnavailableError(f"no network bridge for Docker can be made: {error.what}", remedy) from None
                run(["ip", "address", "add", f"{network[1]}/24", "dev", name])
                run(["ip", "link", "set", name, "up"])
                return
    raise UnavailableError(f"no free /24 in {', '.join(POOLS)} for a Docker bridge", "free one of these ranges")


def remove_bridges(name: str, networks: Path) -> None:
    """Remove the engine's own bridge and those of its projects.

    Args:
        name: what `bridge_name` returned.
        networks: the engine's database of networks; a bridge br-<id> is the engine's if its id is in there.
    """
    known = networks.read_bytes() if networks.exists() else b""
    for interface in _INTERFACES.iterdir():
        kind, _, identity = interface.name.partition("-")
        if interface.name == name or (kind == "br" and len(identity) == 12 and identity.encode() in known):
            run(["ip", "link", "delete", interface.name])
