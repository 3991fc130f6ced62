"""From what a device should run at some time back to the lines that say so, who wrote them, and who signed it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal

import pygit2

from margo_gitops.audit.adoption import StatusSince, adopted_at, adoptions, moment, statuses_at
from margo_gitops.audit.log import date_of, read_deployment
from margo_gitops.audit.tree_comparison import manifest_version
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.application import ParameterValue
from margo_gitops.documents.declarations import About
from margo_gitops.documents.deployment import OWN_EXTENSION, ApplicationDeployment
from margo_gitops.documents.device_id import FLEET_REF, client_of, device_ref, encode_device_id
from margo_gitops.documents.fleet_kinds import API_VERSION
from margo_gitops.documents.status import State
from margo_gitops.errors import AuditUnusable, Location, MargoGitopsError, StateTampered
from margo_gitops.rendering.explain import explain
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.parameters import Effective
from margo_gitops.state_repo.state_objects import BadObjectError, HeldTree, StateObjects
from margo_gitops.state_repo.state_repo import LEFT_FOLDER
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.commit_signature import check_signature
from margo_gitops.trust.git_commit import GitCommit
from margo_gitops.trust.git_objects import BLOB


@dataclass(frozen=True, slots=True)
class TracedParameter:
    """A value, and the line that says it."""

    name: Annotated[str, About("Of the parameter.")]
    value: Annotated[ParameterValue, About("As the device gets it.")]
    layer: Annotated[str | None, About("Where it is written; null where the fleet commit does not say.", ("site x",))]
    file: Annotated[str | None, About("In the fleet repo.")]
    line: Annotated[int | None, About("From 1, at the fleet commit.")]
    line_commit: Annotated[str | None, About("The commit of the fleet repo that wrote this line.")]
    line_author: Annotated[str | None, About("Its author.")]
    line_date: Annotated[str | None, About("Its author's date, RFC 3339.")]
    line_subject: Annotated[str | None, About("First line of its message.")]


@dataclass(frozen=True, slots=True)
class TracedReport:
    """What the device said of a deployment."""

    state: Annotated[State, About("As reported.")]
    adopted: Annotated[int | None, About("The manifestVersion that the report names.")]
    error: Annotated[str | None, About("Why it failed, as the device says.")]
    at: Annotated[str, About("When the report was committed, RFC 3339.")]
    evidence: Annotated[str, About("How the server knew the device; empty where the commit does not say.")]
    commit: Annotated[str, About("The commit of the branch `reports`.")]


@dataclass(frozen=True, slots=True)
class TracedDeployment:
    """A deployment that a device should run."""

    name: Annotated[str, About("As in the fleet repo.")]
    id: Annotated[str, About("UUID of the document.")]
    device: Annotated[str, About("The device; for a gateway's child, the child.")]
    application: Annotated[str, About("The application's id.")]
    application_version: Annotated[str | None, About("Its version; null where the document does not say.")]
    profile: Annotated[str | None, About("The chosen profile; null where the document does not say.")]
    reported: Annotated[TracedReport | None, About("What did run; null where nothing was reported by then.")]
    parameters: tuple[TracedParameter, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What a device should run, and why."""

    api_version: Literal["margo-gitops/v1"]
    kind: Annotated[Literal["Trace"], About("What this document is.")]
    device: Annotated[str, About("That was asked for.")]
    at: Annotated[str | None, About("The time that was asked for; null: now.")]
    state_commit: Annotated[str, About("The commit on the device's branch.")]
    version: Annotated[int | None, About("Its manifestVersion.")]
    adopted: Annotated[int | None, About("The highest manifestVersion that it had reported; null for none.")]
    adopted_at: Annotated[str | None, About("When that was first reported, RFC 3339.")]
    left: Annotated[bool, About("Whether the device was no more in the fleet at that time.")]
    fleet_commit: Annotated[str, About("The commit of the fleet repo that brought this state.")]
    author: Annotated[str, About("Of the fleet commit.")]
    date: Annotated[str, About("Of the fleet commit, RFC 3339.")]
    subject: Annotated[str, About("First line of its message.")]
    signature: Annotated[str, About("Who signed the device commit, or why that is not known.")]
    notes: Annotated[tuple[str, ...], About("What could not be traced, or does not fit.")]
    deployments: tuple[TracedDeployment, ...]


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """What to trace.

    Attributes:
        device: a client, or a gateway's child.
        at: with a time zone; None: now.
        deployment, parameter: only this one; None: all.
        signers: whose signatures count; None: the key's fingerprint is told.
    """

    device: str
    at: datetime | None = None
    deployment: str | None = None
    parameter: str | None = None
    signers: AllowedSigners | None = None


