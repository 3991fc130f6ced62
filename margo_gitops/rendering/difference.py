"""The difference between a fleet's state and the one that a render makes of an intent. Pure.

It starts from the bytes that `render` returned, so a plan names exactly what a render changes; the intent is asked only
where a new value comes from.

PLAN-1  A device is named if and only if its bytes, its site, or its being in the fleet change.
PLAN-2  A deployment is named if and only if its document's bytes change.
PLAN-3  A workload restarts if and only if its digest changes (margo_gitops/documents/workload_identity.py): the same
        function decides on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.deployment import OWN_EXTENSION, ApplicationDeployment, fleet_device
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import StateManifest
from margo_gitops.documents.nodes import Json, exact
from margo_gitops.documents.records import read_ours, write
from margo_gitops.documents.state_layout import MANIFEST_FILE
from margo_gitops.documents.workload_identity import own_extension, workload_contents
from margo_gitops.errors import DeploymentUnusable, InvalidDocument, StateTampered, UnreadableDocument
from margo_gitops.rendering.changes import (
    NOTHING_KNOWN,
    NOTHING_TO_DOWNLOAD,
    ChangeKind,
    ContentFacts,
    DeploymentChange,
    DeviceChange,
    Download,
    Effect,
    FieldChange,
    ParameterChange,
    ValueOrigin,
    WorkloadChange,
    download,
    needed,
)
from margo_gitops.rendering.desired_state import DesiredState, PreviousState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.parameters import Effective
from margo_gitops.rendering.render import PlacementsByDevice, by_client, place, resolve_placement
from margo_gitops.rendering.resolution import Placement, deployment_id
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class FleetState:
    """What a fleet's devices have before a render.

    Attributes:
        sites: the site of every device that is in the fleet, by id; None for none.
        previous: the state of a device, also of one that left the fleet; None for a device that never had one.
        kept: how many other devices are in the fleet, of which it is known that nothing changes.
    """

    sites: Mapping[str, str | None]
    previous: Callable[[str], PreviousState | None]
    kept: int = 0


@dataclass(frozen=True, slots=True)
class RenderedState:
    """A rendered state as the one before the next render."""

    state: DesiredState

    @property
    def manifest(self) -> bytes:
        """Bytes of the manifest."""
        return self.state.manifest

    def deployment(self, deployment_id: str) -> bytes | None:
        """Return a deployment document's bytes; None if this id does not exist."""
        return self.state.deployments.get(deployment_id)


def rendered_fleet(states: Iterable[DesiredState]) -> FleetState:
    """Return rendered states as what is there before the next render."""
    held = {state.device: RenderedState(state) for state in states}
    return FleetState({name: each.state.site for name, each in held.items()}, held.get)


def difference(
    before: FleetState, states: Sequence[DesiredState], intent: Intent, facts: ContentFacts = NOTHING_KNOWN
) -> Iterator[DeviceChange]:
    """Yield what changes, sorted by device.

    Args:
        states: what `render` made of the intent after `before.previous`.
        facts: sizes of content, for what devices download.

    Raises:
        StateTampered: what is there cannot be read.
    """
    origins = _Origins(intent)
    gone = sorted(before.sites.keys() - {state.device for state in states}, reverse=True)
    for state in states:
        while gone and gone[-1] < state.device:
            yield _leaving(gone.pop(), before)
        joined = state.device not in before.sites
        site_before = before.sites.get(state.device)
        if joined or state.changed or site_before != state.site:
            held = before.previous(state.device)
            pairs = list(_pairs(state, held)) if state.changed else []
            yield DeviceChange(
                device=state.device,
                site=state.site,
                site_before=site_before,
                change="added" if joined else "changed",
                version_before=_manifest(state.device, held).manifest_version if held else None,
                version_after=state.version,
                deployments=tuple(_deployments(state, pairs, origins)),
                download=_download(state.device, held, pairs, facts),
            )
    while gone:
        yield _leaving(gone.pop(), before)


def _leaving(device: str, before: FleetState) -> DeviceChange:
    held = before.previous(device)
    version = _manifest(device, held).manifest_version if held else None
    site = before.sites[device]
    return DeviceChange(device, site, site, "removed", version, None, (), NOTHING_TO_DOWNLOAD)


def _manifest(device: str, held: PreviousState) -> StateManifest:
    return _read_manifest(device, held.manifest)


