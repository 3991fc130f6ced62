"""Collect evidence from both repos: the states asked for, and every git object that proves them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

from margo_gitops import __version__
from margo_gitops.audit.evidence.envelope import sealed, statement_payload
from margo_gitops.audit.evidence.predicate import (
    Evidence,
    EvidenceObject,
    EvidenceState,
    Subject,
    fleet_commit_of,
    sorted_subjects,
    subjects_of,
)
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.package import LOCK_FILE
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.records import write
from margo_gitops.documents.state_layout import DEVICE_REFS, FLEET_REF
from margo_gitops.errors import EvidenceUnusable, FleetCommitUnknown
from margo_gitops.state_repo.git_store import bad_object, tree_entries
from margo_gitops.state_repo.objects import DevicePlace, StateObjects
from margo_gitops.state_repo.state_repo import device_of
from margo_gitops.trust.git_commit import GitCommit
from margo_gitops.trust.git_objects import BLOB, COMMIT, FOLDER_MODE, TREE
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, field

MAX_EVIDENCE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export.

    Attributes:
        device: a client; None: all of them.
        at: the states of this time, with a time zone; None: of now.
        since: a commit of the branch `fleet`: every state that came after it; None: only those in force.
        now: when the export is made.
    """

    device: str | None
    at: datetime | None
    since: str | None
    now: datetime


def export_evidence(fleet: FleetRepo, objects: StateObjects, request: ExportRequest, key: SigningKey) -> bytes:
    """Return an evidence file.

    Raises:
        EvidenceUnusable: there is nothing to export, or it would be too large.
        StateTampered: an object of the state repo is missing or not one that a renderer wrote.
        FleetCommitUnknown: the fleet repo lacks a commit that a state was rendered from.
    """
    subjects, evidence = _Export(fleet, objects, request).collect()
    content = sealed(statement_payload(subjects, write(evidence)), key)
    if len(content) > MAX_EVIDENCE_BYTES:
        raise EvidenceUnusable(
            f"the evidence would have {len(content)} bytes, {MAX_EVIDENCE_BYTES} are possible",
            remedy="export fewer devices, or less of the history",
        )
    return content


