"""Checks of who may see what on a git server, and of what its renderer wrote (docs/git-subset.md, G-A, G-T, G-M)."""

from __future__ import annotations

import base64
import json
import re
from typing import Final

from margo_gitops.conformance.report import shown
from margo_gitops.conformance.servers.checking import Check, CheckFailed, CheckSkipped, NotApplicable, expect
from margo_gitops.conformance.servers.client import Reply
from margo_gitops.conformance.servers.git_session import GitSession, error_of, lines_of, read_refs
from margo_gitops.conformance.wire import TREE, packets
from margo_gitops.digests import sha256
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.state_layout import DEVICE_REFS, FRESHNESS_REFS, MANIFEST_FILE, TRUST_REF
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.trust.git_objects import DEPLOYMENTS_NAME, MANIFEST_NAME
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass

_STRANGER: Final = "x" * 48
_MOST: Final = 5
_CANNOT: Final = (
    "an ordinary git host cannot do this: who may read the repository may read all of it. Serve it with "
    "`margo-gitops serve`, or give each device a repository of its own"
)


def _takes_tokens(session: GitSession) -> None:
    token = session.target.token
    if not token:
        raise NotApplicable("the device is known by its certificate")
    basic = "Basic " + base64.b64encode(f"device:{token}".encode()).decode()
    answers = [
        session.list_refs(session.ref, headers={"Authorization": value}, token="").status
        for value in (f"Bearer {token}", basic)
    ]
    expect(200 in answers, f"the token is answered with {answers[0]} as Bearer, with {answers[1]} as password of Basic")


def _tells_strangers_nothing(session: GitSession) -> None:
    if not session.target.token:
        raise CheckSkipped("the device is known by its certificate, and cannot come without it")
    tip = session.tip()
    for token in ("", _STRANGER):
        for reply in (session.advertisement(token=token), session.list_refs(session.ref, token=token)):
            expect(reply.status in (401, 403), f"a stranger is answered with {reply.status}")
            expect(tip.encode() not in reply.body, "a stranger learns where the ref points")
            if reply.status == 401 and not token:
                named = reply.header("www-authenticate").lower()
                expect("basic" in named, f"401 names {named or 'nothing'} in WWW-Authenticate, and not Basic")


def _shows_own_refs(session: GitSession) -> None:
    tip = session.tip()
    for prefixes in ((), ("refs/",), (DEVICE_REFS,), ("",)):
        seen = read_refs(session.list_refs(*prefixes))
        foreign = {
            name for name, target in seen.items() if name != session.ref and not (name == "HEAD" and target == tip)
        }
        freshness = {name for name in foreign if name.startswith(FRESHNESS_REFS)}
        foreign -= freshness | {TRUST_REF}
        expect(not foreign, f"it shows {len(foreign)} refs of others, such as {shown(min(foreign, default=''))}")
        expect(len(freshness) <= 1, f"it shows {len(freshness)} freshness refs")


def _shows_own_refs_in_version_0(session: GitSession) -> None:
    reply = session.client.ask("GET", session.path("info/refs?service=git-upload-pack"))
    if reply.status != 200:
        raise NotApplicable(f"the server does not speak version 0: {reply.status}")
    lines = [each[1:].partition(b"\0")[0].strip().decode(errors="replace") for each in lines_of(reply)]
    refs = [line.partition(" ")[2] for line in lines if " refs/" in line and not line.startswith("#")]
    foreign = [name for name in refs if name not in (session.ref, TRUST_REF) and not name.startswith(FRESHNESS_REFS)]
    expect(
        not foreign,
        f"in version 0 it shows {len(foreign)} refs of others, such as {shown(foreign[0] if foreign else '')}",
    )


def _hides_objects(session: GitSession) -> None:
    nowhere = _asked(session, session.nobody)
    for foreign in session.others()[:_MOST]:
        reply = _asked(session, foreign)
        expect(not _has_pack(reply), "it sends a commit of another device")
        expect(
            _alike(reply, foreign) == _alike(nowhere, session.nobody),
            "it answers differently for a commit that does not exist",
        )


def _asked(session: GitSession, want: str) -> Reply:
    return session.fetch("no-progress", "ofs-delta", "deepen 1", f"want {want}", "done")


def _has_pack(reply: Reply) -> bool:
    return reply.status == 200 and not error_of(reply) and b"PACK" in reply.body


def _alike(reply: Reply, name: str) -> tuple[int, bytes, int]:
    return reply.status, reply.body.replace(name.encode(), b"*"), len(reply.body)


def _tells_no_haves(session: GitSession) -> None:
    tip = session.tip()

    def told(have: str) -> bytes:
        reply = session.fetch("no-progress", "ofs-delta", "deepen 1", f"want {tip}", f"have {have}")
        head = b"".join(each for each in packets(reply.body)[:2]) if reply.status == 200 else b"%d" % reply.status
        return head.replace(have.encode(), b"*")

    nowhere = told(session.nobody)
    for foreign in session.others()[:_MOST]:
        expect(told(foreign) == nowhere, "by the answer to have, a device learns whether an object exists")


