"""Keep a state repo small: each render adds a pack, and in it whole copies of files of which one line changed.

`git repack` merges packs (D-27).

REPACK-1  The new pack is complete before the old ones are removed. No object is lost: only `git gc` removes those that
          no ref leads to, such as statements of freshness that were replaced.
REPACK-2  Readers do not notice: one that finds a pack gone looks for the object again, as git, libgit2 and dulwich do.
REPACK-3  The first time, all packs become one. From then on only the small ones are merged: each that stays holds at
          least twice the objects of all smaller ones. So an object is written again only a few times.
REPACK-4  One process at a time; another one that wants the same does nothing.
REPACK-5  It is never an error. Without git, or with less than twice the room of the packs free on the disk, they stay
          until the next time. What a killed git or render left is removed a day later.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from margo_gitops.disk.locks import LockTaken, take_lock
from margo_gitops.git_program import run_git
from margo_gitops.state_repo.object_pack import KEPT_BY

MOST_PACKS: Final = 16
REPACK_LOCK: Final = "margo-gitops-repack.lock"
_LOOSE_IN_A_FOLDER: Final = 8
"""Of 256 folders; so about 2,000 loose objects, as reports are, become a pack."""
_TIMEOUT_SECONDS: Final = 3600
_DAY_SECONDS: Final = 86_400
_OURS: Final = ("-c", "pack.threads=1", "-c", "pack.packSizeLimit=0", "-c", "repack.useDeltaBaseOffset=true")


def repack(folder: Path) -> bool:
    """Merge the packs of a state repo where there are many; return whether git did."""
    packs = folder / "objects" / "pack"
    try:
        sizes = {path.name: path.stat().st_size for path in packs.iterdir()}
        loose = sum(1 for _ in (folder / "objects" / "17").glob("*"))
        if sum(name.endswith(".pack") for name in sizes) <= MOST_PACKS and loose <= _LOOSE_IN_A_FOLDER:
            return False
        # git leaves half a pack where the disk is full, and the next render would find no room.
        if shutil.disk_usage(packs).free < 2 * sum(sizes.values()):
            return False
        with take_lock(folder / REPACK_LOCK, mode=0o666, named=False):
            _sweep(packs)
            # git makes a bitmap for a pack that holds everything. It looks for differences between objects of one pack
            # only with -f, and a first render writes one pack without any.
            whole = not any(name.endswith(".bitmap") for name in sizes)
            how = ("-a", "-f", "--keep-unreachable", "--write-bitmap-index") if whole else ("--geometric=2",)
            done = run_git(
                ["--git-dir", str(folder), *_OURS, "repack", "-d", "-l", "-n", "-q", *how],
                seconds=_TIMEOUT_SECONDS,
                variables={"LC_ALL": "C"},
            )
            return done.returncode == 0
    except (LockTaken, OSError, subprocess.TimeoutExpired):
        return False


def _sweep(packs: Path) -> None:
    """Remove what killed processes left unfinished."""
    for path in (*packs.glob(".tmp-*"), *packs.glob("tmp_*"), *packs.glob("*.keep")):
        with suppress(FileNotFoundError):
            theirs = path.suffix == ".keep" and path.read_bytes() != KEPT_BY.encode()
            if not theirs and time.time() - path.stat().st_mtime > _DAY_SECONDS:
                path.unlink()
