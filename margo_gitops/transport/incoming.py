"""What comes from another machine: how it is read, and how it may stand in a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Read: TypeAlias = Callable[[int], bytes]
"""Returns as many bytes as asked for; fewer only at the end."""

_SHOWN = 200


def shown(text: bytes) -> str:
    """Return what a server wrote, bounded and printable, so that it can stand in a message."""
    readable = text[:_SHOWN].decode(errors="replace").strip()
    return "".join(character if character.isprintable() else "?" for character in readable)
