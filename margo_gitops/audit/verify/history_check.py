"""Verify a state repo's history: every commit rendered again from its own fleet commit, oldest first."""

from __future__ import annotations

import multiprocessing
import signal
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import reduce
from operator import add
from pathlib import Path
from typing import Final

from margo_gitops.audit.repos import VerifiedUpTo, checkpoint_signers, opened, resolved_since
from margo_gitops.audit.verify.commit_check import CommitCheck
from margo_gitops.audit.verify.receipt_check import ReceiptCheck
from margo_gitops.audit.verify.side_branches import (
    ReportCheck,
    check_checkpoints,
    check_freshness,
    check_pushed,
    check_trust,
)
from margo_gitops.audit.verify.verification import AuditFinding, Verification
from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.fleet_trust import read_chain
from margo_gitops.documents.state_layout import CHECKPOINTS_REF, DEVICE_REFS, FLEET_REF
from margo_gitops.errors import AuditUnusable, MargoGitopsError, StateTampered
from margo_gitops.operations.fleet_input import StateRequest
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.pushed_reports import PushedReports
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, replace

Progress = Callable[[int, int], None]
"""Called with how many commits are done, and of how many."""

_CHECKPOINT_EVERY: Final = 20
_NAMED_BY_ROOT: Final = "the root keys say so: keys floor --next (docs/trust.md, Recover a lost state repo)"
_RANGE: Final = (10, 25)
"""Commits of a range at least and at most: the first one is rendered whole, and after each progress is kept."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to verify.

    Attributes:
        since: a commit of the state repo, or one of the fleet repo that was rendered; None: everything.
        signers: who may have signed; None: a signature is not demanded.
        jobs: how many processes.
        resume: continue after the last commit that was verified with the same options.
        strict: what another version rendered, and this one renders otherwise, is an error and no warning.
        archives: what `state compact` cut, to verify that too; all of it.
    """

    since: str | None = None
    signers: AllowedSigners | None = None
    jobs: int = 1
    resume: bool = False
    strict: bool = False
    archives: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Range:
    """Commits of the branch `fleet` that one process checks, with all that it needs.

    Attributes:
        next: index of the first commit of each device branch that belongs to it; None: to be found.
    """

    state: Path
    fleet: Path
    signers: AllowedSigners | None
    chain: tuple[str, ...]
    branches: dict[str, tuple[str, ...]]
    start: int
    end: int
    strict: bool
    next: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Checked:
    good: int = 0
    device_commits: int = 0
    signed_by: frozenset[str] = frozenset()
    findings: tuple[AuditFinding, ...] = ()

    def __add__(self, more: _Checked) -> _Checked:
        return _Checked(
            self.good + more.good,
            self.device_commits + more.device_commits,
            self.signed_by | more.signed_by,
            (*self.findings, *more.findings),
        )

    @property
    def failed(self) -> bool:
        return any(each.severity == "error" for each in self.findings)


def verify(request: StateRequest, options: VerifyOptions, progress: Progress | None = None) -> Verification:
    """Return whether a state repo's history is what the fleet repo's commits render to.

    Raises:
        AuditUnusable: `since` is not a commit of this history, or the clone of the fleet repo is shallow.
        MargoGitopsError: one of the repos cannot be read.
    """
    with opened(request, archives=options.archives, believing=True) as (fleet, objects, location):
        if fleet.is_shallow:
            raise AuditUnusable(
                f"{fleet.root} is a shallow clone, from which nothing can be proven",
                remedy="fetch the whole fleet repo: git fetch --unshallow (fetch-depth: 0 in a pipeline)",
            )
        signers = options.signers
        listed = repr((signers.file, signers.signers)) if signers else ""
        strict = ("strict",) if options.strict else ()
        end = objects.refs().get(CHECKPOINTS_REF)
        verified = VerifiedUpTo.of(request.cache, end, location, str(fleet.root), listed, options.since or "", *strict)
        reported = VerifiedUpTo.of(request.cache, end, location, "reports")
        receipts = ReceiptCheck(fleet, reported.path.with_suffix(".receipts.json"))
        reports = ReportCheck(objects, reported, receipts)
        result = _verify(fleet, objects, location, options, verified, progress or (lambda _done, _of: None))
        reports.run(objects.refs(), resume=options.resume)
        pushed = check_pushed(objects, objects.refs())
        if not reports.findings:
            receipts.end(PushedReports(objects, objects.refs()))
        findings = (*result.findings, *reports.warnings, *reports.findings, *receipts.findings, *pushed)
        return replace(result, report_commits=reports.commits, receipts=receipts.good, findings=findings)


