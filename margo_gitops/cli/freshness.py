"""`margo-gitops freshness`: signed statements that the fleet's state is the newest (docs/freshness.md)."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from margo_gitops.catalog.fleet import read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.cli.options import FRESHNESS_KEY, cache_folder, fleet_option, state_option
from margo_gitops.cli.output import output_option, say, show
from margo_gitops.documents.device_id import is_device_id
from margo_gitops.documents.freshness import parse_valid_for
from margo_gitops.documents.records import write
from margo_gitops.errors import ExitCode
from margo_gitops.operations.fleet_input import named_location, read_fleet_commit, read_signers, read_signing_key
from margo_gitops.operations.render.freshness_statements import Standing, export_proof, renew_statement, show_statement
from margo_gitops.state_repo.freshness_refs import DEFAULT_VALID_FOR, Renewal
from margo_gitops.wording import counted

_MEANINGS: dict[Standing, str] = {
    "valid": "speaks of the newest state",
    "stale": "speaks of an older state than there is: renew it",
    "expired": "has expired: renew it",
}


class _ValidFor(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """How long a statement is valid: 90m, 36h or 7d."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the time."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_valid_for(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def freshness() -> None:
    """Let devices detect that they have received nothing new for too long."""


@freshness.command()
@fleet_option
@state_option
@click.option(
    "--signing-key",
    envvar=FRESHNESS_KEY,
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"An OpenSSH ed25519 private key that devices accept for statements. Environment: {FRESHNESS_KEY}.",
)
@click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign only for a state that one of these keys signed (ssh-keygen's format).",
)
@click.option(
    "--valid-for",
    type=_ValidFor(),
    help="How long the statement is valid: 90m, 36h or 7d. Default: spec.freshness.validFor, or 7d.",
)
@click.option("--if-wanted", is_flag=True, help="Only print a message if the fleet has no spec.freshness.")
@output_option()
def renew(
    fleet: Path,
    state: str | None,
    signing_key: Path | None,
    allowed_signers: Path | None,
    valid_for: timedelta | None,
    if_wanted: bool,
    output: str,
) -> None:
    """Sign that the state in the state repo is the newest now. No device branch moves, and no device wakes up.

    With --state-repo, no fleet repo is needed: a schedule can run this with a key that has no other use.
    """
    if if_wanted and read_fleet_document(FleetRepo.find(fleet).tree("HEAD")).value.spec.freshness is None:
        say("nothing to renew: margo-gitops.yaml has no spec.freshness", err=output == "json")
        return
    if signing_key is None:
        raise click.UsageError(f"a statement must be signed: pass --signing-key FILE, or set {FRESHNESS_KEY}")
    location, usual = _state(fleet, state)
    signers = read_signers(allowed_signers)
    renewal = Renewal(read_signing_key(signing_key), datetime.now(UTC), valid_for or usual, signers)
    renewed = renew_statement(location, cache_folder(), renewal)
    shards = counted(renewed.statement.shards, "shard")
    line = f"{counted(renewed.devices, 'device')} in {shards}: fresh until {renewed.statement.expires}"
    show(output, {"statement": write(renewed.statement), "devices": renewed.devices}, [line])


@freshness.command("show")
@fleet_option
@state_option
@output_option()
def show_standing(fleet: Path, state: str | None, output: str) -> None:
    """Show the statement in a state repo, and whether it must be renewed.

    Exits 1 if devices would no longer accept it: it has expired, or is about an older state.
    """
    location, _ = _state(fleet, state)
    shown = show_statement(location, cache_folder(), datetime.now(UTC))
    statement = shown.statement
    due = "; renewal is due" if shown.due and shown.standing == "valid" else ""
    lines = (
        f"fleet    {statement.fleet}, state {statement.state_commit[:12]}",
        f"issued   {statement.issued}",
        f"expires  {statement.expires}",
        f"standing {_MEANINGS[shown.standing]}{due}",
    )
    show(output, {"statement": write(statement), "standing": shown.standing, "due": shown.due}, lines)
    sys.exit(ExitCode.OK if shown.standing == "valid" else ExitCode.FINDINGS)


@freshness.command()
@click.argument("device")
@fleet_option
@state_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write. Default: standard output."
)
def export(device: str, fleet: Path, state: str | None, out: Path | None) -> None:
    """Write the proof for DEVICE, the same bytes that it would fetch, so that you can carry it there.

    On the device: `margo-gitops agent freshness import FILE`.
    """
    if not is_device_id(device):
        raise click.BadParameter(f"{device!r} is not a device id", param_hint="DEVICE")
    location, _ = _state(fleet, state)
    content = export_proof(location, cache_folder(), device)
    if out is None:
        click.echo(content, nl=False)
    else:
        out.write_bytes(content)


def _state(fleet: Path, state: str | None) -> tuple[str, timedelta]:
    """Return where the state repo is, and how long its statements are valid by the fleet's own word."""
    if state is not None:
        return named_location(state), DEFAULT_VALID_FOR
    found = read_fleet_commit(fleet, "HEAD")
    policy = found.intent.fleet.value.spec.freshness
    return found.state_location(None), parse_valid_for(policy.valid_for) if policy else DEFAULT_VALID_FOR
