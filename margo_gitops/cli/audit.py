"""`margo-gitops audit`: what ran where, who asked for it, and the proof that nobody else wrote it."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import click

from margo_gitops.audit.log import HistoryLog
from margo_gitops.audit.state import AuditRequest, opened
from margo_gitops.audit.text import log_lines, verification_lines
from margo_gitops.audit.trace import TraceRequest
from margo_gitops.audit.trace import trace as trace_device
from margo_gitops.audit.trace_text import trace_lines
from margo_gitops.audit.verification import Verification
from margo_gitops.audit.verify import VerifyOptions
from margo_gitops.audit.verify import verify as verify_history
from margo_gitops.cli.audit_evidence import check_evidence, export
from margo_gitops.cli.audit_options import check_device, read_signers, signers_option, state_option, time_of
from margo_gitops.cli.name_completion import complete_devices
from margo_gitops.cli.options import cache_folder, fleet_option, output_option
from margo_gitops.documents.records import write
from margo_gitops.errors import AuditFailed, listed
from margo_gitops.wording import printable


@click.group()
def audit() -> None:
    """Read the fleet's history, trace a value to its author, and verify everything that was ever rendered."""


@audit.command()
@fleet_option
@state_option
@click.option("--since", help="Begin after this commit of the state repo, or of the fleet repo.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="How many processes.")
@click.option("--resume", is_flag=True, help="Go on after the last commit that was verified with these options.")
@click.option("--strict", is_flag=True, help="Commits rendered by another version must be what this one renders.")
@signers_option
@output_option
def verify(
    fleet: Path,
    state: str | None,
    since: str | None,
    jobs: int,
    resume: bool,
    strict: bool,
    allowed_signers: Path | None,
    output: str,
) -> None:
    """Prove that the state repo holds what the fleet repo's commits render to, and nothing else.

    Every commit of the branch fleet is rendered again from its own fleet commit, oldest first, and compared to the
    byte; so are the device branches, versions, trailers, authors, dates and signatures. With --allowed-signers every
    commit must be signed by one of them.

    Exits 0 if all is good, 4 if not: then the first bad commit is named, with file, expected and found.
    """
    options = VerifyOptions(since, read_signers(allowed_signers), jobs, resume, strict)
    request = AuditRequest(fleet, state, cache_folder())
    if sys.stderr.isatty():
        with click.progressbar(length=1, label="verifying", file=sys.stderr) as bar:

            def progress(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            result = verify_history(request, options, progress)
    else:
        result = verify_history(request, options)
    if output == "json":
        click.echo(json.dumps(write(result), indent=2, ensure_ascii=False))
    else:
        for line in verification_lines(result):
            click.echo(printable(line))
    _fail(result)


def _fail(result: Verification) -> None:
    errors = result.errors
    if not errors:
        return
    first = errors[0]
    place = f" at {first.commit[:12]}" if first.commit else ""
    rendered = f", rendered from {first.fleet_commit[:12]}" if first.fleet_commit else ""
    raise AuditFailed(
        f"the history of {result.state_repo} is bad{place}{rendered}",
        why=listed(printable(each.sentence) for each in errors),
        remedy="keep a copy as evidence, find out who wrote it, restore the branches from a clone that verifies",
    )


@audit.command()
@fleet_option
@state_option
@click.option("--device", help="Only what concerns this device.")
@click.option("--deployment", help="Only what concerns this deployment.")
@click.option("-n", "count", type=click.IntRange(min=1), help="How many commits at most. Default: all.")
@output_option
def log(
    fleet: Path, state: str | None, device: str | None, deployment: str | None, count: int | None, output: str
) -> None:
    """Show the fleet's history, newest first: who changed what, on which devices, to which version, adopted when."""
    if device is not None:
        check_device(device)
    with opened(AuditRequest(fleet, state, cache_folder())) as (_, objects, _location):
        entries = islice(HistoryLog(objects).entries(device, deployment), count)
        if output == "json":
            click.echo(json.dumps({"commits": [write(each) for each in entries]}, indent=2, ensure_ascii=False))
            return
        line = None
        for line in log_lines(entries):
            click.echo(printable(line))
        if line is None:
            click.echo("note: nothing in the history concerns that; `margo-gitops device list` lists devices", err=True)


@audit.command()
@click.argument("device", shell_complete=complete_devices)
@fleet_option
@state_option
@click.option("--at", help="A time, 2026-11-21T09:30:00+01:00; UTC where it names no zone. Default: now.")
@click.option("--deployment", help="Only this deployment.")
@click.option("--parameter", help="Only this parameter, with since when it is so and who answers for it.")
@click.option("--file", "file", help="One file of the device, line by line: its path, its name, or the id in it.")
@signers_option
@output_option
def trace(
    device: str,
    fleet: Path,
    state: str | None,
    at: str | None,
    deployment: str | None,
    parameter: str | None,
    file: str | None,
    allowed_signers: Path | None,
    output: str,
) -> None:
    """Show what DEVICE should run and did run: each value with the line that says it, its author, and the signature."""
    check_device(device)
    if file is not None and (deployment is not None or parameter is not None):
        raise click.UsageError("--file goes without --deployment and --parameter: a file holds all of one deployment")
    request = TraceRequest(device, time_of(at), deployment, parameter, read_signers(allowed_signers), file)
    with opened(AuditRequest(fleet, state, cache_folder())) as (repo, objects, _location):
        traced = trace_device(repo, objects, request)
    if output == "json":
        click.echo(json.dumps(write(traced), indent=2, ensure_ascii=False))
        return
    for line in trace_lines(traced, one_parameter=parameter is not None):
        click.echo(printable(line))


audit.add_command(export)
audit.add_command(check_evidence)
