"""What a run of the renderer starts from, a fleet commit and a state repo, and what it refuses before it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from margo_gitops import __version__
from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import read_fleet, read_fleet_document
from margo_gitops.catalog.fleet_part import read_part
from margo_gitops.catalog.fleet_repo import FleetCommit, FleetRepo
from margo_gitops.catalog.fleet_trust import read_chain
from margo_gitops.disk.files import read_bounded, reason
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Fleet
from margo_gitops.documents.state_layout import FLEET_REF, is_remote
from margo_gitops.errors import (
    AllowedSignersInvalid,
    Finding,
    FleetBranchOther,
    FleetCommitOlder,
    Location,
    MargoGitopsError,
    SignatureInvalid,
    StateForeign,
    StateRepoUnusable,
    StateUnreachable,
)
from margo_gitops.rendering.intent import Intent
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.publication import read_signing_key as read_signing_key
from margo_gitops.state_repo.remote import RemoteState
from margo_gitops.state_repo.render_commits import Provenance
from margo_gitops.state_repo.repacking import repack
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import MAX_LIST_BYTES, AllowedSigners, parse_allowed_signers
from margo_gitops.trust.git_commit import MAX_TIME, Ident
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass
from margo_gitops.wording import shortened

RENDERED_BY: Final = f"margo-gitops {__version__}"


@dataclass(frozen=True, slots=True)
class FleetInput:
    """A commit of the fleet repo, or its files as they are now, read."""

    repo: FleetRepo
    commit: FleetCommit
    tree: RootTree
    intent: Intent

    def state_location(self, override: str | None) -> str:
        """Return where the state repo is: an absolute path or a URL.

        Args:
            override: what the person asked for, relative to the working folder; None: what the fleet says, relative to
                the fleet repo.
        """
        return state_location(self.repo.root, self.intent.fleet.value, override)


def named_location(named: str) -> str:
    """Return a state repo's location as a person names it, a URL or a path: paths become absolute."""
    return named if is_remote(named) else str(Path(named).absolute())


def state_location(root: Path, fleet: Fleet, override: str | None = None) -> str:
    """Return where the state repo is, as `FleetInput.state_location` does, for a fleet repo whose root this is."""
    if override is not None:
        return named_location(override)
    named = fleet.spec.state_repo
    return named if is_remote(named) else str((root / named).resolve())


def read_fleet_commit(fleet: Path, revision: str) -> FleetInput:
    """Return a commit of the fleet repo.

    Raises:
        NoFleetRepo, FleetCommitUnknown: there is no such repo or commit.
        FleetInvalid: with every finding.
    """
    repo = FleetRepo.find(fleet)
    tree = repo.tree(revision)
    return FleetInput(repo, repo.last_change(revision), tree, read_fleet(tree))


def chosen_location(fleet: Path, state: str | None) -> str:
    """Return where the state repo is: as a person names it; None: as `margo-gitops.yaml` of the last commit says.

    Raises:
        NoFleetRepo, FleetCommitUnknown, FleetInvalid: the fleet repo is needed, and cannot be read.
    """
    if state is not None:
        return named_location(state)
    repo = FleetRepo.find(fleet)
    return state_location(repo.root, read_fleet_document(repo.tree("HEAD")).value)


def read_working_tree(fleet: Path) -> Intent:
    """Return what the files say now, committed or not (NoFleetRepo, FleetInvalid: as `read_fleet_commit`)."""
    return read_fleet(FleetRepo.find(fleet).working_tree())


def read_intent(fleet: Path, revision: str | None) -> Intent:
    """Return what a commit of the fleet repo says; for None, what its files say now.

    Raises:
        NoFleetRepo, FleetCommitUnknown, FleetInvalid: as `read_fleet_commit`.
    """
    return read_fleet_commit(fleet, revision).intent if revision is not None else read_working_tree(fleet)


def read_for_device(fleet: Path, revision: str | None, device: str) -> Intent:
    """Return what the files say that one device needs; of a device that is not there, the whole fleet.

    Args:
        revision: a commit; None: the files as they are now.

    Raises:
        NoFleetRepo, FleetCommitUnknown: there is no such repo or commit.
        FleetInvalid: with every finding of what was read; what is wrong with other devices is not found.
    """
    repo = FleetRepo.find(fleet)
    tree: RootTree = repo.tree(revision) if revision is not None else repo.working_tree()
    found = read_part(tree, {client_of(device)})
    return found if device in found.devices else read_fleet(tree)


