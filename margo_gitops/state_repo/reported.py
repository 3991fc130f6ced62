"""What devices reported, read from `refs/heads/reports`: as it is at a commit, and how it came to be.

The branch is written by the server alone, from validated documents; anyone who can write to the repository could write
anything, so content is read with bounds and what is not a report is left out here, and named by `audit verify`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, cast, get_args

from margo_gitops.documents.device_id import decode_device_id, encode_device_id
from margo_gitops.documents.freshness import MOMENT_PATTERN
from margo_gitops.documents.state_layout import REPORTS_REF
from margo_gitops.documents.status import State
from margo_gitops.state_repo.git_store import bad_object, first_parents
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.report_branch import LATEST, ReportKey, ReportKind, bucket_of
from margo_gitops.trust.git_objects import BLOB, COMMIT, FOLDER_MODE, TreeEntry
from margo_gitops.values import dataclass

_STATES: Final = frozenset(get_args(State))
_MAX_REPORT: Final = 1024 * 1024
_MAX_MESSAGE: Final = 2000
_HEADER: Final = re.compile(
    rb"(?:parent (?P<parent>[0-9a-f]{40})|committer [^\n]*> (?P<time>[0-9]{1,12}) [+-][0-9]{4})\n"
)
_SENDER: Final = re.compile(r"Reported-By: (?P<client>[^\s()]+) \((?P<evidence>.*)\)")
_SUFFIX: Final = ".json"
_MOMENT: Final = re.compile(MOMENT_PATTERN[1:-1])


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """What a device says of one deployment.

    Attributes:
        deployment_id: in lower case.
        adopted: the manifest version whose revision the device has begun to apply; None where it does not say.
        device: the child of a gateway that it is about; None for the client itself.
        error: its message, with the source in front; empty for none.
    """

    deployment_id: str
    state: State
    adopted: int | None
    device: str | None
    error: str


@dataclass(frozen=True, slots=True)
class ReportCommit:
    """One commit of the branch.

    Attributes:
        id: of the commit.
        tree: id of its tree.
        parents: ids.
        time: when the server wrote it, seconds since the epoch.
        senders: the evidence of identity by client, as the trailers `Reported-By` have it.
    """

    id: str
    tree: str
    parents: tuple[str, ...]
    time: int
    senders: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ReportChange:
    """A report that a commit brought, changed or removed.

    Attributes:
        path: in the branch.
        key: what it is about; None for a path that no server writes.
        before, after: ids of the blobs; None for one that does not exist.
    """

    path: str
    key: ReportKey | None
    before: str | None
    after: str | None


class Reports:
    """The branch of reports of a state repo, read only.

    Every method that reads an object raises StateTampered where it is missing, or is not what its place says.
    """

    def __init__(self, objects: StateObjects) -> None:
        self._objects = objects
        self._commits: dict[str, ReportCommit] = {}

    def tip(self, refs: Mapping[str, str]) -> str | None:
        """Return the branch's newest commit; None where nothing was ever reported."""
        return refs.get(REPORTS_REF)

    def commit(self, name: str) -> ReportCommit:
        """Return a commit."""
        found = self._commits.get(name)
        if found is None:
            found = self._commits[name] = _commit(name, self._objects.read(name, COMMIT))
        return found

    def history(self, tip: str) -> Iterator[ReportCommit]:
        """Yield the branch's commits, newest first, by first parents."""
        ends = self._objects.boundary()
        yield from map(self.commit, first_parents(tip, lambda name: next(iter(self.commit(name).parents), None), ends))

    def clients(self, tree: str) -> Iterator[tuple[str, str]]:
        """Yield every client that reported, with the id of its folder's tree."""
        for bucket in self._objects.tree(tree):
            if bucket.mode == FOLDER_MODE:
                for entry in self._objects.tree(bucket.id):
                    client = _decoded(entry.name)
                    if client is not None and entry.mode == FOLDER_MODE:
                        yield client, entry.id

    def client(self, tree: str, client: str) -> str | None:
        """Return the id of the tree of a client's folder; None where it reported nothing."""
        encoded = encode_device_id(client)
        bucket = self._child(tree, bucket_of(client))
        return self._child(bucket, encoded) if bucket else None

    def statuses(self, folder: str) -> dict[str, ReportedStatus]:
        """Return the statuses in a client's folder, by deployment id.

        Args:
            folder: id of its tree.
        """
        found = {}
        for entry in self._files(folder, "status"):
            status = read_status(self._objects.read(entry.id, BLOB))
            if status is not None:
                found[status.deployment_id] = status
        return found

    def capabilities(self, folder: str) -> dict[str, bytes]:
        """Return the capabilities documents in a client's folder, by device id, as they were reported.

        Args:
            folder: id of its tree.
        """
        found = {}
        for entry in self._files(folder, "capabilities"):
            device = _decoded(entry.name.removesuffix(_SUFFIX.encode()))
            if device is not None:
                found[device] = self._objects.read(entry.id, BLOB)
        return found

    def copied(self, folder: str) -> str | None:
        """Return when the server noticed that there are two of a client; None: it did not.

        Args:
            folder: id of its tree.
        """
        return next((read_copied(self._objects.read(each.id, BLOB)) for each in self._files(folder, "identity")), None)

    def _files(self, folder: str, name: str) -> Iterator[TreeEntry]:
        """Yield the files in a folder of a client's folder."""
        below = self._child(folder, name)
        return (entry for entry in (self._objects.tree(below) if below else ()) if entry.mode != FOLDER_MODE)

    def changes(self, commit: ReportCommit) -> list[ReportChange]:
        """Return what a commit changed, against its first parent; only folders that differ are read.

        Where history ends at a checkpoint, all that was reported before counts as reported with its first commit.
        """
        ends = not commit.parents or commit.id in self._objects.boundary()
        before = None if ends else self.commit(commit.parents[0]).tree
        return [
            ReportChange(path, key_of(path), was, now) for path, was, now in self._differing(before, commit.tree, "", 0)
        ]

    def status(self, blob: str) -> ReportedStatus | None:
        """Return the status in a blob; None where it is something else."""
        return read_status(self._objects.read(blob, BLOB))

    def _child(self, tree: str, name: str) -> str | None:
        encoded = name.encode()
        return next(
            (entry.id for entry in self._objects.tree(tree) if entry.name == encoded and entry.mode == FOLDER_MODE),
            None,
        )

    def _differing(
        self, before: str | None, after: str | None, prefix: str, depth: int
    ) -> Iterator[tuple[str, str | None, str | None]]:
        old = {(each.name, each.mode): each.id for each in self._objects.tree(before)} if before else {}
        new = {(each.name, each.mode): each.id for each in self._objects.tree(after)} if after else {}
        for name, mode in sorted({*old, *new}):
            was, now = old.get((name, mode)), new.get((name, mode))
            if was == now:
                continue
            path = prefix + name.decode("utf-8", "backslashreplace")
            # The server writes four levels; a deeper folder is one path, and is not read.
            if mode == FOLDER_MODE and depth < _LEVELS:
                yield from self._differing(was, now, f"{path}/", depth + 1)
            else:
                yield path, was, now