def _verify(
    fleet: FleetRepo,
    objects: StateObjects,
    location: str,
    options: VerifyOptions,
    verified: VerifiedUpTo,
    progress: Progress,
) -> Verification:
    refs = objects.refs()
    tip = refs.get(FLEET_REF)
    known = verified.read()
    chain, branches, findings = _branches(objects, refs, tip)
    believed = None
    if not findings and CHECKPOINTS_REF in refs:
        believed = checkpoint_signers(fleet, objects, options.signers)
        findings += check_checkpoints(objects, refs, chain, branches, believed, every=options.signers is not None)
    losses = _losses(fleet, objects, tip) if tip else {}
    moved_back = None if findings else verified.moved_back(FLEET_REF, chain, losses, _NAMED_BY_ROOT)
    if moved_back is not None and moved_back.severity == "error":
        findings.append(moved_back)
    since = resolved_since(objects, options.since, chain) if options.since and not findings else None
    # What is at a checkpoint cannot be rendered again; its signature says that it was verified.
    start = chain.index(since) + 1 if since else int(bool(chain) and chain[0] in objects.boundary())
    if options.resume and known in chain:
        start = max(start, chain.index(known) + 1)
    done = _Checked(findings=tuple(findings))
    if not findings:
        whole = _Range(objects.folder, fleet.root, options.signers, chain, branches, start, len(chain), options.strict)
        for checked in _checked(whole, options.jobs, progress):
            done += checked
            if done.good:
                verified.write(chain[start + done.good - 1], losses)
            if checked.failed:
                break
        if not done.failed:
            found, listed = check_trust(objects, refs, fleet) if chain else ([], None)
            done += _Checked(findings=(*found, *check_freshness(objects, refs, chain, options.signers or listed)))
        if not done.failed and chain:
            verified.write(chain[-1], losses)
        if moved_back is not None:
            done = _Checked(findings=(moved_back,)) + done
    reached = start + done.good
    end = refs.get(CHECKPOINTS_REF) if objects.boundary() else None
    signers = {commit_signer(objects.commit(end), believed).signer or ""} if end else set()
    return Verification(
        state_repo=location,
        tip=tip,
        since=chain[start - 1] if start else None,
        checkpoint=end,
        commits=done.good,
        device_commits=done.device_commits,
        report_commits=0,
        verified=chain[reached - 1] if reached else None,
        signed_by=tuple(sorted((done.signed_by | signers) - {""})),
        findings=done.findings,
    )


def _losses(fleet: FleetRepo, objects: StateObjects, tip: str) -> Mapping[str, str]:
    """Return the losses of the state repo that root keys had named when its newest commit was rendered."""
    try:
        tree = fleet.tree(StateCommit.of(objects.commit(tip)).fleet_commit or "")
        chain = read_chain(tree, read_fleet_document(tree).value.metadata.name)
    except MargoGitopsError:
        return {}
    return chain.newest.losses if chain and chain.newest else {}


def _branches(
    objects: StateObjects, refs: Mapping[str, str], tip: str | None
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], list[AuditFinding]]:
    """Return the commits of the branch `fleet` and of each device branch, and what is wrong with reading them."""
    findings: list[AuditFinding] = []
    chain: tuple[str, ...] = ()
    try:
        chain = objects.branch(tip) if tip else ()
    except StateTampered as error:
        findings.append(AuditFinding.of(FLEET_REF, error.what, commit=error.object_id))
    branches: dict[str, tuple[str, ...]] = {}
    for ref, name in sorted(refs.items()):
        if ref.startswith(DEVICE_REFS):
            try:
                branches[ref.removeprefix(DEVICE_REFS)] = objects.branch(name)
            except StateTampered as error:
                findings.append(AuditFinding.of(ref, error.what, commit=tip or ""))
    return chain, branches, findings


