"""Device capabilities: what a device is and offers (Margo device capabilities, current shape).

Also amounts of memory and storage in binary units, and durations, as Margo writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

from margo_gitops.documents.declarations import About, Extensions, Items, OtherKeys, Problem, Range, Text
from margo_gitops.documents.device_id import DEVICE_ID_MAX_LENGTH, DEVICE_ID_PATTERN
from margo_gitops.values import dataclass, field

LabelValue: TypeAlias = str | int | float | bool | tuple[str | int | float, ...]
"""What a label may hold: a string, number or boolean, or a list of strings or numbers."""


FOUND_LABELS = "org.margo-gitops."
"""Starts the names of the labels that an agent finds out by itself (docs/capabilities.md)."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """One CPU of the device."""

    cores: Annotated[float, Range(minimum=0), About("Cores of this CPU that Margo may use.")]
    architecture: Annotated[Literal["amd64", "arm64", "arm"] | None, About("Instruction set.")] = None
    others: OtherKeys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peripheral:
    """Something attached to the device."""

    type: Annotated[Literal["gpu", "display", "camera", "microphone", "speaker"], About("What it is.")]
    manufacturer: Annotated[str | None, About("Who made it.")] = None
    model: Annotated[str | None, About("Its model.")] = None
    others: OtherKeys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interface:
    """A way the device communicates."""

    type: Annotated[
        Literal["ethernet", "wifi", "cellular", "bluetooth", "usb", "canbus", "rs232"], About("What it is.")
    ]
    others: OtherKeys = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """What the device is, and what of it Margo may use; a device that hosts nothing gives the first four only."""

    id: Annotated[
        str,
        Text(pattern=DEVICE_ID_PATTERN, what="a device id", max_length=DEVICE_ID_MAX_LENGTH),
        About("The device id."),
    ]
    vendor: Annotated[str, About("Who made the device.")]
    model_number: Annotated[str, About("The vendor's model number.")]
    serial_number: Annotated[str, About("The vendor's serial number.")]
    cpus: Annotated[tuple[Cpu, ...], About("CPUs; they are not added together.")] = ()
    memory: Annotated[str | None, About("With a binary unit.", ("8 Gi",))] = None
    storage: Annotated[str | None, About("With a binary unit.", ("64 Gi",))] = None
    peripherals: Annotated[tuple[Peripheral, ...], About("What is attached to the device.")] = ()
    interfaces: Annotated[tuple[Interface, ...], About("How the device communicates.")] = ()
    otel_collector: Annotated[bool | None, About("An OpenTelemetry collector runs on the device.")] = None
    supported_runtimes: Annotated[
        tuple[Literal["oci", "custom"], ...] | None, Items(minimum=1), About("What runs containers or other code.")
    ] = None
    supported_deployment_types: Annotated[
        tuple[Literal["helm", "compose", "custom"], ...] | None,
        Items(minimum=1),
        About("Which profile types the device installs."),
    ] = None
    others: OtherKeys = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """Yield amounts that no placement can use."""
        for name, text in (("memory", self.memory), ("storage", self.storage)):
            try:
                if text is not None:
                    parse_quantity(text)
            except ValueError as error:
                yield Problem((name,), str(error), "write it like 8 Gi", severity="warning")


@dataclass(frozen=True, slots=True)
class DeviceCapabilities:
    """A device's properties and labels."""

    properties: DeviceProperties
    labels: Annotated[Mapping[str, LabelValue], About("For eligibility rules; keys are case-sensitive.")] = field(
        default_factory=dict
    )
    extensions: Extensions = field(default_factory=dict)


REQUIRED_MEMORY_PATTERN = r"^[0-9]+(Mi|Gi|Ki)$"
REQUIRED_STORAGE_PATTERN = r"^[0-9]+(Mi|Gi|Ki|Ti|Pi|Ei)$"
TIMEOUT_PATTERN = r"^[0-9]+m[0-9]+s$"

_UNITS: dict[str, int] = {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
# Capabilities may put a space before the unit ("59 Gi"), constraints may not; both are compared as bytes.
_QUANTITY = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))? ?(Ki|Mi|Gi|Ti|Pi|Ei)")
_TIMEOUT = re.compile(r"([0-9]{1,6})m([0-9]{1,6})s")


@lru_cache(maxsize=1024)  # the devices of a fleet have few different amounts
def parse_quantity(text: str) -> int:
    """Return an amount in bytes (ValueError: `text` is not an amount with a binary unit)."""
    match = _QUANTITY.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not an amount in Ki, Mi, Gi, Ti, Pi or Ei")
    whole, fraction, unit = match.groups()
    scale = _UNITS[unit]
    part: int = int(fraction) * scale // 10 ** len(fraction) if fraction else 0
    return int(whole) * scale + part


def parse_timeout(text: str) -> int:
    """Return a component's time-out, `8m30s`, in seconds (ValueError: `text` has another form)."""
    match = _TIMEOUT.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} does not have the form 8m30s")
    return int(match.group(1)) * 60 + int(match.group(2))
