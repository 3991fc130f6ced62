"""The state repo's history as files of a bucket: git bundles, and a list that says which there are, in order.

    <prefix>/_history/list.json            the list
    <prefix>/_history/<sha256>.bundle      a bundle: the whole history, or what came after the bundle before it

BUNDLES-1  A bundle is complete in the bucket before a list names it. Its name is its digest.
BUNDLES-2  One conditional write replaces the list. Of two publishers, one is refused.
BUNDLES-3  A whole bundle holds what all bundles before it give together. So who holds the one before skips it, and who
           holds none of the list starts with the last whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.declarations import DigestText, Items, Range
from margo_gitops.documents.json_text import pretty_json, read_json
from margo_gitops.documents.records import read, write
from margo_gitops.errors import Location, UnreadableDocument
from margo_gitops.values import dataclass

FOLDER: Final = "_history/"
LIST_KEY: Final = f"{FOLDER}list.json"
MAX_LIST_BYTES: Final = 1024 * 1024
MOST_BUNDLES: Final = 100


@dataclass(frozen=True, slots=True)
class HistoryBundle:
    """A bundle in the bucket.

    Attributes:
        digest: of all its bytes.
        size: all its bytes.
        header: the bytes before its pack.
        whole: whether it builds on no other.
    """

    digest: DigestText
    size: Annotated[int, Range(minimum=1)]
    header: Annotated[int, Range(minimum=1, maximum=1 << 26)]
    whole: bool = False

    @property
    def key(self) -> str:
        """Where it is in the bucket."""
        return f"{FOLDER}{self.digest.removeprefix('sha256:')}.bundle"


@dataclass(frozen=True, slots=True)
class History:
    """What the list of a bucket says.

    Attributes:
        refs: the digest of all refs that the bundles give together.
    """

    refs: DigestText
    bundles: Annotated[tuple[HistoryBundle, ...], Items(minimum=1)]

    def since_whole(self) -> tuple[HistoryBundle, ...]:
        """Return the last whole bundle, and those after it."""
        starts = [place for place, each in enumerate(self.bundles) if each.whole]
        return self.bundles[starts[-1] :] if starts else ()

    def after(self, held: str | None) -> tuple[HistoryBundle, ...]:
        """Return what a mirror fetches, in order (BUNDLES-3).

        Args:
            held: the digest of the last bundle that it has.
        """
        names = [str(each.digest) for each in self.bundles]
        if held not in names:
            return self.since_whole()
        return tuple(each for each in self.bundles[names.index(held) + 1 :] if not each.whole)


def read_history(content: bytes, file: str) -> History:
    """Return what a list says (InvalidDocument, UnreadableDocument: another program wrote it)."""
    history = read(History, read_json(content, file))
    if len(history.bundles) > MOST_BUNDLES:
        raise UnreadableDocument(f"names more than {MOST_BUNDLES} bundles", where=Location(file))
    return history


def write_history(history: History) -> bytes:
    """Return the bytes of a list."""
    return pretty_json(write(history)).encode()


def refs_digest(refs: Mapping[str, str]) -> Digest:
    """Return the digest of refs and where they are."""
    return sha256("".join(f"{refs[name]} {name}\n" for name in sorted(refs)).encode())


def bundle_refs(header: Iterable[bytes]) -> dict[str, str]:
    """Return the refs in the lines of a bundle's header (ValueError: it starts in another way)."""
    lines = iter(header)
    if next(lines, b"").rstrip(b"\n") != b"# v2 git bundle":
        raise ValueError("it does not start as a git bundle")
    refs = {}
    for line in lines:
        text = line.rstrip(b"\n").decode()
        if not text:
            break
        if not text.startswith("-"):  # that is a commit on which the bundle builds
            value, _, name = text.partition(" ")
            refs[name] = value
    return refs
