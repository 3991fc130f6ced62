"""What this machine is and offers, as a part of a Margo capabilities document; what other tools know, files say.

Only what stays the same while it runs: the size of a disk, not what is free on it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.nodes import Json

UNKNOWN: Final = "unknown"
"""What Margo's document must name, and this machine does not say."""

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "arm": "arm",
}
_NAMES: Final = {
    "vendor": ("sys/class/dmi/id/sys_vendor",),
    "modelNumber": ("sys/class/dmi/id/product_name", "proc/device-tree/model"),
    "serialNumber": ("sys/class/dmi/id/product_serial", "proc/device-tree/serial-number"),
}
_PCI_VENDORS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_LONGEST_NAME: Final = 64 * 1024
_MEBI: Final = 1024**2
_GIBI: Final = 1024**3


def machine_facts(folder: Path, root: Path = Path("/")) -> dict[str, Json]:
    """Return the `properties` of this machine that can be found without a program.

    Args:
        folder: on the disk whose size counts.
        root: of the file system where it is looked at.
    """
    properties: dict[str, Json] = {name: _first(root, files) or UNKNOWN for name, files in _NAMES.items()}
    properties["cpus"] = [cpu(os.cpu_count() or 1, os.uname().machine)]
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            properties["memory"] = amount(int(line.split()[1]) * 1024)
    if size := disk_size(folder):
        properties["storage"] = size
    if found := gpus(root):
        properties["peripherals"] = found
    return {"properties": properties}


def cpu(cores: float, architecture: str) -> dict[str, Json]:
    """Return one CPU, as Margo has it.

    Args:
        architecture: in the words of a kernel or an engine; one that Margo has no word for is left out.
    """
    known = _ARCHITECTURES.get(architecture.lower())
    return {"cores": cores} | ({"architecture": known} if known else {})


def amount(size: int) -> str:
    """Return bytes in the largest unit that shows them well, rounded down."""
    return f"{size // _GIBI} Gi" if size >= 64 * _GIBI or size % _GIBI == 0 else f"{size // _MEBI} Mi"


def disk_size(folder: Path) -> str | None:
    """Return the size of the disk with a folder; None where it cannot be seen."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return amount(found.f_blocks * found.f_frsize)


def gpus(root: Path = Path("/")) -> list[Json]:
    """Return the GPUs of this machine that can compute, sorted; a display alone does not count."""
    found: list[dict[str, Json]] = []
    for card in (root / "sys/class/drm").glob("renderD*"):
        events = dict(line.split("=", 1) for line in _text(card / "device/uevent").splitlines() if "=" in line)
        maker = _PCI_VENDORS.get(_text(card / "device/vendor"))
        found.append(_gpu(maker, events.get("PCI_ID") or events.get("DRIVER")))
    if not any(each.get("manufacturer") == "NVIDIA" for each in found):
        for file in (root / "proc/driver/nvidia/gpus").glob("*/information"):
            models = [line.partition(":")[2].strip() for line in _text(file).splitlines() if line.startswith("Model:")]
            found.append(_gpu("NVIDIA", next(iter(models), None)))
    return sorted(found, key=str)


def _gpu(maker: str | None, model: str | None) -> dict[str, Json]:
    named: dict[str, str | None] = {"type": "gpu", "manufacturer": maker, "model": model}
    return {name: value for name, value in named.items() if value}


def _first(root: Path, files: tuple[str, ...]) -> str:
    return next(filter(None, (_text(root / file) for file in files)), "")


def _text(path: Path) -> str:
    """Return what a file of the kernel says; empty where it cannot be read."""
    try:
        return read_bounded(path, _LONGEST_NAME, cut=True).decode(errors="replace").strip(" \t\n\0")
    except OSError:
        return ""
