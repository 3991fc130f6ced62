"""Cases that only git has: signatures, trees, packs, refs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from margo_gitops.conformance.agents.case import Case, Place, by
from margo_gitops.conformance.agents.faults import READ_LITTLE
from margo_gitops.conformance.agents.hosts import GitHost
from margo_gitops.conformance.agents.state_cases import tampered
from margo_gitops.conformance.agents.states import (
    BASE_VERSION,
    OTHER_DEVICE,
    OddEntry,
    State,
    base_state,
    deployment_id,
    document,
    next_state,
)
from margo_gitops.conformance.wire import BLOB, TAG, copying_delta, delta_entry, entry, pack, packet
from margo_gitops.documents.state_layout import DEVICE_REFS
from margo_gitops.trust.git_objects import MANIFEST_NAME, blob_id

_FILE: Final = 0o100644
_LINK: Final = 0o120000
_EXECUTABLE: Final = 0o100755
_SUBMODULE: Final = 0o160000
_MIB: Final = 1024 * 1024
_BOMB: Final = 96 * _MIB

_DOCUMENT: Final = f"{deployment_id('hmi')}.yaml".encode()

Objects = dict[str, tuple[int, bytes]]


def _commit(**plan: object) -> Callable[[], State]:
    return lambda: next_state().with_commit(**plan)


def _pack(make: Callable[[Objects], bytes]) -> Callable[[GitHost, Place], None]:
    def arrange(host: GitHost, _place: Place) -> None:
        host.pack_of = make

    return arrange


def _entries(objects: Objects, without: int = 0) -> list[bytes]:
    return [entry(kind, content) for kind, content in objects.values() if kind != without]


def _billions(objects: Objects) -> bytes:
    return pack(_entries(objects), stated_count=2**31 - 1)


def _huge_size(objects: Objects) -> bytes:
    return pack([entry(BLOB, b"small", stated_size=2**40), *_entries(objects)])


def _blob_bomb(objects: Objects) -> bytes:
    return pack([*_entries(objects), entry(BLOB, bytes(_BOMB))])


def _other_blob(objects: Objects) -> bytes:
    """Return a sound pack with another document in place of the one that the tree names."""
    changed = document("hmi", "two")
    return pack(
        entry(kind, content.replace(b"value: two", b"value: six") if content == changed else content)
        for kind, content in objects.values()
    )


def _with_tag(objects: Objects) -> bytes:
    tagged = next(name for name, (kind, _) in objects.items() if kind == BLOB)
    tag = f"object {tagged}\ntype blob\ntag v1\ntagger Conformance <conformance@example.com> 1790000000 +0000\n\nv1\n"
    return pack([*_entries(objects), entry(TAG, tag.encode())])


def _delta_bomb(objects: Objects) -> bytes:
    """Return a pack whose deltas double an object again and again, and then copy it 32 times."""
    content = bytes(1024)
    entries = [*_entries(objects), entry(BLOB, content)]
    size, base = len(content), blob_id(content)
    while size < 8 * _MIB:
        entries.append(delta_entry(base, copying_delta(size, 2)))
        size *= 2
        base = blob_id(bytes(size))
    entries += [delta_entry(base, copying_delta(size, 32)) for _ in range(3)]
    return pack(entries)


def _endless_progress(host: GitHost, place: Place) -> None:
    def talk() -> Iterator[bytes]:
        line = packet(b"\x02" + b"." * 60_000)
        while True:
            yield line

    host.side_band = talk
    del place


def _slow_progress(host: GitHost, place: Place) -> None:
    def talk() -> Iterator[bytes]:
        while place.waits(0.2):
            yield packet(b"\x02still counting objects\r")

    host.side_band = talk


def _broken_off(host: GitHost, _place: Place) -> None:
    host.side_band = lambda: [packet(b"\x03the server is out of memory\n")]


def _no_ref(host: GitHost, place: Place) -> None:
    del host.refs[place.ref]


def _sister_first(host: GitHost, place: Place) -> None:
    """List a ref that begins with the device's, and others, before it; they point to an older state."""
    tip = host.refs[place.ref]
    other = next(iter(sorted(name for name, (kind, _) in host.objects.items() if kind == 1 and name != tip)))
    host.listed = [(f"{place.ref}-2", other), (f"{DEVICE_REFS}a", other), (place.ref, tip)]


def _only_sisters(host: GitHost, place: Place) -> None:
    host.listed = [(f"{place.ref}-2", host.refs[place.ref]), ("HEAD", host.refs[place.ref])]


def _ref_to_blob(host: GitHost, place: Place) -> None:
    host.refs[place.ref] = next(name for name, (kind, _) in host.objects.items() if kind == BLOB)