def _wants_commits_only(session: GitSession) -> None:
    tip = session.tip()
    inside = [name for name in session.state().objects if name != tip]
    if not inside:
        raise CheckSkipped("the pack of the state holds nothing but the commit")
    for name in inside[:_MOST]:
        expect(not _has_pack(_asked(session, name)), "it takes a tree or a blob as want")


def _decides_by_identity(session: GitSession) -> None:
    other = session.target.other_device
    if not other:
        raise CheckSkipped("name another device, with --other-device")
    tip = session.tip()
    headers = {"Margo-Device": other, "X-Forwarded-User": other, "X-Remote-User": other, "Remote-User": other}
    reply = session.list_refs(session.ref, headers=headers)
    expect(reply.status == 200, f"with headers that name another device it answers {reply.status}")
    expect(read_refs(reply).get(session.ref) == tip, "a header makes the device another one")


ACCESS: Final[tuple[Check[GitSession], ...]] = (
    Check("G-A-3", "the token is taken", _takes_tokens),
    Check(
        "G-A-4",
        "strangers learn nothing",
        _tells_strangers_nothing,
        "make the repository private; on a server of your own, send WWW-Authenticate: Basic with 401",
    ),
    Check("G-A-5", "the device sees its own ref alone", _shows_own_refs, _CANNOT),
    Check("G-A-5", "and so in version 0", _shows_own_refs_in_version_0, _CANNOT),
    Check("G-A-6", "a commit of another device is as one that does not exist", _hides_objects, _CANNOT),
    Check("G-A-7", "have tells nothing", _tells_no_haves, _CANNOT),
    Check("G-A-8", "only commits can be wanted", _wants_commits_only, _CANNOT),
    Check("G-A-9", "the identity alone decides", _decides_by_identity),
)
"""Checks of who may see what."""


