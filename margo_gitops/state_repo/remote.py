"""A state repo on a git server: fetched into a local mirror, rendered there, pushed back whole or not at all.

The git program does the talking, because operators have taught it their servers: ssh configuration, credential helpers,
proxies, certificates. A lock on the mirror keeps every other process from fetching in between. How it is pushed back is
in `pushing`.

MIRROR-1  The mirror is a cache: a damaged one is made again, and kept aside until the new one is whole.
MIRROR-2  What this machine saw of the remote survives that: history that was rewritten since is refused.
MIRROR-3  Settings of the person's git that would change what is fetched or pushed have no effect (`_OURS`). How to
          reach the remote (`url.*.insteadOf`, credentials, proxies, ssh) stays theirs.
MIRROR-4  History that was rewritten is taken if the fleet's root keys named a loss (`keys floor --next`) that this
          machine did not know, in a trust document that follows its own, and the new history was rendered by it. What
          the mirror had stays in `refs/lost/<id>/`.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pygit2

from margo_gitops.disk.folders import remove_tree
from margo_gitops.disk.locks import HeldLock, LockTaken, take_lock
from margo_gitops.documents.fleet_kinds import PushPolicy
from margo_gitops.documents.state_layout import (
    BRANCHES,
    DEVICE_REFS,
    FLEET_REF,
    REPORTS_REF,
    STATE_BRANCHES,
    TRUST_REF,
    device_ref,
    state_refs,
)
from margo_gitops.errors import StateMoved, StateRepoUnusable, StateTampered, StateUnreachable, TrustRefused
from margo_gitops.git_program import last_lines, run_git
from margo_gitops.progress import is_heard
from margo_gitops.state_repo.host_answers import failed_fetch, redirected_to
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.pushing import PENDING_MESSAGE, PENDING_REF, TRACKED, Push, tracked
from margo_gitops.state_repo.refs import Refs
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.state_repo.trust_branch import held_chain
from margo_gitops.trust.signer import commit_signer
from margo_gitops.trust.state_commit import StateCommit

TIMEOUT_SECONDS = 900
TRACKED_REPORTS = f"{TRACKED}reports"
OFFERED: Final = "refs/remotes/offered/"
LOST_REPORTS: Final = "refs/lost/reports"
"""The reports that the mirror had when the remote had none any more."""
_TRACKED_FLEET = f"{TRACKED}fleet"
_TRACKED_PENDING = f"{TRACKED}pending"


_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
_OURS: Final = {
    "gc.auto": "0", "maintenance.auto": "false", "core.hooksPath": os.devnull, "core.fsmonitor": "false",
    "fetch.pruneTags": "false", "fetch.recurseSubmodules": "false", "remote.state.mirror": "false",
    "push.gpgSign": "false", "push.followTags": "false", "push.recurseSubmodules": "no", "push.pushOption": "",
    "push.useForceIfIncludes": "false", "push.negotiate": "false",
    "color.ui": "false", "color.push": "false", "color.transport": "false", "color.remote": "false",
}  # fmt: skip
"""Settings of git for the mirror, in place of the person's (MIRROR-3)."""


class MirrorSuspect(Exception):
    """The remote answers, but cannot be fetched into the mirror."""


def checked_url(url: str) -> str:
    """Return a repository's URL (StateRepoUnusable: it holds a password)."""
    if _PASSWORD.search(url):
        raise StateRepoUnusable(
            "the state repo's URL holds a password, which would end up in logs and process lists",
            remedy="take it out of the URL and give it to git's credential helper",
        )
    return url


