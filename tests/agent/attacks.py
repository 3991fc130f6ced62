"""The attacks of TUF's list, as lies of an origin about a fleet's honest history (`docs/attacks.md` has the table)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from device_world import DEVICE, RENDERER, STRANGER, deployment_bytes, snapshot_of
from support.faulty_http import Answer, Fault, Request, only
from support.hostile_origin import Shown
from support.trust_documents import FRESHNESS, ROOTS, document, key, signed

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, write_statement
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.trust_document import FloorChange, RevokedKey
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, build_tree, device_key
from margo_gitops.trust.git_commit import Ident, build_commit, sign_commit
from margo_gitops.trust.git_objects import COMMIT, device_tree_id, object_id
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign

NOW: Final = datetime(2026, 10, 21, 10, tzinfo=UTC)
DAY: Final = timedelta(days=1)
HIGHEST: Final = 2**64 - 1
SECOND: Final = key(11)
"""The render key after a rotation."""

NETWORK: Final = ("git", "http", "files")
AGENT: Final = (*NETWORK, "folder", "stick")
WAYS: Final = (*AGENT, "script")
"""How a state reaches a device: by git or the Margo API from a server, as plain files from one, in a repository that
was carried by hand; in a bundle on a stick; and by scripts/margo-pull.sh, from plain files."""


def state(version: int, greeting: str, *parents: Snapshot, key: SigningKey | None = RENDERER, **said: str) -> Snapshot:
    """Return a state that says a greeting."""
    device = said.get("device", DEVICE)
    content = {1: deployment_bytes(1, values={"GREETING": greeting}, device=device)}
    ids = tuple(parent.revision for parent in parents)
    return snapshot_of(version, content, parents=ids, key=key, **said)  # type: ignore[arg-type]


ONE: Final = state(1, "one", trust="1")
TWO: Final = state(2, "two", ONE, trust="1")
THREE: Final = state(3, "three", TWO, trust="1")
TURNED: Final = state(3, "two", TWO, key=SECOND, trust="2")
ROTATED: Final = state(3, "three", TWO, key=SECOND, trust="2")
"""The honest history; a device holds the second version when it is attacked."""


def revoked(which: SigningKey) -> tuple[RevokedKey, ...]:
    return (RevokedKey(str(which.public), "compromised", "2026-10-01T00:00:00Z"),)


TAKEN_BACK = FloorChange("after-attack", "a render key was stolen", highest=2)
FIRST_DOCUMENT = signed(document(1), *ROOTS[:2])
SECOND_DOCUMENT = signed(document(2, render=(SECOND,), revoked=revoked(RENDERER), floors=(TAKEN_BACK,)), *ROOTS[:2])
DOCUMENTS: Final = {1: FIRST_DOCUMENT, 2: SECOND_DOCUMENT}


def proof(
    shown: Snapshot,
    issued: datetime,
    *,
    version: int,
    key: SigningKey = FRESHNESS,
    fleet: str = "plant",
    trust: int | None = 1,
    life: timedelta = 7 * DAY,
) -> bytes:
    """Return a proof of freshness that lists this state."""
    tree = build_tree([FreshnessLeaf(device_key(DEVICE), version, sha256(shown.manifest))])
    said = write_statement(fleet, issued, issued + life, "c" * 40, tree.count, tree.root, trust)
    signature = sign(said, key, FRESHNESS_NAMESPACE)
    return write_json(write(FreshnessProof(said.decode(), signature, "all", tree.path("all"), tree.shards["all"])))


def honest(shown: Snapshot, version: int, issued: datetime = NOW, trust: int = 1) -> Shown:
    documents = {number: content for number, content in DOCUMENTS.items() if number <= trust}
    return Shown(shown, documents, proof(shown, issued, version=version, trust=trust))


HONEST: Final = honest(TWO, 2)


@dataclass(frozen=True)
class Attack:
    """One lie.

    Attributes:
        kind: what TUF calls it.
        says: what the origin does, for the page.
        found: on each way, the code of the refusal, or the reason of the event where a state is not refused for it; a
            way that is not named is not attacked.
        lie: what the origin shows; as it did before, by default.
        before: what it shows before that, once the device holds the second version; None: nothing else.
        faults: what else it does to its answers.
        after: what it shows once the attack has ended.
        later: how much time passes before the attack.
        believes: the greeting that the device runs during the attack.
        by_hand: a document that a person gives to the device then; None: nobody touches it.
        is_slow: the device's patience is short, so that the test's is.
    """

    kind: str
    says: str
    found: Mapping[str, str]
    lie: Shown = HONEST
    faults: tuple[Fault, ...] = ()
    after: Shown = field(default_factory=lambda: honest(THREE, 3, NOW + 9 * DAY))
    later: timedelta = timedelta()
    believes: str = "two"
    before: Shown | None = None
    by_hand: bytes | None = None
    is_slow: bool = False


def at(ways: tuple[str, ...], code: str) -> dict[str, str]:
    """Return what is found on some ways; the script has a code of its own for whatever cannot be trusted."""
    return {way: "exit 4" if way == "script" and code != "taken" else code for way in ways}


def shows(shown: Snapshot | None) -> Shown:
    return replace(HONEST, state=shown)


def endless(piece: bytes) -> Callable[[Answer], Answer]:
    return lambda answer: replace(answer, headers=[*answer.headers, ("Transfer-Encoding", "chunked")], repeat=piece)


def to_state(change: Callable[[Answer], Answer]) -> Fault:
    """Return a fault for the answers that tell of a state, on each way."""

    def apply(request: Request, answer: Answer) -> Answer | None:
        is_asked = request.path.endswith("/api/v1/deployments") or b"ls-refs" in request.body
        return change(answer) if is_asked else None

    return apply


EVIL = state(3, "evil", TWO, trust="1")
STRANGE = state(3, "evil", TWO, key=STRANGER, trust="1")
FOREIGN_FREIGHT = Snapshot(THREE.manifest, ONE.deployments, THREE.commit, THREE.revision)
OTHER_COMMIT = Snapshot(EVIL.manifest, EVIL.deployments, THREE.commit, THREE.revision)
MORE = snapshot_of(3, {1: deployment_bytes(1), 2: deployment_bytes(2)}, parents=(TWO.revision,), trust="1")
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
PACKETS = b"fe00\r\n" + b"".join([b"03f8%b\n" % (b"0" * 40 + b" refs/x/" + b"y" * 963)] * 64) + b"\r\n"


def forged(commit: bytes) -> Snapshot:
    """Return a state under the renderer's signature over another one."""
    assert THREE.commit is not None
    _, _, signature = THREE.commit.partition(b"gpgsig ")
    signature = signature[: signature.index(b"-----END SSH SIGNATURE-----")] + b"-----END SSH SIGNATURE-----\n"
    head, blank, message = commit.partition(b"\n\n")
    made = head + b"\ngpgsig " + signature + blank[1:] + message
    return replace(EVIL, commit=made)