_DOCUMENT: Final = re.compile(rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.yaml")
_HEADERS: Final = re.compile(
    r"tree [0-9a-f]+\n(parent [0-9a-f]+\n)*author [^\n]+\ncommitter [^\n]+\n(gpgsig(-sha256)? [^\n]+\n( [^\n]*\n)*)?"
)
_LARGEST_BLOB: Final = 8 * 1024 * 1024
_LARGEST_TREE: Final = 64 * 1024 * 1024
_LARGEST_COMMIT: Final = 64 * 1024
_MOST_DEPLOYMENTS: Final = 1024
_FILE: Final = b"100644"
_FOLDER: Final = b"40000"

Entry = tuple[bytes, bytes, str]
"""Mode, name and id."""


@dataclass(frozen=True, slots=True)
class _Served:
    commit: bytes
    root: tuple[Entry, ...]
    folder: tuple[Entry, ...]
    blobs: dict[str, bytes]

    @property
    def manifest(self) -> bytes:
        """The bytes of manifest.json; empty if it is missing."""
        return next((self.blobs.get(name, b"") for _, path, name in self.root if path == MANIFEST_NAME), b"")

    @property
    def head(self) -> str:
        """The headers of the commit."""
        return self.commit.partition(b"\n\n")[0].decode(errors="replace") + "\n"

    def trailers(self, name: str) -> list[str]:
        """Return the values of a trailer in the last paragraph of the message."""
        message = self.commit.partition(b"\n\n")[2].decode(errors="replace")
        lines = message.rstrip().rpartition("\n\n")[2].splitlines()
        return [line.partition(": ")[2] for line in lines if line.partition(": ")[0] == name]


def _served(session: GitSession) -> _Served:
    tip, id_bytes = session.tip(), len(session.tip()) // 2
    try:
        objects = session.state().objects
    except CheckFailed as error:
        raise CheckSkipped(f"the state cannot be read: {error}") from error
    commit = objects.get(tip, (0, b""))[1]
    tree = commit.partition(b"\n")[0].partition(b" ")[2].decode(errors="replace")
    root = _entries(objects.get(tree, (0, b""))[1], id_bytes)
    folders = [name for _, path, name in root if path == DEPLOYMENTS_NAME and objects.get(name, (0, b""))[0] == TREE]
    folder = _entries(objects[folders[0]][1], id_bytes) if folders else ()
    return _Served(commit, root, folder, {name: content for name, (_, content) in objects.items()})


def _entries(tree: bytes, id_bytes: int) -> tuple[Entry, ...]:
    found, at = [], 0
    while (end := tree.find(b"\0", at)) >= 0:
        mode, _, name = tree[at:end].partition(b" ")
        found.append((mode, name, tree[end + 1 : end + 1 + id_bytes].hex()))
        at = end + 1 + id_bytes
    return tuple(found)


def _manifest(served: _Served) -> StateManifest:
    try:
        return read_as(StateManifest, read_source(served.manifest, MANIFEST_FILE, foreign=True))
    except (InvalidDocument, UnreadableDocument) as error:
        raise CheckFailed(f"manifest.json does not follow its contract: {shown(str(error))}") from error


def _two_names(session: GitSession) -> None:
    served = _served(session)
    wanted = [DEPLOYMENTS_NAME, MANIFEST_NAME] if _manifest(served).deployments else [MANIFEST_NAME]
    found = sorted(name for _, name, _ in served.root)
    expect(found == wanted, f"the tree holds {shown(b', '.join(found))}")


def _named_documents(session: GitSession) -> None:
    served = _served(session)
    names = [_DOCUMENT.fullmatch(name) for _, name, _ in served.folder]
    expect(all(names), "a file in deployments is not named <deployment id>.yaml")
    expect(len(names) <= _MOST_DEPLOYMENTS, f"there are {len(names)} deployments")
    found = sorted(match[1].decode() for match in names if match)
    listed = sorted(each.deployment_id.lower() for each in _manifest(served).deployments)
    expect(found == listed, "the files are not the ones that the manifest lists")


def _modes(session: GitSession) -> None:
    served = _served(session)
    for mode, name, _ in (*served.root, *served.folder):
        expect(mode == (_FOLDER if name == DEPLOYMENTS_NAME else _FILE), f"{shown(name)} has the mode {shown(mode)}")
    for entries in (served.root, served.folder):
        names = [name + b"/" if mode == _FOLDER else name for mode, name, _ in entries]
        expect(names == sorted(set(names)), "the names are not in git's order")


def _sizes(session: GitSession) -> None:
    served = _served(session)
    sizes = [len(served.blobs.get(name, b"")) for mode, _, name in (*served.root, *served.folder) if mode == _FILE]
    expect(max(sizes, default=0) <= _LARGEST_BLOB, f"a file has {max(sizes, default=0)} bytes")
    expect(sum(sizes) <= _LARGEST_TREE, f"all files together have {sum(sizes)} bytes")
    expect(len(served.commit) <= _LARGEST_COMMIT, f"the commit has {len(served.commit)} bytes")


def _digests(session: GitSession) -> None:
    served = _served(session)
    found = {name: sha256(served.blobs.get(target, b"")) for _, name, target in served.folder}
    for listed in _manifest(served).deployments:
        digest = found.get(f"{listed.deployment_id.lower()}.yaml".encode())
        expect(digest == listed.digest, f"{listed.deployment_id} has {digest}, the manifest states {listed.digest}")


def _commit_form(session: GitSession) -> None:
    served = _served(session)
    expect(b"\0" not in served.commit, "the commit holds a NUL")
    try:
        served.commit.decode()
    except UnicodeDecodeError as error:
        raise CheckFailed(f"the commit is not UTF-8: {error}") from error
    expect(_HEADERS.fullmatch(served.head) is not None, f"the headers are {shown(served.head)}")


def _parents(session: GitSession) -> None:
    parents = _served(session).head.count("\nparent ")
    expect(parents <= 1, f"the commit has {parents} parents")
    if not parents:
        raise NotApplicable("it is the device's first commit")


def _trailers(session: GitSession) -> None:
    served = _served(session)
    version = str(json.loads(served.manifest).get("manifestVersion")) if served.manifest else ""
    stated = StateCommit(
        manifest_digest=sha256(served.manifest),
        manifest_version=version,
        device=session.target.device.partition("/")[0],
    )
    for name, wanted in stated.trailers().items():
        found = served.trailers(name)
        expect(found == [wanted], f"the trailer {name} is {shown(', '.join(found)) or 'missing'}, not {wanted}")


def _signed(session: GitSession) -> None:
    head = _served(session).head
    expect("\ngpgsig" in head, "the commit is not signed")
    expect("BEGIN SSH SIGNATURE" in head, "the signature is not one of an SSH key")


WRITTEN: Final[tuple[Check[GitSession], ...]] = (
    Check("G-T-4", "the tree is manifest.json and deployments", _two_names),
    Check("G-T-5", "deployments holds exactly what the manifest lists", _named_documents),
    Check("G-T-6", "modes and order of names", _modes),
    Check("G-T-7", "nothing is too large", _sizes),
    Check("G-T-9", "documents have the digests that the manifest states", _digests),
    Check("G-M-1", "the commit has the form of one", _commit_form),
    Check("G-M-2", "the commit has one parent", _parents),
    Check("G-M-3", "the commit states device, version and digest", _trailers),
    Check("G-M-4", "the commit is signed", _signed, "margo-gitops render --signing-key FILE"),
)
"""Checks of the state that is served, written by any program."""
