"""`margo-gitops reports import`: take home what devices without a line gave to a person (docs/sticks.md)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from margo_gitops.cli.options import cache_folder, extra_packages, fleet_option, state_option
from margo_gitops.cli.output import output_option, say_error, show
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.carried import CARRIED_FOLDER, MAX_CARRIED_BYTES
from margo_gitops.documents.device_id import is_encoded_device_id
from margo_gitops.documents.state_layout import is_remote
from margo_gitops.errors import CarriedUnusable, Location, MargoGitopsError
from margo_gitops.operations.fleet_input import chosen_location, read_fleet_commit, reports_location
from margo_gitops.state_repo.followed_state import FollowedState
from margo_gitops.state_repo.remote import RemoteState
from margo_gitops.state_repo.report_branch import ReportBranch
from margo_gitops.trust.carried import read_carried
from margo_gitops.trust.ssh_key import SshPublicKey, read_public_key

_MOST_FILES = 10_000


@click.group()
def reports() -> None:
    """Take what devices report in other ways than over a network."""


@reports.command("import")
@click.argument("places", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True, metavar="FOLDER|FILE")
@fleet_option
@state_option
@output_option()
def import_reports(places: tuple[Path, ...], fleet: Path, state: str | None, output: str) -> None:
    """Take the reports and receipts of devices from a stick into the state repo, each once.

    The fleet repo names the key of each device (`device receipt-key`). What none of these keys signed is refused, and
    so is what is older than what was taken before. The files stay on the stick.

    Exit status: 0 all was taken, now or before; 4 something was refused, and the rest was taken.
    """
    with extra_packages("importing reports", "operator,server"):
        from margo_gitops.server.reports.carried import take_reports
    keys = _keys(fleet)
    location = chosen_location(fleet, state)
    rows, refused = [], []
    with _branch(location, reports_location(fleet, location)) as (branch, read):
        for file in [each for place in places for each in _files(place)]:
            try:
                content = _read(file)
                carried = read_carried(content, file.name, keys)
                is_new = take_reports(carried, branch, read.read, int(time.time()))
            except MargoGitopsError as error:
                refused.append(error)
                continue
            found = carried.reports
            rows.append(
                {
                    "device": found.device,
                    "number": found.number,
                    "at": found.at,
                    "taken": is_new,
                    "statuses": len(found.statuses),
                    "receipts": len(found.receipts),
                }
            )
    lines = [
        f"{row['device']}: {row['statuses']} statuses and {row['receipts']} receipts of {row['at']}"
        if row["taken"]
        else f"{row['device']}: taken before"
        for row in rows
    ]
    show(output, rows, lines)
    for each in refused:
        say_error(each)
    sys.exit(max((each.exit_code for each in refused), default=0))


def _keys(fleet: Path) -> Mapping[str, list[SshPublicKey]]:
    """Return the keys of each device, as the newest commit of the fleet repo names them."""
    devices = read_fleet_commit(fleet, "HEAD").intent.devices
    return {name: list(_readable(each.value.spec.receipt_keys)) for name, each in devices.items()}


def _readable(texts: Iterable[str]) -> Iterator[SshPublicKey]:
    for text in texts:
        with suppress(ValueError):  # it counts for nothing
            yield read_public_key(*text.split()[:2])


@contextmanager
def _branch(location: str, reports: str | None) -> Iterator[tuple[ReportBranch | FollowedState, ReportBranch]]:
    """Yield what takes reports, and what reads those that are there."""
    place = reports or location
    if not is_remote(place):
        branch = ReportBranch(Path(place))
        yield branch, branch
        return
    remote = FollowedState(location, RemoteState(location, cache_folder()).mirror, reports)
    remote.start()
    remote.commit({}, "", (), 0)  # fetches what is there
    yield remote, ReportBranch(remote.mirror)


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    folder = place if place.name == CARRIED_FOLDER else place / CARRIED_FOLDER
    if folder.is_symlink() or not folder.is_dir():
        raise CarriedUnusable(
            "there are no reports", where=Location(str(place)), remedy="name the folder of the bundle on the stick"
        )
    files = [each for each in folder.iterdir() if each.suffix == ".json" and is_encoded_device_id(each.stem)]
    return sorted(files)[:_MOST_FILES]


def _read(file: Path) -> bytes:
    remedy = "a link is not followed; copy the file"
    if file.is_symlink():
        raise CarriedUnusable("this is a link, not a file", where=Location(str(file)), remedy=remedy)
    return read_small_file(file, 2 * MAX_CARRIED_BYTES, what="the reports cannot be read", error=CarriedUnusable)