@lru_cache(maxsize=16_384)  # a watch compares with the same state again and again
def _read_manifest(device: str, content: bytes) -> StateManifest:
    try:
        return read_ours(StateManifest, content, MANIFEST_FILE)
    except (UnreadableDocument, InvalidDocument) as error:
        raise StateTampered(f"the manifest of {device} cannot be read", device=device, why=[str(error)]) from error


@lru_cache(maxsize=16_384)
def deployment_document(identity: str, content: bytes, device: str) -> ApplicationDeployment:
    """Return a rendered deployment document (StateTampered: it cannot be read)."""
    try:
        return read_as(ApplicationDeployment, read_source(content, f"{identity}.yaml"))
    except (UnreadableDocument, InvalidDocument) as error:
        raise StateTampered(f"the deployment {identity} cannot be read", device=device, why=[str(error)]) from error


@dataclass(frozen=True, slots=True)
class _Pair:
    """A deployment document as it was and as it will be; None where it was not, or will not be."""

    identity: str
    before: ApplicationDeployment | None
    after: ApplicationDeployment | None


def _pairs(state: DesiredState, held: PreviousState | None) -> Iterator[_Pair]:
    """Yield the documents that differ."""
    device = state.device
    names = _names(device, held)
    for identity in dict.fromkeys([*names, *state.deployments]):
        old = held.deployment(identity) if held and identity in names else None
        new = state.deployments.get(identity)
        if old != new:
            before = deployment_document(identity, old, device) if old is not None else None
            after = deployment_document(identity, new, device) if new is not None else None
            yield _Pair(identity, before, after)


def _names(device: str, held: PreviousState | None) -> list[str]:
    return [reference.deployment_id for reference in _manifest(device, held).deployments] if held else []


def _deployments(state: DesiredState, pairs: Iterable[_Pair], origins: _Origins) -> list[DeploymentChange]:
    found = [
        _deployment(each.identity, each.before, each.after, origins.of(state.device, each.identity)) for each in pairs
    ]
    return sorted(found, key=lambda each: (each.device, each.deployment))


def _download(device: str, held: PreviousState | None, pairs: Sequence[_Pair], facts: ContentFacts) -> Download:
    wanted = needed((each.after for each in pairs if each.after), facts)
    fetched = wanted.without(needed((each.before for each in pairs if each.before), facts))
    if held is not None and not fetched.empty:
        # Only now the documents that stay are read: most changes need nothing new.
        stays = set(_names(device, held)) - {each.identity for each in pairs}
        contents = ((name, held.deployment(name)) for name in sorted(stays))
        kept = (deployment_document(name, content, device) for name, content in contents if content is not None)
        fetched = fetched.without(needed(kept, facts))
    return download(fetched, facts) if not fetched.empty else NOTHING_TO_DOWNLOAD


def _deployment(
    identity: str,
    before: ApplicationDeployment | None,
    after: ApplicationDeployment | None,
    origins: Mapping[str, ValueOrigin],
) -> DeploymentChange:
    shown = after or before
    if shown is None:
        raise ValueError("a change has a document before or after it")
    change: ChangeKind = "changed" if before and after else "added" if after else "removed"
    fields = _changes(_fields(before), _fields(after))
    if change != "changed":
        # Of a deployment that comes or goes, people want to know what it is, not every field of its document.
        fields = [each for each in fields if each[0] in _TELLING]
    parameters = _changes(_values(before), _values(after))
    return DeploymentChange(
        id=identity,
        device=fleet_device(shown),
        deployment=shown.metadata.name,
        change=change,
        fields=tuple(FieldChange(*each) for each in fields),
        parameters=tuple(
            ParameterChange(name, old, new, origins.get(name) if new is not None else None)
            for name, old, new in parameters
        ),
        workloads=tuple(_workloads(before, after)),
    )


_TELLING = ("application.id", "application.version", "profile.id", "profile.type")

_Leaves = Mapping[str, ParameterValue]