_TREE: Final = by("G-T-8")
TREES: Final = (
    Case(
        "a symbolic link in place of a document", _TREE, _commit(folder=(OddEntry(_DOCUMENT, _LINK, b"/etc/passwd"),))
    ),
    Case("a symbolic link next to the documents", _TREE, _commit(folder=(OddEntry(b"link.yaml", _LINK, b"../../.."),))),
    Case("a symbolic link in place of the manifest", _TREE, _commit(root=(OddEntry(MANIFEST_NAME, _LINK, b"x"),))),
    Case("documents that are executable", _TREE, _commit(documents_mode=_EXECUTABLE)),
    Case("a submodule", _TREE, _commit(root=(OddEntry(b"vendor", _SUBMODULE, b"1" * 40),))),
    Case("a further file next to the manifest", _TREE, _commit(root=(OddEntry(b"run.sh", _FILE, b"#!/bin/sh\n"),))),
    Case("git attributes", _TREE, _commit(root=(OddEntry(b".gitattributes", _FILE, b"* filter=evil\n"),))),
    Case(
        "a document that the manifest does not list",
        _TREE,
        _commit(folder=(OddEntry(f"{deployment_id('evil')}.yaml".encode(), _FILE, document("evil")),)),
    ),
    Case(
        "a file whose name is not a deployment's", _TREE, _commit(folder=(OddEntry(b"notes.txt", _FILE, b"hello\n"),))
    ),
    Case("a name that leads out of the folder", _TREE, _commit(folder=(OddEntry(b"../../escaped", _FILE, b"x\n"),))),
    Case("a name with two dots", _TREE, _commit(root=(OddEntry(b"..", _FILE, b"x\n"),))),
    Case("a name that is git's own", _TREE, _commit(root=(OddEntry(b".git", _FILE, b"gitdir: /tmp\n"),))),
    Case("a tree in another order than git's", _TREE, _commit(reversed=True)),
)

SIGNATURES: Final = (
    Case("a commit signed by a stranger", by("G-M-5", "H-C-25"), _commit(signer="stranger")),
    Case("an unsigned commit", by("G-M-5", "H-C-25"), _commit(signer="nobody")),
    Case(
        "a changed state under the signature of the sound one",
        by("G-M-5", "H-C-25"),
        lambda: tampered().with_commit(signer="moved"),
        sound=next_state,
    ),
    Case("a signature that was made for a file", by("G-M-5", "H-C-25"), _commit(namespace="file")),
    Case("a first state signed by a stranger", by("G-M-5", "H-C-25"), _commit(signer="stranger"), empty=True),
    Case("a commit that names another device", by("G-M-7", "H-C-25"), _commit(device=OTHER_DEVICE)),
    Case("a commit that states another manifest", by("G-M-6", "H-C-25"), _commit(digest=f"sha256:{'0' * 64}")),
    Case("a commit that names two devices", by("G-M-8", "H-C-25"), _commit(again=f"Device: {OTHER_DEVICE}")),
    Case("a commit with two signatures", by("G-M-8", "H-C-25"), _commit(signatures=2)),
    Case("the next version, from another history", by("G-V-5", "H-C-26"), _commit(descends=False)),
)

PACKS: Final = (
    *(
        Case(name, by(requirement), next_state, git=_pack(make), then=then)
        for requirement, name, make, then in (
            (
                "G-C-10",
                "a truncated pack",
                lambda sound: pack(_entries(sound))[:-120],
                lambda: next_state(BASE_VERSION + 2),
            ),
            ("G-C-10", "a pack with a wrong checksum", lambda sound: pack(_entries(sound))[:-20] + bytes(20), None),
            ("G-C-10", "bytes that are not a pack", lambda _sound: b"this is not a pack" * 20, None),
            ("G-C-8", "a pack with another document than the tree names", _other_blob, None),
            ("G-C-8", "a pack without the documents", lambda sound: pack(_entries(sound, without=BLOB)), None),
            ("G-X-2", "a pack with a tag", _with_tag, None),
            ("G-C-9", "a pack that says it has two billion objects", _billions, None),
            ("G-C-9", "an object that says it has a terabyte", _huge_size, None),
            ("G-C-9", "an object of 96 MiB in few bytes", _blob_bomb, None),
            ("G-C-9", "deltas that grow to 768 MiB", _delta_bomb, None),
        )
    ),
    Case("progress without end", by("G-C-9"), next_state, git=_endless_progress, looks=(READ_LITTLE,)),
    Case("progress without end, slowly", by("G-C-9"), next_state, git=_slow_progress),
    Case("an error in the middle of the pack", by("G-C-10"), next_state, git=_broken_off),
)

REFS: Final = (
    Case("the ref is gone", by("G-C-7"), base_state, git=_no_ref),
    Case("refs that only begin with the device's", by("G-C-1"), next_state, "takes", git=_sister_first),
    Case("no ref but ones that begin with the device's", by("G-C-7"), next_state, git=_only_sisters),
    Case("the ref points to no commit", by("G-C-8"), next_state, git=_ref_to_blob),
)

ONLY_GIT: Final = (*REFS, *SIGNATURES, *TREES, *PACKS)
"""Cases that only git has."""
