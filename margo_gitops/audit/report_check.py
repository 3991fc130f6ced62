"""The branch of reports, commit by commit.

VERIFY-8  Each commit has one parent, the commit before it, and what was verified before is still in the branch.
VERIFY-9  A commit writes reports where a server writes them, and each is about what its path says.
VERIFY-10 Whoever's report a commit writes or removes is named in one of its trailers `Reported-By`, with the evidence.

Nobody signs what devices report, and it cannot be rendered again: that the server wrote what a device sent is as sure
as the server's identity layer and the protection of the branch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from margo_gitops.audit.checkpoint import Checkpoint
from margo_gitops.audit.verification import AuditFinding
from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.reported import ReportChange, ReportCommit, Reports, read_status
from margo_gitops.trust.git_objects import BLOB

_MAX_CAPABILITIES: Final = 1024 * 1024


class ReportCheck:
    """Checks the branch of reports of one state repo.

    Attributes:
        commits: how many commits were good.
        findings: those of the first bad commit.
    """

    def __init__(self, objects: StateObjects, checkpoint: Checkpoint) -> None:
        """Check a branch.

        Args:
            objects: the state repo.
            checkpoint: remembers how far the branch was verified.
        """
        self._objects = objects
        self._reports = Reports(objects)
        self._checkpoint = checkpoint
        self.commits = 0
        self.findings: tuple[AuditFinding, ...] = ()

    def run(self, refs: Mapping[str, str], *, resume: bool) -> None:
        """Check every commit, oldest first, up to the first bad one.

        Args:
            refs: of the state repo.
            resume: begin after the last commit that was verified.
        """
        tip = self._reports.tip(refs)
        known = self._checkpoint.read()
        try:
            chain = self._objects.branch(tip) if tip is not None else ()
        except StateTampered as error:
            self.findings = (_finding(error.object_id, error.what),)
            return
        if known is not None and known not in chain:
            what = "the branch was moved back or rewritten: a commit that was verified before is no more in its history"
            self.findings = (_finding(tip or "", what, expected=known, found=tip or "nothing"),)
            return
        start = chain.index(known) + 1 if resume and known is not None else 0
        for index in range(start, len(chain)):
            name = chain[index]
            try:
                found = tuple(self._commit(name, chain[index - 1] if index else None))
            except StateTampered as error:
                found = (_finding(name, error.what),)
            if found:
                self.findings = found
                break
            self.commits += 1
        if self.commits:
            self._checkpoint.write(chain[start + self.commits - 1])

    def _commit(self, name: str, parent: str | None) -> Iterator[AuditFinding]:
        commit = self._reports.commit(name)
        parents = (parent,) if parent else ()
        if commit.parents != parents:
            yield _finding(name, "the parents are wrong", expected=parent or "none", found=" ".join(commit.parents))
        changes = self._reports.changes(commit)
        if not changes:
            yield _finding(name, "this commit changes nothing, and no server makes such a commit")
        for change in changes:
            yield from self._change(commit, change)

    def _change(self, commit: ReportCommit, change: ReportChange) -> Iterator[AuditFinding]:
        if change.key is None:
            yield _finding(commit.id, "no server writes such a path", file=change.path)
            return
        if change.key.client not in commit.senders:
            what = "the report is of somebody whom the commit does not name"
            found = ", ".join(sorted(commit.senders)[:3]) or "nobody"
            expected = f"Reported-By: {change.key.client} (...)"
            yield _finding(commit.id, what, file=change.path, expected=expected, found=found)
        if change.after is None:
            return
        content = self._objects.read(change.after, BLOB)
        if change.key.kind == "status":
            status = read_status(content)
            about = status.deployment_id if status else None
        else:
            about = _device(content)
        if about != change.key.name:
            what = "the report is none, or about something else than its path says"
            yield _finding(commit.id, what, file=change.path, expected=change.key.name, found=about or "no report")


def _device(content: bytes) -> str | None:
    if len(content) > _MAX_CAPABILITIES:
        return None
    try:
        document = json.loads(content)
        found = document["properties"]["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _finding(
    commit: str, what: str, *, file: str | None = None, expected: str | None = None, found: str | None = None
) -> AuditFinding:
    return AuditFinding("error", commit, "", REPORTS_REF, file, what, expected, found)
