r"""Git objects as bytes: the ids and trees that the renderer writes and the device recomputes (git-mktree).

An object's id is the SHA-1 over `<kind> <size>\0` and its content. Nothing here reads a repository: `hashlib` is all
that a device needs to see whether the bytes it got are the ones that a commit names. Trees raise ValueError for a name
that no file can have.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from margo_gitops.documents.state_layout import DEPLOYMENT_SUFFIX, DEPLOYMENTS_FOLDER, MANIFEST_FILE
from margo_gitops.values import dataclass

FILE_MODE: Final = 0o100644
FOLDER_MODE: Final = 0o40000

BLOB: Final = b"blob"
TREE: Final = b"tree"
COMMIT: Final = b"commit"

_PACK_TYPES: Final = {COMMIT: 1, TREE: 2, BLOB: 3}

MANIFEST_NAME: Final = MANIFEST_FILE.encode()
DEPLOYMENTS_NAME: Final = DEPLOYMENTS_FOLDER.encode()

OBJECT_ID_PATTERN: Final = r"^[0-9a-f]{40}$"

_OBJECT_ID: Final = re.compile(OBJECT_ID_PATTERN[1:-1])
_FORBIDDEN_NAMES: Final = frozenset({b"", b".", b"..", b".git"})


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name in a tree.

    Attributes:
        name: the file's or folder's name, one path segment.
        mode: `FILE_MODE` or `FOLDER_MODE`; links, executable files and submodules have no place in a state tree.
        id: the object's id, 40 lower-case hex digits.
    """

    name: bytes
    mode: int
    id: str


def object_id(kind: bytes, content: bytes) -> str:
    """Return the id of an object: 40 lower-case hex digits.

    Args:
        kind: `BLOB`, `TREE` or `COMMIT`.
        content: the object's bytes, without git's header.
    """
    # Git's own collision checks belong where objects are stored; the manifest's sha256 digests bind the content.
    digest = hashlib.sha1(b"%b %d\0" % (kind, len(content)), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def is_object_id(text: str) -> bool:
    """Return whether `text` is an object id: 40 lower-case hex digits."""
    return _OBJECT_ID.fullmatch(text) is not None


def blob_id(content: bytes) -> str:
    """Return the id of a file with this content: 40 lower-case hex digits."""
    return object_id(BLOB, content)


def tree_bytes(entries: Iterable[TreeEntry]) -> bytes:
    """Return the content of the tree that holds `entries`, in git's order; they may come in any order.

    Raises:
        ValueError: a name that no file can have, a name that is there twice, another mode, or a text that is not an id.
    """
    # Git sorts a folder as if its name ended in a slash.
    ordered = sorted(entries, key=lambda entry: entry.name + b"/" if entry.mode == FOLDER_MODE else entry.name)
    names: set[bytes] = set()
    parts: list[bytes] = []
    for entry in ordered:
        _check_entry(entry, names)
        names.add(entry.name)
        parts.append(b"%o %b\0%b" % (entry.mode, entry.name, bytes.fromhex(entry.id)))
    return b"".join(parts)


def _check_entry(entry: TreeEntry, names: set[bytes]) -> None:
    if entry.mode not in (FILE_MODE, FOLDER_MODE):
        raise ValueError(f"{entry.name!r} has the mode {entry.mode:o}; {FILE_MODE:o} and {FOLDER_MODE:o} are possible")
    if entry.name.lower() in _FORBIDDEN_NAMES or b"/" in entry.name or b"\0" in entry.name:
        raise ValueError(f"{entry.name!r} is not a name of a file")
    if entry.name in names:
        raise ValueError(f"the name {entry.name!r} is there twice")
    if not is_object_id(entry.id):
        raise ValueError(f"{entry.id!r} is not an object id")


def tree_id(entries: Iterable[TreeEntry]) -> str:
    """Return the id of the tree that holds `entries`."""
    return object_id(TREE, tree_bytes(entries))


def deployments_tree(deployments: Mapping[str, str]) -> bytes:
    """Return the content of the tree `deployments`.

    Args:
        deployments: the blob's id of each deployment document, by deployment id.
    """
    return tree_bytes(
        TreeEntry(f"{deployment}{DEPLOYMENT_SUFFIX}".encode(), FILE_MODE, blob)
        for deployment, blob in deployments.items()
    )


def device_tree(manifest: str, deployments: str | None) -> bytes:
    """Return the content of a device's tree (design of the state repo, device tree).

    Args:
        manifest: id of the blob `manifest.json`.
        deployments: id of the tree `deployments`; None for a device that runs nothing, as git knows no empty folder.
    """
    entries = [TreeEntry(MANIFEST_NAME, FILE_MODE, manifest)]
    if deployments is not None:
        entries.append(TreeEntry(DEPLOYMENTS_NAME, FOLDER_MODE, deployments))
    return tree_bytes(entries)


def device_tree_id(manifest: bytes, deployments: Mapping[str, bytes]) -> str:
    """Return the id of a device's tree, computed from the bytes of its files.

    Args:
        manifest: content of `manifest.json`.
        deployments: content of each `deployments/<id>.yaml`, by deployment id.
    """
    folder = None
    if deployments:
        blobs = {deployment: blob_id(content) for deployment, content in deployments.items()}
        folder = object_id(TREE, deployments_tree(blobs))
    return object_id(TREE, device_tree(blob_id(manifest), folder))


def pack_bytes(entries: Collection[bytes]) -> bytes:
    """Return a pack of version 2 (gitformat-pack)."""
    return b"".join(pack_parts(entries))


def pack_parts(entries: Collection[bytes]) -> list[bytes]:
    """Return what a pack of version 2 is joined from; the last part is its checksum."""
    parts = [struct.pack(">4sLL", b"PACK", 2, len(entries)), *entries]
    checksum = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        checksum.update(part)
    return [*parts, checksum.digest()]


def pack_entry(kind: bytes, content: bytes, level: int = zlib.Z_DEFAULT_COMPRESSION) -> bytes:
    """Return a whole object as an entry of a pack.

    Args:
        kind: `BLOB`, `TREE` or `COMMIT`.
        level: of zlib.
    """
    return entry_header(_PACK_TYPES[kind], len(content)) + zlib.compress(content, level)


def entry_header(kind: int, size: int) -> bytes:
    """Return type and size of an object (gitformat-pack, object entries)."""
    byte = kind << 4 | size & 0x0F
    size >>= 4
    header = bytearray()
    while size:
        header.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    header.append(byte)
    return bytes(header)
