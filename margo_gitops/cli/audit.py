"""`margo-gitops audit`: what ran where, who asked for it, the proof of both, and evidence for others."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path

import click

from margo_gitops.audit.log import HistoryLog, log_lines
from margo_gitops.audit.repos import opened, resolved_since
from margo_gitops.audit.trace.device_trace import TraceRequest
from margo_gitops.audit.trace.device_trace import trace as trace_device
from margo_gitops.audit.trace.traced import trace_lines
from margo_gitops.audit.verify.history_check import VerifyOptions
from margo_gitops.audit.verify.history_check import verify as verify_history
from margo_gitops.audit.verify.verification import Verification, verification_lines
from margo_gitops.cli.completion import complete_devices
from margo_gitops.cli.options import (
    archives_option,
    cache_folder,
    extra_packages,
    fleet_option,
    signers_option,
    state_option,
)
from margo_gitops.cli.output import note, output_option, say, show
from margo_gitops.disk.files import disk_errors, read_small_file, replace_file
from margo_gitops.documents.device_id import is_device_id
from margo_gitops.documents.records import write
from margo_gitops.errors import AuditFailed, AuditUnusable, EvidenceUnusable, listed
from margo_gitops.operations.fleet_input import StateRequest, read_signers, read_signing_key
from margo_gitops.progress import step
from margo_gitops.wording import counted


def check_device(device: str) -> None:
    """Refuse what is not a device id (AuditUnusable)."""
    if not is_device_id(device):
        raise AuditUnusable(f"{device!r} is not a device id", remedy="list them: ls devices/")


def time_of(text: str | None) -> datetime | None:
    """Return the time that somebody wrote, UTC where it names no zone; None for nothing (AuditUnusable: no time)."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise AuditUnusable(f"{text!r} is not a time", remedy="write 2026-11-21 or 2026-11-21T09:30:00+01:00") from None


@click.group()
def audit() -> None:
    """Read the fleet's history, trace a value to its author, and verify everything that was ever rendered."""


@audit.command()
@fleet_option
@state_option
@archives_option
@click.option("--since", help="Start after this commit of the state repo or of the fleet repo.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of processes.")
@click.option("--resume", is_flag=True, help="Continue after the last commit that was verified with these options.")
@click.option(
    "--strict", is_flag=True, help="Commits rendered by another version must equal what this version renders."
)
@signers_option
@output_option()
def verify(
    fleet: Path,
    state: str | None,
    archives: tuple[Path, ...],
    since: str | None,
    jobs: int,
    resume: bool,
    strict: bool,
    allowed_signers: Path | None,
    output: str,
) -> None:
    """Prove that the state repo contains what the fleet repo's commits render to, and nothing else.

    The command renders every commit of the branch fleet again from its own fleet commit, oldest first, and compares
    every byte. It also checks the device branches, versions, trailers, authors, dates and signatures. With
    --allowed-signers, one of these signers must have signed every commit.

    Exits 0 if the history is good and 4 if it is not; then it names the first bad commit, the file, and what it
    expected and found.
    """
    options = VerifyOptions(since, read_signers(allowed_signers), jobs, resume, strict, archives)
    request = StateRequest(fleet, state, cache_folder())
    result = verify_history(request, options, partial(step, "verifying"))
    show(output, result, verification_lines(result))
    fail_of(result)


def fail_of(result: Verification) -> None:
    """Raise the error for a history that does not verify (AuditFailed); nothing for one that does."""
    errors = result.errors
    if not errors:
        return
    first = errors[0]
    place = f" at {first.commit[:12]}" if first.commit else ""
    rendered = f", rendered from {first.fleet_commit[:12]}" if first.fleet_commit else ""
    raise AuditFailed(
        f"the history of {result.state_repo} is bad{place}{rendered}",
        why=listed(each.sentence for each in errors),
        remedy="keep a copy as evidence, find out who wrote it, restore the branches from a clone that verifies",
    )


@audit.command()
@fleet_option
@state_option
@archives_option
@click.option("--device", help="Only commits that concern this device.")
@click.option("--deployment", help="Only commits that concern this deployment.")
@click.option("-n", "count", type=click.IntRange(min=1), help="Maximum number of commits. Default: all.")
@output_option()
def log(
    fleet: Path,
    state: str | None,
    archives: tuple[Path, ...],
    device: str | None,
    deployment: str | None,
    count: int | None,
    output: str,
) -> None:
    """Show the fleet's history, newest first: who changed what on which devices, and when they adopted it."""
    if device is not None:
        check_device(device)
    with opened(StateRequest(fleet, state, cache_folder()), None, archives) as (_, objects, _location):
        entries = islice(HistoryLog(objects).entries(device, deployment), count)
        if output == "json":
            show(output, {"commits": [write(each) for each in entries]}, ())
            return
        lines = log_lines(entries)
        first = next(lines, None)
        if first is None:
            note("nothing in the history concerns that; `margo-gitops device list` lists devices")
        else:
            show(output, None, chain([first], lines))
        if objects.boundary():
            note("older history is in an archive: pass it with --archive")


