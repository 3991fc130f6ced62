"""The audit's results for people at a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from margo_gitops.audit.log import DeviceEntry, LogEntry
from margo_gitops.audit.trace import Trace, TracedDeployment, TracedReport
from margo_gitops.audit.verification import Verification
from margo_gitops.renderer.wording import counted

_SHOWN = 20


def verification_lines(result: Verification) -> Iterator[str]:
    """Yield what a verification found; its errors are for the error that ends the command."""
    for each in result.warnings:
        yield f"warning: {each.sentence}"
    if result.tip is None:
        yield "nothing to verify: the state repo is empty"
        return
    since = f" since {result.since[:12]}" if result.since else ""
    devices = counted(result.device_commits, "device commit")
    yield f"{counted(result.commits, 'fleet commit')}{since} and {devices} verified"
    if result.report_commits:
        yield f"{counted(result.report_commits, 'commit')} of reports verified"
    for signer in result.signed_by:
        yield f"signed by {signer}"


def log_lines(entries: Iterable[LogEntry]) -> Iterator[str]:
    """Yield a history."""
    for entry in entries:
        yield f"{entry.fleet_commit[:12]}  {entry.date}  {entry.author}"
        yield f"  {entry.subject}"
        for device in entry.devices[:_SHOWN]:
            yield from _device_lines(device)
        if len(entry.devices) > _SHOWN:
            yield f"  and {counted(len(entry.devices) - _SHOWN, 'more device')}"


def _device_lines(entry: DeviceEntry) -> Iterator[str]:
    what = "" if entry.change == "changed" else f"  {entry.change}"
    version = f"  manifest {entry.version}" if entry.version is not None else ""
    adopted = f"  adopted {utc(entry.adopted)}" if entry.adopted is not None else ""
    yield f"  {entry.device}{version}{what}{adopted}"
    for each in entry.deployments:
        child = f" on {each.device}" if each.device not in ("", entry.device) else ""
        yield f"    {each.change:<7}  {each.name}{child}"


def trace_lines(trace: Trace) -> Iterator[str]:
    """Yield what a device should run, back to the lines that say so."""
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
        yield from _traced(deployment, trace)
    if not trace.deployments:
        yield "  runs nothing"


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


def utc(moment: str) -> str:
    """Return a time in UTC as people write it, with a Z."""
    return moment.replace("+00:00", "Z")


def _traced(deployment: TracedDeployment, trace: Trace) -> Iterator[str]:
    child = f" on {deployment.device}" if deployment.device != trace.device else ""
    application = f"{deployment.application} {deployment.application_version or ''}".rstrip()
    yield f"  {deployment.name}{child}: {application}, profile {deployment.profile or '?'}"
    if trace.adopted is not None or deployment.reported is not None:
        yield f"    {_reported(deployment.reported)}"
    for each in deployment.parameters:
        yield f"    {each.name} = {json.dumps(each.value, ensure_ascii=False)}"
        if each.line is None:
            yield f"      {each.layer or 'its origin is not known'}"
            continue
        yield f"      from {each.layer}  {each.file}:{each.line}"
        if each.line_commit is not None:
            yield f"      {each.line_commit[:12]}  {each.line_author}  {each.line_date}  {each.line_subject}"
