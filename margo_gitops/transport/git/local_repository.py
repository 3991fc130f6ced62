"""A repository in a folder of this machine, read without git: dulwich finds refs and packs, the bounds are the same."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from dulwich.errors import ChecksumMismatch, NotGitRepository
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID as StoredId
from dulwich.pack import Pack
from dulwich.refs import Ref, SymrefLoop
from dulwich.repo import Repo, UnsupportedExtension, UnsupportedVersion

from margo_gitops.errors import SourceMisbehaved, SourceRefused, SourceUnreachable
from margo_gitops.transport.git.device_tree import HeldState
from margo_gitops.transport.git.pack import (
    Budget,
    Entry,
    GitObject,
    Kind,
    Lookup,
    ObjectID,
    PackBytes,
    apply,
    object_id,
    read_entry,
)
from margo_gitops.transport.git.source import GitLimits, GitSource
from margo_gitops.web.metering import Deadline

_PIECE = 16 * 1024
_LONGEST_CHAIN = 4096
# What dulwich raises on files that are not packs or indexes.
_DAMAGE = (AssertionError, ValueError, IndexError, TypeError, struct.error, ChecksumMismatch)
_OBJECT_ID = re.compile(rb"[0-9a-f]{40}")


class LocalRepository:
    """One repository on a disk; opened for each pull, as others write to it meanwhile."""

    def __init__(self, source: GitSource, limits: GitLimits) -> None:
        """Take the settings of a file source; nothing is read yet."""
        self._path = unquote(source.address.path)
        self._limits = limits
        self._repo: Repo | None = None

    def tip(self, ref: bytes, deadline: Deadline) -> ObjectID | None:
        """Return the commit that `ref` points to; None where there is no such ref."""
        deadline.left()
        try:
            tip = self._opened().refs[Ref(ref)]
        except KeyError:
            return None
        except (OSError, ValueError, SymrefLoop) as error:
            raise SourceUnreachable(f"the refs of {self._path} cannot be read: {error}") from error
        if not _OBJECT_ID.fullmatch(tip):
            raise SourceMisbehaved(f"the ref {ref.decode()} does not hold the id of a commit")
        return ObjectID(tip)

    def tips(self, refs: Collection[bytes], deadline: Deadline) -> Mapping[bytes, ObjectID]:
        """Return the commit that each of `refs` points to, where there is such a ref."""
        found = ((ref, self.tip(ref, deadline)) for ref in refs)
        return {ref: tip for ref, tip in found if tip is not None}

    def objects(self, tip: ObjectID, held: HeldState | None, deadline: Deadline) -> Lookup:
        """Return the objects of the repository, and what is held, each read when it is looked up."""
        del tip
        known = held.objects if held is not None else {}
        objects = _StoredObjects(self._opened().object_store, self._limits)

        def find(name: ObjectID) -> GitObject | None:
            deadline.left()
            return known.get(name) or objects.find(name)

        return find

    def finish(self) -> None:
        """Close the repository: what others pack or prune meanwhile is seen by the next pull."""
        self.close()

    def close(self) -> None:
        """Close the repository."""
        if self._repo is not None:
            self._repo.close()
            self._repo = None

    def _opened(self) -> Repo:
        if self._repo is None:
            if not Path(self._path).is_dir():
                raise SourceUnreachable(f"there is no folder {self._path}", remedy="check the URL, and what is mounted")
            try:
                self._repo = Repo(self._path)
                _check_format(self._repo)
            except (UnsupportedExtension, UnsupportedVersion) as error:
                self.close()
                raise SourceRefused(
                    "the repository has a form that this client does not read: sha256 objects, or an extension of git",
                    remedy="make the state repository with sha1 objects, and without extensions",
                ) from error
            except (NotGitRepository, OSError, ValueError) as error:
                raise SourceRefused(
                    f"{self._path} is not a git repository", remedy="check the URL of the source"
                ) from error
        return self._repo


def _check_format(repo: Repo) -> None:
    """Refuse sha256 objects, which only dulwich 1.0 and newer opens (UnsupportedExtension)."""
    with contextlib.suppress(KeyError):
        if repo.get_config().get((b"extensions",), b"objectformat") != b"sha1":
            raise UnsupportedExtension("objectformat")


class _StoredObjects:
    """The objects of a store and those it borrows from."""

    def __init__(self, store: DiskObjectStore, limits: GitLimits) -> None:
        self._stores = [store, *(other for other in store.alternates if isinstance(other, DiskObjectStore))]
        self._limits = limits
        self._budget = Budget(limits)

    def find(self, name: ObjectID) -> GitObject | None:
        found = None
        try:
            for store in self._stores:
                found = self._loose(Path(store.path), name)
                if found is None:
                    found = self._packed(store, name)
                if found is not None:
                    break
        except OSError as error:
            raise SourceUnreachable(f"object {name.decode()} cannot be read: {error.strerror}") from error
        if found is not None and object_id(found.kind, found.content) != name:
            raise SourceMisbehaved(f"object {name.decode()} of the repository is damaged")
        return found

    def _loose(self, folder: Path, name: ObjectID) -> GitObject | None:
        digits = name.decode()
        inflater = zlib.decompressobj()
        limit = self._limits.object_bytes + _PIECE
        try:
            with (folder / digits[:2] / digits[2:]).open("rb") as file:
                content = inflater.decompress(file.read(self._limits.pack_bytes), limit)
        except FileNotFoundError:
            return None
        except zlib.error as error:
            raise SourceMisbehaved(f"object {digits} of the repository cannot be inflated: {error}") from error
        head, _, body = content.partition(b"\0")
        self._budget.spend(len(body))
        kind = {b"commit": Kind.COMMIT, b"tree": Kind.TREE, b"blob": Kind.BLOB}.get(head.partition(b" ")[0])
        if kind is None:
            raise SourceMisbehaved(f"object {digits} of the repository is of another kind than a device state has")
        return GitObject(kind, body)

    def _packed(self, store: DiskObjectStore, name: ObjectID) -> GitObject | None:
        for pack in store.packs:
            offset = _offset(pack, name)
            if offset is not None:
                with _content(store, pack) as content:
                    return self._assembled(pack, content, offset)
        return None

    def _assembled(self, pack: Pack, content: BinaryIO, offset: int) -> GitObject:
        deltas: list[bytes] = []
        entry = self._entry(content, offset)
        while entry.kind is None:
            deltas.append(entry.content)
            base = entry.base if isinstance(entry.base, int) else _offset(pack, entry.base)
            if base is None or len(deltas) > _LONGEST_CHAIN:
                raise SourceMisbehaved("a pack of the repository holds a delta without a base")
            offset = base
            entry = self._entry(content, offset)
        found = GitObject(entry.kind, entry.content)
        for delta in reversed(deltas):
            found = apply(found, delta, self._budget)
        return found

    def _entry(self, content: BinaryIO, offset: int) -> Entry:
        content.seek(offset)
        pieces: Iterator[bytes] = iter(lambda: content.read(_PIECE), b"")
        return read_entry(PackBytes(pieces, self._limits.pack_bytes), offset, self._budget)


def _content(store: DiskObjectStore, pack: Pack) -> BinaryIO:
    try:
        return (Path(store.pack_dir) / pack.data.filename).open("rb")
    except _DAMAGE as error:
        raise SourceMisbehaved("a pack of the repository is damaged", remedy="run git fsck there") from error


def _offset(pack: Pack, name: ObjectID | None) -> int | None:
    try:
        return None if name is None else pack.index.object_offset(StoredId(name))
    except KeyError:
        return None
    except _DAMAGE as error:
        raise SourceMisbehaved("an index of the repository's packs is damaged", remedy="run git fsck there") from error