@dataclass(slots=True)
class _Export:
    fleet: FleetRepo
    objects: StateObjects
    request: ExportRequest
    _found: dict[str, EvidenceObject] = field(default_factory=dict)
    _refs: Mapping[str, str] = field(default_factory=dict)
    _fleet_commits: frozenset[str] = frozenset()
    _places: dict[str, dict[str, DevicePlace]] = field(default_factory=dict)

    def collect(self) -> tuple[tuple[Subject, ...], Evidence]:
        self._refs = self.objects.refs()
        states: list[EvidenceState] = []
        subjects: list[Subject] = []
        fleet = ""
        for encoded, name, in_force in self._chosen():
            commit = self.objects.commit(name)
            states.append(self._state(encoded, name, commit, in_force))
            subjects += subjects_of(encoded, name, commit.tree, self._device_files(commit.tree))
            fleet = StateCommit.of(commit).fleet or ""
        if not states:
            raise EvidenceUnusable("there is nothing to export", remedy="see what there is: margo-gitops audit log")
        evidence = Evidence(
            fleet=fleet,
            exported_at=self.request.now.astimezone(UTC).isoformat(timespec="seconds"),
            exported_by=f"margo-gitops {__version__}",
            states=tuple(states),
            objects=tuple(self._found[each] for each in sorted(self._found)),
        )
        return sorted_subjects(subjects), evidence

    def _chosen(self) -> Iterator[tuple[str, str, str]]:
        """Yield (encoded device, device commit, commit of `fleet` in which it is in force), by device, oldest first."""
        request = self.request
        tip = self._refs.get(FLEET_REF)
        chain = self.objects.branch(tip) if tip else ()
        self._fleet_commits = frozenset(chain)
        latest = request.at.timestamp() if request.at is not None else float("inf")
        # As everywhere in an audit the branch's order counts, not the dates alone.
        upto = next(
            (at for at in range(len(chain), 0, -1) if self.objects.commit(chain[at - 1]).committed_at <= latest), 0
        )
        newest = chain[upto - 1] if upto else None
        places = self._held(self.objects.commit(newest).tree) if newest else {}
        wanted = sorted(places) if request.device is None else [encode_device_id(request.device)]
        after = chain.index(request.since) if request.since is not None else -1
        brought = frozenset(chain[after + 1 : upto])
        for encoded in wanted:
            ref = f"{DEVICE_REFS}{encoded}"
            if newest is None or encoded not in places or ref not in self._refs:
                raise EvidenceUnusable(
                    f"{device_of(encoded)} had no state then",
                    remedy=f"see when it got one: margo-gitops audit log --device {device_of(encoded)}",
                )
            branch = self.objects.branch(self._refs[ref])
            if request.since is None:
                held = next(
                    (each for each in reversed(branch) if self.objects.commit(each).tree == places[encoded].tree), None
                )
                if held is None:
                    raise bad_object(places[encoded].tree, f"no commit of {ref} has this tree")
                yield encoded, held, newest
                continue
            for each in branch:
                by = StateCommit.of(self.objects.commit(each)).state_commit or ""
                if by in brought:
                    yield encoded, each, by

    def _state(self, encoded: str, name: str, commit: GitCommit, in_force: str) -> EvidenceState:
        said = StateCommit.of(commit)
        brought = said.state_commit or ""
        self._state_object(name, COMMIT)
        places = []
        for each in dict.fromkeys((brought, in_force)):
            if each not in self._fleet_commits and self.objects.boundary():
                raise EvidenceUnusable(
                    f"the render that brought the state of {device_of(encoded)} is in an archive",
                    remedy="pass all archives, each with --archive FILE",
                )
            root = self.objects.commit(each).tree
            place = self._held(root).get(encoded)
            if place is None:
                raise bad_object(each, f"its tree does not hold {encoded}")
            self._state_object(each, COMMIT)
            self._path(root, place.folder)
            places.append(f"{place.folder}/{encoded}")
        fleet_commit = said.fleet_commit or ""
        raw = self._fleet_object(fleet_commit, COMMIT)
        lock = said.applications_lock
        if lock is not None:
            found: str | None = raw[5:45].decode("ascii", "replace")
            for part in self.fleet.path(LOCK_FILE).split("/"):
                entries = tree_entries(found, self._fleet_object(found, TREE)) if found else ()
                found = next((each.id for each in entries if each.name == part.encode()), None)
            if found:
                self._fleet_object(found, BLOB)
        signed = commit_signer(commit, None)
        return EvidenceState(
            device=device_of(encoded),
            manifest_version=said.manifest_version or "",
            device_commit=name,
            state_commit=brought,
            in_force=in_force,
            place=places[-1],
            signer=signed.signer,
            rendered_by=said.rendered_by or "",
            applications_lock=lock,
            fleet_commit=fleet_commit_of(fleet_commit, raw),
        )

    def _held(self, root: str) -> dict[str, DevicePlace]:
        """Return where a tree of the branch `fleet` holds each device; read once for all devices."""
        if root not in self._places:
            self._places[root] = self.objects.places(root)
        return self._places[root]

    def _path(self, root: str, folder: str) -> None:
        """Take up the trees on the way to a device's folder."""
        tree = root
        self._state_object(tree, TREE)
        for part in folder.split("/"):
            tree = next(each.id for each in self.objects.tree(tree) if each.name == part.encode())
            self._state_object(tree, TREE)

    def _device_files(self, tree: str) -> dict[str, tuple[str, bytes]]:
        """Take up a device's tree and everything in it; return blob id and content by path."""
        files = {}
        self._state_object(tree, TREE)
        for entry in self.objects.tree(tree):
            path = entry.name.decode("utf-8", "backslashreplace")
            if entry.mode == FOLDER_MODE:
                below = self._device_files(entry.id)
                files.update({f"{path}/{name}": each for name, each in below.items()})
            else:
                files[path] = entry.id, self._state_object(entry.id, BLOB)
        return files

    def _state_object(self, name: str, kind: bytes) -> bytes:
        content = self.objects.read(name, kind)
        self._take(name, kind, content)
        return content

    def _fleet_object(self, name: str, kind: bytes) -> bytes:
        found = self.fleet.object(name)
        if found is None or found[0] != kind.decode():
            raise FleetCommitUnknown(
                f"the fleet repo lacks the {kind.decode()} {name}, which a state was rendered from",
                remedy="fetch the whole fleet repo: git fetch --unshallow",
            )
        self._take(name, kind, found[1])
        return found[1]

    def _take(self, name: str, kind: bytes, content: bytes) -> None:
        if name not in self._found:
            named = cast("object", kind.decode())
            self._found[name] = EvidenceObject(name, named, base64.b64encode(content).decode())  # type: ignore[arg-type]