def read_signers(path: Path | None) -> AllowedSigners | None:
    """Return the list of signers in a file; None for no file.

    Raises:
        AllowedSignersInvalid: it cannot be read, or has mistakes; with every broken line.
    """
    if path is None:
        return None
    try:
        return parse_allowed_signers(read_bounded(path, MAX_LIST_BYTES), str(path))
    except OSError as error:
        what, where = "the list of allowed signers cannot be read", Location(str(path))
        raise AllowedSignersInvalid(
            what, [Finding(reason(error), where)], where=where, remedy="name its file"
        ) from error


@dataclass(frozen=True, slots=True)
class StateTarget:
    """The state repo, and its remote where it has one."""

    repo: StateRepo
    remote: RemoteState | None


@contextmanager
def open_state(location: str, cache: Path, *, create: bool, reports: bool = False) -> Iterator[StateTarget]:
    """Yield the state repo at a path or URL; no other process of this machine uses the mirror of a remote meanwhile.

    Args:
        location: an absolute path or a URL.
        cache: a folder for mirrors of remote state repos.
        create: whether to make one at a path that does not exist.
        reports: whether what devices reported is fetched too.

    Raises:
        StateRepoUnusable, StateUnreachable, StateTampered: it cannot be used.
    """
    if location.startswith(BUCKET):
        if create:
            raise only_read(location)
        yield StateTarget(_followed(location, cache), None)
    elif is_remote(location):
        remote = RemoteState(location, cache, reports=reports)
        try:
            yield StateTarget(remote.fetch(), remote)
            repack(remote.mirror)
        finally:
            remote.release()
    else:
        repo = StateRepo.open_or_create(Path(location)) if create else StateRepo.open(Path(location))
        yield StateTarget(repo, None)
        if repo.has_written:
            repack(repo.folder)


BUCKET: Final = "s3://"


def only_read(location: str) -> StateRepoUnusable:
    """Return the refusal to write to a bucket, which has what `publish --history` put there."""
    remedy = "name the git repository that the bucket is filled from"
    return StateRepoUnusable(f"the state repo in {location} is only read", remedy=remedy)


def _followed(location: str, cache: Path) -> StateRepo:
    try:
        from margo_gitops.state_repo.followed_bucket import FollowedBucket  # its package is an extra
    except ModuleNotFoundError as error:
        remedy = "install the extra s3 of margo-gitops"
        raise StateUnreachable(f"{location} needs the Python package {error.name}", remedy=remedy) from error
    mirror = RemoteState(location, cache).mirror
    FollowedBucket(location, mirror, "").follow()
    return StateRepo.open(mirror)


@dataclass(frozen=True, slots=True)
class StateRequest:
    """Which state repo to read.

    Attributes:
        fleet: a folder in the fleet repo.
        state: where the state repo is; None: as the fleet says.
        cache: a folder for mirrors of remote state repos, and for what was verified.
    """

    fleet: Path
    state: str | None
    cache: Path


@contextmanager
def opened_state(request: StateRequest) -> Iterator[tuple[StateObjects, str]]:
    """Return the state repo, its reports fetched, and where it is; the fleet repo is needed only where it says that.

    Raises:
        MargoGitopsError: one of them is not there or cannot be read.
    """
    location = chosen_location(request.fleet, request.state)
    reports = reports_location(request.fleet, location)
    with ExitStack() as opening:
        target = opening.enter_context(open_state(location, request.cache, create=False, reports=True))
        objects = StateObjects(target.repo.folder)
        if reports is not None:
            other = opening.enter_context(open_state(reports, request.cache, create=False, reports=True))
            objects.reports = StateObjects(other.repo.folder)
        yield objects, location


def reports_location(fleet: Path, state: str) -> str | None:
    """Return where devices push reports, if the fleet of this state repo names another repository."""
    try:
        repo = FleetRepo.find(fleet)
        document = read_fleet_document(repo.tree("HEAD")).value
    except MargoGitopsError:
        return None  # the state repo was named: no fleet repo is needed
    named = document.spec.reports_repo
    if named is None or state_location(repo.root, document) != state:
        return None
    location = named if is_remote(named) else str((repo.root / named).resolve())
    return location if location != state else None


def other_signer(target: StateTarget, values: Mapping[str, str], key: SigningKey | None) -> str | None:
    """Return the key that signed the newest fleet commit, if it is not this one; empty: it has no signature."""
    if FLEET_REF not in values:
        return None
    armor = target.repo.objects.commit(values[FLEET_REF]).signature
    with suppress(SignatureInvalid):
        before = parse_signature(armor).key.fingerprint if armor else ""
        return before if before != (key.public.fingerprint if key else "") else None
    return None


def other_signer_note(before: str) -> str:
    """Return what a person should know before another key signs, or none (`other_signer`)."""
    was = f"signed by {before}" if before else "not signed"
    return (
        f"the state was {was} until now: devices refuse it unless they accept what signs it now. To rotate a key,"
        " list the new one on devices first, then render with --resign (docs/state-repo.md)"
    )


