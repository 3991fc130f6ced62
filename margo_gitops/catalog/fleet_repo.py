"""The fleet repo as git holds it: commits and their trees, read through libgit2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from margo_gitops.catalog.file_tree import FileKind, TreeFile, check_depth
from margo_gitops.errors import FleetCommitUnknown, NoFleetRepo

FLEET_FILE = "margo-gitops.yaml"

_KINDS: dict[int, FileKind] = {FileMode.BLOB: "file", FileMode.BLOB_EXECUTABLE: "file", FileMode.LINK: "link"}


@dataclass(frozen=True, slots=True)
class FleetCommit:
    """What rendered state takes from the commit it was rendered from.

    Attributes:
        id: in hex.
        author_name, author_email: who made the change.
        time: seconds since the epoch; with offset, minutes east of UTC.
        subject: first line of its message.
    """

    id: str
    author_name: str
    author_email: str
    time: int
    offset: int
    subject: str


class GitTree:
    """The files of a commit."""

    def __init__(self, repository: pygit2.Repository, tree: pygit2.Tree) -> None:
        self._repository = repository
        self._tree = tree

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder, in git's order."""
        tree = self._tree
        if folder:
            if folder not in self._tree:
                return
            found = self._tree[folder]
            if not isinstance(found, pygit2.Tree):
                return
            tree = found
        yield from self._walk(tree, f"{folder}/" if folder else "")

    def _walk(self, tree: pygit2.Tree, prefix: str) -> Iterator[TreeFile]:
        for entry in tree:
            if isinstance(entry, pygit2.Tree):
                check_depth(f"{prefix}{entry.name}")
                yield from self._walk(entry, f"{prefix}{entry.name}/")
            else:
                yield _entry(f"{prefix}{entry.name}", entry)

    def file(self, path: str) -> TreeFile | None:
        """Return one file."""
        if path not in self._tree:
            return None
        entry = self._tree[path]
        return None if isinstance(entry, pygit2.Tree) else _entry(path, entry)


def _entry(path: str, entry: pygit2.Object) -> TreeFile:
    kind = _KINDS.get(entry.filemode or 0, "special")
    if not isinstance(entry, pygit2.Blob):
        return TreeFile(path, "special", 0, bytes)
    return TreeFile(path, kind, entry.size, lambda: bytes(entry.data))


class FleetRepo:
    """A git repository with a `margo-gitops.yaml` in its root."""

    def __init__(self, repository: pygit2.Repository, root: Path) -> None:
        self._repository = repository
        self.root = root

    @classmethod
    def find(cls, start: Path) -> FleetRepo:
        """Return the fleet repo that a folder lies in.

        Raises:
            NoFleetRepo: there is none.
        """
        remedy = "change into one, name it with --fleet, or make one with `margo-gitops init DIR`"
        try:
            found = pygit2.discover_repository(str(start))
            repository = pygit2.Repository(found) if found else None
        except pygit2.GitError as error:
            raise NoFleetRepo(f"{start}: {error}", remedy=remedy) from error
        if repository is None:
            raise NoFleetRepo(f"{start} lies in no git repository", remedy=remedy)
        return cls(repository, Path(repository.workdir or repository.path))

    def commit(self, revision: str) -> FleetCommit:
        """Return a commit of the fleet repo.

        Raises:
            FleetCommitUnknown: `revision` names none.
        """
        commit = self._commit(revision)
        # Bytes that are no UTF-8 are shown as such, never a reason to fail: the id alone counts.
        return FleetCommit(
            id=str(commit.id),
            author_name=commit.author.name,
            author_email=commit.author.email,
            time=commit.author.time,
            offset=commit.author.offset,
            subject=commit.message.strip().split("\n")[0],
        )

    def tree(self, revision: str) -> GitTree:
        """Return the files of a commit.

        Raises:
            FleetCommitUnknown: `revision` names none.
        """
        return GitTree(self._repository, self._commit(revision).tree)

    def _commit(self, revision: str) -> pygit2.Commit:
        try:
            return self._repository.revparse_single(revision).peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError) as error:
            unborn = revision == "HEAD" and self._repository.head_is_unborn
            remedy = "commit something first" if unborn else "name a branch, tag or commit id"
            raise FleetCommitUnknown(f"{revision} is no commit of {self.root}", remedy=remedy) from error

    def knows(self, commit: str) -> bool:
        """Return whether this clone has a commit, by its full id."""
        try:
            return isinstance(self._repository.get(commit), pygit2.Commit)
        except ValueError:
            return False

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Return whether `newer` comes after `older`; False where this repo does not know one of them."""
        try:
            return self._repository.descendant_of(newer, older)
        except (KeyError, ValueError, pygit2.GitError):
            return False

    def uncommitted(self) -> list[str]:
        """Return the paths that differ from HEAD, which a render of HEAD does not see; sorted."""
        if self._repository.is_bare:
            return []
        return sorted(self._repository.status(untracked_files="normal"))
