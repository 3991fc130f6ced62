"""What `agent status` and `agent verify` say: read only, while an agent may run, without network or engine."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime

from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
from margo_gitops.agent.memory.orders import (
    ApplyOrder,
    Suspension,
    is_carried_out,
    read_apply_order,
    read_suspension,
)
from margo_gitops.agent.memory.poll_record import KEPT_EVERY
from margo_gitops.agent.memory.recorded import (
    RecordedDeployment,
    RecordedEvent,
    RecordedWorkload,
    deployment_status,
    recorded_number,
)
from margo_gitops.agent.pull.held import floor_files, freshness_keeper, trust_keeper, verify_held
from margo_gitops.agent.settings.configuration import RECEIPTS_FOLDER, AgentConfiguration
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.status import DeploymentStatus
from margo_gitops.errors import MargoGitopsError, NothingHeld
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import dataclass, field, replace

_STATUS_EVENTS = 10


@dataclass(frozen=True, slots=True)
class HeldProof:
    """What the device's proof of freshness says.

    Attributes:
        verdict, text: on what is held.
        issued, expires: of the statement; None without a statement.
    """

    verdict: str
    text: str
    issued: str | None
    expires: str | None


@dataclass(frozen=True, slots=True)
class KeptReceipts:
    """What the device signed.

    Attributes:
        number: of the newest; 0 for none.
        at: when it was made; None where it cannot be read.
        waiting: how many no server has yet.
        key: the public key that signed it; None where it cannot be read.
    """

    number: int
    at: str | None
    waiting: int
    key: SshPublicKey | None


@dataclass(frozen=True, slots=True)
class HeldTrust:
    """The newest trust document that the device followed.

    Attributes:
        expired: the device takes nothing new until a newer version comes.
    """

    version: int
    expires: str
    expired: bool


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What a device holds, runs, and what went wrong.

    Attributes:
        revision: of the held state; None where nothing is held.
        version: its manifest version; None where nothing is held, or what is held is not trusted.
        problem: why what is held cannot be used; None where it can.
        floor: the trust floor; None before the first contact.
        facts: how the last poll ended that the journal keeps; a later one may have ended alike.
        deployments: what is recorded of each deployment, with its components.
        statuses: Margo's status documents of them, in the same order.
        events: the latest security events, newest first.
        freshness: whether anything proves what is held the newest; None where the device does not ask.
        signer: who signed the held state; None where nothing trusted is held, or no signature is asked for.
        trust: the device's trust document; None where it has none, or none that can be used.
        receipts: what it signed of what ran; None where the device signs nothing.
        suspension: who lets nothing change, until when and why; None where changes are made.
        order: to change what waits, not carried out yet; None for no order.
        unsent: how many statuses wait until the server takes them.
    """

    device: str
    revision: str | None
    version: int | None
    problem: MargoGitopsError | None
    floor: Floor | None
    freshness: HeldProof | None
    facts: dict[str, str] = field(default_factory=dict)
    deployments: tuple[tuple[RecordedDeployment, tuple[RecordedWorkload, ...]], ...] = ()
    statuses: tuple[DeploymentStatus, ...] = ()
    events: tuple[RecordedEvent, ...] = ()
    signer: str | None = None
    trust: HeldTrust | None = None
    receipts: KeptReceipts | None = None
    suspension: Suspension | None = None
    order: ApplyOrder | None = None
    unsent: int = 0


def report(configuration: AgentConfiguration) -> AgentReport:
    """Return what the device holds and runs, and what went wrong (StateFolderUnusable: it cannot be read)."""
    floor = floor_files(configuration).read().floor
    state, problem = _held(configuration)
    found = AgentReport(
        configuration.device,
        state.snapshot.revision if state else None,
        state.manifest.manifest_version if state else None,
        problem,
        floor,
        held_proof(configuration),
        signer=state.signer if state else None,
        trust=_held_trust(configuration),
        receipts=kept_receipts(configuration),
        suspension=_suspension(configuration),
        order=read_apply_order(configuration.state_folder),
    )
    journal = Journal.peek(configuration.state_folder / JOURNAL_FILE)
    if journal is None:
        return found
    with journal:
        components: dict[str, list[RecordedWorkload]] = {}
        for workload in journal.workloads():
            components.setdefault(workload.key.deployment_id, []).append(workload)
        facts = journal.facts()
        deployments = tuple((item, tuple(components.get(item.id, ()))) for item in journal.deployments())
        return replace(
            found,
            facts=facts,
            order=found.order if found.order and not is_carried_out(found.order, facts) else None,
            deployments=deployments,
            statuses=tuple(deployment_status(item, workloads) for item, workloads in deployments),
            events=tuple(journal.events(_STATUS_EVENTS, security=True)),
            unsent=journal.count_unsent(),
        )