@dataclass(slots=True)
class Lines:
    """Who wrote a line of the fleet repo, as `git blame` tells."""

    fleet: FleetRepo
    commit: str
    _blames: dict[str, pygit2.Blame | None] = field(default_factory=dict)

    def written_by(self, place: Location) -> str | None:
        """Return the commit that wrote a line; None where git cannot tell."""
        if place.line is None:
            return None
        if place.file not in self._blames:
            repository = pygit2.Repository(str(self.fleet.root))
            try:
                self._blames[place.file] = repository.blame(place.file, newest_commit=pygit2.Oid(hex=self.commit))
            except (KeyError, ValueError, pygit2.GitError):
                self._blames[place.file] = None
        blame = self._blames[place.file]
        try:
            return str(blame.for_line(place.line).final_commit_id) if blame is not None else None
        except (IndexError, ValueError):
            return None


def trace(fleet: FleetRepo, objects: StateObjects, request: TraceRequest) -> Trace:
    """Return what a device should run at a time, back to the fleet repo.

    Raises:
        AuditUnusable: the device, deployment or parameter was not there at that time.
        StateTampered: an object of the state repo is missing or none that a renderer wrote.
    """
    try:
        return _trace(fleet, objects, request)
    except BadObjectError as error:
        raise StateTampered(
            f"the state repo's history cannot be read: {error}", remedy="see what is wrong: margo-gitops audit verify"
        ) from error


def _trace(fleet: FleetRepo, objects: StateObjects, request: TraceRequest) -> Trace:
    client = client_of(request.device)
    name, left = _device_commit(objects, client, request.at)
    commit = objects.commit(name)
    held = HeldTree(objects, commit.tree)
    fleet_commit = commit.trailers.get("Fleet-Commit", "")
    notes: list[str] = ["the device has left the fleet since: nothing on it stops"] if left else []
    intent, subject = None, ""
    try:
        subject = fleet.commit(fleet_commit).subject
        intent = read_fleet(fleet.tree(fleet_commit))
    except MargoGitopsError as error:
        notes.append(f"the fleet commit cannot be read, so no line is known: {error.what}")
    documents = [
        document
        for path, blob in held.files().items()
        if path.startswith("deployments/") and (document := read_deployment(objects.read(blob, BLOB), path))
    ]
    lines = Lines(fleet, fleet_commit)
    wanted = [each for each in documents if _wanted(each, request)]
    refs = objects.refs()
    reported = statuses_at(objects, refs, client, request.at)
    adopted = max((each.status.adopted or 0 for each in reported.values()), default=0) or None
    steps = adoptions(objects, refs, client).get(client, []) if adopted is not None else []
    since = adopted_at(steps, adopted) if adopted is not None else None
    deployments = [
        replace(
            _deployment(each, fleet, intent, lines, request.parameter, notes), reported=_reported(reported.get(each.id))
        )
        for each in wanted
    ]
    if request.deployment is not None and not deployments:
        known = ", ".join(sorted({each.metadata.name for each in documents})) or "nothing"
        raise AuditUnusable(
            f"{request.device} did not run {request.deployment} then", remedy=f"it should have run: {known}"
        )
    if request.parameter is not None and not any(each.parameters for each in deployments):
        known = ", ".join(sorted({each for document in wanted for each in document.spec.parameters})) or "none"
        raise AuditUnusable(f"{request.parameter} is no parameter there", remedy=f"known: {known}")
    if request.parameter is not None:
        deployments = [each for each in deployments if each.parameters]
    return Trace(
        api_version=API_VERSION,
        kind="Trace",
        device=request.device,
        at=request.at.isoformat() if request.at else None,
        state_commit=name,
        version=manifest_version(held.manifest),
        adopted=adopted,
        adopted_at=moment(since) if since is not None else None,
        left=left,
        fleet_commit=fleet_commit,
        author=f"{commit.author.name} <{commit.author.email}>",
        date=date_of(commit.author.time, commit.author.offset),
        subject=subject,
        signature=_signature(commit, request.signers),
        notes=tuple(notes),
        deployments=tuple(sorted(deployments, key=lambda each: (each.name, each.device))),
    )


