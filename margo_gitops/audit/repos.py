"""Open the two repos that an audit compares, and remember how far a history was verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from margo_gitops.audit.verify.verification import AuditFinding
from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import read_chain
from margo_gitops.disk.files import disk_errors, read_bounded, replace_file
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.state_layout import CHECKPOINTS_REF, FLEET_REF
from margo_gitops.errors import AuditUnusable, StateTampered
from margo_gitops.operations.fleet_input import StateRequest, opened_state
from margo_gitops.state_repo.compaction import checkpoints, digest_of, whole_history
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.trust_branch import held_chain
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_objects import is_object_id
from margo_gitops.trust.signer import Use, commit_signer
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass
from margo_gitops.wording import counted


@contextmanager
def opened(
    request: StateRequest,
    signers: AllowedSigners | None = None,
    archives: Sequence[Path] = (),
    *,
    believing: bool = False,
) -> Iterator[tuple[FleetRepo, StateObjects, str]]:
    """Return the fleet repo, the state repo, and where that is; nothing is ever written to either.

    Args:
        signers: who may have signed the checkpoint at which history ends, as `checkpoint_signers`.
        archives: what was cut before; with all of it, history does not end there.
        believing: take it by anyone; the caller judges it.

    Raises:
        SignerUnknown: none of the signers signed the checkpoint.
        AuditUnusable, StateTampered: an archive is missing, or is not one of this history.
        MargoGitopsError: one of the repos is not there or cannot be read.
    """
    fleet = FleetRepo.find(request.fleet)
    with opened_state(request) as (objects, location):
        refs = objects.refs()
        if not believing and objects.boundary() and (allowed := checkpoint_signers(fleet, objects, signers)):
            commit_signer(objects.commit(refs[CHECKPOINTS_REF]), allowed, _CHECKPOINT).required()
        if not archives:
            yield fleet, objects, location
            return
        with whole_history(objects.folder, _in_order(objects, refs, archives), request.cache) as folder:
            whole = StateObjects(folder)
            whole.reports = objects.reports
            yield fleet, whole, location


def checkpoint_signers(fleet: FleetRepo, objects: StateObjects, listed: AllowedSigners | None) -> AllowedSigners | None:
    """Return who may sign checkpoints: a list, or else the render keys of the newest trust document of the fleet.

    That is the one of the branch `trust` where it follows those of the fleet repo: a clone may be older.

    Args:
        listed: the list; None: not given.

    Raises:
        TrustRefused: a trust document of the fleet does not count.
    """
    if listed is not None:
        return listed
    tree = fleet.tree("HEAD")
    name = read_fleet_document(tree).value.metadata.name
    chain = read_chain(tree, name)
    if chain is None or not chain.versions:
        return None
    held = held_chain(objects, objects.refs(), name)
    follows = [each.text for each in held[: len(chain.versions)]] == [each.text for each in chain.versions]
    return (held if follows else chain.versions)[-1].signers("render")


_CHECKPOINT: Final = Use(
    GIT_NAMESPACE,
    "the checkpoint at which history ends",
    "find out who made it; if the key is right, list it in {file}",
    missing="find out who made it, and restore the repository from a backup or from its archives",
)


def _in_order(objects: StateObjects, refs: Mapping[str, str], archives: Sequence[Path]) -> list[Path]:
    """Return the archives of all checkpoints, oldest first."""
    found: dict[str, Path] = {}
    for file in archives:
        with disk_errors(file, what="the archive cannot be read", error=AuditUnusable, remedy="name its file"):
            found[digest_of(file)] = file
    made = checkpoints(objects, refs)
    if unknown := [file for digest, file in found.items() if digest not in {each.archive for each in made}]:
        raise StateTampered(
            f"{unknown[0]} is not an archive of this history",
            why=[f"no checkpoint names {digest_of(unknown[0])}"],
            remedy="name the bundles that `state compact` wrote; if this is one, it was changed since: use a copy",
        )
    if missing := [each for each in made if each.archive not in found]:
        raise AuditUnusable(
            f"{counted(len(missing), 'archive')} of this history is missing",
            why=[f"{each.archive} of {each.commit.committer.date}, checkpoint {each.id[:12]}" for each in missing],
            remedy="pass all of them, each with --archive FILE",
        )
    return [found[each.archive] for each in made]


def resolved_since(objects: StateObjects, revision: str, chain: tuple[str, ...] | None = None) -> str:
    """Return the commit of the branch `fleet` that a revision of the state repo, or of the fleet repo, names.

    Args:
        revision: a commit of the state repo, or the beginning of a commit id of the fleet repo.
        chain: the commits of the branch `fleet`, oldest first; None: they are read.

    Raises:
        AuditUnusable: it names none.
    """
    if chain is None:
        tip = objects.refs().get(FLEET_REF)
        chain = objects.branch(tip) if tip else ()
    found = objects.resolve(revision)
    if found in chain:
        return found or ""
    # People know the commits of the fleet repo by heart, not those of the state repo.
    for name in reversed(chain):
        if len(revision) >= 7 and (StateCommit.of(objects.commit(name)).fleet_commit or "").startswith(revision):
            return name
    raise AuditUnusable(
        f"{revision} is not a commit of the branch fleet, and none that was rendered into it",
        remedy="list them: margo-gitops audit log",
    )


_MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class VerifiedUpTo:
    """A small file in the cache folder, one for each state repo and set of options.

    Attributes:
        checkpoint: the newest checkpoint of the state repo; None where history is whole.
    """

    path: Path
    checkpoint: str | None

    @classmethod
    def of(cls, cache: Path, checkpoint: str | None, *options: str) -> VerifiedUpTo:
        """Return the file for a state repo and options."""
        key = hashlib.sha256(write_json(list(options))).hexdigest()[:32]
        return cls(cache / "audit" / f"{key}.json", checkpoint)

    def read(self) -> str | None:
        """Return the last commit that was verified; None where nothing is known, or the file is damaged."""
        commit = self._content().get("verified")
        return commit if isinstance(commit, str) and is_object_id(commit) else None

    def moved_back(self, ref: str, chain: Sequence[str], losses: Mapping[str, str], way: str) -> AuditFinding | None:
        """Return what to say where a branch lacks the last commit that was verified; None where it has it.

        A loss that was named since is a warning. One that was known when the commit was verified excuses nothing, so
        a branch that is moved back later is found.

        Args:
            chain: the commits of the branch, oldest first.
            losses: those that are named now: the reason, by what names them.
            way: how one is named.
        """
        known, content = self.read(), self._content()
        if known is None or known in chain or content.get("checkpoint") != self.checkpoint:
            return None
        tip, held = chain[-1] if chain else "", content.get("losses")
        new = [reason for each, reason in losses.items() if isinstance(held, list) and each not in held]
        if new:
            what = f"what was verified before was lost, and the branch continues: {'; '.join(new)}"
            return AuditFinding.of(ref, what, known, tip or "nothing", commit=tip, severity="warning")
        what = (
            "the branch was moved back or rewritten: a commit that was verified before is no longer in its history; "
            f"if it was lost, {way}"
        )
        return AuditFinding.of(ref, what, known, tip or "nothing", commit=tip)

    def _content(self) -> Mapping[str, object]:
        try:
            content = json.loads(read_bounded(self.path, _MAX_BYTES))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, commit: str, losses: Mapping[str, str]) -> None:
        """Remember a commit and the losses that are named; a cache that cannot be written is not a reason to fail."""
        try:
            content: Json = {"checkpoint": self.checkpoint, "losses": [*sorted(losses)], "verified": commit}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, write_json(content) + b"\n")
        except OSError:
            return
