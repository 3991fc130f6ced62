"""Validate: everything that can be checked without writing, in one run.

VALIDATE-1  An error here is a refusal of `render` (except VALIDATE-5 and -6), and what `render` refuses is an error
            here (immutable settings only where the state repo is given).
VALIDATE-2  A warning is what is not pinned: the same commit may run something else tomorrow.
VALIDATE-3  The fleet's policy applies (docs/policy.md): always to applications and where their content comes from; to
            freezes, signatures and reviews of a change where its first commit is named.
VALIDATE-4  `--since REV` shows a finding if its file changed since REV, or if REV did not have it: what the change
            causes elsewhere is shown, older findings elsewhere are not.
VALIDATE-5  A compose file or a chart that cannot run is an error here and for `app add`, and not for `render`: what the
            Compose specification says grows, and a commit that was rendered once must render again to be proved.
VALIDATE-6  What a device will refuse by its policy is an error here, and not for `render`; what the default policy
            refuses is a warning for a device whose document says nothing (docs/workload-policy.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import read_fleet, read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_policy import Silence
from margo_gitops.errors import FleetInvalid, NoFleetRepo
from margo_gitops.operations.fleet_input import named_location, open_state
from margo_gitops.operations.policies.policy_history import Span
from margo_gitops.operations.validate.changed_findings import ChangedTree, findings_of_change
from margo_gitops.operations.validate.policy_findings import policy_of_change
from margo_gitops.operations.validate.rule_findings import RuleFinding, Validation, make_validation
from margo_gitops.operations.validate.tree_findings import Previous, findings_of_tree
from margo_gitops.processes import without_collections
from margo_gitops.values import dataclass

WORKING_TREE = "working tree"


@dataclass(frozen=True, slots=True)
class ValidateRequest:
    """What to validate.

    Attributes:
        revision: a commit; None: the files as they are now.
        since: show only findings of the change since this commit; None: all.
        state: the state repo, for settings that may not change; None: they are not checked.
        cache: a folder for mirrors of remote state repos.
        at: the date of files that are not committed, for freezes, in seconds since 1970-01-01 UTC.
        before_merge: whether reviews, and the merge with its signature, are still to come.
    """

    fleet: Path
    revision: str | None
    since: str | None
    state: str | None
    cache: Path
    at: int = 0
    before_merge: bool = False


def validate_fleet(request: ValidateRequest) -> Validation:
    """Return everything that is wrong with a fleet repo.

    Raises:
        NoFleetRepo, FleetCommitUnknown: there is no such repo or commit.
        MargoGitopsError: the state repo cannot be read.
    """
    repo = FleetRepo.find(request.fleet)
    subject = repo.last_change(request.revision).id if request.revision is not None else WORKING_TREE
    since = repo.commit(request.since).id if request.since is not None else None
    span = Span(repo, subject if request.revision is not None else None, since, named=since is not None, at=request.at)
    tree: RootTree = repo.working_tree() if request.revision is None else repo.tree(request.revision)
    with _previous(request) as previous, without_collections():
        if since is None:
            findings = findings_of_tree(tree, previous, span)
        else:
            changed = repo.changed_files(since, request.revision)
            change = ChangedTree(repo.tree(since), tree, changed, span, previous)
            findings = list(_of_change(change, before_merge=request.before_merge))
    return make_validation(subject, since, findings, _silences(tree))


def _of_change(change: ChangedTree, *, before_merge: bool) -> Iterator[RuleFinding]:
    part = findings_of_change(change)
    if part is not None:
        yield from part.findings
        before, after = part.before, part.after
    else:
        try:
            old = findings_of_tree(change.before, change.previous, None)
        except NoFleetRepo:
            old = []
        yield from change.news(old, findings_of_tree(change.after, change.previous, change.span))
        before, after = partial(read_fleet, change.before), partial(read_fleet, change.after)
    yield from policy_of_change(change.after, change.span, before, after, before_merge=before_merge)


def validate_tree(tree: RootTree, subject: str, device: str | None = None) -> Validation:
    """Return all that is wrong with a fleet repo's files, in any tree (NoFleetRepo: no `margo-gitops.yaml`).

    Args:
        device: read what this one needs alone; None: all.
    """
    clients = {client_of(device)} if device is not None else None
    with without_collections():
        findings = findings_of_tree(tree, lambda _device: None, None, clients)
    return make_validation(subject, None, findings, _silences(tree))


def _silences(tree: RootTree) -> Sequence[Silence]:
    try:
        policy = read_fleet_document(tree).value.spec.policy
    except (FleetInvalid, NoFleetRepo):
        return ()
    return policy.silenced if policy else ()


@contextmanager
def _previous(request: ValidateRequest) -> Iterator[Previous]:
    if request.state is None:
        yield lambda _device: None
        return
    with open_state(named_location(request.state), request.cache, create=False) as target:
        values = target.repo.refs.read()
        yield lambda device: target.repo.held(device, values)