def _suspension(configuration: AgentConfiguration) -> Suspension | None:
    found = read_suspension(configuration.state_folder)
    return found if found is not None and not found.is_over(time.time()) else None


def kept_receipts(configuration: AgentConfiguration) -> KeptReceipts | None:
    """Return what the device signed; None where its configuration wants no receipts, or it has made none yet."""
    folder = configuration.state_folder / RECEIPTS_FOLDER
    if configuration.receipts is None or not folder.is_dir():
        return None
    from margo_gitops.agent.memory.receipt_store import ReceiptStore
    from margo_gitops.trust.receipts import signing_key_of

    store = ReceiptStore(folder, writes=False)
    newest = store.newest
    at, key = (newest[1].at, signing_key_of(newest[0])) if newest else (None, None)
    return KeptReceipts(store.number, at, store.waiting, key)


def held_proof(configuration: AgentConfiguration) -> HeldProof | None:
    """Return what the device's proof of freshness says now; None where its configuration wants none."""
    keeper = freshness_keeper(configuration, lambda _event: None)
    if keeper is None:
        return None
    try:
        state = verify_held(configuration)
    except MargoGitopsError:
        state = None
    try:
        held = keeper.held(state)
        found = keeper.assess(state)
    except MargoGitopsError as error:
        return HeldProof("refused", str(error), None, None)
    statement = held.statement if held else None
    return HeldProof(
        found.verdict, found.text, statement.issued if statement else None, statement.expires if statement else None
    )


def _held(configuration: AgentConfiguration) -> tuple[TrustedState | None, MargoGitopsError | None]:
    try:
        return verify_held(configuration), None
    except NothingHeld:
        return None, None
    except MargoGitopsError as error:
        return None, error


def _held_trust(configuration: AgentConfiguration) -> HeldTrust | None:
    keeper = trust_keeper(configuration)
    if keeper is None:
        return None
    try:
        held = keeper.current()
    except MargoGitopsError:
        return None  # `problem` says so: nothing can be verified with it
    return HeldTrust(held.version, held.document.expires, held.expired(keeper.clock.now()))


def as_json(report: AgentReport) -> dict[str, Json]:
    """Return a report as plain values: the contract of `agent status --output json` (docs/agent.md)."""
    facts = report.facts
    floor = report.floor
    return {
        "device": report.device,
        "held": {"version": report.version, "revision": report.revision, "signer": report.signer}
        if report.version is not None
        else None,
        "trust": asdict(report.trust) if report.trust else None,
        "problem": {"code": report.problem.code, "message": str(report.problem)} if report.problem else None,
        "floor": {"version": floor.version, "manifestDigest": floor.manifest_digest, "commit": floor.commit}
        if floor
        else None,
        "freshness": asdict(report.freshness) if report.freshness else None,
        "receipts": {
            "number": report.receipts.number,
            "at": report.receipts.at,
            "waiting": report.receipts.waiting,
            "key": str(report.receipts.key) if report.receipts.key else None,
        }
        if report.receipts
        else None,
        "reports": {"waiting": report.unsent},
        "suspended": asdict(report.suspension) if report.suspension else None,
        "applyNow": {**asdict(report.order), "deployments": list(report.order.deployments)} if report.order else None,
        "poll": {
            "at": _moment(facts.get("poll.at")),
            "answeredAt": _moment(facts.get("poll.answered_at")),
            "result": facts.get("poll.result"),
            "code": facts.get("poll.code") or None,
            "error": facts.get("poll.error") or None,
            "requests": _number(facts.get("poll.requests")),
            "bytesUp": _number(facts.get("poll.bytes_up")),
            "bytesDown": _number(facts.get("poll.bytes_down")),
        },
        "deployments": [
            {
                "name": deployment.name,
                "status": write(status),
                "components": [_component(workload) for workload in workloads],
            }
            for (deployment, workloads), status in zip(report.deployments, report.statuses, strict=True)
        ],
        "securityEvents": [
            {
                "at": _moment(repr(item.last_at)),
                "reason": item.reason,
                "code": item.code or None,
                "count": item.count,
                "text": item.text,
            }
            for item in report.events
        ],
    }


