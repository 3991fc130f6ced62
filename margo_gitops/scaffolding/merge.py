"""Decide what becomes of one scaffolded file in an upgrade. Pure, except for the merge itself, which git does.

Three contents meet: what the scaffold wrote last (base), what is there (mine), what the scaffold writes now (theirs).

1. A file that the person did not change becomes theirs; one that the scaffold did not change stays mine.
2. Changes of both are merged line by line. Where both changed the same lines, mine stays as it is, unless asked.
3. A file that was deleted stays deleted. A file that the scaffold no longer has goes, if it was not changed.
4. What is there and was never the scaffold's is not touched, unless asked.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

from margo_gitops.digests import sha256
from margo_gitops.errors import UpgradeRefused
from margo_gitops.scaffolding.record import ScaffoldedFile, scaffolded
from margo_gitops.values import dataclass

OnConflict: TypeAlias = Literal["keep", "mine", "theirs", "mark"]
"""What becomes of lines that both changed: the whole file is kept and not upgraded; the lines are mine, theirs, or both
with git's conflict markers."""

Fate: TypeAlias = Literal["added", "updated", "merged", "removed", "conflict", "marked", "deleted", "left", "same"]

_TIMEOUT_SECONDS = 30
_MOST_CONFLICTS = 127
_MOST_DIFF_LINES = 40


@dataclass(frozen=True, slots=True)
class FileUpgrade:
    """What becomes of a file.

    Attributes:
        path: relative to the fleet repo.
        content: what to write; None: nothing is written.
        record: what is recorded from now on; None: the file is no longer the scaffold's.
        told: lines for people, such as what the scaffold changed where that cannot be merged.
    """

    path: str
    fate: Fate
    content: bytes | None = None
    record: ScaffoldedFile | None = None
    told: tuple[str, ...] = ()


def upgrade_file(
    path: str, base: ScaffoldedFile | None, mine: bytes | None, theirs: bytes | None, on_conflict: OnConflict
) -> FileUpgrade:
    """Return what becomes of one file.

    Args:
        path: relative to the fleet repo.
        base: what the scaffold wrote last; None: this file is not the scaffold's.
        mine: what is there; None: nothing.
        theirs: what the scaffold writes now; None: nothing.

    Raises:
        UpgradeRefused: there is no git to merge with.
    """
    if theirs is None:
        if base is None or mine is None:
            return FileUpgrade(path, "same")
        return FileUpgrade(path, "removed" if sha256(mine) == base.digest else "left")
    now = scaffolded(path, theirs)
    if mine is None:
        return FileUpgrade(path, "added", theirs, now) if base is None else FileUpgrade(path, "deleted", None, now)
    if mine == theirs:
        return FileUpgrade(path, "same", None, now)
    if base is not None and sha256(mine) == base.digest:
        return FileUpgrade(path, "updated", theirs, now)
    if base is not None and base.digest == now.digest:
        return FileUpgrade(path, "same", None, now)
    return _both_changed(path, base, mine, theirs, on_conflict)


def _both_changed(
    path: str, base: ScaffoldedFile | None, mine: bytes, theirs: bytes, on_conflict: OnConflict
) -> FileUpgrade:
    now = scaffolded(path, theirs)
    text = (base.text if base is not None else None) or ""
    known = base is not None and base.text is not None
    if known:
        merged = merge_lines(text.encode(), mine, theirs)
        if merged is not None and merged.conflicts == 0:
            return FileUpgrade(path, "same" if merged.content == mine else "merged", merged.content, now)
    if on_conflict == "mine" and not known:
        return FileUpgrade(path, "same", None, now)
    if on_conflict == "theirs" and not known:
        return FileUpgrade(path, "updated", theirs, now)
    if on_conflict != "keep":
        merged = merge_lines(text.encode(), mine, theirs, on_conflict)
        if merged is not None:
            fate: Fate = "marked" if on_conflict == "mark" else "merged"
            return FileUpgrade(path, fate, merged.content, now)
    return FileUpgrade(path, "conflict", None, base, tuple(_changes(text if known else None, mine, theirs)))


def _changes(base: str | None, mine: bytes, theirs: bytes) -> list[str]:
    """Return what the scaffold would change in a file, as a diff; the whole difference where its base is not known."""
    before = base if base is not None else mine.decode(errors="replace")
    lines = [
        line
        for line in difflib.unified_diff(before.splitlines(), theirs.decode().splitlines(), lineterm="", n=1)
        if not line.startswith(("---", "+++"))
    ]
    more = len(lines) - _MOST_DIFF_LINES
    return lines if more <= 0 else [*lines[:_MOST_DIFF_LINES], f"({more} more lines)"]


@dataclass(frozen=True, slots=True)
class Merged:
    """The outcome of a merge by lines."""

    content: bytes
    conflicts: int


def merge_lines(base: bytes, mine: bytes, theirs: bytes, on_conflict: OnConflict = "mark") -> Merged | None:
    """Return what `git merge-file` makes of three contents; None: they are not text (UpgradeRefused: no git)."""
    favour = {"mine": ["--ours"], "theirs": ["--theirs"]}.get(on_conflict, [])
    with tempfile.TemporaryDirectory(prefix="margo-gitops-") as folder:
        places = [Path(folder, name) for name in ("yours", "base", "scaffold")]
        for place, content in zip(places, (mine, base, theirs), strict=True):
            place.write_bytes(content)
        labels = ["-L", "yours", "-L", "the scaffold before", "-L", "the scaffold now"]
        try:
            done = subprocess.run(
                ["git", "merge-file", "-p", "--diff3", *favour, *labels, *map(str, places)],
                cwd=folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": folder},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UpgradeRefused(
                "git cannot merge your changes with the scaffold's", why=[str(error)], remedy="install git"
            ) from error
    if not 0 <= done.returncode <= _MOST_CONFLICTS:
        return None
    return Merged(done.stdout, done.returncode)
