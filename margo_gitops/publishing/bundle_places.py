"""Where a bundle is written: a folder, such as a stick, or one tar file with the same names.

CARRIER-1  Content comes first, the manifests after it, `bundle.json` last. Then goes what is not named any more. So at
           any moment each manifest has the content that it had.
CARRIER-2  A folder with other things in it is refused. A stick comes back from elsewhere: no link on it is followed.
CARRIER-3  What is there with the same bytes is not written again.
CARRIER-4  The same files give the same tar file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from hashlib import file_digest
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops.digests import sha256
from margo_gitops.disk.files import disk_errors, read_bounded, replace_file
from margo_gitops.disk.folders import new_file, remove_tree
from margo_gitops.documents.records import read_ours
from margo_gitops.documents.site_bundle import BLOBS, BUNDLE_FILE, FOLDERS, MAX_BUNDLE_BYTES, SiteBundle
from margo_gitops.documents.tar import TAR_END, padding, tar_header
from margo_gitops.errors import BundleNotMade, InvalidDocument, Location, UnreadableDocument

Content: TypeAlias = bytes | Path
"""Bytes, or a file of this machine that has them."""

HOMEWARD: Final = ("reports", "enrolment")
"""Folders on a stick that carry something the other way."""
_CHUNK: Final = 1024 * 1024


def write_folder(place: Path, files: Mapping[str, Content], document: bytes) -> int:
    """Bring a folder to these files; return how many were written.

    Args:
        files: by path; those below `blobs` are named by their digest.
        document: the bytes of `bundle.json`.

    Raises:
        BundleNotMade: the folder holds other things, or cannot be written.
    """
    with _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(place)
        order = sorted(files, key=lambda path: (not path.startswith("blobs/"), path.startswith("devices/"), path))
        written = sum(_put(place, path, files[path]) for path in order)
        written += _put(place, BUNDLE_FILE, document)
        for name in FOLDERS:
            for path in (place / name).rglob("*"):
                if not path.is_dir() and path.relative_to(place).as_posix() not in files:
                    remove_tree(path)
    return written


def write_tar(place: Path, files: Mapping[str, Content], document: bytes) -> int:
    """Write one tar file with these files, whole or not at all; return how many it has.

    Raises:
        BundleNotMade: it cannot be written, or a name or a file is too large for one.
    """
    every: dict[str, Content] = {BUNDLE_FILE: document, **{path: files[path] for path in sorted(files)}}
    with _writing(place), new_file(place) as made, made.open("wb") as archive:
        for path, content in every.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            try:
                archive.write(tar_header(path, size))
            except ValueError as error:
                raise BundleNotMade(str(error), remedy="make a folder in place of a file") from error
            if isinstance(content, bytes):
                archive.write(content)
            else:
                with content.open("rb") as source:
                    while chunk := source.read(_CHUNK):
                        archive.write(chunk)
            archive.write(padding(size))
        archive.write(TAR_END)
    return len(every)


def _put(place: Path, path: str, content: Content) -> bool:
    """Write a file where it is missing or has other bytes; return whether it did."""
    folder = place
    for part in path.split("/")[:-1]:
        folder /= part
        if folder.is_symlink():
            raise _foreign(place, f"{folder.relative_to(place)} is a link")
        folder.mkdir(exist_ok=True)
    target = place / path
    if _has(target, path, content):
        return False
    if isinstance(content, bytes):
        replace_file(target, content, mode=0o644)
        return True
    with new_file(target) as made, made.open("wb") as copy, content.open("rb") as source:
        while chunk := source.read(_CHUNK):
            copy.write(chunk)
    return True


def _has(target: Path, path: str, content: Content) -> bool:
    if target.is_symlink() or not target.is_file():
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if target.stat().st_size != size:
        return False
    if path.startswith(BLOBS):
        with target.open("rb") as held:
            return file_digest(held, "sha256").hexdigest() == path.removeprefix(BLOBS)
    return isinstance(content, bytes) and sha256(read_bounded(target, size)) == sha256(content)


def _refuse_foreign(place: Path) -> None:
    names = {entry.name for entry in place.iterdir()} - set(HOMEWARD)
    if not names:
        return
    try:
        content = read_bounded(place / BUNDLE_FILE, MAX_BUNDLE_BYTES, follow_links=False)
        read_ours(SiteBundle, content, BUNDLE_FILE)
    except (OSError, UnreadableDocument, InvalidDocument) as error:
        raise _foreign(place, "it holds other files") from error


def _foreign(place: Path, why: str) -> BundleNotMade:
    return BundleNotMade(
        "a bundle needs a folder of its own",
        where=Location(str(place)),
        why=[why],
        remedy="name a folder on the stick that does not exist yet, such as margo",
    )


def _writing(place: Path) -> AbstractContextManager[None]:
    remedy = "see that the stick is not full and not write-protected; make the bundle again, nothing is half done"
    return disk_errors(place, what="the bundle cannot be written", error=BundleNotMade, remedy=remedy)
