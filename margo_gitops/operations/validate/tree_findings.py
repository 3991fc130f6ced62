"""What is wrong with the files of a fleet, or of a part of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Final
from zoneinfo import ZoneInfo

from margo_gitops.catalog.compose_images import ServiceImage, pinning_rule, service_images
from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import find_fleet
from margo_gitops.catalog.fleet_part import find_part
from margo_gitops.catalog.fleet_trust import read_chain
from margo_gitops.catalog.package import LOCK_FILE
from margo_gitops.catalog.package_check import fleet_content_findings
from margo_gitops.documents.components import Component
from margo_gitops.errors import Finding, Location, TrustRefused, UnreadableDocument
from margo_gitops.operations.content_sources import Placed, image_name, placed_of
from margo_gitops.operations.policies.policy_history import Span
from margo_gitops.operations.validate.device_policies import refused_by_devices
from margo_gitops.operations.validate.likely_secrets import likely_secrets
from margo_gitops.operations.validate.policy_findings import idle_silences, policy_of_content
from margo_gitops.operations.validate.rule_findings import RuleFinding, of_error, of_finding, of_rule
from margo_gitops.rendering.desired_state import PreviousState
from margo_gitops.rendering.explanation import CheckedDocument, check_intent
from margo_gitops.rendering.intent import Application, Intent
from margo_gitops.rendering.placement import TargetDevice, nearest, selected, targets

Previous = Callable[[str], PreviousState | None]
"""Returns the state of a device as rendered before, for settings that may not change."""


def findings_of_tree(
    tree: RootTree, previous: Previous, span: Span | None, clients: Collection[str] | None = None
) -> list[RuleFinding]:
    """Return what is wrong with a fleet's files (NoFleetRepo: there is no `margo-gitops.yaml`).

    Args:
        span: the change; None: the files are judged by their own policy alone.
        clients: read what these devices need alone; None: all.
    """
    try:
        intent, found = find_fleet(tree) if clients is None else find_part(tree, clients)
    except UnreadableDocument as error:  # folders in folders in folders: nothing was read
        return [of_error(error)]
    return judged(tree, intent, found, previous, span) if intent is not None else list(map(of_finding, found))


def judged(
    tree: RootTree,
    intent: Intent,
    found: Collection[Finding],
    previous: Previous,
    span: Span | None,
    known: Collection[tuple[str, str]] = (),
    unread: frozenset[str] = frozenset(),
) -> list[RuleFinding]:
    """Return what is wrong with a fleet, or with a part of it, and what was found when it was read.

    Args:
        known: the applications whose content is not checked.
        unread: kinds of which there may be more documents that cannot be read.
    """
    told = list(map(of_finding, found))
    checked = check_intent(intent, previous, _unread(found) | unread)
    told += map(of_error, checked.errors)
    for key, application in intent.applications.items():
        if key not in known:
            told += map(of_finding, fleet_content_findings(tree, application))
    told += _of_keys(tree, intent)
    told += _unknown_zones(intent)
    told += likely_secrets(intent)
    every = list(placed_of(checked.documents))
    told += _unpinned(tree, intent, every)
    told += refused_by_devices(tree, intent, every)
    told += policy_of_content(tree, intent, every, span)
    if not checked.errors:
        told += _idle_overlays(intent, checked.documents)
        told += _idle_stops(intent, checked.documents)
    told += idle_silences(intent, told)
    return told


def _of_keys(tree: RootTree, intent: Intent) -> Iterator[RuleFinding]:
    """Yield what is wrong with the fleet's trust documents (fleet_trust, KEYS-1, KEYS-2)."""
    try:
        chain = read_chain(tree, intent.fleet.value.metadata.name)
    except (TrustRefused, UnreadableDocument) as error:
        yield of_error(error)
        return
    if chain is not None and chain.missing is not None:
        yield of_error(chain.missing, "warning" if chain.versions else "error")


def _unknown_zones(intent: Intent) -> Iterator[RuleFinding]:
    """Yield the calendars whose time zone this machine does not know."""
    every = (
        *((each, each.value.spec.maintenance) for each in intent.sites.values()),
        *((each, each.value.spec.maintenance) for each in intent.devices.values()),
        *((each, each.value.spec.maintenance) for each in intent.deployments.values()),
    )
    for document, calendar in every:
        if calendar is not None:
            try:
                ZoneInfo(calendar.time_zone)
            except (LookupError, ValueError, OSError):
                message = f"there is no time zone {calendar.time_zone}"
                where = document.at("spec", "maintenance", "timeZone")
                yield of_rule("R110", message, where, "write an IANA name such as Europe/Berlin")


def _idle_overlays(intent: Intent, documents: Sequence[CheckedDocument]) -> Iterator[RuleFinding]:
    """Yield the overlays that match none of the devices that their deployment goes to."""
    reached: dict[str, list[TargetDevice]] = {}
    for each in documents:
        reached.setdefault(each.placement.deployment.value.metadata.name, []).append(each.placement.target)
    for name, devices in reached.items():
        deployment = intent.deployments[name]
        for index, overlay in enumerate(deployment.value.spec.overlays):
            if not any(selected(overlay.match, device) for device in devices):
                where = deployment.at("spec", "overlays", index, "match")
                remedy = "; ".join(nearest(overlay.match, targets(intent))) or "correct it, or remove the overlay"
                message = f"the overlay {overlay.name} matches no device of the deployment {name}"
                yield of_rule("R109", message, where, remedy)


