"""A mirror that a server keeps of a state repo on a git server, and the reports that it pushes there.

FOLLOW-1  A look asks only for the branches `fleet` and `freshness`, a few hundred bytes: a render moves one of them
          last. Only when one moved is everything fetched.
FOLLOW-2  Reports are committed on top of what the git server has, and pushed without force: of two servers, it refuses
          one, which tries again later. A push that was made, but not noted, changes nothing when it is made again.
FOLLOW-3  What the mirror has is served while the git server is away, or shows a history that was rewritten.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pygit2

from margo_gitops.documents.state_layout import FLEET_REF, FRESHNESS_REFS, REPORTS_REF
from margo_gitops.errors import MargoGitopsError, StateMoved, StateRepoUnusable
from margo_gitops.state_repo.host_answers import failed_fetch, failed_push
from margo_gitops.state_repo.pushing import TRACKED
from margo_gitops.state_repo.refs import Refs
from margo_gitops.state_repo.remote import TRACKED_REPORTS, RemoteState, checked_url
from margo_gitops.state_repo.report_branch import Committed, ReportBranch, ReportKey

_LOG = logging.getLogger("margo_gitops.server")
_SEEN: Final = "refs/remotes/seen/"
_LOOK: Final = (f"+{FLEET_REF}*:{_SEEN}fleet*", f"+{FRESHNESS_REFS}*:{_SEEN}freshness/*")
_REPORTS: Final = f"+{REPORTS_REF}*:{TRACKED_REPORTS}*"


class FollowedState(RemoteState):
    """A state repo behind a URL, and the mirror of it that one server reads."""

    def __init__(self, url: str, mirror: Path, reports_url: str | None = None) -> None:
        """Use the repository at `url`.

        Args:
            mirror: the folder of the mirror, for this server alone.
            reports_url: of the repository that gets the reports; None: the same.
        """
        super().__init__(url, mirror.parent)
        self._reports_url = checked_url(reports_url or url)
        self.mirror = mirror
        self._using = threading.Lock()
        self._fetched_last: Mapping[str, str] = {}

    def start(self) -> None:
        """Fetch; where that fails, use what the mirror has (MargoGitopsError: it has nothing)."""
        try:
            self.follow()
        except MargoGitopsError as error:
            if not self.mirror.exists() or FLEET_REF not in Refs(self.mirror).read():
                raise
            _LOG.error("the state is served as it was fetched before: %s", error)

    def follow(self) -> bool:
        """Return whether the state moved; then the mirror has it (FOLLOW-1).

        Raises:
            StateDeclined, StateUnreachable: the remote refuses, or does not answer.
            StateTampered: the remote's history was rewritten since this mirror saw it last.
            StateMoved, StateRepoUnusable: the mirror cannot be used.
        """
        with self._using:
            # Where a look fails, the fetch that follows says why.
            if (
                self._fetched_last
                and not self._fetch_only(self.url, *_LOOK).returncode
                and self._held(_SEEN) == self._fetched_last
            ):
                return False
            try:
                self.fetch()
                self._fetched_last = self._held(TRACKED)
            finally:
                self.release()
            return True

    def _held(self, prefix: str) -> Mapping[str, str]:
        """Return the branches that a render moves last, as they are below a prefix in the mirror."""
        values = Refs(self.mirror).read()
        return {
            name.removeprefix(prefix): values[name]
            for name in values
            if name.startswith((f"{prefix}fleet", f"{prefix}freshness/"))
        }

    def _fetch_only(self, url: str, *refspecs: str) -> subprocess.CompletedProcess[str]:
        options = ("--prune", "--no-tags", "--no-write-fetch-head", "--update-shallow", "--refmap=")
        return self._git("fetch", *options, "state", *refspecs, url=url)

    def commit(
        self,
        changes: Mapping[ReportKey, bytes | None],
        title: str,
        trailers: Sequence[tuple[str, str]],
        moment: int,
        after: str | None = None,
    ) -> Committed:
        """Put changed reports into the remote's branch, as `ReportBranch.commit` does (FOLLOW-2).

        Raises:
            StateMoved: another server was faster; nothing was changed.
            StateDeclined, StateUnreachable: the remote refuses, or does not answer.
            StateRepoUnusable: the mirror cannot be written.
        """
        with self._using:
            self._take()
            try:
                self._fetch_reports()
                branch = ReportBranch(self.mirror)
                there = branch.commit({}, "", (), moment).tip
                made = branch.commit(changes, title, trailers, moment, after)
                if made.tip != there:
                    self._push_reports()
                return made
            finally:
                self.release()

    def _fetch_reports(self) -> None:
        result = self._fetch_only(self._reports_url, _REPORTS)
        if result.returncode:
            raise failed_fetch(self._reports_url, result.stderr)
        try:
            repository = pygit2.Repository(str(self.mirror))
            tracked = repository.references.get(TRACKED_REPORTS)
            if tracked is not None:
                repository.references.create(REPORTS_REF, tracked.target, force=True)
            elif REPORTS_REF in repository.references:
                repository.references.delete(REPORTS_REF)
        except pygit2.GitError as error:
            raise StateRepoUnusable(f"the mirror of {self.url} cannot be used", why=[str(error)]) from error

    def _push_reports(self) -> None:
        result = self._git("push", "--porcelain", "state", f"{REPORTS_REF}:{REPORTS_REF}", url=self._reports_url)
        said = result.stdout + result.stderr
        if result.returncode:
            error = failed_push(self._reports_url, said, "the reports stay in the journal", str(self.mirror))
            if isinstance(error, StateMoved):
                error.remedy = "nothing is lost: the reports are tried again"
            raise error
