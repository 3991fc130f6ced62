"""`margo-gitops state`: care for a state repo, which grows and can be lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from margo_gitops.audit.compact import Compacted, CompactOptions
from margo_gitops.audit.compact import compact as compact_state
from margo_gitops.audit.verify.verification import verification_lines
from margo_gitops.cli.audit import fail_of
from margo_gitops.cli.options import (
    Duration,
    cache_folder,
    fleet_option,
    signers_option,
    signing_key_option,
    state_option,
)
from margo_gitops.cli.output import output_option, show
from margo_gitops.documents.state_layout import is_remote
from margo_gitops.errors import StateRepoUnusable
from margo_gitops.operations.fleet_input import (
    StateRequest,
    chosen_location,
    read_signers,
    read_signing_key,
    reports_location,
)
from margo_gitops.progress import step
from margo_gitops.state_repo.lost_state import LostState, Restored
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.wording import counted


@click.group()
def state() -> None:
    """Cut old history off a state repo, or give it back what it has lost."""


@state.command()
@fleet_option
@state_option
@click.option("--from", "backup", metavar="BACKUP", help="Restore from a git repository or bundle too.")
@output_option()
def restore(fleet: Path, state: str | None, backup: str | None, output: str) -> None:
    """Push what this machine rendered or saw last to a state repo that lost it, with reports and receipts.

    If the server lost the repository, make an empty one there first. Branches move only forward: nothing newer
    is lost. Reports are here if `status` or `audit` ran here. The command says what it could not restore.
    """
    location = chosen_location(fleet, state)
    if not is_remote(location) and backup is None:
        raise StateRepoUnusable(
            f"{location} is a path: this machine has no other copy of it",
            remedy="restore it from a backup or a clone: --from BACKUP (docs/state-repo.md, Recovery)",
        )
    restored = _restored(location, backup)
    if (reports := reports_location(fleet, location)) is not None and is_remote(reports):
        pushed = _restored(reports, None, reports_only=True)
        restored.refs.update(pushed.refs)
        restored.missing.update(pushed.missing)
    refs = restored.refs
    said = [f"{counted(len(refs), 'ref')} restored" if refs else "nothing is lost: every ref is there"]
    said += [f"{name}: not restored: {why}" for name, why in restored.missing.items()]
    show(output, {"restored": refs, "missing": restored.missing}, said)


def _restored(location: str, backup: str | None, *, reports_only: bool = False) -> Restored:
    if not is_remote(location):
        StateRepo.open_or_create(Path(location))
        location = Path(location).as_uri()
    if backup is not None and not is_remote(backup):
        backup = str(Path(backup).resolve())
    lost = LostState(location, cache_folder())
    try:
        return lost.restore(backup, reports_only=reports_only)
    finally:
        lost.release()


@state.command()
@fleet_option
@state_option
@click.option("--keep", type=Duration(), required=True, help="How much history stays: 365d or 1y.")
@click.option(
    "--archive",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file for what is cut. Default: a new one next to the state repo.",
)
@signing_key_option
@signers_option
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of processes.")
@output_option()
def compact(
    fleet: Path,
    state: str | None,
    keep: int,
    archive: Path | None,
    signing_key: Path | None,
    allowed_signers: Path | None,
    jobs: int,
    output: str,
) -> None:
    """Let the history of a state repo on this machine begin at a signed checkpoint, and archive what is older.

    The command first verifies the whole history, as `audit verify` does. Then it writes what is older than --keep to a
    git bundle, signs a checkpoint on the branch checkpoints, and removes the old commits. No commit changes, and no
    device notices. If the command is interrupted, run it again.

    Keep the archive: with it, `audit verify --archive FILE` still proves everything.

    Exits 4 if the history is not good; then nothing is cut.
    """
    if signing_key is None:
        raise click.UsageError("a checkpoint is signed: pass --signing-key FILE")
    key, signers = read_signing_key(signing_key), read_signers(allowed_signers)
    options = CompactOptions(key, datetime.now(UTC), keep, archive, signers, jobs)
    done = compact_state(StateRequest(fleet, state, cache_folder()), options, partial(step, "verifying"))
    if done.verification is not None and done.verification.errors:
        fail_of(done.verification)
    found = {
        "checkpoint": done.checkpoint,
        "archive": str(done.archive) if done.archive else None,
        "digest": done.digest,
        "begins": done.begins[0] if done.begins else None,
    }
    show(output, found, _compact_lines(done))


def _compact_lines(done: Compacted) -> Iterator[str]:
    if done.verification is None or done.begins is None:
        yield "nothing is older than that"
        return
    yield from verification_lines(done.verification)
    commit, moment = done.begins
    yield f"history begins at {commit[:12]} of {moment:%Y-%m-%d}, by checkpoint {done.checkpoint}"
    yield f"older history is in {done.archive}, {done.digest}: keep this file"