def _component(workload: RecordedWorkload) -> dict[str, Json]:
    return {
        "name": workload.key.component,
        "applier": workload.applier,
        "wanted": workload.wanted,
        "installed": workload.installed,
        "state": workload.state,
        "failure": workload.failure or None,
        "attempts": workload.attempts,
        "changedAt": _moment(repr(workload.changed_at)),
    }


def as_text(report: AgentReport) -> str:
    """Return a report for people."""
    facts = report.facts
    revision = (report.revision or "").strip('"')  # of an ETag
    held = f"version {report.version} at {revision}" if report.version is not None else "nothing"
    held += f", signed by {report.signer}" if report.signer else ""
    lines = [
        f"device   {report.device}",
        f"held     {held}",
        f"floor    version {report.floor.version}" if report.floor else "floor    none",
        f"poll     {_poll_text(facts)}",
    ]
    if report.trust:
        ended = ": it has expired, nothing new is taken" if report.trust.expired else ""
        lines.append(f"trust    version {report.trust.version}, until {report.trust.expires}{ended}")
    if report.freshness:
        lines.append(f"fresh    {report.freshness.verdict}: {_first_line(report.freshness.text)}")
    if report.receipts:
        signed = report.receipts
        by = f", signed by {signed.key.fingerprint}" if signed.key else ""
        lines.append(f"receipts {signed.number}, the newest of {signed.at}{by}; {signed.waiting} not sent yet")
    if report.unsent:
        lines.append(f"reports  {report.unsent} {'statuses wait' if report.unsent > 1 else 'status waits'} to be sent")
    if report.suspension:
        lines.append(f"held up  {report.suspension}")
    if report.order:
        lines.append(f"ordered  {report.order}, not done yet")
    if report.problem:
        lines.append(f"problem  {_first_line(str(report.problem))}")
    lines += _table(report)
    if report.events:
        lines += ["", "SECURITY EVENTS"]
        for item in report.events:
            times = f" ({item.count} times)" if item.count > 1 else ""
            lines.append(f"{_moment(repr(item.last_at))}  {item.reason}{times}: {_first_line(item.text)}")
    return "\n".join(lines)


def _table(report: AgentReport) -> list[str]:
    """Return the lines about components; nothing where no component is recorded."""
    rows = [("DEPLOYMENT", "COMPONENT", "STATE", "VERSION", "MESSAGE")]
    for deployment, workloads in report.deployments:
        rows += [
            (deployment.name, item.key.component, item.state, str(deployment.adopted), item.message)
            for item in workloads
        ]
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [""]
    for row in rows:
        # The first line says what failed, the others why, and what to do.
        first, *reasons = row[-1].split("\n")
        lines.append("  ".join([*map(str.ljust, row, widths), first]).rstrip())
        lines += [f"  {reason}" for reason in reasons]
    return lines


def _poll_text(facts: dict[str, str]) -> str:
    if "poll.at" not in facts:
        return "never"
    text = f"{facts.get('poll.result')} at {_moment(facts['poll.at'])}"
    if requests := _number(facts.get("poll.requests")):
        text += f", {requests} requests, {_number(facts.get('poll.bytes_down')) or 0} bytes down"
    text += f" (noted every {KEPT_EVERY / 60:.0f} minutes while polls end alike)"
    return f"{text}: {_first_line(facts['poll.error'])}" if facts.get("poll.error") else text


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _moment(seconds: str | None) -> str | None:
    number = recorded_number(seconds)
    try:
        return datetime.fromtimestamp(number, UTC).isoformat(timespec="seconds") if number is not None else None
    except (ValueError, OverflowError, OSError):
        return None


def _number(text: str | None) -> int | None:
    number = recorded_number(text)
    return None if number is None else int(number)
