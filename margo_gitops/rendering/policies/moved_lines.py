"""Where a place of an older file is in a newer one, so that hosts can show a finding in the change."""

from __future__ import annotations

from margo_gitops.errors import Location


def nearest_place(where: Location, before: bytes, after: bytes) -> Location:
    """Return the place of the newer file that stands where an older one's does: the same line, or where it was.

    Args:
        where: in the older file.
        before: bytes of the older file.
        after: bytes of the newer one. Lines that both begin or end with are the same; what lies between is changed.
    """
    old, new = before.splitlines(), after.splitlines()
    if where.line is None or not new or where.line > len(old):
        return where
    first = _common(old, new)
    last = min(_common(old[::-1], new[::-1]), len(old) - first, len(new) - first)
    at = where.line - 1
    if at < first:
        return where
    if at >= len(old) - last:
        return Location(where.file, at + len(new) - len(old) + 1, where.column)
    # Among the changed lines; where there are none left, the line before them.
    at = max(min(at, len(new) - last - 1), 0)
    return Location(where.file, at + 1, len(new[at]) - len(new[at].lstrip()) + 1)


def _common(old: list[bytes], new: list[bytes]) -> int:
    """Return how many lines both begin with."""
    return next(
        (at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new))
    )