def huge() -> Snapshot:
    """Return a state whose manifest is larger than a device takes."""
    manifest = b" " * (1024 * 1024 + 1)
    who = Ident("Renderer", "renderer@example.com", 1_790_000_003, 0)
    commit = build_commit(device_tree_id(manifest, {}), (TWO.revision,), who, who, "Change it\n")
    return Snapshot(manifest, {}, commit, object_id(COMMIT, commit))


UNSIGNED = state(3, "evil", TWO, key=None, trust="1")
STOLEN_FRESHNESS = sign_commit(UNSIGNED.commit or b"", FRESHNESS)
OTHER_FLEET = {1: FIRST_DOCUMENT, 2: signed(document(2, fleet="other", render=(STRANGER,)), *ROOTS[:2])}
ONE_ROOT = {1: FIRST_DOCUMENT, 2: signed(document(2, render=(STRANGER,)), ROOTS[0], ROOTS[0])}
HALF = signed(document(2, roots=(STRANGER,), threshold=1, render=(STRANGER,)), ROOTS[0], STRANGER)
NAMES_TWO = state(3, "evil", TWO, key=STRANGER, trust="2")
NEW_ROOTS = (key(111), key(112))
BY_HAND = signed(document(2, roots=NEW_ROOTS, render=(SECOND,), floors=(TAKEN_BACK,)), *NEW_ROOTS)
TAKEN_OVER = {1: FIRST_DOCUMENT, 2: signed(document(2, render=(STRANGER,)), *ROOTS[:2])}
AFTER_THEFT = honest(ROTATED, 3, NOW + 9 * DAY, trust=2)