_LEVELS: Final = 3


def key_of(path: str) -> ReportKey | None:
    """Return what a path in the branch is about; None where no server writes such a path."""
    parts = path.split("/")
    if len(parts) != 4 or parts[2] not in get_args(ReportKind) or not parts[3].endswith(_SUFFIX):
        return None
    client = _decoded(parts[1].encode())
    name = parts[3].removesuffix(_SUFFIX)
    kind = cast("ReportKind", parts[2])
    about = _decoded(name.encode()) if kind == "capabilities" else name
    if client is None or about is None or (kind in ("receipts", "carried") and name != LATEST):
        return None
    key = ReportKey(client, kind, about)
    return key if "/".join(key.path) == path else None


def read_copied(content: bytes) -> str | None:
    """Return when a copy was noticed, as a server wrote it; None where the document is something else."""
    document = _json(content)
    noticed = document.get("noticed") if isinstance(document, dict) else None
    return noticed if isinstance(noticed, str) and _MOMENT.fullmatch(noticed) else None


def read_taken(content: bytes) -> bool:
    """Return whether a document is what is remembered of reports that were carried home."""
    document = _json(content)
    return isinstance(document, dict) and isinstance(document.get("number"), int)


def read_status(content: bytes) -> ReportedStatus | None:
    """Return the status in a document that a server wrote; None where it is something else."""
    document = _json(content)
    if not isinstance(document, dict):
        return None
    overall = document.get("status")
    identifier, adopted, device = (
        document.get(name) for name in ("deploymentId", "adoptedManifestVersion", "deviceId")
    )
    state = overall.get("state") if isinstance(overall, dict) else None
    if not isinstance(identifier, str) or not isinstance(state, str) or state not in _STATES:
        return None
    return ReportedStatus(
        deployment_id=identifier.lower(),
        state=cast("State", state),
        adopted=adopted if isinstance(adopted, int) and not isinstance(adopted, bool) and adopted > 0 else None,
        device=device if isinstance(device, str) and device else None,
        error=_error(document, overall),
    )


def _error(document: dict[str, object], overall: object) -> str:
    components = document.get("components")
    for each in [overall, *(components if isinstance(components, list) else [])]:
        error = each.get("error") if isinstance(each, dict) else None
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            source = error.get("source")
            text = f"{source}: {error['message']}" if isinstance(source, str) and source else error["message"]
            return str(text)[:_MAX_MESSAGE]
    return ""


def _json(content: bytes) -> object:
    if len(content) > _MAX_REPORT:
        return None
    try:
        return cast("object", json.loads(content))
    except (ValueError, RecursionError):
        return None


def _decoded(name: bytes) -> str | None:
    try:
        return decode_device_id(name.decode("ascii"))
    except ValueError:
        return None


def _commit(name: str, raw: bytes) -> ReportCommit:
    head, blank, body = raw.partition(b"\n\n")
    head += b"\n"
    if not blank or not head.startswith(b"tree "):
        raise bad_object(name, "it is not a commit that a server writes")
    parents, time = [], 0
    for match in _HEADER.finditer(head):
        if match["parent"]:
            parents.append(match["parent"].decode())
        else:
            time = int(match["time"])
    senders: dict[str, tuple[str, ...]] = {}
    for line in body.decode("utf-8", "replace").rpartition("\n\n")[2].splitlines():
        sender = _SENDER.fullmatch(line)
        if sender:
            senders[sender["client"]] = (*senders.get(sender["client"], ()), sender["evidence"])
    return ReportCommit(name, head[5:45].decode("ascii", "replace"), tuple(parents), time, senders)
