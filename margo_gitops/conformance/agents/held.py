"""What an agent holds: the files below one folder, as they lie on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from margo_gitops.conformance.evidence import shown
from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import DEPLOYMENTS_FOLDER, MANIFEST_FILE

_LARGEST: Final = 16 * 1024 * 1024
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """What an agent holds.

    Attributes:
        files: content by path, of `manifest.json` and all below `deployments/`.
        odd: what is no plain file there: a link, an executable file, with the words for it, by path.
        names: everything that lies beside `manifest.json`.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def differences(self, wanted: Mapping[str, bytes], names: frozenset[str]) -> list[str]:
        """Return, in words, how this differs from what should be held; empty for nothing.

        Args:
            wanted: content by path.
            names: what may lie beside `manifest.json` besides.
        """
        found = [f"{shown(path)} is {what}" for path, what in sorted(self.odd.items())]
        for path in sorted(self.files.keys() | wanted.keys()):
            if path not in wanted:
                found.append(f"{shown(path)} is held, but should not be")
            elif path not in self.files:
                found.append(f"{path} is not held")
            elif self.files[path] != wanted[path]:
                found.append(f"{path} has other content: {sha256(self.files[path])[:19]}…")
        expected = names | {path.partition("/")[0] for path in wanted}
        found += [f"{shown(name)} is held, but should not be" for name in sorted(self.names - expected)]
        return found


def read_held(folder: Path) -> Held:
    """Return what lies in a folder; nothing where there is none. Links in it are named, not followed."""
    if not folder.is_dir():
        return Held()
    names = frozenset(entry.name for entry in os.scandir(folder))
    files: dict[str, bytes] = {}
    odd: dict[str, str] = {}
    for path in _paths(folder):
        name = path.relative_to(folder).as_posix()
        what = _oddity(path)
        if what is not None:
            odd[name] = what
        else:
            files[name] = path.read_bytes()
        if len(files) + len(odd) > _MOST:
            break
    return Held(files, odd, names)


def _paths(folder: Path) -> Iterator[Path]:
    manifest = folder / MANIFEST_FILE
    if os.path.lexists(manifest):
        yield manifest
    deployments = folder / DEPLOYMENTS_FOLDER
    if deployments.is_symlink() or deployments.is_file():
        yield deployments
        return
    for place, folders, files in os.walk(deployments):
        yield from (Path(place) / name for name in sorted(files))
        yield from (Path(place) / name for name in sorted(folders) if (Path(place) / name).is_symlink())


def _oddity(path: Path) -> str | None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "no file"
    if status.st_mode & 0o111:
        return "executable"
    return f"larger than {_LARGEST} bytes" if status.st_size > _LARGEST else None