def _changes(before: _Leaves, after: _Leaves) -> list[tuple[str, ParameterValue | None, ParameterValue | None]]:
    return [
        (name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if exact(before.get(name)) != exact(after.get(name))
    ]


def _values(document: ApplicationDeployment | None) -> _Leaves:
    return {name: each.value for name, each in document.spec.parameters.items()} if document else {}


def _fields(document: ApplicationDeployment | None) -> _Leaves:
    """Return everything of a document but parameter values, by the name that people read."""
    if document is None:
        return {}
    spec = document.spec
    plain = write(document)
    written = plain["spec"]
    metadata = plain["metadata"]
    if not isinstance(written, dict) or not isinstance(metadata, dict):
        raise TypeError("a deployment document is a mapping of mappings")
    own = spec.extensions.get(OWN_EXTENSION, {})
    own = dict(own) if isinstance(own, dict) else {}
    if isinstance(secrets := own.get("secrets"), list):
        own["secrets"] = [_unsealed(each) for each in secrets]
    profile = written["deploymentProfile"]
    arranged: dict[str, Json] = {
        **{key: value for key, value in plain.items() if key not in ("id", "spec", "metadata")},
        **{f"metadata.{key}": value for key, value in metadata.items()},
        "application": {"id": spec.application_id, "version": own.pop("applicationVersion", None)},
        "profile": {"id": own.pop("profile", None), **(profile if isinstance(profile, dict) else {})},
        "targets": {
            name: [f"{target.pointer} of {', '.join(target.components)}" for target in each.targets]
            for name, each in spec.parameters.items()
        },
        **own,
        **{key: value for key, value in spec.extensions.items() if key != OWN_EXTENSION},
    }
    return dict(_leaves("", arranged))


def _unsealed(secret: Json) -> Json:
    """Return a secret with what people can compare in place of the encrypted value."""
    if not isinstance(secret, dict) or not isinstance(sealed := secret.get("sealed"), str):
        return secret
    return {**secret, "sealed": f"encrypted, sha256 {sha256(sealed.encode())[7:19]}"}


def _leaves(path: str, value: Json) -> Iterator[tuple[str, ParameterValue]]:
    """Yield the scalars, and lists of scalars, of a plain value by dotted path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, child)
    elif isinstance(value, list):
        scalars = tuple(child for child in value if isinstance(child, (str, int, float, bool)))
        if len(scalars) == len(value):
            yield path, scalars
            return
        for index, child in enumerate(value):
            name = (child.get("name") or child.get("component")) if isinstance(child, dict) else None
            yield from _leaves(f"{path}.{name if isinstance(name, str) else index}", child)
    elif value is not None:
        yield path, value


def _workloads(before: ApplicationDeployment | None, after: ApplicationDeployment | None) -> Iterator[WorkloadChange]:
    old, new = _running(before), _running(after)
    for component in dict.fromkeys([*new, *old]):
        if old.get(component) != new.get(component):
            effect: Effect = "starts" if component not in old else "stops" if component not in new else "restarts"
            yield WorkloadChange(component, effect)


def _running(document: ApplicationDeployment | None) -> Mapping[str, Digest]:
    """Return the digest by which the agent knows each component (PLAN-3); none where it would refuse the deployment."""
    if document is None:
        return {}
    try:
        contents = workload_contents(document, own_extension(document))
    except DeploymentUnusable:
        return {}
    return {each.component.name: each.digest for each in contents}


class _Origins:
    """Where the new values of a deployment are written; nothing is resolved before it is asked for."""

    def __init__(self, intent: Intent) -> None:
        self._intent = intent
        self._client = ""
        self._placed: dict[str, Placement] = {}

    @cached_property
    def _placements(self) -> PlacementsByDevice:
        return place(self._intent)

    @cached_property
    def _clients(self) -> dict[str, list[str]]:
        return by_client(self._intent)

    def of(self, client: str, identity: str) -> dict[str, ValueOrigin]:
        """Return the origins of a deployment's values, by parameter; empty for one that is no longer placed there."""
        if client != self._client:
            fleet = self._intent.fleet.value.metadata.name
            self._client = client
            self._placed = {
                deployment_id(fleet, device, name): placement
                for device in self._clients.get(client, ())
                for name, placement in self._placements[device].items()
            }
        if identity not in self._placed:
            return {}
        resolved, _ = resolve_placement(self._intent, self._placed[identity], None)
        return {parameter.name: _origin(parameter) for parameter in resolved.parameters}


def _origin(parameter: Effective) -> ValueOrigin:
    where = parameter.location
    return ValueOrigin(parameter.origin.layer.name, where.file, where.line, where.column, parameter.origin.written)