def _idle_stops(intent: Intent, documents: Sequence[CheckedDocument]) -> Iterator[RuleFinding]:
    """Yield the deployments in `spec.stop` that share no device with the one that stops them."""
    devices: dict[str, set[str]] = {}
    for each in documents:
        devices.setdefault(each.placement.deployment.value.metadata.name, set()).add(each.placement.target.id)
    for name, reached in devices.items():
        deployment = intent.deployments[name]
        for index, other in enumerate(deployment.value.spec.stop):
            if reached.isdisjoint(devices.get(other, ())):
                message = f"no device of the deployment {name} has the deployment {other}, which it stops"
                where = deployment.at("spec", "stop", index)
                yield of_rule("R111", message, where, "correct the name or a placement, or remove it from spec.stop")


_KINDS: Final = {
    "sites": "site",
    "devices": "device",
    "deployments": "deployment",
    "applications": "application",
    LOCK_FILE: "application",
}


def _unread(findings: Collection[Finding]) -> frozenset[str]:
    """Return the kinds of which some documents could not be read."""
    files = [each.location.file for each in findings if each.severity == "error" and each.location]
    return frozenset(_KINDS[top] for file in files if (top := file.split("/")[0].lower()) in _KINDS)


_PIN: Final = {
    "R201": ("names what moves", "name a version and its digest, image:1.2.3@sha256:…"),
    "R202": ("has no digest", "add it: image:1.2.3@sha256:…"),
}


def _unpinned(tree: RootTree, intent: Intent, every: Iterable[Placed]) -> Iterator[RuleFinding]:
    """Yield what is not pinned: of every vendored application, then of values that name images."""
    variable: dict[tuple[int, str], list[ServiceImage]] = {}
    for application in intent.applications.values():
        yield from _application_images(tree, application, variable)
    seen: set[Hashable] = set()
    for each in every:
        for component in each.profile.components:
            for image in variable.get((id(each.application), component.name), ()):
                same = (each.same(component, image.variables()), component.name, image.service)
                if same[0] is None or same not in seen:
                    seen.add(same)
                    yield from _unpinned_value(each, component, image, seen)


def _application_images(
    tree: RootTree, application: Application, variable: dict[tuple[int, str], list[ServiceImage]]
) -> Iterator[RuleFinding]:
    description = application.description
    seen: set[tuple[str, str]] = set()
    for index, profile in enumerate(description.value.deployment_profiles):
        for at, component in enumerate(profile.components):
            key = (profile.type, component.name)
            if key in seen:
                continue
            seen.add(key)
            content = application.contents.get(key)
            if content is None:
                where = description.at("deploymentProfiles", index, "components", at, "properties")
                yield _of_registry(component, where)
            elif profile.type in ("compose", "helm") and "://" in content.location:
                where = description.at("deploymentProfiles", index, "components", at)
                what = "its images are" if profile.type == "compose" else "the chart is"
                message = f"component {component.name} is at {content.location}: {what} not checked"
                yield of_rule("R207", message, where, "bring the content along in the package")
            elif profile.type == "compose":
                try:
                    images = service_images(tree, content)
                except UnreadableDocument:
                    continue  # VALIDATE-5 says so
                for image in images:
                    if image.variables():
                        variable.setdefault((id(application), component.name), []).append(image)
                    else:
                        yield from _unpinned_image(image)


def _of_registry(component: Component, where: Location) -> RuleFinding:
    properties = component.properties
    if properties.repository is None:
        return of_rule(
            "R205",
            f"component {component.name} is fetched from {properties.package_location} without a digest",
            where,
            "bring the content along, or name it by url and digest",
        )
    return of_rule(
        "R206",
        f"component {component.name} is fetched by the tag {properties.revision}",
        where,
        "forbid the registry to move tags, or bring the content along",
    )


def _unpinned_image(image: ServiceImage) -> Iterator[RuleFinding]:
    if image.image is None:
        yield of_rule(
            "R203",
            f"service {image.service} builds its image on the device",
            image.location,
            "build it once, push it, and name it with its digest",
        )
        return
    name = image.named({})
    if rule := pinning_rule(name):
        what, remedy = _PIN[rule]
        yield of_rule(rule, f"service {image.service}: the image {name} {what}", image.location, remedy)


def _unpinned_value(
    placed: Placed, component: Component, image: ServiceImage, seen: set[Hashable]
) -> Iterator[RuleFinding]:
    """Yield an image whose name comes from parameters, at the place where the value is written."""
    name, parameter = image_name(placed.parameters(), component, image)
    rule = pinning_rule(name)
    if rule is None:
        return
    where = parameter.location if parameter else image.location
    if (name, where) not in seen:
        seen.add((name, where))
        what, remedy = _PIN[rule]
        yield of_rule(rule, f"service {image.service}: the image {name} {what}", where, remedy)
