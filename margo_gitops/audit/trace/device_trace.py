"""From what a device should run at some time back to the lines that say so, who wrote them, and who signed it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from margo_gitops.audit.log import read_deployment
from margo_gitops.audit.trace.adoption import StatusSince, adopted_at, adoptions, moment, statuses_at
from margo_gitops.audit.trace.history import Lines, ValueHistory, leaves
from margo_gitops.audit.trace.ran import ran_at
from margo_gitops.audit.trace.trace_file import Source, path_of, trace_file
from margo_gitops.audit.trace.traced import Trace, TracedDeployment, TracedParameter, TracedReport, TracedSince
from margo_gitops.audit.verify.rendered_trees import manifest_version
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.deployment import OWN_EXTENSION, ApplicationDeployment, fleet_device
from margo_gitops.documents.device_id import client_of, encode_device_id
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import exact
from margo_gitops.documents.state_layout import DEPLOYMENTS_FOLDER, FLEET_REF, deployment_path, device_ref
from margo_gitops.errors import AuditUnusable, MargoGitopsError
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.parameters import Effective
from margo_gitops.rendering.render import place, resolve_placement
from margo_gitops.state_repo.objects import DeviceTree, StateObjects
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_commit import GitCommit
from margo_gitops.trust.git_objects import BLOB
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """What to trace.

    Attributes:
        device: a client, or a gateway's child.
        at: with a time zone; None: now.
        deployment, parameter: only this one; None: all.
        file: the one of the device's files to trace, by path, name or id; None: none.
        signers: whose signatures count; None: the key's fingerprint is given.
    """

    device: str
    at: datetime | None = None
    deployment: str | None = None
    parameter: str | None = None
    signers: AllowedSigners | None = None
    file: str | None = None


def trace(fleet: FleetRepo, objects: StateObjects, request: TraceRequest) -> Trace:
    """Return what a device should run at a time, back to the fleet repo.

    Raises:
        AuditUnusable: the device, deployment, parameter or file was not there at that time.
        StateTampered: an object of the state repo is missing or not one that a renderer wrote.
    """
    client = client_of(request.device)
    name, left = _device_commit(objects, client, request.at)
    commit = objects.commit(name)
    held = DeviceTree(objects, commit.tree)
    fleet_commit = StateCommit.of(commit).fleet_commit or ""
    notes: list[str] = ["the device has left the fleet since: nothing on it stops"] if left else []
    subject, intent = "", None
    try:
        subject = fleet.commit(fleet_commit).subject
        intent = read_fleet(fleet.tree(fleet_commit))
    except MargoGitopsError as error:
        notes.append(f"the fleet commit cannot be read, so no line is known: {error.what}")
    files = held.files
    documents = [
        document
        for path, blob in files.items()
        if path.startswith(f"{DEPLOYMENTS_FOLDER}/") and (document := read_deployment(objects.read(blob, BLOB), path))
    ]
    source = _source(intent, documents, notes) if intent is not None else None
    refs = objects.refs()
    steps = adoptions(objects, refs, client).get(client, [])
    branch = objects.branch(refs[device_ref(client)])
    if branch[0] in objects.boundary():
        oldest = manifest_version(DeviceTree(objects, objects.commit(branch[0]).tree).manifest)
        notes.append(f"history before manifest {oldest} is in an archive: a value of it may be older (--archive)")
    lines = Lines(fleet, fleet_commit)
    tracing = Tracing(held, fleet, source, lines, ValueHistory(objects, branch[: branch.index(name) + 1], steps), notes)
    traced_file = None
    deployments: list[TracedDeployment] = []
    reported = statuses_at(objects, refs, client, request.at)
    if request.file is not None:
        path = path_of(request.file, files, documents, client)
        traced_file = trace_file(path, held, client, source, lines, tracing.history, notes)
    else:
        deployments = [
            replace(tracing.deployment(each, request.parameter), reported=_reported(reported.get(each.id)))
            for each in documents
            if _wanted(each, request)
        ]
        _check_found(request, documents, deployments)
    if request.parameter is not None:
        deployments = [each for each in deployments if each.parameters]
    adopted = max((each.status.adopted or 0 for each in reported.values()), default=0) or None
    return Trace(
        device=request.device,
        at=request.at.isoformat() if request.at else None,
        state_commit=name,
        version=manifest_version(held.manifest),
        adopted=adopted,
        adopted_at=adopted_at(steps, adopted),
        left=left,
        fleet_commit=fleet_commit,
        author=str(commit.author),
        date=commit.author.date,
        subject=subject,
        signature=_signature(commit, request.signers),
        notes=tuple(notes),
        deployments=tuple(sorted(deployments, key=lambda each: (each.name, each.device))),
        file=traced_file,
        commits=lines.commits(request.signers),
        ran=ran_at(fleet, objects, refs, client, request.at, request.signers),
    )


def _source(intent: Intent, documents: list[ApplicationDeployment], notes: list[str]) -> Source | None:
    """Return what the fleet commit says of these deployments."""
    try:
        placements = place(intent)
    except MargoGitopsError as error:
        notes.append(f"no line is known: {error.what}")
        return None
    resolved = {}
    for each in documents:
        device, name = fleet_device(each), each.metadata.name
        placement = placements.get(device, {}).get(name)
        if placement is None:
            notes.append(f"{name}: no line is known: the fleet commit does not bring it to {device}")
            continue
        found, errors = resolve_placement(intent, placement, None)
        if errors:
            notes.append(f"{name}: no line is known: {errors[0].what}")
            continue
        resolved[found.id] = found
    return Source(intent, placements, resolved)


def _check_found(
    request: TraceRequest, documents: list[ApplicationDeployment], deployments: list[TracedDeployment]
) -> None:
    if request.deployment is not None and not deployments:
        known = ", ".join(sorted({each.metadata.name for each in documents})) or "nothing"
        raise AuditUnusable(
            f"{request.device} did not run {request.deployment} then", remedy=f"it should have run: {known}"
        )
    if request.parameter is not None and not any(each.parameters for each in deployments):
        wanted = [each for each in documents if _wanted(each, request)]
        remedy = did_you_mean(request.parameter, {each for document in wanted for each in document.spec.parameters})
        raise AuditUnusable(f"{request.parameter} is not a parameter there", remedy=remedy)


def _wanted(document: ApplicationDeployment, request: TraceRequest) -> bool:
    if request.deployment not in (None, document.metadata.name):
        return False
    return request.device in (fleet_device(document), client_of(fleet_device(document)))


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
                return name, place.left
    raise AuditUnusable(
        f"{client} had no state {f'at {at.isoformat()}' if at else 'now'}",
        remedy=f"see when it got one: margo-gitops audit log --device {client}",
    )


@dataclass(frozen=True, slots=True)
class Tracing:
    """Leads the values of deployments back to their lines.

    Attributes:
        source: what the fleet commit says; None: no line is known.
        notes: gets what could not be traced.
    """

    held: DeviceTree
    fleet: FleetRepo
    source: Source | None
    lines: Lines
    history: ValueHistory
    notes: list[str]

    def deployment(self, document: ApplicationDeployment, parameter: str | None) -> TracedDeployment:
        """Return a deployment with its parameters, or with one of them."""
        resolved = self.source.resolved.get(document.id) if self.source else None
        origins = {each.name: each for each in resolved.parameters} if resolved else {}
        wanted = {name: each.value for name, each in document.spec.parameters.items() if parameter in (None, name)}
        since = self._since(document, wanted)
        extension = document.spec.extensions.get(OWN_EXTENSION)
        own = extension if isinstance(extension, dict) else {}
        return TracedDeployment(
            name=document.metadata.name,
            id=document.id,
            device=fleet_device(document),
            application=document.spec.application_id,
            application_version=_text(own.get("applicationVersion")),
            profile=_text(own.get("profile")),
            reported=None,
            parameters=tuple(
                replace(self._parameter(name, value, origins.get(name)), since=since.get(name))
                for name, value in wanted.items()
            ),
        )

    def _since(
        self, document: ApplicationDeployment, wanted: Mapping[str, ParameterValue]
    ) -> dict[str, TracedSince | None]:
        """Return since when the device should have each value: the newest of what is in a list or a mapping."""
        path = deployment_path(document.id)
        root = read_source(self.held.deployment(document.id) or b"", path).root
        values = {
            at: node
            for at, node in leaves(root).items()
            if len(at) > 3 and at[:2] == ("spec", "parameters") and at[2] in wanted and at[3] == "value"
        }
        told = self.history.of_values(path, values)
        return {
            name: max((told[at] for at in values if at[2] == name), key=lambda each: each.version or 0, default=None)
            for name in wanted
        }

    def _parameter(self, name: str, value: ParameterValue, effective: Effective | None) -> TracedParameter:
        if effective is None or exact(effective.value) != exact(value):
            if effective is not None:
                self.notes.append(f"{name}: the fleet commit says {effective.value!r}; see margo-gitops audit verify")
            return TracedParameter(name, value, None, None, None, None, None, None, None, None)
        layer = effective.origin.layer
        place = layer.location(name)
        commit = self.lines.written_by(place)
        wrote = self.fleet.commit(commit) if commit is not None else None
        return TracedParameter(
            name=name,
            value=value,
            layer=layer.name,
            file=place.file,
            line=place.line,
            line_commit=commit,
            line_author=str(wrote.author) if wrote else None,
            line_date=wrote.author.date if wrote else None,
            line_subject=wrote.subject if wrote else None,
            since=None,
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


def _signature(commit: GitCommit, signers: AllowedSigners | None) -> str:
    signed = commit_signer(commit, signers)
    if signed.objection:
        return f"does not count: {signed.objection}"
    return signed.signer or "none"
