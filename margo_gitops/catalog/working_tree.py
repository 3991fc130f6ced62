"""The files of a fleet repo as they are on disk, read as a commit of all of them would hold them.

WORK-1  What git ignores is not there, unless it is tracked.
WORK-2  Line ends are read as git would store them, so that a clone with `core.autocrlf` reads what others read.
WORK-3  A file that a filter of git would store in another form (git-lfs, git-crypt) is an error, because a render would
        read that form.
WORK-4  No command writes a file that git would ignore or filter, nor a file of a package, whose digest is pinned, that
        git would store with other line ends.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pygit2

from margo_gitops.catalog.file_tree import DiskTree, TreeFile
from margo_gitops.disk.files import read_bounded
from margo_gitops.errors import FilesNotWritten, Location, NoFleetRepo, UnreadableDocument
from margo_gitops.git_program import last_lines, run_git
from margo_gitops.values import replace

_PACKAGES: Final = "applications/"
_BINARY_BYTES: Final = 8000
"""Where git looks for a NUL byte, which makes a file binary."""
_MAX_INDEX_BYTES: Final = 128 * 1024 * 1024
"""Of a million files."""
_HEAD: Final = struct.Struct(">4sLL")
_FLAGS: Final = struct.Struct(">H")
_NAME_AT: Final = 62
_IS_EXTENDED: Final = 0x4000
_LONGEST: Final = 0x0FFF
_CHECKSUM_BYTES: Final = 20


class WorkingTree(DiskTree):
    """The files of a work tree as a commit of all of them would hold them."""

    def __init__(self, repository: pygit2.Repository, root: Path, prefix: str) -> None:
        """Read a folder of a work tree.

        Args:
            prefix: of its paths in the work tree; "" for the whole one.
        """
        super().__init__(root)
        self._repository = repository
        self._prefix = prefix
        self._tracked = _tracked(repository, root, prefix)
        config = repository.config
        self._converts = "core.autocrlf" in config and str(config["core.autocrlf"]).lower() in ("true", "input")
        self._drivers = {name.split(".")[1] for name in (entry.name for entry in config) if name.startswith("filter.")}
        self._drivers &= self._named_filters()

    def files(self, folder: str) -> Iterator[TreeFile]:
        """Yield every file below a folder, sorted by name at each level."""
        return (self._held(file) for file in super().files(folder) if not self._ignores(file.path))

    def paths(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder, sorted by name at each level."""
        return (path for path in super().paths(folder) if not self._ignores(path))

    def file(self, path: str) -> TreeFile | None:
        """Return one entry that is not a folder."""
        found = super().file(path)
        return self._held(found) if found is not None and not self._ignores(path) else None

    def check_written(self, files: Mapping[str, bytes], *, committed: bool = False) -> None:
        """Refuse what a command would write and git would not hold so (WORK-4).

        Args:
            files: content by path.
            committed: whether the command makes the commit, where nothing is ignored.

        Raises:
            FilesNotWritten: git would ignore or change one, or it is behind a link.
        """
        for path, content in files.items():
            if not committed and self.is_behind_link(path):
                raise FilesNotWritten("a link is in the way", where=Location(path), remedy="put a plain file there")
            why = remedy = ""
            if not committed and self._ignores(path):
                why, remedy = "git ignores it", f".gitignore: !/{_rule(path)}"
            elif name := self._filter(path):
                why, remedy = f"git's filter {name} would change it", f".gitattributes: {_rule(path)} -filter"
            elif path.startswith(_PACKAGES) and self.held(path, content) != content:
                why, remedy = "git would change its line ends", f".gitattributes: {_rule(path)} -text"
            if why:
                raise FilesNotWritten(
                    "a commit would not hold this file as it is",
                    where=Location(path),
                    why=[why],
                    remedy=f"add a line to {remedy}",
                )

    def held(self, path: str, content: bytes) -> bytes:
        """Return what git would store of a file on disk (WORK-2)."""
        if b"\r\n" not in content:
            return content
        text = self._attribute(path, "text")
        if text is None and self._attribute(path, "eol") is not None:
            text = True
        if text is True or ((text == "auto" or (text is None and self._converts)) and _is_text(content)):
            return content.replace(b"\r\n", b"\n")
        return content

    def _held(self, file: TreeFile) -> TreeFile:
        return replace(file, content=lambda: self._content(file)) if file.kind == "file" else file

    def _content(self, file: TreeFile) -> bytes:
        if name := self._filter(file.path):
            raise UnreadableDocument(
                f"is stored in another form by git's filter {name}, which a render would read",
                where=Location(file.path),
                remedy=f"add a line to .gitattributes, and add the file again: {_rule(file.path)} -filter",
            )
        return self.held(file.path, file.content())

    def _ignores(self, path: str) -> bool:
        return path not in self._tracked and self._repository.path_is_ignored(self._prefix + path)

    def _filter(self, path: str) -> str | None:
        """Return the filter that stores a file in another form; None where none does."""
        name = self._attribute(path, "filter") if self._drivers else None
        return name if isinstance(name, str) and name in self._drivers else None

    def _attribute(self, path: str, name: str) -> bool | str | None:
        return self._repository.get_attr(self._prefix + path, name)

    def _named_filters(self) -> set[str]:
        """Return the filters that attributes name: to ask for those of each file takes long."""
        top = Path(self._repository.workdir or self.root)
        above = [top, *(top / each for each in Path(self._prefix).parents), self.root]
        places = {*(each / ".gitattributes" for each in above), Path(self._repository.path, "info", "attributes")}
        places |= {self.root / path for path in self._tracked if path.endswith(".gitattributes")}
        config, name = self._repository.config, "core.attributesFile"
        attributes = str(config[name]) if name in config else "~/.config/git/attributes"
        places.add(Path(os.path.expanduser(attributes)))  # noqa: PTH111 - Path fails for a user without a home
        text = " ".join(place.read_text(errors="replace") for place in places if place.is_file())
        return {word.removeprefix("filter=") for word in text.split() if word.startswith("filter=")}


