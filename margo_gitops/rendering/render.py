"""Render: intent and previous state to exact bytes for every device. Pure: the same input gives the same bytes.

`affected` says which devices a change of the intent can concern, so that only these are rendered again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from margo_gitops.documents.deployment import ApplicationDeployment, DeployedParameter
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import FleetSpec
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.trust_document import FloorChange
from margo_gitops.documents.yaml_text import FilledForm
from margo_gitops.errors import (
    InvalidDocument,
    MargoGitopsError,
    NotPlaceable,
    ReferenceUnknown,
    RenderingRefused,
    StateTampered,
    UnreadableDocument,
)
from margo_gitops.progress import steps
from margo_gitops.rendering.desired_state import DesiredState, Documents, PreviousState, desired_state
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.rendering.placement import nearest, select, targets
from margo_gitops.rendering.references import broken_references
from margo_gitops.rendering.resolution import (
    Placement,
    Resolved,
    application_deployment,
    choose,
    deployment_id,
    resolve,
)
from margo_gitops.rendering.skeletons import Skeletons
from margo_gitops.values import replace

PlacementsByDevice = Mapping[str, Mapping[str, Placement]]
"""Placements by device id, then by the deployment's name; every device is there."""


def place(intent: Intent) -> PlacementsByDevice:
    """Return where every deployment goes.

    Raises:
        RenderingRefused: with everything that cannot be placed, and every reference that leads nowhere.
    """
    errors = list(broken_references(intent))
    if not errors:
        placements, errors = find_placements(intent)
        if not errors:
            return placements
    raise RenderingRefused("the fleet cannot be rendered", errors)


def find_placements(intent: Intent) -> tuple[PlacementsByDevice, list[MargoGitopsError]]:
    """Return where deployments go as far as they can be placed, and everything that cannot.

    Args:
        intent: the fleet; every deployment's application is there. Of a part, a deployment may select no device.
    """
    fleet = targets(intent)
    placements: dict[str, dict[str, Placement]] = {device: {} for device in fleet}
    errors: list[MargoGitopsError] = []
    for name in sorted(intent.deployments):
        deployment = intent.deployments[name]
        wanted = deployment.value.spec.application
        application = intent.applications[wanted.id, wanted.version]
        chosen = list(select(deployment.value.spec.placement, fleet))
        if not chosen and intent.clients is None:
            errors.append(
                NotPlaceable(
                    f"deployment {name} selects no device",
                    where=deployment.at("spec", "placement"),
                    why=tuple(nearest(deployment.value.spec.placement, fleet)),
                    remedy="correct spec.placement, or remove the deployment",
                )
            )
        for target in chosen:
            try:
                profile = choose(deployment, application, target)
            except MargoGitopsError as error:
                errors.append(error)
            else:
                placements[target.id][name] = Placement(deployment, application, profile, target)
    errors += _cycles(intent)
    return placements, errors


def _cycles(intent: Intent) -> Iterator[MargoGitopsError]:
    graph = {name: list(deployment.value.spec.after) for name, deployment in intent.deployments.items()}
    for name, deployment in intent.deployments.items():
        for stopped in deployment.value.spec.stop:
            graph.get(stopped, []).append(name)  # it is updated after the one that stops it
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        yield ReferenceUnknown(
            f"deployments wait for each other: {' after '.join(cycle)}",
            where=intent.deployments[cycle[0]].at("spec", "after"),
            remedy="remove one of these from spec.after, or from spec.stop of the other",
        )


def render(
    intent: Intent,
    previous: Callable[[str], PreviousState | None],
    only: Collection[str] | None = None,
    placements: PlacementsByDevice | None = None,
) -> tuple[DesiredState, ...]:
    """Return the desired state of every device that pulls, sorted by id.

    Args:
        previous: the state of a device as rendered before; None for a device that never had one.
        only: the devices to render; None: all.
        placements: what `place` returned for this fleet, where it is known; None: it is found.

    Raises:
        RenderingRefused: with every reason; nothing is rendered.
        StateTampered: the previous state cannot be read.
    """
    placements = place(intent) if placements is None else placements
    skeletons = Skeletons(intent)
    states: list[DesiredState] = []
    errors: list[MargoGitopsError] = []
    for client, devices in steps("rendering devices", by_client(intent).items()):
        if only is not None and client not in only:
            continue
        before = previous(client)
        documents: dict[str, bytes | FilledForm] = {}
        for device in devices:
            for name in placements[device]:
                identity = deployment_id(intent.fleet.value.metadata.name, device, name)
                try:
                    documents[identity], found = _document(intent, placements[device], name, before, skeletons)
                    errors += found
                except MargoGitopsError as error:
                    errors.append(error)
        if not errors:
            site = intent.devices[client].value.spec.site
            states.append(desired_state(client, site, Documents(documents), before, intent.lowest_version(client)))
    if errors:
        raise RenderingRefused("the fleet cannot be rendered", errors)
    return tuple(states)


