"""Amounts of memory and storage in binary units, and durations, as Margo writes them."""

from __future__ import annotations

import re

REQUIRED_MEMORY_PATTERN = r"^[0-9]+(Mi|Gi|Ki)$"
REQUIRED_STORAGE_PATTERN = r"^[0-9]+(Mi|Gi|Ki|Ti|Pi|Ei)$"
TIMEOUT_PATTERN = r"^[0-9]+m[0-9]+s$"

_UNITS: dict[str, int] = {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
# Capabilities may put a space before the unit ("59 Gi"), constraints may not; both are compared as bytes.
_QUANTITY = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))? ?(Ki|Mi|Gi|Ti|Pi|Ei)")
_TIMEOUT = re.compile(r"([0-9]{1,6})m([0-9]{1,6})s")


def parse_quantity(text: str) -> int:
    """Return an amount in bytes.

    Raises:
        ValueError: `text` is no amount with a binary unit.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no amount in Ki, Mi, Gi, Ti, Pi or Ei")
    whole, fraction, unit = match.groups()
    scale = _UNITS[unit]
    part: int = int(fraction) * scale // 10 ** len(fraction) if fraction else 0
    return int(whole) * scale + part


def parse_timeout(text: str) -> int:
    """Return a component's time-out, `8m30s`, in seconds.

    Raises:
        ValueError: `text` has another form.
    """
    match = _TIMEOUT.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} has not the form 8m30s")
    return int(match.group(1)) * 60 + int(match.group(2))
