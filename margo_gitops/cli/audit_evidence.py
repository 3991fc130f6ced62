"""`margo-gitops audit export` and `check-evidence`: proof for somebody who has neither repo."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_gitops.audit.state import AuditRequest, opened, resolved_since
from margo_gitops.cli.audit_options import check_device, read_signers, signers_option, state_option, time_of
from margo_gitops.cli.options import cache_folder, fleet_option, output_option
from margo_gitops.documents.records import write
from margo_gitops.errors import EvidenceUnusable, Location
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.wording import counted, printable


@click.command()
@click.argument("device", required=False)
@fleet_option
@state_option
@click.option("--all", "every", is_flag=True, help="Every device instead of one.")
@click.option("--at", help="The states of this time, UTC where it names no zone. Default: now.")
@click.option("--since", help="All states that came after this commit of the state repo, or of the fleet repo.")
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The exporter's ed25519 key, as ssh-keygen writes it; signs the file.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The file to write; - for stdout.")
def export(
    device: str | None,
    fleet: Path,
    state: str | None,
    every: bool,
    at: str | None,
    since: str | None,
    signing_key: Path,
    out: Path,
) -> None:
    """Write evidence of what DEVICE should run, for somebody who has neither repo.

    An in-toto statement in a signed DSSE envelope: the device's files by digest, the fleet commit with its author and
    approvals, and the git objects that prove all of it.
    """
    # Only these commands need the packages for in-toto and DSSE.
    from margo_gitops.audit.evidence.export import ExportRequest, export_evidence

    if every == (device is not None):
        raise EvidenceUnusable("name a device, or all of them", remedy="audit export DEVICE, or audit export --all")
    if device is not None:
        check_device(device)
    key = read_signing_key(signing_key)
    with opened(AuditRequest(fleet, state, cache_folder())) as (repo, objects, _location):
        after = resolved_since(objects, since) if since is not None else None
        content = export_evidence(repo, objects, ExportRequest(device, time_of(at), after, datetime.now(UTC)), key)
    _write(out, content)


@click.command("check-evidence")
@click.argument("file", type=click.Path(path_type=Path))
@signers_option
@click.option("--accept-unsigned", is_flag=True, help="Accept commits that nobody signed, on the exporter's word.")
@output_option
def check_evidence(file: Path, allowed_signers: Path | None, accept_unsigned: bool, output: str) -> None:
    """Check an evidence file, without either repo: every id and signature in it is computed again.

    The list names who may sign commits (namespaces="git") and evidence (namespaces="margo-gitops-evidence").

    Exits 0 if it holds, 4 if not.
    """
    from margo_gitops.audit.evidence.check import check_evidence as check
    from margo_gitops.audit.evidence.text import evidence_lines

    signers = read_signers(allowed_signers)
    if signers is None:
        raise EvidenceUnusable(
            "evidence is worth what its signers are: a list of them is needed", remedy="pass --allowed-signers FILE"
        )
    checked = check(_read(file), str(file), signers, unsigned=accept_unsigned)
    if output == "json":
        evidence = write(checked.evidence)
        del evidence["objects"]
        found = {"exporter": checked.exporter, "signedBy": list(checked.signed_by), "unsignedCommits": checked.unsigned}
        click.echo(json.dumps({**found, **evidence}, indent=2, ensure_ascii=False))
        return
    for line in evidence_lines(checked):
        click.echo(printable(line))


def _read(file: Path) -> bytes:
    from margo_gitops.audit.evidence.export import MAX_EVIDENCE_BYTES

    try:
        with file.open("rb") as opened_file:
            return opened_file.read(MAX_EVIDENCE_BYTES + 1)
    except OSError as error:
        raise EvidenceUnusable(
            "the evidence cannot be read",
            where=Location(str(file)),
            why=[error.strerror or str(error)],
            remedy="name its file",
        ) from error


def _write(out: Path, content: bytes) -> None:
    if str(out) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        # All of it or nothing: half a file would be evidence of a forgery.
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(out)
    except OSError as error:
        raise EvidenceUnusable(
            "the evidence cannot be written",
            where=Location(str(out)),
            why=[error.strerror or str(error)],
            remedy="name a file in a folder of yours",
        ) from error
    click.echo(f"{counted(len(content), 'byte')} of evidence in {out}", err=True)
