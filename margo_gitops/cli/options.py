"""Options and environment variables that several commands share."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_gitops.agent.settings.environment import KNOWN, OF_OTHER_COMMANDS
from margo_gitops.documents.declarations import UNIT_SECONDS
from margo_gitops.errors import ExtraMissing

__all__ = ["CACHE", "FRESHNESS_KEY", "KNOWN", "SIGNING_KEY"]

SIGNING_KEY, CACHE, FRESHNESS_KEY = OF_OTHER_COMMANDS


_UNITS = {**UNIT_SECONDS, "y": 365 * UNIT_SECONDS["d"]}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A whole number and a unit: s, m, h, d or y (365 days); at most ten years."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds."""
        match = re.fullmatch(r"([0-9]{1,9})([smhdy])", str(value))
        seconds = int(match[1]) * _UNITS[match[2]] if match else -1
        if not 0 <= seconds <= 3650 * 86_400:
            self.fail(f"{value!r} is not a duration such as 30m, 24h or 7d", param, ctx)
        return seconds


fleet_option = click.option(
    "--fleet",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The folder with margo-gitops.yaml, or a folder in it. Default: here.",
)
state_option = click.option(
    "--state-repo", "state", help="The state repo, a path or a URL. Default: spec.stateRepo of margo-gitops.yaml."
)
rev_option = click.option("--rev", help="A commit of the fleet repo. Default: the files as they are now.")
signers_option = click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A list of signers, in the format of ssh-keygen(1).",
)
archives_option = click.option(
    "--archive",
    "archives",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that `state compact` wrote, to look behind the checkpoint. Give each of them.",
)
signing_key_option = click.option(
    "--signing-key",
    envvar=SIGNING_KEY,
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"An OpenSSH ed25519 private key that signs every commit. Environment: {SIGNING_KEY}.",
)
policy_command_option = click.option(
    "--allow-policy-command",
    is_flag=True,
    help="Run the command of the fleet's policy before the change. First check what it does.",
)
before_merge_option = click.option(
    "--before-merge",
    is_flag=True,
    help="For a merge request: reviews and the signed merge come later.",
)
at_option = click.option(
    "--at",
    metavar="TIME",
    help="Check freezes as if the files were committed at this time: 2026-12-24T12:00+01:00. Default: now.",
)


def date_of_files(at: str | None, revision: str | None) -> int:
    """Return the date that freezes are judged by where files are not committed, in seconds since 1970-01-01 UTC.

    Args:
        at: as the person wrote it; None: now.
        revision: the commit that is judged; None: the files.

    Raises:
        click.UsageError: it is not a time, or there is a commit, which has a date of its own.
    """
    if at is None:
        return int(datetime.now(UTC).timestamp())
    if revision is not None:
        raise click.UsageError("--at is for files that are not committed; a commit is judged by its own date")
    try:
        moment = datetime.fromisoformat(at)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{error}; write 2026-12-24T12:00+01:00", param_hint="--at") from error
    if moment.tzinfo is None:
        raise click.BadParameter("it names no time zone; write 2026-12-24T12:00+01:00", param_hint="--at")
    return seconds


def cache_folder() -> Path:
    """Return where mirrors of remote state repos are kept (XDG base directory specification).

    A user without a home, as in many containers of pipelines, has a folder of their own among the temporary files.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path needs a home
    return (_temporary_folder() if base.startswith("~") else Path(base) / "margo-gitops") / "state"


def _temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"margo-gitops-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise click.UsageError(f"{folder} belongs to another user: name a folder for mirrors in {CACHE}")
    return folder


@contextmanager
def extra_packages(what: str, extras: str) -> Iterator[None]:
    """Say which extras to install where an import inside does not find its package.

    Args:
        what: what needs the package, "publishing into a bucket".
        extras: all that this needs, separated by commas.

    Raises:
        ExtraMissing: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from margo_gitops.scaffolding.tool import how_to_install

        raise ExtraMissing(f"{what} needs the Python package {error.name}", remedy=how_to_install(extras)) from error
