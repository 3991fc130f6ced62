"""Reports by git push, for sites with a git host and no server (git subset, G-P): all of them in one commit.

PUSHED-1  Only what changed is pushed: the journal notes, durably, what arrived and where. An idle cycle sends nothing.
PUSHED-2  The commit that is about to be pushed is noted first. So after a kill or a lost answer the device knows its
          own commit, and anything else on its branch is from another program: another device with this name, or with
          these credentials. That is a security event. The branch is this device's, so its report replaces the other.
PUSHED-3  After a failure or a refusal the next try comes later each time, up to an hour: a protected branch, or
          credentials that may only read, cause no storm. A pull never waits for a push: at most half a minute after a
          cycle, and nothing while something is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.report.outgoing import LONGEST_SENDING, Attempts, Origin, own_capabilities, with_origin
from margo_gitops.digests import sha256
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.errors import MargoGitopsError
from margo_gitops.transport.git.pack import ObjectID
from margo_gitops.transport.git.push import NOTHING, GitPush, file_objects
from margo_gitops.trust.git_commit import Ident, build_commit
from margo_gitops.trust.git_objects import COMMIT, object_id
from margo_gitops.values import dataclass
from margo_gitops.web.metering import Deadline

_ARRIVED: Final = "report.push.arrived"
_HELD: Final = "report.push.held"
_TRIED: Final = "report.push.tried"
"""Facts: the digest of what arrived last; the commit that it is; later ones of which no answer came, oldest first."""

_MOST_TRIED: Final = 8

Files: TypeAlias = dict[tuple[str, ...], bytes]


@dataclass(eq=False, kw_only=True)
class GitReporter:
    """Pushes reports to the device's own branch.

    Attributes:
        capabilities: files that say what the device and its children are and offer, the device's first.
        timer: seconds since some moment; never jumps.
        clock: the time, seconds since the epoch.
        origin: what statuses name as their origin (REPORT-7); empty for nothing.
        abortable: a signal to stop may cut off what is done inside.
        more: other files to push, by path in the tree, such as receipts.
    """

    transport: GitPush
    device: str
    capabilities: Sequence[Path]
    journal: Journal
    record: Record
    timer: Callable[[], float]
    clock: Callable[[], float]
    abortable: Callable[[], AbstractContextManager[None]]
    origin: Origin = dict
    more: Callable[[], Mapping[tuple[str, ...], bytes]] = dict

    def __post_init__(self) -> None:
        self._attempts = Attempts(self.record, self.timer)

    def greet(self) -> None:
        """Do nothing: capabilities go out with the first statuses."""

    def hear(self, deployment: str, document: bytes) -> None:
        """Do nothing: a commit for each step of the work would be a burden to a git host."""

    def send(self) -> None:
        """Push, if something changed. What goes wrong is recorded, not raised."""
        if not self._attempts.due:
            return
        try:
            files = self._files()
            digest = self._digest(files)
            facts = self.journal.facts()
            if files and facts.get(_ARRIVED) != digest:
                self._push(self._with_origin(files), facts.get(_HELD), facts.get(_TRIED, "").split())
                self.journal.set_facts({_ARRIVED: digest})
        except MargoGitopsError as error:
            self._attempts.failed(error)
            return
        self._attempts.worked()

    def _files(self) -> Files:
        files: Files = {}
        for path in self.capabilities:
            owner, document = own_capabilities(path, self.device)
            own = owner == self.device
            files[("capabilities.json",) if own else ("capabilities", f"{encode_device_id(owner)}.json")] = document
        for deployment, document in self.journal.outbox().items():
            files["status", f"{deployment}.json"] = document
        return {**files, **self.more()}

    def _with_origin(self, files: Files) -> Files:
        origin = self.origin()
        return {path: with_origin(each, origin) if path[0] == "status" else each for path, each in files.items()}

    def _digest(self, files: Files) -> str:
        """Return what says that these files are where the device pushes to (PUSHED-1)."""
        lines = [f"{'/'.join(path)} {sha256(content)}" for path, content in sorted(files.items())]
        return sha256("\n".join([self.transport.source.url, *lines]).encode())

    def _push(self, files: Files, known: str | None, tried: list[str]) -> None:
        objects = file_objects(files)
        # The time is the device's own claim, as all that it reports.
        who = Ident(encode_device_id(self.device), "device@margo-gitops.invalid", max(int(self.clock()), 0))
        tree = list(objects)[-1].decode()
        content = build_commit(tree, (), who, who, f"Reports of {self.device}\n")
        commit = object_id(COMMIT, content)
        objects[ObjectID(commit.encode())] = COMMIT, content
        self.journal.set_facts({_TRIED: " ".join([*tried, commit][-_MOST_TRIED:])})
        source = self.transport.source
        expected = ObjectID(known.encode()) if known and not tried else None
        with self.abortable():
            held = self.transport.push(
                objects, expected, Deadline(min(LONGEST_SENDING, source.pull_seconds), source.read_seconds)
            )
        self.journal.set_facts({_HELD: commit, _TRIED: ""})
        if (known or tried) and held != NOTHING and held.decode() not in (known, *tried, commit):
            text = (
                f"{self.transport.source.ref_name.decode()} held {held.decode()}, which this device did not push: "
                "another device has its name or its credentials, or its memory was restored. Its own reports are back"
            )
            self.record(Event(Reason.REPORT_REPLACED, text))
