"""Check an evidence file with nothing but a list of signers; pure.

EVIDENCE-1  The file is one DSSE envelope in its one spelling, signed with an ed25519 key that the list has for
            `margo-gitops-evidence` at the time of the export; it has no other signature.
EVIDENCE-2  The payload is an in-toto statement (v1) of this predicate type, with no field that is not known.
EVIDENCE-3  Every object's bytes have the object's id, and every object is needed: there is room for nothing else.
EVIDENCE-4  The device commit, and both commits of the branch `fleet`, are signed by keys that the list has for `git`
            at the commit's date; without that only the exporter vouches, which must be asked for.
EVIDENCE-5  The device's tree is the same tree that both commits of `fleet` hold for this device; it holds the manifest
            and the deployments that the manifest lists, each with its digest, and nothing else.
EVIDENCE-6  What the statement says of a state is what the signed trailers and the manifest say.
EVIDENCE-7  What it says of the fleet commit is what that commit's bytes say, and its applications lock is in its tree.
EVIDENCE-8  The subjects are the devices' commits, trees and files, all of them and nothing else, with right digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from margo_gitops.audit.evidence.envelope import check_statement, opened
from margo_gitops.audit.evidence.predicate import (
    NAMESPACE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Evidence,
    EvidenceState,
    EvidenceStatement,
    Subject,
    content_of,
    fleet_commit_of,
    sorted_subjects,
    subjects_of,
)
from margo_gitops.catalog.package import LOCK_FILE
from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read
from margo_gitops.documents.state_layout import (
    DEPLOYMENTS_FOLDER,
    DEVICES_FOLDER,
    LEFT_FOLDER,
    MANIFEST_FILE,
    deployment_path,
)
from margo_gitops.errors import EvidenceRefused, Location, MargoGitopsError, StateTampered, listed
from margo_gitops.state_repo.git_store import tree_entries
from margo_gitops.state_repo.objects import listed_deployments
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_commit import GitCommit, parse_commit
from margo_gitops.trust.git_objects import BLOB, COMMIT, FILE_MODE, FOLDER_MODE, TREE, TreeEntry, object_id
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass
from margo_gitops.wording import counted

_BOUNDS: Final = Bounds(size=256 * 1024 * 1024, depth=12, nodes=4_000_000)


@dataclass(frozen=True, slots=True)
class CheckedEvidence:
    """Evidence that holds.

    Attributes:
        exporter: principals whose key signed the file.
        signed_by: the principals that signed commits, sorted.
        unsigned: how many commits are unsigned, so that only the exporter vouches for them.
    """

    evidence: Evidence
    exporter: str
    signed_by: tuple[str, ...]
    unsigned: int


def check_evidence(content: bytes, file: str, signers: AllowedSigners, *, unsigned: bool = False) -> CheckedEvidence:
    """Return what an evidence file proves.

    Args:
        signers: who may have signed; the list names what each key is for.
        unsigned: whether unsigned commits are accepted on the exporter's word.

    Raises:
        EvidenceRefused: with every rule that is broken, EVIDENCE-1 to EVIDENCE-8.
    """
    try:
        statement, exporter = _statement(content, file, signers)
        check = _Check(statement.predicate, signers, unsigned=unsigned)
        found = [*check.findings(), *_subjects(statement.subject, sorted_subjects(check.subjects))]
    except ValueError as error:
        found = [str(error)]
        raise _refused(file, found) from error
    if found:
        raise _refused(file, found)
    return CheckedEvidence(statement.predicate, exporter, tuple(sorted(check.signed_by)), check.unsigned_commits)


def _refused(file: str, why: list[str]) -> EvidenceRefused:
    return EvidenceRefused(
        "the evidence does not hold",
        where=Location(file),
        why=listed(why),
        remedy="do not believe it; ask its sender for another file, and keep this one",
    )


def _statement(content: bytes, file: str, signers: AllowedSigners) -> tuple[EvidenceStatement, str]:
    if len(content) > _BOUNDS.size:
        raise ValueError(f"EVIDENCE-1: it has {len(content)} bytes, {_BOUNDS.size} are possible")
    try:
        payload, key = opened(content, signers)
    except ValueError as error:
        raise ValueError(f"EVIDENCE-1: {error}") from error
    try:
        statement = read(EvidenceStatement, read_json(payload, file, _BOUNDS))
        check_statement(payload)
    except MargoGitopsError as error:
        why = "; ".join(error.why[:5])
        raise ValueError(f"EVIDENCE-2: {error.what}{f': {why}' if why else ''}") from error
    except ValueError as error:
        raise ValueError(f"EVIDENCE-2: {error}") from error
    if (statement.type, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise ValueError(
            f"EVIDENCE-2: the payload is {statement.type} of {statement.predicate_type}, not {PREDICATE_TYPE}"
        )
    try:
        at = datetime.fromisoformat(statement.predicate.exported_at)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError(f"EVIDENCE-2: {statement.predicate.exported_at!r} is not a time with a time zone")
    exporter = signers.find(key, NAMESPACE, at)
    if exporter is None:
        raise ValueError(f"EVIDENCE-1: {'; '.join(signers.objections(key, NAMESPACE, at))}")
    return statement, exporter


class _Check:
    """Checks the predicate; takes note of every object that it needs."""

    def __init__(self, evidence: Evidence, signers: AllowedSigners, *, unsigned: bool) -> None:
        self._evidence = evidence
        self._signers = signers
        self._accept_unsigned = unsigned
        self._objects: dict[str, tuple[bytes, bytes]] = {}
        self._used: set[str] = set()
        self._folders: dict[str, dict[bytes, str]] = {}
        self._signatures: set[str] = set()
        self.subjects: list[Subject] = []
        self.signed_by: set[str] = set()
        self.unsigned_commits = 0

    def findings(self) -> Iterator[str]:
        """Yield every rule that is broken."""
        yield from self._read_objects()
        for state in self._evidence.states:
            try:
                yield from (f"{state.device} {state.manifest_version}: {each}" for each in self._state(state))
            except ValueError as error:
                yield f"{state.device} {state.manifest_version}: {error}"
            except StateTampered as error:
                yield f"{state.device} {state.manifest_version}: {error.what}"
        if spare := sorted(self._objects.keys() - self._used):
            yield f"EVIDENCE-3: {len(spare)} objects belong to no state, one is {spare[0]}"

    def _read_objects(self) -> Iterator[str]:
        for item in self._evidence.objects:
            content = content_of(item)
            kind = item.type.encode()
            if item.id in self._objects:
                yield f"EVIDENCE-3: the object {item.id} is there twice"
            if (real := object_id(kind, content)) != item.id:
                yield f"EVIDENCE-3: the bytes of the {item.type} {item.id} have the id {real}"
            self._objects[item.id] = kind, content

    def _object(self, name: str, kind: bytes, rule: str) -> bytes:
        found = self._objects.get(name)
        if found is None or found[0] != kind:
            raise ValueError(f"{rule}: the {kind.decode()} {name} is not in the evidence")
        self._used.add(name)
        return found[1]

    def _tree(self, name: str, rule: str) -> tuple[TreeEntry, ...]:
        return tree_entries(name, self._object(name, TREE, rule))

    def _commit(self, name: str) -> GitCommit:
        try:
            return parse_commit(self._object(name, COMMIT, "EVIDENCE-3"))
        except ValueError as error:
            raise ValueError(f"EVIDENCE-4: no renderer writes a commit like {name}: {error}") from error

    def _state(self, state: EvidenceState) -> Iterator[str]:
        encoded = encode_device_id(state.device)
        commit = self._commit(state.device_commit)
        brought, in_force = self._commit(state.state_commit), self._commit(state.in_force)
        named = ((state.device_commit, commit), (state.state_commit, brought), (state.in_force, in_force))
        for name, each in named:
            yield from self._signature(name, each)
        for name, each in named[1:]:
            places = dict(self._places(each.tree, encoded))
            place = state.place if name == state.in_force else next(iter(places), "")
            if places.get(place) != commit.tree:
                yield f"EVIDENCE-5: the commit {name} does not hold the device's tree {commit.tree}"
        files = self._files(commit.tree)
        yield from self._content(files)
        yield from self._said(state, commit, brought, files)
        yield from self._fleet_commit(state)
        self.subjects += subjects_of(encoded, state.device_commit, commit.tree, files)

    def _signature(self, name: str, commit: GitCommit) -> Iterator[str]:
        if name in self._signatures:
            return
        self._signatures.add(name)
        if commit.signature is None and self._accept_unsigned:
            self.unsigned_commits += 1
            return
        signed = commit_signer(commit, self._signers)
        if signed.objection or signed.signer is None:
            yield f"EVIDENCE-4: the signature of {name} does not count: {signed.objection}"
        else:
            self.signed_by.add(signed.signer)

    def _places(self, root: str, encoded: str) -> Iterator[tuple[str, str]]:
        """Yield the places of a device in the tree of a commit of `fleet`, as far as its trees are in the evidence."""
        for top in self._tree(root, "EVIDENCE-5"):
            if top.name == DEVICES_FOLDER.encode() and top.id in self._objects:
                for site in self._tree(top.id, "EVIDENCE-5"):
                    if site.id in self._objects:
                        yield from self._place(
                            f"{DEVICES_FOLDER}/{site.name.decode('utf-8', 'replace')}", site.id, encoded
                        )
            elif top.name == LEFT_FOLDER.encode() and top.id in self._objects:
                yield from self._place(LEFT_FOLDER, top.id, encoded)

    def _place(self, folder: str, tree: str, encoded: str) -> Iterator[tuple[str, str]]:
        if tree not in self._folders:
            entries = tree_entries(tree, self._objects[tree][1])
            self._folders[tree] = {each.name: each.id for each in entries}
        found = self._folders[tree].get(encoded.encode())
        if found is not None:
            self._used.add(tree)
            yield f"{folder}/{encoded}", found

    def _files(self, tree: str) -> dict[str, tuple[str, bytes]]:
        """Return blob id and content of every file of a device, by path."""
        found = {}
        for entry in self._tree(tree, "EVIDENCE-5"):
            name = entry.name.decode("utf-8", "backslashreplace")
            if entry.mode == FOLDER_MODE and name == DEPLOYMENTS_FOLDER:
                for inner in self._tree(entry.id, "EVIDENCE-5"):
                    path = f"{name}/{inner.name.decode('utf-8', 'backslashreplace')}"
                    found[path] = self._file(path, inner)
            else:
                found[name] = self._file(name, entry)
        return found

    def _file(self, path: str, entry: TreeEntry) -> tuple[str, bytes]:
        if entry.mode != FILE_MODE:
            raise ValueError(f"EVIDENCE-5: {path} is not a plain file")
        return entry.id, self._object(entry.id, BLOB, "EVIDENCE-5")

    def _content(self, files: Mapping[str, tuple[str, bytes]]) -> Iterator[str]:
        listed_files = {deployment_path(each): digest for each, digest in _manifest(files)[1].items()}
        for path in sorted({*listed_files, *files} - {MANIFEST_FILE}):
            if path not in files:
                yield f"EVIDENCE-5: the manifest lists {path}, and the tree lacks it"
            elif path not in listed_files:
                yield f"EVIDENCE-5: the tree holds {path}, and the manifest does not list it"
            elif sha256(files[path][1]) != listed_files[path]:
                yield f"EVIDENCE-5: {path} is not what the manifest says: {listed_files[path]}"

    def _said(
        self, state: EvidenceState, commit: GitCommit, brought: GitCommit, files: Mapping[str, tuple[str, bytes]]
    ) -> Iterator[str]:
        said = StateCommit(
            state_commit=state.state_commit,
            fleet=self._evidence.fleet,
            fleet_commit=state.fleet_commit.id,
            rendered_by=state.rendered_by,
            applications_lock=state.applications_lock,
            manifest_digest=sha256(files[MANIFEST_FILE][1]),
            manifest_version=state.manifest_version,
            device=state.device,
        )
        for trailer, value, found in said.differences(StateCommit.of(commit)):
            yield f"EVIDENCE-6: the trailer {trailer} says {found or 'nothing'}, not {value or 'nothing'}"
        for trailer, _, _ in said.origin().differences(StateCommit.of(brought).origin()):
            yield f"EVIDENCE-6: {trailer} is another one in the commit {state.state_commit}"
        if str(_manifest(files)[0]) != state.manifest_version:
            yield f"EVIDENCE-6: the manifest's version is {_manifest(files)[0]}, not {state.manifest_version}"
        signer = commit_signer(commit, None).signer
        if signer != state.signer:
            yield f"EVIDENCE-6: the device commit was signed by {signer or 'nobody'}, not by {state.signer or 'nobody'}"

    def _fleet_commit(self, state: EvidenceState) -> Iterator[str]:
        name = state.fleet_commit.id
        raw = self._object(name, COMMIT, "EVIDENCE-7")
        if fleet_commit_of(name, raw) != state.fleet_commit:
            yield f"EVIDENCE-7: the fleet commit {name} says something else than the statement"
        if state.applications_lock is not None:
            root = raw[5:45].decode("ascii", "replace")
            if state.applications_lock not in self._locks(root):
                yield f"EVIDENCE-7: the applications lock of {name} is another one"

    def _locks(self, root: str) -> Iterator[str]:
        """Yield the digests of the applications locks in a tree, as far as its folders are in the evidence."""
        trees = [root]
        for tree in trees:
            for each in self._tree(tree, "EVIDENCE-7"):
                if each.name == LOCK_FILE.encode():
                    yield sha256(self._object(each.id, BLOB, "EVIDENCE-7"))
                elif each.mode == FOLDER_MODE and each.id in self._objects and each.id not in trees:
                    trees.append(each.id)


def _manifest(files: Mapping[str, tuple[str, bytes]]) -> tuple[int, dict[str, str]]:
    """Return a manifest's version, and the digests of its deployments by id."""
    try:
        return listed_deployments(files[MANIFEST_FILE][1])
    except (KeyError, ValueError) as error:
        raise ValueError(f"EVIDENCE-5: there is no {MANIFEST_FILE} that can be read") from error