def _checked(whole: _Range, jobs: int, progress: Progress) -> Iterator[_Checked]:
    """Yield the results of parts of a history, in its order."""
    count = whole.end - whole.start
    smallest, largest = _RANGE
    size = max(smallest, min(largest, -(-count // max(jobs, 1))))
    if jobs < 2 or count <= size:
        yield from _in_order(whole, progress)
        return
    ranges = _parts(whole, list(range(whole.start, whole.end, size)))
    done = 0
    # Processes start afresh: libgit2 and its caches do not survive a fork.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(jobs, len(ranges)), context, _leave_interrupts) as pool:
        try:
            for part, checked in zip(ranges, pool.map(_check_range, ranges), strict=True):
                done += part.end - part.start
                progress(done, count)
                yield checked
        except BrokenProcessPool as error:
            raise AuditUnusable(
                "one of the processes was ended, most often because memory was short", remedy="verify with fewer --jobs"
            ) from error
        except KeyboardInterrupt:
            # What was verified is kept; the parts that were begun are not waited for.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # after a bad commit nothing else is looked at


def _leave_interrupts() -> None:
    """Let the process that shows the progress answer an interrupt, which a terminal sends to all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _parts(whole: _Range, starts: list[int]) -> list[_Range]:
    """Return a range in parts; what each would have to find in the device branches is found for all in one go."""
    found = _starts(whole, starts)
    ends = [*starts[1:], whole.end]
    return [
        replace(whole, start=start, end=end, next=found[start] if found else None)
        for start, end in zip(starts, ends, strict=True)
    ]


def _starts(whole: _Range, starts: list[int]) -> dict[int, dict[str, int]] | None:
    """Return, for each start, how many commits of each device branch belong to what is before; None: one is damaged."""
    objects = StateObjects(whole.state)
    place = {name: index for index, name in enumerate(whole.chain)}
    found: dict[int, dict[str, int]] = {start: {} for start in starts}
    ended = objects.boundary()
    for encoded, branch in whole.branches.items():
        latest, reached = 0, []
        for name in branch:
            if name in ended:
                reached.append(0)
                continue
            try:
                brought = StateCommit.of(objects.commit(name)).state_commit
                latest = max(latest, place.get(brought or "", len(whole.chain)))
            except StateTampered:
                return None
            reached.append(latest)
        for start in starts:
            found[start][encoded] = bisect_left(reached, start)
    return found


def _check_range(part: _Range) -> _Checked:
    return reduce(add, _in_order(part, lambda _done, _of: None), _Checked())


def _in_order(part: _Range, progress: Progress) -> Iterator[_Checked]:
    """Yield the results of a range, a few commits at a time; the last one is that of the first bad commit."""
    objects = StateObjects(part.state)
    check = CommitCheck(
        objects, FleetRepo.find(part.fleet), part.signers, part.chain, part.branches, strict=part.strict
    )
    findings = list(_begin(check, part.start, part.next))
    good = seen = 0
    for index in range(part.start, part.end):
        if any(each.severity == "error" for each in findings):
            break
        found = check.check(index)
        findings += found
        good += not any(each.severity == "error" for each in found)
        progress(index + 1 - part.start, part.end - part.start)
        if good and good % _CHECKPOINT_EVERY == 0:
            yield _Checked(good, check.device_commits - seen, frozenset(check.signed_by), tuple(findings))
            seen, good, findings = check.device_commits, 0, []
    if part.end == len(part.chain) and not any(each.severity == "error" for each in findings):
        findings += _left_over(check)
    yield _Checked(good, check.device_commits - seen, frozenset(check.signed_by), tuple(findings))


def _found(check: CommitCheck, start: int) -> Iterator[tuple[str, int]]:
    """Yield how many commits of each device branch belong to what is before a start."""
    before, ended = frozenset(check.chain[:start]), check.objects.boundary()
    for encoded, branch in check.branches.items():
        at = int(bool(branch) and branch[0] in ended)
        while at < len(branch) and StateCommit.of(check.objects.commit(branch[at])).state_commit in before:
            at += 1
        yield encoded, at


def _begin(check: CommitCheck, start: int, found: Mapping[str, int] | None) -> Iterator[AuditFinding]:
    """Find where each device branch is at the start; yield those that are not where the fleet branch is."""
    if not start:
        return
    name = check.chain[start - 1]
    try:
        check.next.update(found if found is not None else _found(check, start))
        for encoded, place in check.objects.places(check.objects.commit(name).tree).items():
            at = check.next.get(encoded, 0)
            tree = check.objects.commit(check.branches[encoded][at - 1]).tree if at else "nothing"
            if tree != place.tree:
                what = "the branch was moved: it does not hold what the branch fleet held here"
                ref, file = f"{DEVICE_REFS}{encoded}", f"{place.folder}/{encoded}"
                yield AuditFinding.of(ref, what, place.tree, tree, commit=name, file=file)
    except StateTampered as error:
        yield AuditFinding.of(FLEET_REF, error.what, commit=name)


def _left_over(check: CommitCheck) -> Iterator[AuditFinding]:
    """Yield the device branches that continue after the last fleet commit, as where that branch was moved back."""
    tip = check.chain[-1] if check.chain else ""
    for encoded, branch in sorted(check.branches.items()):
        at = check.next.get(encoded, 0)
        if at < len(branch):
            what = "the branch continues after the branch fleet: fleet was moved back, or another program wrote this"
            before = branch[at - 1] if at else "no commit"
            yield AuditFinding.of(f"{DEVICE_REFS}{encoded}", what, before, branch[at], commit=tip)
