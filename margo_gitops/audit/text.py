"""The audit's results for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from margo_gitops.audit.log import DeviceEntry, LogEntry
from margo_gitops.audit.verification import Verification
from margo_gitops.wording import counted

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


def utc(moment: str) -> str:
    """Return a time in UTC as people write it, with a Z."""
    return moment.replace("+00:00", "Z")