def by_client(intent: Intent) -> dict[str, list[str]]:
    """Return each device that pulls with its children, sorted."""
    clients: dict[str, list[str]] = {}
    for device in sorted(intent.devices):
        clients.setdefault(client_of(device), []).append(device)
    return dict(sorted(clients.items()))


def _document(
    intent: Intent, placements: Mapping[str, Placement], name: str, before: PreviousState | None, skeletons: Skeletons
) -> tuple[bytes | FilledForm, list[MargoGitopsError]]:
    """Return a deployment's document, and everything wrong with its parameters."""
    placement = placements[name]
    installed = installed_parameters(intent, placement, before)
    content = skeletons.filled(placements, name) if installed is None else None
    if content is not None:
        return content, []
    resolved, errors = resolve(intent, placement, installed)
    document = document_of(intent, resolved, placements)
    return b"" if errors else skeletons.written(placements, resolved, document), errors


def document_of(intent: Intent, resolved: Resolved, placements: Mapping[str, Placement]) -> ApplicationDeployment:
    """Return the document of a resolved deployment.

    Args:
        placements: all deployments of the same device, by name.

    Raises:
        ReferenceUnknown: devices could not find the application's content.
    """
    fleet = intent.fleet.value.metadata.name
    spec = resolved.deployment.value.spec
    first, stopped = (
        [deployment_id(fleet, resolved.target.id, other) for other in named if other in placements]
        for named in (spec.after, spec.stop)
    )
    return application_deployment(resolved, intent, first, stopped)


def resolve_placement(
    intent: Intent, placement: Placement, before: PreviousState | None
) -> tuple[Resolved, list[MargoGitopsError]]:
    """Return a placement with its parameters, and everything wrong with them."""
    installed = installed_parameters(intent, placement, before)
    return resolve(intent, placement, installed)


def installed_parameters(
    intent: Intent, placement: Placement, before: PreviousState | None
) -> Mapping[str, DeployedParameter] | None:
    """Return the parameters rendered before, if the application has settings that may not change."""
    configuration = placement.application.description.value.configuration
    sections = configuration.sections if configuration else ()
    if before is None or not any(setting.immutable for section in sections for setting in section.settings):
        return None
    name = placement.deployment.value.metadata.name
    identity = deployment_id(intent.fleet.value.metadata.name, placement.target.id, name)
    content = before.deployment(identity)
    if content is None:
        return None
    try:
        return read_as(ApplicationDeployment, read_source(content, f"{identity}.yaml")).spec.parameters
    except (UnreadableDocument, InvalidDocument) as error:
        raise StateTampered(f"the state repo's deployment {identity} cannot be read", why=[str(error)]) from error


T = TypeVar("T")


def affected(
    before: Intent, placed_before: PlacementsByDevice, after: Intent, placed_after: PlacementsByDevice
) -> frozenset[str] | None:
    """Return the clients whose state may differ between two intents that both render; None for any.

    A device's state follows from its own document, its site's, those of the deployments placed on it, and what all
    devices share: the fleet's document and the applications.
    """
    if shared_by_all(before) != shared_by_all(after) or _digests(before) != _digests(after):
        return None
    devices = _changed(before.devices, after.devices)
    sites = _changed(before.sites, after.sites)
    deployments = _changed(before.deployments, after.deployments)
    for intent, placed in ((before, placed_before), (after, placed_after)):
        if sites:
            devices |= {name for name, each in intent.devices.items() if each.value.spec.site in sites}
        if deployments:
            devices |= {name for name, placements in placed.items() if not deployments.isdisjoint(placements)}
    for name in placed_before.keys() | placed_after.keys():
        # Labels of a device or a site can place a deployment whose document did not change.
        if placed_before.get(name, {}).keys() != placed_after.get(name, {}).keys():
            devices.add(name)
    return frozenset(map(client_of, devices))


def shared_by_all(intent: Intent) -> tuple[str, FleetSpec, tuple[FloorChange, ...]]:
    """Return what is said to all devices: the policy says who may change them, not what they get."""
    fleet = intent.fleet.value
    return fleet.metadata.name, replace(fleet.spec, policy=None), intent.floors


def _digests(intent: Intent) -> dict[tuple[str, str], str]:
    return {key: application.digest for key, application in intent.applications.items()}


def _changed(before: Mapping[str, Located[T]], after: Mapping[str, Located[T]]) -> set[str]:
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or before[name].content != after[name].content
    }