class RemoteState:
    """A state repo behind a URL, and its mirror on this machine."""

    def __init__(self, url: str, cache: Path, *, reports: bool = False) -> None:
        """Use the repository at `url`.

        Args:
            url: of the repository; credentials come from git's own configuration, never from here.
            cache: a folder of this program; the mirror is made in it.
            reports: fetch the branch of reports too, which no render needs.
        """
        self.url = checked_url(url)
        self._reports = reports
        self._lock: HeldLock | None = None
        self.is_unfinished = False
        """Whether a push in steps was not finished, so that `push` has something to do."""
        self.redirected_to = ""
        """Where the host sent git on to, at the last fetch; devices follow no redirect."""
        self.mirror = cache / hashlib.sha256(url.encode()).hexdigest()[:32]

    def fetch(self) -> StateRepo:
        """Return the mirror, equal to the remote.

        From here until `release` no other process uses the mirror.

        Raises:
            StateMoved: another process uses the mirror.
            StateDeclined: the host does not let these credentials, or this push, in.
            StateUnreachable: the remote does not answer.
            StateTampered: the remote's history was rewritten since this machine saw it last.
        """
        self._take()
        try:
            return self._fetched()
        except (StateRepoUnusable, StateMoved, MirrorSuspect):  # StateMoved: a lock that a killed git left
            return self._made_again()

    def _fetched(self) -> StateRepo:
        repo = StateRepo.open_or_create(self.mirror)
        known = repo.refs.read().get(_TRACKED_FLEET)
        self._fetch_tracked()
        values = repo.refs.read()
        if known is not None and _TRACKED_FLEET not in values:
            repo.refs.move({_TRACKED_FLEET: known}, {})  # remembered, so that the next render refuses too
            raise self._rewritten([f"the branch {FLEET_REF} is gone; it was at {known}"])
        tracked = {name: value for name, value in values.items() if name.startswith(TRACKED)}
        named = {BRANCHES + name.removeprefix(TRACKED): value for name, value in tracked.items()}
        remote = state_refs(named, lambda _: True)
        unfinished = self._unfinished(repo, remote, values.get(_TRACKED_PENDING))
        self.is_unfinished = bool(unfinished)
        if REPORTS_REF in values and REPORTS_REF not in remote:
            repo.refs.move({LOST_REPORTS: values[REPORTS_REF]}, values)  # for `state restore`
        repo.refs.reset(BRANCHES, {**remote, **unfinished})
        return repo

    def _fetch_tracked(self) -> None:
        """Bring the refs that track the remote to where its refs are."""
        self._fetch_from(self.url, "--prune")

    def _fetch_from(self, url: str, *options: str) -> None:
        ours = ("--no-tags", "--no-write-fetch-head", "--update-shallow")  # the boundary of a checkpoint (D-32)
        result = self._git("fetch", *options, *ours, "state", url=url)
        self.redirected_to = redirected_to(result.stderr)
        if not result.returncode:
            return
        if "rejected" in result.stdout + result.stderr or "non-fast-forward" in result.stderr:
            forced = ("fetch", *options, *ours, "state")
            if not self._take_named_loss(url) or self._git(*forced, url=url, force="+").returncode:
                raise self._rewritten(last_lines(result.stderr))
            return
        if not self._run(["-C", str(self.mirror.parent), "ls-remote", url, FLEET_REF]).returncode:
            raise MirrorSuspect(result.stderr)  # without the mirror, the remote can be read
        raise failed_fetch(self.url, result.stderr)

    def _take_named_loss(self, url: str) -> bool:
        """Return whether root keys named the loss of what the mirror has; then that is kept aside (MIRROR-4)."""
        options = ("--no-tags", "--no-write-fetch-head", "--update-shallow", "--refmap=")
        offered = [f"+{name}*:{OFFERED}{name.removeprefix(BRANCHES)}*" for name in (FLEET_REF, TRUST_REF)]
        if self._git("fetch", *options, "state", *offered, url=url).returncode:
            return False
        refs, objects = Refs(self.mirror), StateObjects(self.mirror)
        values = refs.read()
        try:
            held = held_chain(objects, {TRUST_REF: values[tracked(TRUST_REF)]})
            chain = held_chain(objects, {TRUST_REF: values[f"{OFFERED}trust"]})
            tip = objects.commit(values[f"{OFFERED}fleet"])
            by = chain[StateCommit.of(tip).trust_number - 1]
        except (KeyError, IndexError, TrustRefused, StateTampered):
            return False
        if [each.text for each in chain[: len(held)]] != [each.text for each in held]:
            return False
        new = by.losses.keys() - held[-1].losses.keys()
        if not new or commit_signer(tip, chain[-1].signers("render")).signer is None:
            return False
        lost = {name: values[name] for name in (FLEET_REF, REPORTS_REF) if name in values}
        kept = {f"refs/lost/{max(new)}/{name.removeprefix(BRANCHES)}": value for name, value in lost.items()}
        refs.move({**kept, TRACKED_REPORTS: None}, values)
        return True

    def _unfinished(self, repo: StateRepo, remote: Mapping[str, str], pending: str | None) -> dict[str, str]:
        """Return the refs that a push in steps was to move and did not (PUSH-4)."""
        if pending is None:
            return {}
        repository = pygit2.Repository(str(self.mirror))
        fleet, *others = [str(each) for each in repository[pending].peel(pygit2.Commit).parent_ids]
        # The one before it is a parent, too, and as long as the fleet: no commit of a render is.
        others = [each for each in others if repository[each].peel(pygit2.Commit).message != PENDING_MESSAGE]
        named = [(StateCommit.of(repo.objects.commit(each)).device, each) for each in others]
        wanted = {FLEET_REF: fleet, **{device_ref(device): each for device, each in named if device}}

        def follows(name: str) -> bool:
            return name not in remote or repository.descendant_of(wanted[name], remote[name])

        return {name: value for name, value in wanted.items() if follows(name)} if follows(FLEET_REF) else {}

    def _made_again(self) -> StateRepo:
        """Return a new mirror in place of a damaged one (MIRROR-1, MIRROR-2)."""
        try:
            known = Refs(self.mirror).packed().get(_TRACKED_FLEET)
        except (OSError, StateRepoUnusable):
            known = None
        try:
            self.mirror.rename(self._aside)
            try:
                repo = self._fetched()
                self._check_grown(repo, known)
            except BaseException:
                self._put_back()
                raise
            remove_tree(self._aside)
        except MirrorSuspect as error:
            raise failed_fetch(self.url, str(error)) from None
        except OSError as error:
            raise self._unusable(error) from error
        return repo

    def _check_grown(self, repo: StateRepo, known: str | None) -> None:
        tip = repo.refs.read().get(_TRACKED_FLEET)
        if known is not None and known not in (repo.objects.branch(tip) if tip else ()):
            raise self._rewritten([f"the branch {FLEET_REF} does not build on {known}"])

    def _put_back(self) -> None:
        if self._aside.exists():
            remove_tree(self.mirror)
            self._aside.rename(self.mirror)

    @property
    def _aside(self) -> Path:
        return self.mirror.with_suffix(".aside")

    def _unusable(self, error: OSError) -> StateRepoUnusable:
        return StateRepoUnusable(f"the mirror of {self.url} cannot be used", why=[str(error)])

    def _take(self) -> None:
        try:
            self.mirror.parent.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.mirror.with_suffix(".lock"))
            self._put_back()  # a process that was killed while it made the mirror again left the old one
        except LockTaken:
            raise StateMoved(
                f"another render on this machine works with {self.url}", remedy="render again when it is done"
            ) from None
        except OSError as error:
            raise self._unusable(error) from error

    def release(self) -> None:
        """Let other processes use the mirror."""
        if self._lock is not None:
            self._lock.release()

    def _rewritten(self, why: Sequence[str]) -> StateTampered:
        return StateTampered(
            f"the history of {self.url} was rewritten since this machine saw it last",
            why=why,
            remedy=(
                "find out who did it. If the server lost it, or has an old backup: margo-gitops state restore. "
                "If no copy is left: margo-gitops keys floor --next VERSION --reason TEXT (docs/trust.md, Recover a "
                f"lost state repo). If the new history was meant: keep {self.mirror} elsewhere, it may be the last "
                "copy, and render again"
            ),
        )

    def push(self, policy: PushPolicy | None = None) -> None:
        """Push what was rendered into the mirror: all refs or none, or in steps (PUSH-1 to PUSH-6).

        Raises:
            StateMoved: somebody moved a ref of the remote since it was fetched.
            StateDeclined: the host does not let these credentials, or this push, in.
            StateUnreachable: the remote does not answer.
        """
        push = self.pusher(policy or PushPolicy())
        try:
            push.all()
        finally:
            self.is_unfinished = push.is_unfinished

    def pusher(self, policy: PushPolicy) -> Push:
        """Return what pushes the mirror."""
        return Push(self._git, self.url, self.mirror, policy, is_unfinished=self.is_unfinished)

    def _git(
        self, *arguments: str, url: str | None = None, force: str = "", seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run git in the mirror (subprocess.TimeoutExpired: only where `seconds` says how long it may take)."""
        settings = {"remote.state.url": url or self.url, **_OURS}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        for branch in STATE_BRANCHES:
            if self._reports or not branch.reported:
                # Branches only ever grow; those of devices follow the fleet branch, and `tampered` compares the two.
                replaces = "+" if branch.name == DEVICE_REFS or branch.replaced else force
                options += _fetching(branch.name, replaces)
        options += _fetching(PENDING_REF, "+")
        told = ["--progress"] if is_heard() and arguments[0] != "ls-remote" else []
        return self._run(["--git-dir", str(self.mirror), *options, arguments[0], *told, *arguments[1:]], seconds)

    def _run(self, arguments: Sequence[str], seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        try:
            return run_git(
                arguments,
                seconds=seconds or TIMEOUT_SECONDS,
                variables={"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise StateUnreachable("the git program is missing", remedy="install git, or render into a path") from None
        except subprocess.TimeoutExpired:
            if seconds is not None:
                raise
            raise StateUnreachable(f"{self.url} did not finish within {TIMEOUT_SECONDS} s") from None


def _fetching(name: str, force: str) -> list[str]:
    # A pattern, because git fails where a remote has no ref of an exact name, as an empty one has none.
    return ["-c", f"remote.state.fetch={force}{name}*:{tracked(name)}*"]
