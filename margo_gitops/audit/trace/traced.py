"""What a trace tells: values, the lines of the fleet repo that say them, who wrote and approved these, and what ran."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from margo_gitops.audit.log import utc
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.documents.nodes import Scalar
from margo_gitops.documents.receipt import RanDeployment
from margo_gitops.documents.status import State
from margo_gitops.values import dataclass
from margo_gitops.wording import json_text, table_lines


@dataclass(frozen=True, slots=True)
class TracedSince:
    """Since when something is as it is, without a break."""

    version: Annotated[int | None, About("The first manifestVersion of the device that has it so.")]
    state_commit: Annotated[str, About("Its commit on the device's branch.")]
    date: Annotated[str, About("Of the fleet commit that brought it, RFC 3339.")]
    adopted_at: Annotated[
        str | None,
        About("When the device first reported this version or a later one, RFC 3339; null where it did not."),
    ]


@dataclass(frozen=True, slots=True)
class TracedCommit:
    """A commit of the fleet repo that wrote a line, and how it came to the main line."""

    commit: Annotated[str, About("Its id.")]
    author: Annotated[str, About("Its author.")]
    date: Annotated[str, About("Its author's date, RFC 3339.")]
    subject: Annotated[str, About("First line of its message.")]
    signature: Annotated[str, About("Who signed it, or why that is not known; `none` where no one did.")]
    merged_by: Annotated[
        str | None, About("The commit that brought it to the main line; null where that is itself, or not known.")
    ]
    merged_subject: Annotated[str | None, About("First line of that commit's message.")]
    merged_signature: Annotated[str | None, About("Who signed that commit, told as `signature` is.")]
    approvals: Annotated[
        tuple[str, ...],
        About(
            "Trailers by which people answer for it, `NAME: VALUE`: its own, those of the commit that merged it, and "
            "of later ones that approve either."
        ),
    ]


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
    since: Annotated[TracedSince | None, About("Since when the device should have this value; null if not known.")]


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
class TracedValue:
    """A value of a deployed file, and the line of the fleet repo that it comes from."""

    path: Annotated[str, About("Of the value in the deployed file.", ("spec.parameters.greeting.value",))]
    value: Annotated[Scalar, About("As it is written; null for what is empty.")]
    line: Annotated[int, About("Of the deployed file, from 1.")]
    layer: Annotated[str | None, About("What it was made from; null where that is not known.", ("site north",))]
    file: Annotated[str | None, About("In the fleet repo.")]
    file_line: Annotated[int | None, About("From 1, at the fleet commit.")]
    line_commit: Annotated[str | None, About("The commit of the fleet repo that wrote this line; see `commits`.")]
    since: Annotated[TracedSince, About("Since when the device should have this value here.")]


@dataclass(frozen=True, slots=True)
class TracedFile:
    """A deployed file, each value back to its line."""

    path: Annotated[str, About("In the device's tree.")]
    digest: Annotated[str, About("Of its bytes.")]
    deployment: Annotated[str | None, About("Whose document it is; null for the manifest.")]
    device: Annotated[str, About("The device; for a gateway's child, the child.")]
    since: Annotated[TracedSince, About("Since when the file is as it is, to the byte.")]
    lines: Annotated[tuple[str, ...], About("Its text.")]
    values: Annotated[tuple[TracedValue, ...], About("In the file's order.")]


@dataclass(frozen=True, slots=True)
class TracedRun:
    """What the device signed that it ran."""

    sequence: Annotated[int, About("Number of the receipt.")]
    at: Annotated[str, About("When it was made, by the device's clock.")]
    until: Annotated[str | None, About("When the next one was made, by the device's clock; null for none.")]
    delivered_at: Annotated[str, About("When a server had it in the branch `reports`, RFC 3339.")]
    key: Annotated[str, About("Fingerprint of the key that signed it.")]
    vouched: Annotated[bool, About("Whether the fleet repo names this key for the device.")]
    version: Annotated[int, About("The manifestVersion that the device held.")]
    manifest: Annotated[str, About("Digest of that manifest.")]
    state_commit: Annotated[str | None, About("The commit of the device's branch with it; null where none has it.")]
    boot: Annotated[int, About("Which boot it was, of those that the receipts have seen.")]
    agent: Annotated[str, About("Version of the agent.")]
    deployments: Annotated[tuple[RanDeployment, ...], About("As the engines said.")]
    approved: Annotated[TracedCommit | None, About("The commit of the fleet repo that brought this state.")]
    doubts: Annotated[tuple[str, ...], About("What is only claimed, or does not fit.")]


@dataclass(frozen=True, slots=True)
class Trace(OwnKind):
    """What a device should run, and why."""

    device: Annotated[str, About("That was asked for.")]
    at: Annotated[str | None, About("The time that was asked for; null: now.")]
    state_commit: Annotated[str, About("The commit on the device's branch.")]
    version: Annotated[int | None, About("Its manifestVersion.")]
    adopted: Annotated[int | None, About("The highest manifestVersion that it had reported; null for none.")]
    adopted_at: Annotated[str | None, About("When that was first reported, RFC 3339.")]
    left: Annotated[bool, About("Whether the device was no longer in the fleet at that time.")]
    fleet_commit: Annotated[str, About("The commit of the fleet repo that brought this state.")]
    author: Annotated[str, About("Of the fleet commit.")]
    date: Annotated[str, About("Of the fleet commit, RFC 3339.")]
    subject: Annotated[str, About("First line of its message.")]
    signature: Annotated[str, About("Who signed the device commit, or why that is not known.")]
    notes: Annotated[tuple[str, ...], About("What could not be traced, or does not fit.")]
    deployments: tuple[TracedDeployment, ...]
    file: Annotated[TracedFile | None, About("The file that was asked for; null for none.")]
    commits: Annotated[tuple[TracedCommit, ...], About("The commits that wrote the lines, newest first.")]
    ran: Annotated[TracedRun | None, About("What it signed that it ran then; absent where it had signed nothing.")] = (
        None
    )


def trace_lines(trace: Trace, *, one_parameter: bool = False) -> Iterator[str]:
    """Yield what a device should run, back to the lines that say so.

    Args:
        one_parameter: whether it was asked for: then also since when it is so, and who answers for the line.
    """
    yield f"{trace.device}  manifest {trace.version}"
    yield f"  since         {trace.date}"
    yield f"  state commit  {trace.state_commit}"
    yield f"  fleet commit  {trace.fleet_commit[:12]}  {trace.subject}"
    yield f"  author        {trace.author}"
    yield f"  signature     {trace.signature}"
    yield f"  adopted       {_adopted(trace)}"
    if trace.ran is not None:
        yield from _ran(trace.ran, trace.version)
    for note in trace.notes:
        yield f"  note: {note}"
    for deployment in trace.deployments:
        yield from _traced(deployment, trace, whole=one_parameter)
    if trace.file is not None:
        yield from _file(trace.file)
        for each in trace.commits:
            yield f"  {each.commit[:12]}  {each.author}  {each.date}  {each.subject}"
            yield from (f"    {line}" for line in _answered(each))
    elif not trace.deployments:
        yield "  runs nothing"


def _ran(run: TracedRun, version: int | None) -> Iterator[str]:
    """Yield what the device signed: first what it says, then whose word that is."""
    same = "" if run.version == version else f", not {version}"
    until = f" until {run.until}" if run.until else ", the newest receipt"
    yield f"  ran           manifest {run.version}{same} from {run.at}{until}"
    whose = "a key of the device, as the fleet repo says" if run.vouched else "a key that the fleet repo does not name"
    yield f"                receipt {run.sequence} signed with {run.key}, {whose}"
    for deployment in run.deployments:
        for each in deployment.components:
            back = ", rolled back" if each.rolled_back else ""
            content = f", content {each.digest}" if each.digest else ""
            yield f"    {deployment.name}/{each.name}  {deployment.state}, {each.condition}{back}{content}"
            yield from (f"      image {image.image}  {image.digest or image.id}" for image in each.images)
    if run.approved is not None:
        by = run.approved
        yield f"  asked for by  {by.commit[:12]}  {by.author}  {by.date}  {by.subject}"
        yield from (f"                {line}" for line in _answered(by))
    yield from (f"  doubt: {doubt}" for doubt in run.doubts)


def _file(file: TracedFile) -> Iterator[str]:
    """Yield a file's lines, each behind the line of the fleet repo that it comes from, as `git blame` has it."""
    whose = f" of {file.deployment} on {file.device}" if file.deployment else ""
    yield f"  {file.path}{whose}"
    yield f"    {file.digest}, since {_since(file.since)}"
    at_line: dict[int, list[TracedValue]] = {}
    for value in file.values:
        at_line.setdefault(value.line, []).append(value)
    rows = [("origin", "commit", "manifest", "line")]
    for number, text in enumerate(file.lines, start=1):
        values = at_line.get(number, [])
        if len(values) > 1:  # a manifest is one line of JSON
            rows += [(*_origin(each), f"{each.path} = {_json(each.value)}") for each in values]
        else:
            rows.append((*(_origin(values[0]) if values else ("", "", "")), text))
    yield from (f"    {line}" for line in table_lines(rows))
    for since in sorted({value.since for value in file.values}, key=lambda each: each.version or 0):
        yield f"    {_since(since)}"