def _is_text(content: bytes) -> bool:
    return b"\0" not in content[:_BINARY_BYTES]


def _rule(path: str) -> str:
    return f"{_PACKAGES}**" if path.startswith(_PACKAGES) else path


def _tracked(repository: pygit2.Repository, root: Path, prefix: str) -> frozenset[str]:
    """Return the paths in the index below a prefix (NoFleetRepo: a sparse checkout lacks files of the fleet)."""
    if not is_true(repository, "core.sparseCheckout"):
        with suppress(OSError):
            held = index_paths(read_bounded(Path(repository.path, "index"), _MAX_INDEX_BYTES))
            if held is not None:
                return frozenset(below(prefix, held))
        try:
            return frozenset(below(prefix, (entry.path for entry in repository.index)))
        except pygit2.GitError:
            pass  # a split index, or a newer kind of it
    listed = [line for line in ask_git(root, "ls-files", "-t", "-z").split("\0") if line]
    left_out = sum(line.startswith("S ") for line in listed)
    if left_out:
        raise NoFleetRepo(
            f"{root} is a sparse checkout: {left_out} files of the fleet are not in it",
            remedy="git sparse-checkout disable; or name a commit where the command has --rev (--rev HEAD)",
        )
    return frozenset(line[2:] for line in listed)


def index_paths(content: bytes) -> frozenset[str] | None:
    """Return the paths in an index of git (gitformat-index), a tenth of the time that libgit2's takes to say them.

    Returns:
        None for all but a whole index of version 2 or 3 with its checksum: libgit2 or git say what that is.
    """
    end = len(content) - _CHECKSUM_BYTES
    if end < _HEAD.size or hashlib.sha1(content[:end], usedforsecurity=False).digest() != content[end:]:
        return None
    signature, version, count = _HEAD.unpack_from(content)
    if signature != b"DIRC" or version not in (2, 3):
        return None
    paths, at, flags_of, extended = [], _HEAD.size, _FLAGS.unpack_from, version == 3
    for _ in range(count):
        start = at + _NAME_AT
        if start >= end:
            return None
        (flags,) = flags_of(content, start - _FLAGS.size)
        if flags & _IS_EXTENDED:
            if not extended:
                return None
            start += _FLAGS.size
        stop = content.find(b"\0", start, end)
        if stop <= start or min(stop - start, _LONGEST) != flags & _LONGEST:
            return None
        paths.append(content[start:stop])
        at = stop + 8 - (stop - at) % 8  # NUL bytes, one to eight, make it a multiple of eight bytes long
    if at > end:
        return None
    while at < end:
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "big")
        at += 8 + size
        if at > end or not kind[:1].isupper():  # git must understand the others, such as those of a split index
            return None
    return frozenset(os.fsdecode(b"\0".join(paths)).split("\0")) if paths else frozenset()


def below(prefix: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths that begin with a prefix, without it."""
    return (path[len(prefix) :] for path in paths if path.startswith(prefix))


def is_true(repository: pygit2.Repository, name: str) -> bool:
    """Return whether a setting of git is there and true."""
    try:
        return name in repository.config and repository.config.get_bool(name)
    except (ValueError, pygit2.GitError):
        return False


def ask_git(root: Path, *arguments: str, given: str = "") -> str:
    """Return what git prints about a clone that libgit2 cannot read (NoFleetRepo: git cannot either)."""
    remedy = "see what git says in this clone, or make a whole clone: git clone URL, without --filter and --sparse"
    what = f"{root} cannot be read"
    try:
        done = run_git(["-C", str(root), *arguments], seconds=600, variables={"GIT_TERMINAL_PROMPT": "0"}, given=given)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoFleetRepo(what, why=[str(error)], remedy=remedy) from error
    if done.returncode:
        raise NoFleetRepo(what, why=last_lines(done.stderr), remedy=remedy)
    return done.stdout