@audit.command()
@click.argument("device", shell_complete=complete_devices)
@fleet_option
@state_option
@archives_option
@click.option("--at", help="A time, 2026-11-21T09:30:00+01:00; UTC if it has no zone. Default: now.")
@click.option("--deployment", help="Only this deployment.")
@click.option("--parameter", help="Only this parameter, with who set it and when.")
@click.option("--file", "file", help="One file of the device, line by line: its path, its name, or its id.")
@signers_option
@output_option()
def trace(
    device: str,
    fleet: Path,
    state: str | None,
    archives: tuple[Path, ...],
    at: str | None,
    deployment: str | None,
    parameter: str | None,
    file: str | None,
    allowed_signers: Path | None,
    output: str,
) -> None:
    """Show what DEVICE should run and did run: each value with the line that sets it, its author, and the signature."""
    check_device(device)
    if file is not None and (deployment is not None or parameter is not None):
        raise click.UsageError("--file goes without --deployment and --parameter: a file holds all of one deployment")
    request = TraceRequest(device, time_of(at), deployment, parameter, read_signers(allowed_signers), file)
    with opened(StateRequest(fleet, state, cache_folder()), request.signers, archives) as (repo, objects, _location):
        traced = trace_device(repo, objects, request)
    show(output, traced, trace_lines(traced, one_parameter=parameter is not None))


@audit.command()
@click.argument("device", required=False)
@fleet_option
@state_option
@archives_option
@click.option("--all", "every", is_flag=True, help="All devices instead of one.")
@click.option("--at", help="The states at this time; UTC if it has no zone. Default: now.")
@click.option("--since", help="All states after this commit of the state repo or of the fleet repo.")
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The exporter's OpenSSH ed25519 private key; it signs the file.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The file to write; - for stdout.")
def export(
    device: str | None,
    fleet: Path,
    state: str | None,
    archives: tuple[Path, ...],
    every: bool,
    at: str | None,
    since: str | None,
    signing_key: Path,
    out: Path,
) -> None:
    """Write evidence of what DEVICE should run, for a person who has neither repo.

    The file is an in-toto statement in a signed DSSE envelope. It has the digests of the device's files, the fleet
    commit with its author and approvals, and the git objects that prove them. Needs the extra `evidence`.
    """
    with extra_packages("`margo-gitops audit export`", "operator,evidence"):
        from margo_gitops.audit.evidence.export import ExportRequest, export_evidence

    if every == (device is not None):
        raise EvidenceUnusable("name a device, or all of them", remedy="audit export DEVICE, or audit export --all")
    if device is not None:
        check_device(device)
    key = read_signing_key(signing_key)
    with opened(StateRequest(fleet, state, cache_folder()), None, archives) as (repo, objects, _location):
        after = resolved_since(objects, since) if since is not None else None
        content = export_evidence(repo, objects, ExportRequest(device, time_of(at), after, datetime.now(UTC)), key)
    _write(out, content)


@audit.command("check-evidence")
@click.argument("file", type=click.Path(path_type=Path))
@signers_option
@click.option("--accept-unsigned", is_flag=True, help="Accept unsigned commits on the exporter's word.")
@output_option()
def check_evidence(file: Path, allowed_signers: Path | None, accept_unsigned: bool, output: str) -> None:
    """Check an evidence file without either repo: compute every id and signature in it again.

    Needs the extra `evidence`.

    The list says who may sign commits (namespaces="git") and evidence (namespaces="margo-gitops-evidence").

    Exits 0 if the evidence is valid, 4 if not.
    """
    with extra_packages("`margo-gitops audit check-evidence`", "operator,evidence"):
        from margo_gitops.audit.evidence.check import check_evidence as check
        from margo_gitops.audit.evidence.check import evidence_lines

    signers = read_signers(allowed_signers)
    if signers is None:
        raise EvidenceUnusable(
            "evidence is worth what its signers are: a list of them is needed", remedy="pass --allowed-signers FILE"
        )
    checked = check(_read(file), str(file), signers, unsigned=accept_unsigned)
    evidence = write(checked.evidence)
    del evidence["objects"]
    found = {"exporter": checked.exporter, "signedBy": list(checked.signed_by), "unsignedCommits": checked.unsigned}
    show(output, {**found, **evidence}, evidence_lines(checked))


def _read(file: Path) -> bytes:
    from margo_gitops.audit.evidence.export import MAX_EVIDENCE_BYTES

    what = "the evidence cannot be read"
    return read_small_file(file, MAX_EVIDENCE_BYTES, what=what, error=EvidenceUnusable, remedy="name its file")


def _write(out: Path, content: bytes) -> None:
    if str(out) == "-":
        sys.stdout.buffer.write(content)
        return
    what, remedy = "the evidence cannot be written", "name a file in a folder of yours"
    # All of it or nothing: half a file would be evidence of a forgery.
    with disk_errors(out, what=what, error=EvidenceUnusable, remedy=remedy):
        replace_file(out, content, mode=0o644)
    say(f"{counted(len(content), 'byte')} of evidence in {out}", err=True)
