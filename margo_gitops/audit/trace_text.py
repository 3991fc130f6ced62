"""A trace for people at a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

from margo_gitops.audit.text import utc
from margo_gitops.audit.traced import (
    Trace,
    TracedCommit,
    TracedDeployment,
    TracedFile,
    TracedReport,
    TracedSince,
    TracedValue,
)
from margo_gitops.documents.application import ParameterValue
from margo_gitops.wording import table_lines


def trace_lines(trace: Trace, *, one_parameter: bool = False) -> Iterator[str]:
    """Yield what a device should run, back to the lines that say so.

    Args:
        trace: what was found.
        one_parameter: whether it was asked for: then also since when it is so, and who answers for the line.
    """
    yield f"{trace.device}  manifest {trace.version}"
    yield f"  since         {trace.date}"
    yield f"  state commit  {trace.state_commit}"
    yield f"  fleet commit  {trace.fleet_commit[:12]}  {trace.subject}"
    yield f"  author        {trace.author}"
    yield f"  signature     {trace.signature}"
    yield f"  adopted       {_adopted(trace)}"
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
    return json.dumps(value, ensure_ascii=False)


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
