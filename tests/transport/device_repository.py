"""A state repo for tests, written with git itself: its device branches, and branches that no renderer would write."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEVICE = "press-07"
REF = "refs/heads/devices/press-07"
MANIFEST = b'{"manifestVersion": 1}\n'
FIRST = "11111111-1111-5111-8111-111111111111"
SECOND = "22222222-2222-5222-8222-222222222222"

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "LC_ALL": "C"}


def git(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run git in `folder` and return what it prints."""
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        input=stdin,
        capture_output=True,
        check=True,
        env=_ENVIRONMENT,
        timeout=60,
    ).stdout


def files_of(manifest: bytes, deployments: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    """Return the files of a device tree with their modes."""
    files = {"manifest.json": ("100644", manifest)}
    return files | {f"deployments/{name}.yaml": ("100644", content) for name, content in deployments.items()}


@dataclass(frozen=True)
class DeviceRepository:
    """A bare repository."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> DeviceRepository:
        path.mkdir(parents=True)
        git(path, "init", "--bare", "--quiet", ".")
        git(path, "config", "http.receivepack", "false")
        return cls(path)

    def commit(self, manifest: bytes, deployments: Mapping[str, bytes], ref: str = REF) -> str:
        """Commit a device tree on `ref`, and return the commit's id."""
        return self.commit_files(files_of(manifest, deployments), ref)

    def commit_files(self, files: Mapping[str, tuple[str, bytes]], ref: str = REF) -> str:
        """Commit any tree; a file of mode 160000 is a submodule whose content is the id of its commit."""
        parent = self.tip(ref)
        lines = [
            b"commit %s\ncommitter Renderer <renderer@example.com> 1700000000 +0000\ndata 6\nstate\n" % ref.encode()
        ]
        if parent:
            lines.append(b"from %s\n" % parent.encode())
        lines.append(b"deleteall\n")
        for name, (mode, content) in files.items():
            if mode == "160000":
                lines.append(b"M 160000 %s %s\n" % (content, name.encode()))
            else:
                lines.append(b"M %s inline %s\ndata %d\n%s\n" % (mode.encode(), name.encode(), len(content), content))
        git(self.path, "fast-import", "--quiet", "--force", stdin=b"".join(lines))
        tip = self.tip(ref)
        assert tip is not None
        return tip

    def tip(self, ref: str = REF) -> str | None:
        found = git(self.path, "for-each-ref", "--format=%(refname) %(objectname)", ref).decode().split()
        return found[1] if found and found[0] == ref else None

    def add_refs(self, count: int) -> None:
        """Add device branches of others, in packed-refs as a served repository has them."""
        tip = self.tip()
        lines = "".join(f"create refs/heads/devices/other-{number:05} {tip}\n" for number in range(count))
        git(self.path, "update-ref", "--stdin", stdin=lines.encode())
        git(self.path, "pack-refs", "--all")

    def point(self, ref: str, target: str) -> None:
        git(self.path, "update-ref", ref, target)

    def remove(self, ref: str = REF) -> None:
        git(self.path, "update-ref", "-d", ref)

    def tip_tree(self, ref: str = REF) -> str:
        """Return the id of the tree of the commit at `ref`."""
        return git(self.path, "rev-parse", f"{ref}^{{tree}}").decode().strip()