def _wanted(document: ApplicationDeployment, request: TraceRequest) -> bool:
    if request.deployment not in (None, document.metadata.name):
        return False
    return request.device in (document.metadata.device_id, client_of(document.metadata.device_id or ""))


def _device_commit(objects: StateObjects, client: str, at: datetime | None) -> tuple[str, bool]:
    """Return the device's commit at a time, and whether it had left the fleet by then."""
    refs = objects.refs()
    ref = device_ref(client)
    if ref not in refs or FLEET_REF not in refs:
        raise AuditUnusable(f"{client} never was a device of this fleet", remedy="list them: margo-gitops audit log")
    latest = at.timestamp() if at is not None else float("inf")
    fleet = objects.branch(refs[FLEET_REF])
    # The branch's order counts, not the dates: authors' clocks may be wrong.
    now = next((name for name in reversed(fleet) if objects.commit(name).committed_at <= latest), None)
    place = objects.places(objects.commit(now).tree).get(encode_device_id(client)) if now else None
    if place is not None:
        for name in reversed(objects.branch(refs[ref])):
            if objects.commit(name).tree == place.tree:
                return name, place.folder == LEFT_FOLDER
    raise AuditUnusable(
        f"{client} had no state {f'at {at.isoformat()}' if at else 'now'}",
        remedy=f"see when it got one: margo-gitops audit log --device {client}",
    )


def _deployment(
    document: ApplicationDeployment,
    fleet: FleetRepo,
    intent: Intent | None,
    lines: Lines,
    parameter: str | None,
    notes: list[str],
) -> TracedDeployment:
    device = document.metadata.device_id or ""
    origins: dict[str, Effective] = {}
    if intent is not None:
        try:
            explained = explain(intent, device, document.metadata.name)
            origins = {each.name: each for each in explained.resolved.parameters}
        except MargoGitopsError as error:
            notes.append(f"{document.metadata.name}: no line is known: {error.what}")
    extension = document.spec.extensions.get(OWN_EXTENSION)
    own = extension if isinstance(extension, dict) else {}
    return TracedDeployment(
        name=document.metadata.name,
        id=document.id,
        device=device,
        application=document.spec.application_id,
        application_version=_text(own.get("applicationVersion")),
        profile=_text(own.get("profile")),
        reported=None,
        parameters=tuple(
            _parameter(name, each.value, origins.get(name), fleet, lines, notes)
            for name, each in document.spec.parameters.items()
            if parameter in (None, name)
        ),
    )


def _reported(found: StatusSince | None) -> TracedReport | None:
    if found is None:
        return None
    status = found.status
    return TracedReport(
        status.state, status.adopted, status.error or None, moment(found.time), found.evidence, found.commit
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _parameter(
    name: str,
    value: ParameterValue,
    effective: Effective | None,
    fleet: FleetRepo,
    lines: Lines,
    notes: list[str],
) -> TracedParameter:
    if effective is None or effective.value != value:
        if effective is not None:
            notes.append(f"{name}: the fleet commit says {effective.value!r}; see margo-gitops audit verify")
        return TracedParameter(name, value, None, None, None, None, None, None, None)
    layer = effective.origin.layer
    place = layer.location(name)
    commit = lines.written_by(place)
    author = fleet.commit(commit) if commit is not None else None
    return TracedParameter(
        name=name,
        value=value,
        layer=layer.name,
        file=place.file,
        line=place.line,
        line_commit=commit,
        line_author=f"{author.author_name} <{author.author_email}>" if author else None,
        line_date=date_of(author.time, author.offset) if author else None,
        line_subject=author.subject if author else None,
    )


def _signature(commit: GitCommit, signers: AllowedSigners | None) -> str:
    signed = check_signature(commit, signers)
    if signed.objection:
        return f"does not count: {signed.objection}"
    return signed.signer or "none"
