"""A forger with plain git: rewrites a state repo's history so that every id and parent fits again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from support.git_cli import Git

DEVICES = "refs/heads/devices/"
Change = Callable[[bytes], bytes]


@dataclass
class Forger:
    """Holds changes of single commits, then writes the whole history anew."""

    git: Git
    changes: dict[str, list[Change]] = field(default_factory=dict)
    literally: bool = False

    def chain(self, ref: str) -> list[str]:
        """Return a branch's commits, oldest first."""
        return self.git.run("rev-list", "--reverse", ref).splitlines()

    def commit_of(self, device: str, fleet_commit: str) -> str:
        """Return the device commit that belongs to a fleet commit."""
        (found,) = (
            each
            for each in self.chain(f"{DEVICES}{device}")
            if f"State-Commit: {fleet_commit}".encode() in self.git.run_bytes("cat-file", "commit", each)
        )
        return found

    def replace(self, commit: str, old: str, new: str) -> None:
        """Change text of a commit."""

        def change(raw: bytes) -> bytes:
            assert old.encode() in raw
            return raw.replace(old.encode(), new.encode())

        self.changes.setdefault(commit, []).append(change)

    def tree_of(self, commit: str, files: dict[str, bytes | None]) -> str:
        """Return a commit's tree with files put in or taken out."""
        index = {"GIT_INDEX_FILE": str(self.git.path / "forged-index")}
        self.git.run("read-tree", commit, environment=index)
        for path, content in files.items():
            if content is None:
                self.git.run("update-index", "--index-info", content=f"0 {'0' * 40}\t{path}\n", environment=index)
                continue
            blob = self.git.run("hash-object", "-w", "--stdin", content=content)
            self.git.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
        return self.git.run("write-tree", environment=index)

    def put(self, commit: str, files: dict[str, bytes | None]) -> None:
        """Give a commit a tree with other files."""
        old = self.git.run("rev-parse", f"{commit}^{{tree}}")
        self.replace(commit, f"tree {old}", f"tree {self.tree_of(commit, files)}")

    def write(self) -> dict[str, str]:
        """Write every branch anew and return the new id of each commit by its old one."""
        renamed: dict[str, str] = {}
        for ref in ["refs/heads/fleet", *self.git.run("for-each-ref", "--format=%(refname)", DEVICES).splitlines()]:
            for commit in self.chain(ref):
                raw = self.git.run_bytes("cat-file", "commit", commit)
                for change in self.changes.get(commit, ()):
                    raw = change(raw)
                for old, new in renamed.items():
                    raw = raw.replace(old.encode(), new.encode())
                options = ["--literally"] if self.literally else []
                renamed[commit] = self.git.run("hash-object", "-t", "commit", "-w", "--stdin", *options, content=raw)
            self.git.run("update-ref", ref, renamed[commit])
        return renamed
