"""What was sent and what came, as text for a report: bounded, printable, without credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

LONGEST_LINE: Final = 400
MOST_LINES: Final = 12

_CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+|://[^/\s@]+@")


def shown(text: str | bytes, secrets: Iterable[str] = ()) -> str:
    """Return text as one line that a report can hold.

    Args:
        text: whatever a server or a program wrote.
        secrets: what must not be in it, beside what looks like a credential.
    """
    readable = text.decode(errors="replace") if isinstance(text, bytes) else text
    for secret in secrets:
        if secret:
            readable = readable.replace(secret, "***")
    readable = _CREDENTIALS.sub(lambda match: f"{match[1]} ***" if match[1] else "://***@", readable)
    line = "".join(each if each.isprintable() else " " if each in "\n\t\r" else "?" for each in readable.strip())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 2]} …"


def bounded(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the first lines, and how many more there were."""
    every = list(lines)
    more = (f"and {len(every) - MOST_LINES} more",) if len(every) > MOST_LINES else ()
    return (*every[:MOST_LINES], *more)
