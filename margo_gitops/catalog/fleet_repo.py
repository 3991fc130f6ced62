"""The fleet repo as git holds it: commits and their trees, read through libgit2.

The fleet repo is a whole git repository, or the folder of a larger one that holds `margo-gitops.yaml`. Then all paths
are relative to that folder, and a commit that changes nothing in it does not count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pygit2
from pygit2.enums import DiffOption, FileMode

from margo_gitops.catalog.file_tree import FileKind, TreeFile, check_depth
from margo_gitops.catalog.fleet_history import FleetHistory, subtree
from margo_gitops.catalog.working_tree import WorkingTree, ask_git, below, is_true
from margo_gitops.errors import FleetCommitUnknown, NoFleetRepo
from margo_gitops.git_program import format_remedy
from margo_gitops.trust.git_commit import Ident
from margo_gitops.values import dataclass

FLEET_FILE = "margo-gitops.yaml"

_ENTRY: Final = re.compile(rb"([0-7]+) ([^\0]+)\0(.{20})", re.DOTALL)
_NAME: Final = re.compile(rb"[0-7]+ ([^\0]+)\0.{20}", re.DOTALL)
_FOLDER_MODE: Final = b"40000"
_KINDS: dict[int, FileKind] = {FileMode.BLOB: "file", FileMode.BLOB_EXECUTABLE: "file", FileMode.LINK: "link"}


@dataclass(frozen=True, slots=True)
class FleetCommit:
    """What rendered state takes from the commit it was rendered from.

    Attributes:
        id: in hex.
    """

    id: str
    author: Ident
    subject: str


class GitTree:
    """The files of a commit."""

    def __init__(self, repository: pygit2.Repository, tree: pygit2.Tree | None, complete: Callable[[], None]) -> None:
        """Read a tree, or nothing for None; `complete` fetches the files that a partial clone lacks."""
        self._repository = repository
        self._tree = tree
        self._complete = complete

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder, in git's order."""
        return (self._entry(path, entry) for path, entry in self._below(folder))

    def paths(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder, in git's order."""
        return (path for path, _ in self._below(folder))

    def _below(self, folder: str) -> Iterator[tuple[str, pygit2.Object]]:
        tree = subtree(self._tree, folder)
        if tree is not None:
            yield from self._walk(tree, f"{folder}/" if folder else "")

    def _walk(self, tree: pygit2.Tree, prefix: str) -> Iterator[tuple[str, pygit2.Object]]:
        for entry in tree:
            if isinstance(entry, pygit2.Tree):
                check_depth(f"{prefix}{entry.name}")
                yield from self._walk(entry, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry

    def named(self, folder: str, names: Collection[str]) -> Iterator[str]:
        """Yield the paths below a folder in which a part has one of these names, or an escape, and some others.

        All names of a folder are looked at together, as bytes: that takes a third of the time of `paths`.
        """
        wanted = {os.fsencode(f"{name}{ending}") for name in names for ending in ("", ".yaml")}
        odb = self._repository.odb

        def walk(tree: pygit2.Oid, prefix: str, *, every: bool) -> Iterator[str]:
            content = odb.read(tree)[1]
            held = _NAME.findall(content)
            here = every or not wanted.isdisjoint(held) or b"_" in b"".join(held)
            for mode, name, raw in _ENTRY.findall(content) if here or _FOLDER_MODE in content else ():
                path = f"{prefix}{os.fsdecode(name)}"
                if mode == _FOLDER_MODE:
                    check_depth(path)
                    yield from walk(pygit2.Oid(raw=raw), f"{path}/", every=every or name in wanted or b"_" in name)
                elif here:
                    yield path

        tree = subtree(self._tree, folder)
        return walk(tree.id, f"{folder}/", every=False) if tree is not None else iter(())

    def names(self) -> list[str]:
        """Return the names in the root."""
        return [str(entry.name) for entry in self._tree or ()]

    def file(self, path: str) -> TreeFile | None:
        """Return one entry that is not a folder."""
        if self._tree is None or path not in self._tree:
            return None
        entry = self._tree[path]
        return None if isinstance(entry, pygit2.Tree) else self._entry(path, entry)

    def _entry(self, path: str, entry: pygit2.Object) -> TreeFile:
        if not isinstance(entry, pygit2.Blob):
            return TreeFile(path, "special", 0, bytes)
        # `entry.size` would read the whole blob.
        odb = self._repository.odb
        try:
            _, size = odb.read_header(entry.id)
        except KeyError:
            self._complete()
            _, size = odb.read_header(entry.id)
        return TreeFile(path, _KINDS.get(entry.filemode or 0, "special"), size, lambda: odb.read(entry.id)[1])


def _differences(before: pygit2.Tree | None, after: pygit2.Tree | None) -> Iterator[str]:
    """Yield the paths that differ between two trees; libgit2 would read the folders that are the same too."""
    folders: list[tuple[str, list[pygit2.Tree | None]]] = [("", [before, after])]
    while folders:
        prefix, sides = folders.pop()
        one, other = ({(entry.name, entry.filemode, entry.id): entry for entry in side or ()} for side in sides)
        below: dict[str, list[pygit2.Tree | None]] = {}
        for key in one.keys() ^ other.keys():
            entry, path = other[key] if key in other else one[key], f"{prefix}{key[0]}"
            if isinstance(entry, pygit2.Tree):
                below.setdefault(f"{path}/", [None, None])[key in other] = entry
            else:
                yield path
        folders += below.items()


def _paths(diff: pygit2.Diff) -> frozenset[str]:
    return frozenset(file.path for delta in diff.deltas for file in (delta.old_file, delta.new_file))


def owner_remedy(error: pygit2.GitError) -> str:
    """Return what to do where git does not trust a repository of another user; empty for any other error."""
    if "not owned by current user" not in str(error):
        return ""
    return "if you trust it: git config --global --add safe.directory FOLDER"


def _fleet_folder(start: Path, top: str | None) -> str:
    """Return the nearest folder upwards that holds a fleet, relative to a work tree; "" if no folder does."""
    end = Path(top).resolve() if top else start
    for folder in (start, *start.parents):
        if folder == end or end not in folder.parents:
            break
        if os.path.lexists(folder / FLEET_FILE):
            return folder.relative_to(end).as_posix()
    return ""


class FleetRepo:
    """A git repository with a `margo-gitops.yaml` in its root, or a folder of one.

    Every method that takes a revision raises FleetCommitUnknown where it names no commit.

    Attributes:
        repository: the whole one.
        folder: the fleet's, relative to the work tree; "" for the whole repository.
        root: the same folder on disk.
    """

    def __init__(self, repository: pygit2.Repository, folder: str) -> None:
        self.repository = repository
        self.folder = folder
        self.root = Path(repository.workdir or repository.path) / folder

    @classmethod
    def find(cls, start: Path) -> FleetRepo:
        """Return the fleet repo that a folder is in (NoFleetRepo: it is in no fleet repo)."""
        remedy = "change into one, name it with --fleet, or make one with `margo-gitops init DIR`"
        try:
            found = pygit2.discover_repository(str(start))
            repository = pygit2.Repository(found) if found else None
        except pygit2.GitError as error:
            raise NoFleetRepo(
                f"{start} cannot be read",
                why=[str(error)],
                remedy=owner_remedy(error) or format_remedy(str(error)) or remedy,
            ) from error
        if repository is None:
            raise NoFleetRepo(f"{start} is not in a git repository", remedy=remedy)
        return cls(repository, _fleet_folder(start.resolve(), repository.workdir))

    def path(self, file: str) -> str:
        """Return the path of a file of the fleet in the whole repository."""
        return f"{self.folder}/{file}" if self.folder else file

    @property
    def is_bare(self) -> bool:
        """Whether there are only commits, and no files."""
        return self.repository.is_bare

    def commit(self, revision: str) -> FleetCommit:
        """Return a commit of the fleet repo."""
        commit = self._commit(revision)
        # Bytes that are no UTF-8 are shown as such, never a reason to fail: the id alone counts.
        author = commit.author
        who = Ident(author.name, author.email, author.time, author.offset)
        return FleetCommit(str(commit.id), who, commit.message.strip().split("\n")[0])

    def tree(self, revision: str) -> GitTree:
        """Return the files of a commit."""
        commit = self._commit(revision)
        return GitTree(self.repository, self.subtree(commit), lambda: self._complete(str(commit.id)))

    def subtree(self, commit: pygit2.Commit) -> pygit2.Tree | None:
        """Return the fleet's files in a commit; None where it lacks the fleet's folder."""
        config = self.repository.config
        filters = (f"remote.{name}.partialclonefilter" for name in self.repository.remotes.names())
        if any(name in config and not str(config[name]).startswith("blob:") for name in filters):
            self._complete(str(commit.id))  # folders may be missing, not only files
        return subtree(commit.tree, self.folder)

    def _complete(self, commit: str) -> None:
        """Fetch what a partial clone (`--filter`) has left out of a commit's files: libgit2 does not.

        Raises:
            NoFleetRepo: it cannot be fetched.
        """
        wanted = f"{commit}:{self.folder}" if self.folder else commit
        if self.folder and not ask_git(self.root, "ls-tree", "--full-tree", commit, "--", self.folder):
            return
        said = ask_git(self.root, "rev-list", "--objects", "--missing=print", "--no-walk", wanted).splitlines()
        missing = "".join(f"{line[1:]}\n" for line in said if line.startswith("?"))
        remotes = [name for name in self.repository.remotes.names() if name is not None]
        remote = next((name for name in remotes if is_true(self.repository, f"remote.{name}.promisor")), "origin")
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--no-filter")
        ask_git(self.root, "-c", "fetch.negotiationAlgorithm=noop", "fetch", *quiet, remote, "--stdin", given=missing)

    def history(self) -> FleetHistory:
        """Return the commits, as policies judge them."""
        return FleetHistory(self.repository, self.folder)

    def last_change(self, revision: str) -> FleetCommit:
        """Return the newest commit up to a revision that counts for the fleet: what a render of it starts from."""
        return self.commit(self.history().last_change(str(self._commit(revision).id)))

    def working_tree(self) -> WorkingTree:
        """Return the files as they are now, without those that git ignores (NoFleetRepo: the repository is bare)."""
        if self.is_bare:
            raise NoFleetRepo(
                f"{self.root} is a bare repository: it has no files, only commits",
                remedy="name a commit where the command has --rev (--rev HEAD), or work in a clone",
            )
        return WorkingTree(self.repository, self.root, self.path(""))

    def _commit(self, revision: str) -> pygit2.Commit:
        try:
            return self.repository.revparse_single(revision).peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError) as error:
            if not revision.strip():
                remedy = "name a branch, tag or commit id; in a script, see that the variable is set"
                raise FleetCommitUnknown("an empty text names no commit", remedy=remedy) from error
            if revision == "HEAD" and self.repository.head_is_unborn:
                remedy = "commit something first"
            elif self.repository.is_shallow:
                remedy = "this clone is shallow: git fetch --unshallow (fetch-depth: 0 in a pipeline); or name another"
            else:
                remedy = "name a branch, tag or commit id"
            raise FleetCommitUnknown(f"{revision} is not a commit of {self.root}", remedy=remedy) from error

    def knows(self, commit: str) -> bool:
        """Return whether this clone has a commit, by its full id."""
        try:
            return isinstance(self.repository.get(commit), pygit2.Commit)
        except ValueError:
            return False

    @property
    def is_shallow(self) -> bool:
        """Whether this clone lacks the older part of the history."""
        return self.repository.is_shallow

    def remote(self) -> str | None:
        """Return the remote that a new branch goes to: `origin`, or the only one; None if there is no such remote."""
        names = [name for name in self.repository.remotes.names() if name is not None]
        if "origin" in names:
            return "origin"
        return names[0] if len(names) == 1 else None

    def default_branch(self) -> str | None:
        """Return the default branch of the remote, as `git clone` noted it; None where this clone does not know it."""
        prefix = f"refs/remotes/{self.remote()}/"
        head = self.repository.references.get(f"{prefix}HEAD")
        return str(head.target).removeprefix(prefix) if head is not None and head.raw_target is not None else None

    def branch_tips(self, branch: str) -> list[str]:
        """Return the newest commits of a branch, here and at the remote, as far as this clone knows them."""
        tips = []
        for name in (f"refs/heads/{branch}", f"refs/remotes/{self.remote()}/{branch}"):
            with suppress(KeyError, ValueError, pygit2.GitError):
                tips.append(str(self.repository.references[name].peel(pygit2.Commit).id))
        return tips

    def object(self, name: str) -> tuple[str, bytes] | None:
        """Return type and bytes of an object by its full id; None where this clone lacks it."""
        try:
            found = self.repository[name]
        except (KeyError, ValueError):
            return None
        return str(found.type_str), bytes(found.read_raw())

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Return whether `newer` comes after `older`; False where this repo does not know one of them."""
        try:
            return self.repository.descendant_of(newer, older)
        except (KeyError, ValueError, pygit2.GitError):
            return False

    def changed_files(self, since: str, revision: str | None) -> frozenset[str]:
        """Return the paths that differ between two commits, or a commit and the files as they are; removed ones too.

        Args:
            revision: the newer one; None: the files, untracked ones too.
        """
        before = self.subtree(self._commit(since))
        if revision is None:
            found = None if before is None or self.folder else self._changed_in_index(before)
            return self._changed_by_git(since) if found is None else found
        return frozenset(_differences(before, self.subtree(self._commit(revision))))

    def _changed_in_index(self, before: pygit2.Tree) -> frozenset[str] | None:
        """Return the paths of files that differ from a tree, by git's index: it knows which files are as they were.

        None where it cannot tell: it is sparse, split or in a merge, or a file was staged and changed again.
        """
        flags = DiffOption.INCLUDE_UNTRACKED | DiffOption.RECURSE_UNTRACKED_DIRS
        try:
            index = self.repository.index
            index.read(force=False)
            staged, changed = _paths(before.diff_to_index(index)), _paths(index.diff_to_workdir(flags))
            return None if index.conflicts is not None or staged & changed else staged | changed
        except pygit2.GitError:
            return None

    def uncommitted(self) -> list[str]:
        """Return the paths that differ from HEAD, which a render of HEAD does not see; none where git cannot tell."""
        if self.is_bare:
            return []
        how = ("--porcelain", "-z", "--no-renames", "--untracked-files=normal", "--", ".")
        try:  # it takes half the time of libgit2
            said = ask_git(self.root, "--no-optional-locks", "status", *how)
        except NoFleetRepo:
            return []
        return sorted(below(self.path(""), (line[3:] for line in said.split("\0") if line)))

    def _changed_by_git(self, since: str) -> frozenset[str]:
        changed = ask_git(
            self.root, "diff", "--relative", "--name-only", "--no-renames", "-z", str(self._commit(since).id)
        )
        untracked = ask_git(self.root, "ls-files", "--others", "--exclude-standard", "-z")
        return frozenset(path for path in (changed + untracked).split("\0") if path)
