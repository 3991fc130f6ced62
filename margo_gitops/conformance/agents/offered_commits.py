"""The git objects of a state, of a freshness statement and of trust documents: sound ones, or with one named flaw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from margo_gitops.conformance.agents.states import DEVICE, FLEET, OddEntry, State, make_signing_key
from margo_gitops.conformance.wire import BLOB, COMMIT, TREE
from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, write_statement
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.trust import git_objects
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, build_tree, device_key
from margo_gitops.trust.git_commit import Ident, build_commit, parse_commit
from margo_gitops.trust.git_objects import FILE_MODE
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, field

SUBMODULE: Final = 0o160000
WRITTEN_AT: Final = 1_790_000_000
"""When every state was written, in seconds since 1970."""
ROOTS: Final = "abcde"
_NAMES: Final = {COMMIT: git_objects.COMMIT, TREE: git_objects.TREE, BLOB: git_objects.BLOB}
_SIGNATURE: Final = b"gpgsig"


@dataclass(frozen=True, slots=True)
class Keys:
    """Who signs.

    Attributes:
        renderer: signs state; the device allows it.
        stranger: the device allows nothing that it signs.
        successor: signs state after a rotation; only later trust documents list it.
        freshness: signs statements of freshness, and nothing else that counts.
        roots: the root keys, by letter: the given trust document lists the first three; empty: the fleet has none.
    """

    renderer: SigningKey
    stranger: SigningKey
    successor: SigningKey = field(default_factory=make_signing_key)
    freshness: SigningKey = field(default_factory=make_signing_key)
    roots: Mapping[str, SigningKey] = field(default_factory=dict)

    @property
    def root(self) -> SigningKey:
        """The first root key."""
        return self.roots[ROOTS[0]]


@dataclass(frozen=True, slots=True)
class GitState:
    """A state in git: id of its commit, and kind and content of commit, trees and blobs by id."""

    tip: str
    objects: dict[str, tuple[int, bytes]]


class _Objects:
    def __init__(self) -> None:
        self.found: dict[str, tuple[int, bytes]] = {}

    def add(self, kind: int, content: bytes) -> str:
        name = git_objects.object_id(_NAMES[kind], content)
        self.found[name] = (kind, content)
        return name

    def entry(self, flawed: OddEntry) -> tuple[bytes, int, str]:
        if flawed.mode == SUBMODULE:
            return flawed.name, flawed.mode, flawed.content.decode()
        return flawed.name, flawed.mode, self.add(BLOB, flawed.content)

    def tree(self, entries: Iterable[tuple[bytes, int, str]], *, reverse: bool = False) -> str:
        # Not the writer of the renderer: that refuses to write what is wrong.
        ordered = sorted(
            entries, key=lambda each: each[0] + b"/" if each[1] == git_objects.FOLDER_MODE else each[0], reverse=reverse
        )
        content = b"".join(b"%o %b\0%b" % (mode, name, bytes.fromhex(target)) for name, mode, target in ordered)
        return self.add(TREE, content)


def git_state(state: State, keys: Keys, before: str | None, sound: State | None = None) -> GitState:
    """Return a state as git objects.

    Args:
        before: id of the commit that was offered before; None for the first.
        sound: for a signature that was moved: the state that it was made for.
    """
    objects = _Objects()
    plan = state.commit
    folder = {
        f"{name}.yaml".encode(): (plan.documents_mode, objects.add(BLOB, content))
        for name, content in state.documents.items()
    }
    for flawed in plan.folder:
        name, mode, target = objects.entry(flawed)
        folder[name] = (mode, target)
    root = [(git_objects.MANIFEST_NAME, git_objects.FILE_MODE, objects.add(BLOB, state.manifest))]
    if folder:
        listed = [(name, mode, target) for name, (mode, target) in folder.items()]
        deployments = objects.tree(listed, reverse=plan.reversed)
        root.append((git_objects.DEPLOYMENTS_NAME, git_objects.FOLDER_MODE, deployments))
    flawed_root = [objects.entry(each) for each in plan.root]
    taken = {name for name, _, _ in flawed_root}
    root = [each for each in root if each[0] not in taken] + flawed_root
    parents = [before] if before is not None and plan.descends else []
    payload = _payload(state, objects.tree(root), parents, rooted=bool(keys.roots))
    commit = _signed(payload, state, keys)
    if plan.signer == "moved" and sound is not None:
        commit = _with_signature(payload, git_state(sound, keys, before))
    return GitState(objects.add(COMMIT, commit), objects.found)


def _payload(state: State, tree: str, parents: list[str], *, rooted: bool) -> bytes:
    plan = state.commit
    said = StateCommit(
        manifest_digest=plan.digest or sha256(state.manifest),
        manifest_version=plan.version or str(state.version),
        device=plan.device,
        fleet=plan.fleet if rooted else None,
        trust_version=str(plan.trust) if rooted else None,
    )
    who = Ident("Conformance", "conformance@example.com", WRITTEN_AT, 0)
    again = f"{plan.again}\n" if plan.again else ""
    message = f"Manifest {state.version} for {plan.device}\n\n{said.text()}{again}"
    return build_commit(tree, parents, who, who, message)


def _signed(payload: bytes, state: State, keys: Keys) -> bytes:
    plan = state.commit
    if plan.signer == "nobody":
        return payload
    key: SigningKey = keys.renderer if plan.signer == "moved" else getattr(keys, plan.signer)
    signed = payload
    for _ in range(plan.signatures):
        signed = _insert(signed, sign(payload, key, plan.namespace))
    return signed


def _with_signature(payload: bytes, signed: GitState) -> bytes:
    """Return a commit with the signature of another one."""
    signature = parse_commit(signed.objects[signed.tip][1]).signature
    return _insert(payload, f"{signature}\n")


def _insert(payload: bytes, armor: str) -> bytes:
    head, blank, message = payload.partition(b"\n\n")
    folded = armor.removesuffix("\n").encode().replace(b"\n", b"\n ")
    return b"".join([head, b"\n", _SIGNATURE, b" ", folded, blank, message])


SHARD: Final = "all"
FRESHNESS_REF: Final = f"{FRESHNESS_REFS}{SHARD}"
_VALID: Final = timedelta(days=7)
_AGE: Final = timedelta(hours=1)


def freshness_proof(state: State, key: SigningKey, trust: int | None, *, expired: bool = False) -> bytes:
    """Return the proof that a state is the newest, made an hour ago, or a month ago and expired.

    Args:
        state: the newest one.
        trust: version of the trust document that it names; None for none.
        expired: it was valid for a week, three weeks ago.
    """
    issued = datetime.now(UTC) - (timedelta(days=28) if expired else _AGE)
    tree = build_tree([FreshnessLeaf(device_key(DEVICE), state.version, sha256(state.manifest))])
    statement = write_statement(FLEET, issued, issued + _VALID, "1" * 40, tree.count, tree.root, trust)
    signature = sign(statement, key, FRESHNESS_NAMESPACE)
    leaves = tree.shards[SHARD]
    proof = FreshnessProof(statement.decode(), signature, SHARD, tree.path(SHARD), leaves)
    return write_json(write(proof))


def files_commit(files: Mapping[str, bytes]) -> GitState:
    """Return files as git holds proofs and trust documents: one commit without parents."""
    objects = _Objects()
    entries = [(name.encode(), FILE_MODE, objects.add(BLOB, content)) for name, content in files.items()]
    who = Ident("Conformance", "conformance@example.com", int(datetime.now(UTC).timestamp()), 0)
    commit = build_commit(objects.tree(entries), (), who, who, "Files\n")
    return GitState(objects.add(COMMIT, commit), objects.found)
