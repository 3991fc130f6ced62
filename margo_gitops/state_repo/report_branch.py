"""What devices reported, as a branch of the state repo: `refs/heads/reports`.

    <two hex digits>/<client>/capabilities/<device>.json
    <two hex digits>/<client>/status/<deployment id>.json
    <two hex digits>/<client>/receipts/latest.json
    <two hex digits>/<client>/carried/latest.json          the newest file that a person carried home (docs/sticks.md)
    <two hex digits>/<client>/identity/copied.json         the server noticed a copy of the device

The digits, of the client name's sha256, keep the folders small: a commit of one report writes four small trees, however
large the fleet is. Only the server writes this branch, so it is a loose ref under git's own lock, and a render never
waits for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pygit2
from pygit2.enums import FileMode, Option

from margo_gitops.disk.locks import LockTaken, take_lock
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.errors import StateMoved, StateRepoUnusable
from margo_gitops.values import dataclass

_COMMITTER: Final = ("margo-gitops", "reports@margo-gitops.invalid")
_STALE_LOCK_SECONDS: Final = 60.0
COMPACT_LOCK: Final = "margo-gitops-compact.lock"
"""Held while objects are removed that no ref leads to: a report may hold the same bytes again, and counts on them."""

ReportKind: TypeAlias = Literal["capabilities", "status", "receipts", "carried", "identity"]
LATEST: Final = "latest"
"""The one file of receipts that a client has: those that came since the commit before."""


@dataclass(frozen=True, slots=True, order=True)
class ReportKey:
    """Whose report it is, and about what.

    Attributes:
        client: the client that reported.
        name: the device id of capabilities, the deployment id of a status, `latest` for receipts and carried, `copied`.
    """

    client: str
    kind: ReportKind
    name: str

    @property
    def path(self) -> tuple[str, ...]:
        """Its place in the branch."""
        client = encode_device_id(self.client)
        name = encode_device_id(self.name) if self.kind == "capabilities" else self.name.lower()
        return bucket_of(self.client), client, self.kind, f"{name}.json"


def bucket_of(client: str) -> str:
    """Return the folder that a client's folder is in: two hex digits."""
    return hashlib.sha256(encode_device_id(client).encode()).hexdigest()[:2]


@dataclass(frozen=True, slots=True)
class Committed:
    """Where the branch of reports is after a commit.

    Attributes:
        tip: its newest commit; None: it does not exist.
        follows: whether that builds on the commit that was named; where none was, on any.
    """

    tip: str | None
    follows: bool


class ReportBranch:
    """The branch of reports; one writer."""

    def __init__(self, folder: Path) -> None:
        """Use the state repo in a folder (StateRepoUnusable: it does not exist)."""
        try:
            self._repository = pygit2.Repository(str(folder))
        except pygit2.GitError as error:
            raise StateRepoUnusable(f"there is no state repo at {folder}", why=[str(error)]) from error
        self._lock = folder / f"{REPORTS_REF}.lock"
        self._compact_lock = folder / COMPACT_LOCK
        # A commit that a report's journal counts as done must survive a power cut.
        pygit2.option(Option.ENABLE_FSYNC_GITDIR, True)

    def read(self, key: ReportKey) -> bytes | None:
        """Return what the branch has; None if it does not exist."""
        try:
            found = self._repository.revparse_single(f"{REPORTS_REF}:{'/'.join(key.path)}")
        except (KeyError, ValueError, pygit2.GitError):
            return None
        return found.data if isinstance(found, pygit2.Blob) else None

    def commit(
        self,
        changes: Mapping[ReportKey, bytes | None],
        title: str,
        trailers: Sequence[tuple[str, str]],
        moment: int,
        after: str | None = None,
    ) -> Committed:
        """Put changed reports into the branch; where nothing changed, there is no commit.

        Args:
            changes: content by key; None removes it.
            trailers: name and value of each trailer of the message.
            moment: the time, seconds since the epoch.
            after: the commit that was made last; where the branch does not build on it, it was lost.

        Raises:
            StateMoved: somebody else moved the branch; nothing was changed.
            StateRepoUnusable: the repository cannot be written.
        """
        self._drop_stale_lock()
        try:
            with take_lock(self._compact_lock, mode=0o666, named=False):
                tip = self._commit(changes, title, trailers, moment)
                return Committed(tip, self._follows(tip, after))
        except LockTaken as error:
            raise _moved("old history is being removed") from error
        except pygit2.AlreadyExistsError as error:
            raise _moved(str(error)) from error
        except (pygit2.GitError, OSError, KeyError, ValueError) as error:
            if "modified" in str(error) or "lock" in str(error):
                raise _moved(str(error)) from error
            raise StateRepoUnusable(
                "the reports cannot be written to the state repo",
                why=[str(error)],
                remedy="nothing is lost, they are in the journal; see that the disk is not full",
            ) from error

    def _commit(
        self, changes: Mapping[ReportKey, bytes | None], title: str, trailers: Sequence[tuple[str, str]], moment: int
    ) -> str | None:
        reference = self._repository.references.get(REPORTS_REF)
        parent = reference.peel(pygit2.Commit) if reference else None
        tip = str(parent.id) if parent else None
        if not changes:
            return tip
        tree = self._tree(parent.tree if parent else None, {key.path: value for key, value in changes.items()})
        root = tree or self._repository.TreeBuilder().write()
        if (parent.tree_id if parent else None) == root:
            return tip
        message = "\n".join([title, "", *(f"{name}: {value}" for name, value in trailers)]).rstrip() + "\n"
        who = pygit2.Signature(*_COMMITTER, moment, 0)
        made = self._repository.create_commit(None, who, who, message, root, [parent.id] if parent else [])
        if reference is None:
            self._repository.references.create(REPORTS_REF, made)
        else:
            reference.set_target(made)
        return str(made)

    def _follows(self, tip: str | None, after: str | None) -> bool:
        if tip is None or after is None:
            return tip is not None and bool(self._repository[tip].peel(pygit2.Commit).parent_ids)
        return tip == after or (after in self._repository and self._repository.descendant_of(tip, after))

    def _tree(self, old: pygit2.Tree | None, changes: Mapping[tuple[str, ...], bytes | None]) -> pygit2.Oid | None:
        """Return a tree with the changes; None for one that holds nothing."""
        builder = self._repository.TreeBuilder(old) if old is not None else self._repository.TreeBuilder()
        folders: dict[str, dict[tuple[str, ...], bytes | None]] = {}
        for path, content in changes.items():
            if len(path) > 1:
                folders.setdefault(path[0], {})[path[1:]] = content
            elif content is None:
                if builder.get(path[0]) is not None:
                    builder.remove(path[0])
            else:
                builder.insert(path[0], self._repository.create_blob(content), FileMode.BLOB)
        for name, below in folders.items():
            entry = builder.get(name)
            made = self._tree(entry if isinstance(entry, pygit2.Tree) else None, below)
            if made is not None:
                builder.insert(name, made, FileMode.TREE)
            elif entry is not None:
                builder.remove(name)
        return builder.write() if len(builder) else None

    def _drop_stale_lock(self) -> None:
        """Remove the lock that a killed server left: git holds one for milliseconds."""
        with contextlib.suppress(OSError):
            if time.time() - self._lock.stat().st_mtime > _STALE_LOCK_SECONDS:
                self._lock.unlink()


def _moved(reason: str) -> StateMoved:
    return StateMoved(
        f"{REPORTS_REF} was moved by somebody else, or is locked",
        why=[reason],
        remedy="only one server may write it; the reports are in the journal and are tried again",
    )
