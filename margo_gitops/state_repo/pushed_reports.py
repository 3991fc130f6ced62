"""What devices pushed themselves: `refs/heads/device-reports/<name>` is what one device says (git subset, G-P).

CLAIM-1  A branch is read as what its device says of itself and its children, and of no one else.
CLAIM-2  Only its newest commit counts. Its tree holds `capabilities.json`, `capabilities/<child>.json`,
         `status/<deployment id>.json`, `receipts/latest.json`; other files are for later versions, and are not read.
CLAIM-3  Everything is bounded before it is read: 1 MiB for a document or a folder's list, 1,000 documents in a folder,
         8 MiB in all. No folder has a name twice.
CLAIM-4  A branch that breaks this counts as no report. It never hides what another device says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final

from margo_gitops.documents.device_id import client_of, decode_device_id
from margo_gitops.documents.state_layout import DEVICE_REPORTS_REFS
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.git_store import bad_object, tree_entries
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.report_branch import LATEST
from margo_gitops.state_repo.reported import ReportedStatus, read_status
from margo_gitops.trust.git_commit import MAX_COMMIT_BYTES, parse_commit
from margo_gitops.trust.git_objects import BLOB, COMMIT, FILE_MODE, FOLDER_MODE, TREE, TreeEntry
from margo_gitops.values import dataclass

_MAX_DOCUMENT: Final = 1024 * 1024
_MAX_TOTAL: Final = 8 * 1024 * 1024
_MAX_ENTRIES: Final = 1000
_SUFFIX: Final = b".json"
_LATEST: Final = f"{LATEST}.json".encode()


@dataclass(frozen=True, slots=True)
class PushedReport:
    """What one device pushed last.

    Attributes:
        commit: id of the commit.
        time: of the commit, by the device's clock: seconds since the epoch.
        statuses: by deployment id.
        capabilities: documents by device id, of the device and its children.
        receipts: its newest receipts, as it signed them; None for none.
    """

    commit: str
    time: int
    statuses: Mapping[str, ReportedStatus]
    capabilities: Mapping[str, bytes]
    receipts: bytes | None = None


class PushedReports:
    """The branches that devices pushed, of a state repo or of the repository for reports next to it."""

    def __init__(self, objects: StateObjects, refs: Mapping[str, str]) -> None:
        """Read a state repo.

        Args:
            refs: of the state repo; those of a repository for reports are read.
        """
        self._objects = objects.reports or objects
        self._refs = objects.reports.refs() if objects.reports else refs

    @cached_property
    def commits(self) -> Mapping[str, str]:
        """The commit of each device's branch, by client; branches of impossible names are left out."""
        named = ((_decoded(ref.removeprefix(DEVICE_REPORTS_REFS)), commit) for ref, commit in self.branches())
        return {client: commit for client, commit in named if client is not None and client == client_of(client)}

    def branches(self) -> Iterator[tuple[str, str]]:
        """Yield every branch that was pushed, with its commit."""
        return ((ref, commit) for ref, commit in self._refs.items() if ref.startswith(DEVICE_REPORTS_REFS))

    def get(self, client: str) -> PushedReport | None:
        """Return what a device pushed; None for nothing, or for what breaks a rule (CLAIM-4)."""
        try:
            return self.read(client) if client in self.commits else None
        except StateTampered:
            return None

    def read(self, client: str) -> PushedReport:
        """Return what a device pushed (StateTampered: it breaks CLAIM-2 or CLAIM-3)."""
        name = self.commits[client]
        try:
            commit = parse_commit(self._objects.read(name, COMMIT, MAX_COMMIT_BYTES))
        except ValueError as error:
            raise bad_object(name, str(error)) from error
        if commit.parents:
            raise bad_object(name, "a commit of reports has no parents")
        room = [_MAX_TOTAL]
        statuses, capabilities = {}, {}
        for entry in self._entries(commit.tree):
            if entry.name == b"status" and entry.mode == FOLDER_MODE:
                for each in self._entries(entry.id):
                    status = read_status(self._document(each, room))
                    if status is None or f"{status.deployment_id}.json".encode() != each.name:
                        raise bad_object(each.id, "it is not a status, or is about something else than its name says")
                    if status.device is None or client_of(status.device) == client:  # CLAIM-1
                        statuses[status.deployment_id] = status
            elif entry.name == b"capabilities.json":
                capabilities[client] = self._document(entry, room)
            elif entry.name == b"capabilities" and entry.mode == FOLDER_MODE:
                for each in self._entries(entry.id):
                    device = _decoded(each.name.removesuffix(_SUFFIX).decode("ascii", "replace"))
                    if device is not None and device != client and client_of(device) == client:
                        capabilities[device] = self._document(each, room)
        receipts = self._receipts(commit.tree, room)
        return PushedReport(name, commit.committed_at, statuses, capabilities, receipts)

    def _receipts(self, tree: str, room: list[int]) -> bytes | None:
        folders = [each for each in self._entries(tree) if (each.name, each.mode) == (b"receipts", FOLDER_MODE)]
        files = [each for folder in folders for each in self._entries(folder.id) if each.name == _LATEST]
        return self._document(files[0], room) if files else None

    def _entries(self, tree: str) -> tuple[TreeEntry, ...]:
        entries = tree_entries(tree, self._objects.read(tree, TREE, _MAX_DOCUMENT))
        if len(entries) > _MAX_ENTRIES:
            raise bad_object(tree, f"it has {len(entries)} entries, {_MAX_ENTRIES} are possible")
        if len({each.name for each in entries}) < len(entries):
            raise bad_object(tree, "it has a name twice")  # one small folder, a thousand times, is a million documents
        return entries

    def _document(self, entry: TreeEntry, room: list[int]) -> bytes:
        if entry.mode != FILE_MODE:
            raise bad_object(entry.id, "it is not a plain file")
        content = self._objects.read(entry.id, BLOB, _MAX_DOCUMENT)
        room[0] -= len(content)
        if room[0] < 0:
            raise bad_object(entry.id, f"the documents have more than {_MAX_TOTAL} bytes in all")
        return content


def _decoded(name: str) -> str | None:
    try:
        return decode_device_id(name)
    except ValueError:
        return None