def _origin(value: TracedValue) -> tuple[str, str, str]:
    place = f"{value.file}:{value.file_line}" if value.file_line is not None else value.layer or "?"
    return place, (value.line_commit or "")[:12], str(value.since.version or "?")


def _json(value: ParameterValue | None) -> str:
    return json_text(value)


def _since(since: TracedSince) -> str:
    adopted = f", adopted {utc(since.adopted_at)}" if since.adopted_at is not None else ""
    return f"manifest {since.version}  {since.date}{adopted}"


def _answered(commit: TracedCommit) -> Iterator[str]:
    """Yield who signed, merged and approved a commit of the fleet repo."""
    yield f"signature  {commit.signature}"
    if commit.merged_by is not None:
        yield f"merged by  {commit.merged_by[:12]}  {commit.merged_subject}"
        yield f"           signature {commit.merged_signature}"
    for approval in commit.approvals or ("none",):
        yield f"approval   {approval}"


def _adopted(trace: Trace) -> str:
    if trace.adopted is None:
        return "nothing is reported"
    when = f" since {utc(trace.adopted_at)}" if trace.adopted_at is not None else ""
    same = "" if trace.adopted == trace.version else f", not {trace.version}"
    return f"manifest {trace.adopted}{same}{when}"


def _reported(reported: TracedReport | None) -> str:
    if reported is None:
        return "not reported"
    error = f": {reported.error}" if reported.error else ""
    version = f" by manifest {reported.adopted}" if reported.adopted is not None else ""
    return f"{reported.state}{version}, reported {utc(reported.at)} with {reported.evidence or 'no evidence'}{error}"


def _traced(deployment: TracedDeployment, trace: Trace, *, whole: bool) -> Iterator[str]:
    child = f" on {deployment.device}" if deployment.device != trace.device else ""
    application = f"{deployment.application} {deployment.application_version or ''}".rstrip()
    yield f"  {deployment.name}{child}: {application}, profile {deployment.profile or '?'}"
    if trace.adopted is not None or deployment.reported is not None:
        yield f"    {_reported(deployment.reported)}"
    for each in deployment.parameters:
        yield f"    {each.name} = {_json(each.value)}"
        if whole and each.since is not None:
            yield f"      since {_since(each.since)}"
        if each.line is None:
            yield f"      {each.layer or 'its origin is not known'}"
            continue
        yield f"      from {each.layer}  {each.file}:{each.line}"
        if each.line_commit is not None:
            yield f"      {each.line_commit[:12]}  {each.line_author}  {each.line_date}  {each.line_subject}"
            if whole:
                answering = next(commit for commit in trace.commits if commit.commit == each.line_commit)
                yield from (f"        {line}" for line in _answered(answering))