def aliases_of(intent: Intent, target: StateTarget, values: Mapping[str, str]) -> dict[str, str]:
    """Return the alias of each device that has one; what a part leaves out keeps its own."""
    held = target.repo.objects.aliases(values[FLEET_REF]) if intent.clients is not None else {}
    return {**{device: alias for device, alias in held.items() if intent.leaves_out(device)}, **intent.aliases}


def rendered_from(target: StateTarget, values: Mapping[str, str]) -> str:
    """Return the id of the fleet commit that a state repo was rendered from; empty before the first render."""
    tip = values.get(FLEET_REF)
    return (StateCommit.of(target.repo.objects.commit(tip)).fleet_commit or "") if tip else ""


def refuse_foreign(fleet: FleetInput, target: StateTarget, values: Mapping[str, str]) -> None:
    """Refuse the state repo of another fleet, or one that no renderer wrote (StateForeign)."""
    tip = values.get(FLEET_REF)
    if tip is None:
        return
    name = fleet.intent.fleet.value.metadata.name
    owner = StateCommit.of(target.repo.objects.commit(tip)).fleet
    if owner != name:
        raise StateForeign(
            f"the state repo is not the fleet {name}'s",
            where=fleet.intent.fleet.at("metadata", "name"),
            why=[f"it is the fleet {owner}'s" if owner else "its branch fleet was not written by a renderer"],
            remedy="name the right state repo with --state-repo or in spec.stateRepo, or put the fleet's name back",
        )


def refuse_other_branch(fleet: FleetInput) -> None:
    """Refuse a commit that is not on the branch which devices get.

    That is `spec.branch`, or the default branch of the remote; where this clone knows neither, nothing is refused.

    Raises:
        FleetBranchOther: it is not on it, or this clone lacks the branch.
    """
    repo, commit, named = fleet.repo, fleet.commit.id, fleet.intent.fleet.value.spec.branch
    branch = named or repo.default_branch()
    tips = repo.branch_tips(branch) if branch else []
    if not (named or tips) or any(commit == tip or repo.is_ancestor(commit, tip) for tip in tips):
        return
    raise FleetBranchOther(
        f"{commit[:12]} is not on {branch}, the branch that devices get",
        where=fleet.intent.fleet.at("spec", "branch") if named else None,
        why=[] if tips else [f"this clone has no branch {branch}"],
        remedy=(f"merge it into {branch}" if tips else f"git fetch {repo.remote() or 'REMOTE'} {branch}")
        + (", or pass --allow-other-branch" if named else ", set spec.branch, or pass --allow-other-branch"),
    )


def refuse_older(fleet: FleetInput, target: StateTarget, values: Mapping[str, str]) -> None:
    """Refuse what does not build on the rendered commit, as a slow pipeline of an older one does not.

    Raises:
        FleetCommitOlder: it does not, or this clone cannot tell.
    """
    rendered = rendered_from(target, values)
    if not rendered or rendered == fleet.commit.id or fleet.repo.is_ancestor(rendered, fleet.commit.id):
        return
    if fleet.repo.knows(rendered):
        why = f"{fleet.commit.id[:12]} does not build on {rendered[:12]}"
        remedy = "render a commit that does; to go back, revert in the fleet repo; or pass --allow-older"
    else:
        why = f"{rendered[:12]} is not in this clone"
        remedy = "fetch the whole history (git fetch --unshallow; fetch-depth: 0 in a pipeline), or pass --allow-older"
    raise FleetCommitOlder(
        f"the state repo was rendered from {rendered[:12]}, which this commit may undo", why=[why], remedy=remedy
    )


def provenance(fleet: FleetInput) -> Provenance:
    """Return what the commits of a render say of its origin."""
    commit = fleet.commit
    # git takes any number for a time; what calendars do not know is brought to their ends.
    who = commit.author
    author = Ident(_plain(who.name), _plain(who.email), min(max(who.time, 0), MAX_TIME), who.offset)
    name = fleet.intent.fleet.value.metadata.name
    chain = read_chain(fleet.tree, name)
    origin = StateCommit(
        trust_version=str(len(chain.versions)) if chain else None,
        fleet=name,
        fleet_commit=commit.id,
        rendered_by=RENDERED_BY,
        applications_lock=fleet.intent.applications_lock,
    )
    return Provenance(origin, _plain(commit.subject), author)


_MAX_PLAIN = 500
"""Characters; a commit that devices fetch has bounds, and a subject may be as long as somebody likes."""


def _plain(text: str) -> str:
    """Return text without what has a meaning in a commit's headers, or none to people; not too much of it."""
    kept = "".join(character for character in text if character.isprintable() and character not in "<>")
    return shortened(kept.strip(), _MAX_PLAIN)
