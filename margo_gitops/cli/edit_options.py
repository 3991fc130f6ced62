"""What every command that edits the fleet repo has in common: where it starts, how it ends, what it prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TypeVar, cast

import click

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.cli.options import fleet_option
from margo_gitops.cli.output import DIFF, note, say, say_text
from margo_gitops.editing.edit import Base, Edit, read_base, unified_diff
from margo_gitops.editing.landing import branch_start, check_edit, commit_edit, write_edit
from margo_gitops.values import dataclass

C = TypeVar("C", bound=Callable[..., object])

_MOST = 20
"""Files that are named."""


def edit_options(command: C) -> C:
    """Add the options of a command that edits; the command gets them as `editing`, an `Editing`."""

    @wraps(command)
    def made(
        *arguments: object, fleet: Path, commit: bool, branch: str | None, dry_run: bool, **more: object
    ) -> object:
        return command(*arguments, editing=Editing(fleet, commit, branch, dry_run), **more)

    decorated = cast("C", made)
    for option in (
        click.option("--dry-run", is_flag=True, help="Print the change as a diff, and write nothing."),
        click.option("--branch", help="With --commit: the branch's name. An existing branch gets one more commit."),
        click.option("--commit", is_flag=True, help="Make a commit on a new branch; your files stay as they are."),
        fleet_option,
    ):
        decorated = option(decorated)
    return decorated


@dataclass(frozen=True, slots=True)
class Editing:
    """How a person wants an edit to be made.

    Attributes:
        commit: into a commit on a branch, not into the files.
        branch: its name; None: the edit's own.
    """

    fleet: Path
    commit: bool
    branch: str | None
    dry_run: bool

    def base(self) -> Base:
        """Return what the edit starts from: the files, or with --commit the last commit.

        Raises:
            UsageError: --branch without --commit.
            MargoGitopsError: there is no fleet repo, commit or such branch.
        """
        if not self.commit:
            self.refuse_branch()
            return read_base(self.fleet)
        return read_base(self.fleet, branch_start(FleetRepo.find(self.fleet), self.branch))

    def refuse_branch(self) -> None:
        """Refuse a branch's name that would be ignored (UsageError: --branch without --commit)."""
        if self.branch is not None and not self.commit:
            raise click.UsageError("--branch goes with --commit")

    def finish(self, base: Base, edit: Edit) -> None:
        """Check an edit, write it, and say what was done and what comes next.

        Raises:
            EditRefused: the fleet would be invalid; nothing is written.
            FilesNotWritten, CommitNotMade: it cannot be written.
        """
        notes = [*edit.notes, *check_edit(base, edit)]
        for each in notes:
            note(each)
        if not edit.changes:
            say("nothing changes: it is so already")
        elif self.dry_run:
            say_text(unified_diff(edit), paint=DIFF)
        elif self.commit:
            branch, commit = commit_edit(base, edit, self.branch)
            say(f"committed {commit[:12]} on the branch {branch}: {edit.title}")
            _print_files(edit)
            self._print_next(f"plan --rev {shlex.quote(branch)}")
            remote = base.repo.remote()
            if remote is not None:
                say(f"  git{self._in('-C')} push --set-upstream {shlex.quote(remote)} {shlex.quote(branch)}")
        else:
            write_edit(base, edit)
            _print_files(edit)
            self._print_next("plan")

    def _print_next(self, command: str) -> None:
        say("next:")
        say(f"  margo-gitops {command}{self._in('--fleet')}")

    def _in(self, option: str) -> str:
        """Return the option that names the fleet repo, where the person had to name it."""
        return "" if self.fleet == Path() else f" {option} {shlex.quote(str(self.fleet))}"


def _print_files(edit: Edit) -> None:
    for change in edit.changes[:_MOST]:
        say(f"{change.verb:7} {change.path}")
    if len(edit.changes) > _MOST:
        say(f"and {len(edit.changes) - _MOST} more files")