ATTACKS: Final = {
    "older-state": Attack("rollback", "an older state", {**at(WAYS, "MG1504")}, shows(ONE)),
    "older-keys": Attack(
        "rollback",
        "an older trust document, and a state by the key that was revoked since",
        at(WAYS, "MG1503"),
        replace(HONEST, state=state(4, "evil", trust="1")),
        before=replace(AFTER_THEFT, state=TURNED),
        after=replace(AFTER_THEFT, state=state(4, "three", TURNED, key=SECOND, trust="2")),
    ),
    "older-statement": Attack(
        "rollback",
        "an older statement of freshness",
        at(WAYS, "MG1522"),
        replace(HONEST, proof=proof(TWO, NOW - DAY, version=2)),
        later=6 * DAY,
    ),
    "highest-version": Attack(
        "fast-forward",
        "the highest version that there is, signed by a stranger",
        at(WAYS, "MG1503"),
        shows(state(HIGHEST, "evil", key=STRANGER, trust="1")),
    ),
    "highest-keys": Attack(
        "fast-forward",
        "a state that names the highest version of the trust document",
        at(WAYS, "MG1533"),
        shows(state(3, "evil", TWO, trust=str(2**31 - 1))),
    ),
    "future-statement": Attack(
        "fast-forward",
        "a statement of next century, signed by a stranger",
        at(WAYS, "MG1503"),
        replace(HONEST, proof=proof(TWO, NOW + 36500 * DAY, version=HIGHEST, key=STRANGER)),
        later=6 * DAY,
    ),
    "nothing-new": Attack(
        "freeze",
        "nothing new, for longer than a statement is valid",
        at(WAYS, "FreshnessLost"),
        later=8 * DAY,
    ),
    "hidden-keys": Attack(
        "freeze",
        "the new state, but not the trust document with its key",
        at(WAYS, "MG1533"),
        shows(ROTATED),
        after=AFTER_THEFT,
    ),
    "no-state": Attack("freeze", "no such device", {**at(AGENT, "MG1402"), "script": "exit 3"}, shows(None)),
    "other-documents": Attack(
        "mix-and-match",
        "a manifest with documents of another version",
        {**at(("git", "folder"), "MG1403"), **at(("http", "files", "stick", "script"), "MG1507")},
        shows(FOREIGN_FREIGHT),
    ),
    "other-commit": Attack(
        "mix-and-match",
        "a state with the commit of another one",
        {**at(("git", "folder"), "MG1403"), **at(("http", "files", "stick", "script"), "MG1507")},
        shows(OTHER_COMMIT),
    ),
    "same-version": Attack(
        "mix-and-match",
        "another state of the held version",
        at(WAYS, "MG1505"),
        shows(state(2, "evil", ONE, trust="1")),
    ),
    "other-history": Attack(
        "mix-and-match",
        "a next version that does not follow from the held one",
        at(WAYS, "MG1506"),
        shows(state(3, "evil", ONE, trust="1")),
    ),
    "other-statement": Attack(
        "mix-and-match",
        "a statement with the devices of another one",
        at(WAYS, "MG1520"),
        replace(HONEST, proof=proof(TWO, NOW + DAY, version=2).replace(b'"version":2', b'"version":9')),
        later=6 * DAY,
    ),
    "other-keys": Attack(
        "mix-and-match",
        "the trust document of another fleet",
        at(WAYS, "MG1532"),
        replace(HONEST, state=NAMES_TWO, documents=OTHER_FLEET),
        after=AFTER_THEFT,
    ),
    "unsigned": Attack("wrong software", "a state without a signature", at(WAYS, "MG1501"), shows(UNSIGNED)),
    "changed": Attack(
        "wrong software",
        "a changed state under the signature over the honest one",
        at(WAYS, "MG1502"),
        shows(forged(UNSIGNED.commit or b"")),
    ),
    "other-device": Attack(
        "wrong software",
        "the signed state of another device",
        at(WAYS, "MG1509"),
        shows(state(3, "evil", TWO, trust="1", device="press-08")),
    ),
    "other-fleet": Attack(
        "wrong software",
        "the state of a device of the same name in another fleet with the same key",
        at(WAYS, "MG1509"),
        shows(state(3, "evil", TWO, trust="1", fleet="other")),
    ),
    "endless-answer": Attack(
        "endless data",
        "an answer to a poll that never ends",
        {**at(NETWORK, "MG1403"), "script": "exit 4"},
        shows(THREE),
        faults=(
            only("/api/v1/deployments", endless(CHUNK)),
            only("/git-upload-pack", endless(PACKETS)),
        ),
    ),
    "large-keys": Attack(
        "endless data",
        "a trust document of more than 64 KiB",
        at(WAYS, "MG1403"),
        replace(HONEST, state=NAMES_TWO, documents={1: FIRST_DOCUMENT, 2: b" " * 65_537}),
        after=AFTER_THEFT,
    ),
    "large-file": Attack(
        "endless data",
        "a manifest of more than 1 MiB",
        {**at(("git", "folder"), "MG1510"), **at(("http", "files", "stick", "script"), "MG1403")},
        shows(huge()),
    ),
    "further-file": Attack(
        "extraneous",
        "a file in the device's tree that belongs to no deployment",
        at(("git", "folder"), "MG1403"),
        replace(shows(THREE), extra={"run.sh": b"evil"}),
    ),
    "further-document": Attack(
        "extraneous",
        "a document more than were signed, with the manifest that lists it",
        {**at(("git", "folder"), "MG1403"), **at(("http", "files", "stick", "script"), "MG1507")},
        shows(replace(MORE, commit=THREE.commit, revision=THREE.revision)),
    ),
    "further-keys": Attack(
        "extraneous",
        "a file on the branch of the trust document that is not one",
        at(("git", "folder"), "MG1403"),
        replace(HONEST, state=NAMES_TWO, documents={**DOCUMENTS, "run": b"evil"}),
        after=AFTER_THEFT,
    ),
    "drip": Attack(
        "slow retrieval",
        "an answer of a byte now and then",
        {**at(NETWORK, "MG1401"), "script": "exit 3"},
        shows(THREE),
        (to_state(lambda answer: replace(answer, drip_seconds=0.02)),),
        is_slow=True,
    ),
    "render-key": Attack(
        "key compromise",
        "the stolen render key signs a state",
        at(WAYS, "taken"),
        replace(HONEST, state=EVIL, proof=proof(TWO, NOW, version=2)),
        after=AFTER_THEFT,
        believes="evil",
    ),
    "render-key-highest": Attack(
        "key compromise",
        "the stolen render key signs the highest version that there is",
        at(WAYS, "taken"),
        shows(state(HIGHEST, "evil", trust="1")),
        after=AFTER_THEFT,
        believes="evil",
    ),
    "freshness-key": Attack(
        "key compromise",
        "the stolen freshness key says that the next version is another one",
        at(WAYS, "FreshnessLost"),
        replace(HONEST, proof=proof(EVIL, NOW + 5 * DAY, version=3)),
        later=6 * DAY,
    ),
    "freshness-key-signs": Attack(
        "key compromise",
        "the stolen freshness key signs a state",
        at(WAYS, "MG1503"),
        shows(replace(UNSIGNED, commit=STOLEN_FRESHNESS)),
    ),
    "root-below": Attack(
        "key compromise",
        "one root key of two signs a trust document, twice",
        at(WAYS, "MG1531"),
        replace(HONEST, state=NAMES_TWO, documents=ONE_ROOT),
        after=AFTER_THEFT,
    ),
    "root-below-changes": Attack(
        "key compromise",
        "one root key of two lowers the threshold in what it signs",
        at(WAYS, "MG1531"),
        replace(HONEST, state=NAMES_TWO, documents={1: FIRST_DOCUMENT, 2: HALF}),
        after=AFTER_THEFT,
    ),
    "root": Attack(
        "key compromise",
        "as many root keys as the threshold sign a trust document",
        at(WAYS, "taken"),
        replace(HONEST, state=NAMES_TWO, documents=TAKEN_OVER),
        after=AFTER_THEFT,
        believes="evil",
        by_hand=BY_HAND,
    ),
}


def table() -> str:
    """Return the attacks as a table of Markdown."""
    lines = ["| Kind | What the origin shows | git | HTTP | files | folder | stick | script | Then |", "|" + "---|" * 9]
    for attack in ATTACKS.values():
        then = "follows" if attack.believes == "two" else "root" if attack.by_hand is None else "by hand"
        found = (attack.found.get(way, "-") for way in WAYS)
        lines.append(f"| {' | '.join((attack.kind, attack.says, *found, then))} |")
    return "\n".join(lines) + "\n"
