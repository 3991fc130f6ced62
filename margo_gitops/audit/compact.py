"""`state compact`: verify the history, archive what is old, and let the rest begin at a signed checkpoint (D-32)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from margo_gitops.audit.repos import checkpoint_signers
from margo_gitops.audit.verify.history_check import Progress, VerifyOptions, verify
from margo_gitops.audit.verify.verification import Verification
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.disk.files import disk_errors
from margo_gitops.documents.state_layout import FLEET_REF, is_remote
from margo_gitops.errors import SigningKeyNotListed, StateRepoUnusable
from margo_gitops.operations.fleet_input import StateRequest, chosen_location
from margo_gitops.state_repo.compaction import Compaction, checkpoints, choose_boundary, digest_of
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE
from margo_gitops.values import dataclass

_BUNDLE: Final = b"# v2 git bundle\n"


@dataclass(frozen=True, slots=True)
class CompactOptions:
    """How to compact.

    Attributes:
        key: signs the checkpoint.
        now: the time, with a time zone.
        keep: how much history stays, in seconds.
        archive: the file for what is cut; None: a new one next to the state repo.
        signers: who may have signed; None: as the fleet's trust document says. Without one, any key, and
            checkpoints only with `key`.
        jobs: how many processes verify.
    """

    key: SigningKey
    now: datetime
    keep: int
    archive: Path | None = None
    signers: AllowedSigners | None = None
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done.

    Attributes:
        verification: of the whole history; None: there was nothing to cut. With errors in it, nothing was cut.
        checkpoint: id of the new checkpoint; None: it does not exist.
        archive: the bundle of what was cut, with `digest`.
        begins: the fleet commit of the boundary, and when it was made.
    """

    verification: Verification | None = None
    checkpoint: str | None = None
    archive: Path | None = None
    digest: str | None = None
    begins: tuple[str, datetime] | None = None


def compact(request: StateRequest, options: CompactOptions, progress: Progress | None = None) -> Compacted:
    """Cut what is older than asked for, and complete what a run that was killed had begun.

    Raises:
        StateRepoUnusable: the state repo is behind a URL, or git or the disk refuses.
        StateMoved: another process works with it.
        SignerUnknown, StateTampered: its newest checkpoint is not to be believed.
        SigningKeyNotListed: the new one would not be.
        MargoGitopsError: as `verify`.
    """
    location = chosen_location(request.fleet, request.state)
    if is_remote(location):
        raise StateRepoUnusable(
            f"{location} is a URL: a git server lets no one cut history from afar",
            remedy="run this where the repository is, with --state-repo PATH",
        )
    work = Compaction(StateRepo.open(Path(location)))
    try:
        signers = checkpoint_signers(FleetRepo.find(request.fleet), work.repo.objects, options.signers)
        _check_key(options, signers)
        work.cut(options.key, signers)
        done = _new_checkpoint(work, request, options, progress)
        if done.checkpoint:
            work.cut(options.key, signers)
        return done
    finally:
        work.release()


def _check_key(options: CompactOptions, signers: AllowedSigners | None) -> None:
    key = options.key.public
    if signers is not None and signers.find(key, GIT_NAMESPACE, options.now) is None:
        raise SigningKeyNotListed(
            f"{signers.file} does not allow the key {key.fingerprint}: no audit would believe its checkpoint",
            why=signers.objections(key, GIT_NAMESPACE, options.now),
            remedy="sign with a key that may render",
        )


def _new_checkpoint(
    work: Compaction, request: StateRequest, options: CompactOptions, progress: Progress | None
) -> Compacted:
    objects, refs = work.repo.objects, work.repo.refs.read()
    boundary = choose_boundary(objects, refs, options.now.timestamp() - options.keep)
    if FLEET_REF not in boundary or set(boundary.values()) <= objects.boundary().keys():
        return Compacted()
    verification = verify(request, VerifyOptions(signers=options.signers, jobs=options.jobs), progress)
    if verification.errors:
        return Compacted(verification)
    fleet = boundary[FLEET_REF]
    archive = options.archive or work.repo.folder.with_name(f"{work.repo.folder.stem}-{fleet[:12]}.bundle")
    _check_unused(archive, {each.archive for each in checkpoints(objects, refs)})
    digest = work.archive(boundary, archive)
    made = work.checkpoint(boundary, digest, options.key, int(options.now.timestamp()), refs)
    begins = fleet, datetime.fromtimestamp(objects.commit(fleet).committed_at, UTC)
    return Compacted(verification, made, archive, digest, begins)


def _check_unused(archive: Path, named: set[str]) -> None:
    """Refuse a file that someone needs; a bundle that no checkpoint names is of a run that was killed."""
    remedy = "name another file with --archive"
    with disk_errors(archive, what="the archive cannot be written", error=StateRepoUnusable, remedy=remedy):
        if not archive.exists():
            return
        with archive.open("rb") as content:
            ours = content.read(len(_BUNDLE)) == _BUNDLE
        if not ours or digest_of(archive) in named:
            raise StateRepoUnusable(f"{archive} is there already, and is needed", remedy=remedy)
