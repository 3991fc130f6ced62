"""Give a state repo back what it has lost, from this machine's mirror of it or from a backup.

RESTORE-1  Branches of the state move only forward: one was gone, or what is here builds on it. Otherwise nothing moves.
RESTORE-2  Reports and receipts come after that. A branch of reports that began again stays as it is; so does what a
           device has pushed since. What was not restored is named, with the reason.
RESTORE-3  A backup is a git repository or bundle. Of it and the mirror, the one that has more counts, branch by branch.
           Where neither builds on the other, nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pygit2

from margo_gitops.documents.fleet_kinds import PushPolicy
from margo_gitops.documents.state_layout import (
    BRANCHES,
    CHECKPOINTS_REF,
    DEVICE_REFS,
    DEVICE_REPORTS_REFS,
    FLEET_REF,
    REPORTS_REF,
    TRUST_REF,
    state_refs,
)
from margo_gitops.errors import MargoGitopsError, StateRepoUnusable, StateTampered
from margo_gitops.git_program import last_lines
from margo_gitops.state_repo.host_answers import failed_fetch
from margo_gitops.state_repo.refs import Refs
from margo_gitops.state_repo.remote import LOST_REPORTS, OFFERED, RemoteState
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.values import dataclass, field

_BACKUP = "refs/remotes/backup/"
_AT_ONCE = 500
"""Refs of one push: they are arguments of git."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a state repo got back.

    Attributes:
        refs: every ref that moved, and where it is now.
        missing: why a branch of reports was not restored.
    """

    refs: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class LostState(RemoteState):
    """A state repo that lost something, and what this machine has of it."""

    def restore(self, backup: str | None = None, *, reports_only: bool = False) -> Restored:
        """Push what this machine, or a backup, has (RESTORE-1 to RESTORE-3).

        Args:
            backup: path or URL of a git repository, or the path of a bundle.
            reports_only: the repository holds what devices pushed, and no state.

        Raises:
            StateRepoUnusable: this machine has no mirror of the remote, and the backup has no state either.
            StateTampered: the remote has commits that what is here does not build on.
            StateMoved, StateUnreachable: as `fetch` and `push`.
        """
        self._take()
        if reports_only and not self.mirror.exists():
            why = "there is no copy here; each device pushes again when something changes"
            return Restored(missing={f"{DEVICE_REPORTS_REFS}*": why})
        if backup is not None:
            StateRepo.open_or_create(self.mirror)
            self._take_backup(backup)
        values = Refs(self.mirror).read() if self.mirror.exists() else {}
        ours = state_refs(values, lambda branch: branch.reported or not branch.replaced)
        if LOST_REPORTS in values:
            ours.setdefault(REPORTS_REF, values[LOST_REPORTS])
        if FLEET_REF not in ours and not reports_only:
            raise StateRepoUnusable(
                f"this machine has no copy of {self.url}",
                remedy=(
                    "run this on the machine that rendered last, or with a backup of the server: margo-gitops state "
                    "restore --from BACKUP. If you have none: margo-gitops keys floor --next VERSION --reason TEXT, "
                    "then margo-gitops render --create (docs/trust.md, Recover a lost state repo)"
                ),
            )
        listed = self._git("ls-remote", "--heads", "state")
        if listed.returncode:
            raise failed_fetch(self.url, listed.stderr)
        there = {name: value for value, _, name in (line.partition("\t") for line in listed.stdout.splitlines())}
        reported = state_refs(ours, lambda branch: branch.reported)
        lost = {name: value for name, value in ours.items() if name not in reported and there.get(name) != value}
        if others := [
            f"{name}: there {there[name]}, here {value}"
            for name, value in lost.items()
            if not self._follows(value, there.get(name))
        ]:
            raise StateTampered(
                f"{self.url} has commits that this machine does not know",
                why=others[:10],
                remedy="find out who wrote them; another machine may have rendered since: run this there",
            )
        devices = f"{DEVICE_REFS}*:{DEVICE_REFS}*"
        first = [devices, *(name for name in (TRUST_REF, CHECKPOINTS_REF) if name in ours)]
        push = self.pusher(PushPolicy())
        if lost and not push.pushed("--atomic", refspecs=[*first, FLEET_REF], moved=lost):
            push.pushed(refspecs=first, moved={name: value for name, value in lost.items() if name != FLEET_REF})
            push.pushed(refspecs=[FLEET_REF], moved={FLEET_REF: ours[FLEET_REF]})
        return self._restore_reports(Restored(lost), reported, there, named=not reports_only)

    def _restore_reports(
        self, restored: Restored, reported: Mapping[str, str], there: Mapping[str, str], *, named: bool
    ) -> Restored:
        """Push what was reported (RESTORE-2)."""
        if named and restored.refs and REPORTS_REF not in reported and REPORTS_REF not in there:
            restored.missing[REPORTS_REF] = "there is no copy here; a server commits again what its journal holds"
        if there.get(REPORTS_REF, reported.get(REPORTS_REF)) != reported.get(REPORTS_REF):
            # What builds on what is here cannot be known without it; a failure says that nothing does.
            self._git(
                "fetch", "--no-tags", "--no-write-fetch-head", "--refmap=", "state", f"+{REPORTS_REF}:{OFFERED}reports"
            )
        moves: dict[str, str] = {}
        for name, value in reported.items():
            held = there.get(name)
            if held is None or (held != value and name == REPORTS_REF and self._follows(value, held)):
                moves[name] = value
            elif held != value and name == REPORTS_REF and not self._follows(held, value):
                restored.missing[name] = (
                    f"it began again, and has {held[:12]}; what was lost is here: {value} in {self.mirror}"
                )
        for some in _parts(moves):
            try:
                push = self.pusher(PushPolicy())
                push.pushed(refspecs=[f"{value}:{name}" for name, value in some.items()], moved=some)
                restored.refs.update(some)
            except MargoGitopsError as error:
                restored.missing.update(dict.fromkeys(some, error.what))
        return restored

    def _take_backup(self, backup: str) -> None:
        """Bring the branches of the mirror to where the backup has them, where it has more (RESTORE-3)."""
        options = ("--prune", "--no-tags", "--no-write-fetch-head", "--update-shallow", "--refmap=")
        fetched = self._git("fetch", *options, "state", f"+{BRANCHES}*:{_BACKUP}*", url=backup)
        if fetched.returncode:
            raise StateRepoUnusable(
                f"the backup {backup} cannot be read",
                why=last_lines(fetched.stderr),
                remedy="name a git repository or a bundle",
            )
        refs = Refs(self.mirror)
        values = refs.read()
        moves: dict[str, str | None] = {}
        for name, value in values.items():
            ref = BRANCHES + name.removeprefix(_BACKUP)
            held = values.get(ref)
            if not name.startswith(_BACKUP) or (held is not None and self._follows(held, value)):
                continue
            if not self._follows(value, held) and not ref.startswith((DEVICE_REPORTS_REFS, REPORTS_REF)):
                raise StateTampered(
                    f"{backup} and this machine have different histories of {self.url}",
                    why=[f"{ref}: {value} in the backup, {held} here"],
                    remedy=f"find out which one is right; without the backup, this restores what is in {self.mirror}",
                )
            if self._follows(value, held):
                moves[ref] = value
        refs.move(moves, values)

    def _follows(self, value: str, held: str | None) -> bool:
        """Return whether a commit is another one, or builds on it."""
        repository = pygit2.Repository(str(self.mirror))
        return held in (None, value) or (
            held in repository and value in repository and repository.descendant_of(value, held)
        )


def _parts(moves: Mapping[str, str]) -> Iterator[dict[str, str]]:
    items = list(moves.items())
    for start in range(0, len(items), _AT_ONCE):
        yield dict(items[start : start + _AT_ONCE])