def _subjects(said: tuple[Subject, ...], real: tuple[Subject, ...]) -> Iterator[str]:
    for each in sorted(set(said) - set(real), key=lambda each: each.name):
        yield f"EVIDENCE-8: the subject {each.name} belongs to no state, or has other digests"
    for each in sorted(set(real) - set(said), key=lambda each: each.name):
        yield f"EVIDENCE-8: the subjects lack {each.name}"
    if set(said) == set(real) and said != real:
        yield "EVIDENCE-8: the subjects are in another order, or one is there twice"


_SHOWN = 50


def evidence_lines(checked: CheckedEvidence) -> Iterator[str]:
    """Yield what an evidence file proves."""
    evidence = checked.evidence
    yield f"fleet {evidence.fleet}: {counted(len(evidence.states), 'state')} proven"
    yield f"  exported   {evidence.exported_at.replace('+00:00', 'Z')} by {checked.exporter}"
    yield f"  signed by  {', '.join(checked.signed_by) or 'nobody'}"
    if checked.unsigned:
        yield f"  warning: {counted(checked.unsigned, 'commit')} unsigned: only the exporter vouches for that"
    for state in evidence.states[:_SHOWN]:
        commit = state.fleet_commit
        yield f"{state.device}  manifest {state.manifest_version}"
        yield f"  device commit  {state.device_commit}"
        yield f"  fleet commit   {commit.id[:12]}  {commit.date}  {commit.author}"
        yield f"                 {commit.subject}"
        for each in commit.trailers:
            yield f"                 {each.name}: {each.value}"
    if len(evidence.states) > _SHOWN:
        yield f"and {counted(len(evidence.states) - _SHOWN, 'more state')}"
