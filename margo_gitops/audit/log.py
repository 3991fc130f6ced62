"""The state repo's history in words of deployments: which devices a fleet commit changed, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from margo_gitops.audit.trace.adoption import adopted_at, adoptions
from margo_gitops.audit.verify.rendered_trees import manifest_version
from margo_gitops.documents.declarations import About
from margo_gitops.documents.deployment import ApplicationDeployment, fleet_device
from margo_gitops.documents.device_id import client_of, encode_device_id
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.state_layout import DEPLOYMENTS_FOLDER, FLEET_REF
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.state_repo.objects import DevicePlace, DeviceTree, StateObjects
from margo_gitops.state_repo.state_repo import device_of
from margo_gitops.trust.git_commit import GitCommit
from margo_gitops.trust.git_objects import BLOB
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, field
from margo_gitops.wording import counted

Change = Literal["added", "changed", "removed"]


@dataclass(frozen=True, slots=True)
class DeploymentEntry:
    """A deployment that a commit brought to a device, took away or changed."""

    name: Annotated[str, About("As in the fleet repo.")]
    device: Annotated[str, About("The device; for a gateway's child, the child.")]
    change: Annotated[Change, About("What happened to it.")]


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """A device that a commit changed."""

    device: Annotated[str, About("The client: it has a branch.")]
    change: Annotated[
        Literal["added", "changed", "moved", "left", "returned"],
        About("`moved`: to another site; `left` and `returned`: the fleet."),
    ]
    version: Annotated[int | None, About("Its manifestVersion from here on; null where it did not change.")]
    adopted: Annotated[
        str | None,
        About("When its reports first named this version or a later one, RFC 3339; null where none did."),
    ]
    deployments: tuple[DeploymentEntry, ...]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One commit of the branch `fleet`."""

    commit: Annotated[str, About("Its id.")]
    fleet_commit: Annotated[str, About("The commit of the fleet repo that was rendered.")]
    author: Annotated[str, About("Of the fleet commit.")]
    date: Annotated[str, About("Of the fleet commit, RFC 3339.")]
    subject: Annotated[str, About("First line of the fleet commit's message.")]
    devices: tuple[DeviceEntry, ...]


@dataclass(slots=True)
class HistoryLog:
    """Reads a history; what was read of a document is kept."""

    objects: StateObjects
    _names: dict[str, tuple[str, str]] = field(default_factory=dict)
    _adoptions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def entries(self, device: str | None = None, deployment: str | None = None) -> Iterator[LogEntry]:
        """Yield the history, newest first.

        Args:
            device: only what concerns this device; None: all.
            deployment: only what concerns this deployment; None: all.

        Raises:
            StateTampered: an object is missing or not one that a renderer wrote; `audit verify` says more.
        """
        refs = self.objects.refs()
        self._adoptions = adoptions(self.objects, refs, client_of(device) if device is not None else None)
        name, ends = refs.get(FLEET_REF), self.objects.boundary()
        while name is not None:
            if name in ends:
                return  # what this commit changed is in the archive
            commit = self.objects.commit(name)
            parent = commit.parents[0] if commit.parents else None
            devices = tuple(self._devices(commit, parent, device, deployment))
            if devices or (device is None and deployment is None):
                yield _entry(name, commit, devices)
            name = parent

    def _devices(
        self, commit: GitCommit, parent: str | None, device: str | None, deployment: str | None
    ) -> Iterator[DeviceEntry]:
        before = self.objects.places(self.objects.commit(parent).tree) if parent else {}
        after = self.objects.places(commit.tree)
        only = encode_device_id(client_of(device)) if device is not None else None
        for encoded in sorted({*before, *after}, key=device_of):
            if before.get(encoded) == after.get(encoded) or only not in (None, encoded):
                continue
            entry = self._device(encoded, before, after)
            if deployment is None or any(each.name == deployment for each in entry.deployments):
                yield entry

    def _device(self, encoded: str, before: Mapping[str, DevicePlace], after: Mapping[str, DevicePlace]) -> DeviceEntry:
        was, now = before.get(encoded), after.get(encoded)
        changed = now is not None and (was is None or was.tree != now.tree)
        version = manifest_version(DeviceTree(self.objects, now.tree).manifest) if now and changed else None
        old, new = (DeviceTree(self.objects, place.tree).files if place and changed else {} for place in (was, now))
        deployments = []
        for path in {*old, *new}:
            if path.startswith(f"{DEPLOYMENTS_FOLDER}/") and old.get(path) != new.get(path):
                change: Change = "added" if path not in old else "removed" if path not in new else "changed"
                name, device = self._named(new.get(path) or old[path], path)
                deployments.append(DeploymentEntry(name, device, change))
        deployments.sort(key=lambda each: (each.name, each.device))
        client = device_of(encoded)
        adopted = adopted_at(self._adoptions.get(client, []), version)
        return DeviceEntry(client, _change(was, now), version, adopted, tuple(deployments))

    def _named(self, blob: str, path: str) -> tuple[str, str]:
        if blob not in self._names:
            self._names[blob] = names_of(read_deployment(self.objects.read(blob, BLOB), path), path)
        return self._names[blob]


def read_deployment(content: bytes, path: str) -> ApplicationDeployment | None:
    """Return a deployment document; None where it is something else."""
    try:
        return read_as(ApplicationDeployment, read_source(content, path))
    except (UnreadableDocument, InvalidDocument):
        return None


def names_of(document: ApplicationDeployment | None, path: str) -> tuple[str, str]:
    """Return a deployment's name and device; its file where it is something else."""
    return (document.metadata.name, fleet_device(document)) if document else (path, "")


def _change(
    was: DevicePlace | None, now: DevicePlace | None
) -> Literal["added", "changed", "moved", "left", "returned"]:
    if was is None:
        return "added"
    if now is None or (now.left and not was.left):
        return "left"
    if was.left and not now.left:
        return "returned"
    return "changed" if was.tree != now.tree else "moved"


def _entry(name: str, commit: GitCommit, devices: tuple[DeviceEntry, ...]) -> LogEntry:
    return LogEntry(
        commit=name,
        fleet_commit=StateCommit.of(commit).fleet_commit or "",
        author=str(commit.author),
        date=commit.author.date,
        subject=commit.message.partition("\n")[0].removeprefix("Render "),
        devices=devices,
    )


_SHOWN = 20


def log_lines(entries: Iterable[LogEntry]) -> Iterator[str]:
    """Yield a history."""
    for entry in entries:
        yield f"{entry.fleet_commit[:12]}  {entry.date}  {entry.author}"
        yield f"  {entry.subject}"
        for device in entry.devices[:_SHOWN]:
            yield from _device_lines(device)
        if len(entry.devices) > _SHOWN:
            yield f"  and {counted(len(entry.devices) - _SHOWN, 'more device')}"


def _device_lines(entry: DeviceEntry) -> Iterator[str]:
    what = "" if entry.change == "changed" else f"  {entry.change}"
    version = f"  manifest {entry.version}" if entry.version is not None else ""
    adopted = f"  adopted {utc(entry.adopted)}" if entry.adopted is not None else ""
    yield f"  {entry.device}{version}{what}{adopted}"
    for each in entry.deployments:
        child = f" on {each.device}" if each.device not in ("", entry.device) else ""
        yield f"    {each.change:<7}  {each.name}{child}"


def utc(moment: str) -> str:
    """Return a time in UTC as people write it, with a Z."""
    return moment.replace("+00:00", "Z")
