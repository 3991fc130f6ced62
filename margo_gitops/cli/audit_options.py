"""Options and arguments that the commands of `margo-gitops audit` share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from margo_gitops.documents.device_id import is_device_id
from margo_gitops.errors import AuditUnusable, Location
from margo_gitops.trust.allowed_signers import MAX_LIST_BYTES, AllowedSigners, parse_allowed_signers
from margo_gitops.wording import printable

state_option = click.option(
    "--state", help="The state repo, a path or a URL. Default: spec.stateRepo of margo-gitops.yaml."
)
signers_option = click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A list of signers, as ssh-keygen(1) has it.",
)


def check_device(device: str) -> None:
    """Refuse what is no device id.

    Raises:
        AuditUnusable: it is none.
    """
    if not is_device_id(device):
        raise AuditUnusable(f"{printable(device)!r} is no device id", remedy="list them: ls devices/")


def time_of(text: str | None) -> datetime | None:
    """Return the time that somebody wrote, in UTC where it names no zone; None for nothing.

    Raises:
        AuditUnusable: it is no time.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise AuditUnusable(
            f"{printable(text)!r} is no time", remedy="write 2026-11-21 or 2026-11-21T09:30:00+01:00"
        ) from None


def read_signers(path: Path | None) -> AllowedSigners | None:
    """Return the list of signers in a file; None for no file.

    Raises:
        AuditUnusable: it cannot be read.
        AllowedSignersInvalid: with every broken line.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return parse_allowed_signers(file.read(MAX_LIST_BYTES + 1), str(path))
    except OSError as error:
        raise AuditUnusable(
            "the list of allowed signers cannot be read",
            where=Location(str(path)),
            why=[error.strerror or str(error)],
            remedy="name its file",
        ) from error
