"""What a device signed that it ran at a time, and who approved the state that it ran (docs/receipts.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from margo_gitops.audit.trace.adoption import moment
from margo_gitops.audit.trace.history import Lines
from margo_gitops.audit.trace.traced import TracedRun
from margo_gitops.audit.verify.receipt_check import new_chain
from margo_gitops.catalog.fleet_part import read_part
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.digests import sha256
from margo_gitops.documents.fleet_kinds import DeviceSpec
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.receipt import Receipt, SignedReceipt
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.errors import InvalidDocument, MargoGitopsError, UnreadableDocument
from margo_gitops.state_repo.objects import DeviceTree, StateObjects
from margo_gitops.state_repo.pushed_reports import PushedReports
from margo_gitops.state_repo.reported import Reports
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_objects import BLOB
from margo_gitops.trust.receipts import ReceiptChain, ReceiptFault, read_receipt, read_receipts, signing_key_of
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass

_LONGEST_SILENCE = timedelta(days=2)
_UNTRUE = frozenset({"unreadable", "foreign", "forged", "unknown-key", "replayed"})


@dataclass(frozen=True, slots=True)
class _Came:
    """A receipt that counts, and when a server had it in the branch, seconds since the epoch."""

    signed: SignedReceipt
    receipt: Receipt
    time: int


def ran_at(
    fleet: FleetRepo,
    objects: StateObjects,
    refs: Mapping[str, str],
    client: str,
    at: datetime | None,
    signers: AllowedSigners | None,
) -> TracedRun | None:
    """Return what a device signed that it ran at a time; None where it had signed nothing by then.

    Args:
        at: the time, by the device's clock; None: the newest receipt.
    """
    if refs.get(device_ref(client)) is None:
        return None
    spec, notes = _spec(fleet, client)
    chain = new_chain(client, spec)
    came: list[_Came] = []
    faults: list[ReceiptFault] = []
    for signed, time in _receipts(objects, refs, client):
        if not chain.lines and not chain.bad:
            _begin_later(chain, signed)
        found = list(chain.follow(signed))
        faults += found
        if not any(each.code in _UNTRUE for each in found):
            came.append(_Came(signed, read_receipt(signed.receipt), time))
    faults += chain.end()
    then = [index for index, each in enumerate(came) if at is None or parse_moment(each.receipt.at) <= at]
    if not then:
        return None
    one, following = came[then[-1]], came[then[-1] + 1 : then[-1] + 2]
    receipt = one.receipt
    commit = next(_states(objects, refs, client, receipt), None)
    fleet_commit = StateCommit.of(objects.commit(commit)).fleet_commit if commit else None
    key = signing_key_of(one.signed)
    if not chain.vouched:
        notes.append("the fleet repo does not say whose key that is; write it: margo-gitops device receipt-key")
    notes += _doubts(one, following[0].receipt if following else None, at, faults)
    if commit is None:
        notes.append("no state of this device in the state repo has the digest of the manifest that it names")
    approved = None
    if fleet_commit is not None:
        try:
            approved = Lines(fleet, fleet.commit("HEAD").id).answer(fleet_commit, signers)
        except MargoGitopsError as error:
            notes.append(f"who approved it is not known: {error.what}")
    return TracedRun(
        sequence=receipt.sequence,
        at=receipt.at,
        until=following[0].receipt.at if following else None,
        delivered_at=moment(one.time),
        key=key.fingerprint if key else "",
        vouched=chain.vouched,
        version=receipt.manifest.version,
        manifest=receipt.manifest.digest,
        state_commit=commit,
        boot=receipt.boot.count,
        agent=receipt.agent,
        deployments=receipt.deployments,
        approved=approved,
        doubts=tuple(notes),
    )


def _begin_later(chain: ReceiptChain, first: SignedReceipt) -> None:
    """Take as good what came before the first receipt that is there: whether it is missing, `audit verify` says."""
    key = signing_key_of(first)
    with contextlib.suppress(UnreadableDocument, InvalidDocument):
        if key is not None:
            chain.begin(read_receipt(first.receipt).sequence, key)


def _spec(fleet: FleetRepo, client: str) -> tuple[DeviceSpec | None, list[str]]:
    try:
        device = read_part(fleet.tree("HEAD"), {client}).devices.get(client)
    except MargoGitopsError as error:
        return None, [f"whose key it is, is not known, since the fleet repo cannot be read: {error.what}"]
    return device.value.spec if device else None, []


def _receipts(objects: StateObjects, refs: Mapping[str, str], client: str) -> Iterator[tuple[SignedReceipt, int]]:
    """Yield every receipt in the branch of reports, in order, with the time of the commit that brought it."""
    reports = Reports(objects)
    tip = reports.tip(refs)
    found: list[tuple[str, int]] = []
    for commit in reports.history(tip) if tip else ():
        if client in commit.senders:
            for change in reports.changes(commit):
                key = change.key
                if key is not None and (key.client, key.kind) == (client, "receipts") and change.after is not None:
                    found.append((change.after, commit.time))
    files = [(objects.read(blob, BLOB), time) for blob, time in reversed(found)]
    pushed = PushedReports(objects, refs).get(client)
    if pushed is not None and pushed.receipts is not None:
        files.append((pushed.receipts, pushed.time))
    held: set[str] = set()
    for content, time in files:
        try:
            some = read_receipts(content, client)
        except (UnreadableDocument, InvalidDocument):
            continue
        yield from ((each, time) for each in some if each.receipt not in held)
        held |= {each.receipt for each in some}


def _states(objects: StateObjects, refs: Mapping[str, str], client: str, receipt: Receipt) -> Iterator[str]:
    """Yield the commits of a device's branch with the manifest that a receipt names."""
    for name in reversed(objects.branch(refs[device_ref(client)])):
        if sha256(DeviceTree(objects, objects.commit(name).tree).manifest) == receipt.manifest.digest:
            yield name


def _doubts(one: _Came, following: Receipt | None, at: datetime | None, faults: list[ReceiptFault]) -> Iterator[str]:
    """Yield why it may not have been so at that time."""
    receipt, made = one.receipt, parse_moment(one.receipt.at)
    if receipt.not_before is not None and made < parse_moment(receipt.not_before):
        yield f"the device's clock was wrong: it had reached {receipt.not_before} before"
    if made > datetime.fromtimestamp(one.time, UTC) + timedelta(minutes=10):
        yield f"the device's clock was ahead: the receipt came at {moment(one.time)}"
    if following is not None and following.sequence > receipt.sequence + 1:
        yield "the receipts after it are missing: something else may have run"
    if following is None and at is not None and at - made > _LONGEST_SILENCE:
        yield f"it is the newest one, {(at - made).days} days older: that this still ran, is not proved"
    if any(each.code == "forked" for each in faults):
        yield "two devices signed with this key, or a disk was restored: which of them ran this, is not proved"
    if bad := sorted({each.code for each in faults if each.is_error and each.code != "forked"}):
        yield f"not all receipts of this device are right: {', '.join(bad)} (audit verify)"
