"""Why a device gets what it gets, and why a fleet cannot be rendered.

`explain` names the profile, the reasons against the others, and every parameter's origin. `check_intent` gives
everything for which a render would refuse a fleet in one run; `render` stops at the first kind. `check_intent`
leaves out what follows from another finding: a device whose site is unknown is not blamed for expressions that use its
site, and a deployment of an unknown application is not placed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.maintenance import Calendar
from margo_gitops.documents.matching import deployment_type_unmet, unmet
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.errors import Location, MargoGitopsError, NotPlaceable, ReferenceUnknown, RenderingRefused
from margo_gitops.rendering.desired_state import PreviousState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.line_origins import DocumentOrigins
from margo_gitops.rendering.parameters import Effective
from margo_gitops.rendering.references import SHARED_PARAMETER, broken_references
from margo_gitops.rendering.render import document_of, find_placements, installed_parameters, place, resolve_placement
from margo_gitops.rendering.resolution import Placement, Resolved, calendars, locks, resolve
from margo_gitops.rendering.skeletons import Skeleton, Skeletons
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class CheckedIntent:
    """A fleet as far as it can be rendered.

    Attributes:
        errors: why it cannot be; empty where a render would succeed.
        documents: every deployment on every device that could be resolved.
    """

    errors: tuple[MargoGitopsError, ...]
    documents: tuple[CheckedDocument, ...]


@dataclass(frozen=True, slots=True)
class CheckedDocument:
    """A deployment on a device.

    Attributes:
        skeleton: what it has in common with documents of other devices; None: not known.
    """

    intent: Intent
    placement: Placement
    skeleton: Skeleton | None
    _parameters: tuple[Effective, ...] | None

    def parameters(self) -> tuple[Effective, ...]:
        """Return its parameters; those of a document that a skeleton gives are resolved when somebody asks."""
        held = self._parameters
        return held if held is not None else resolve(self.intent, self.placement)[0].parameters


def check_intent(
    intent: Intent,
    previous: Callable[[str], PreviousState | None] = lambda _device: None,
    unread: frozenset[str] = frozenset(),
) -> CheckedIntent:
    """Return everything that is wrong with a fleet.

    Args:
        previous: the state of a device as rendered before, for settings that may not change.
        unread: kinds ("site", "device", "deployment", "application") of which some documents could not be read: a name
            that leads nowhere may be defined there, and is not told.
    """
    broken = list(broken_references(intent))
    blamed = {error.where.file for error in broken if error.where}
    errors = [error for error in broken if not _may_be_unread(error, unread)]
    placeable = {name: each for name, each in intent.deployments.items() if _is_placeable(each.value, intent)}
    sound = replace(intent, deployments=placeable)
    placements, found = find_placements(sound)
    errors += [
        error
        for error in found
        if not _follows(error, intent, blamed)
        # One that selects no device may select one that could not be read.
        and not (isinstance(error, NotPlaceable) and error.device is None and {"device", "site"} & unread)
    ]
    documents = []
    skeletons = Skeletons(sound)
    for device, placed in placements.items():
        before = previous(client_of(device))
        for name in placed:
            try:
                document, found = _checked(sound, placed, name, before, skeletons)
                documents.append(document)
            except MargoGitopsError as error:
                found = [error]
            errors += [error for error in found if not _follows(error, intent, blamed)]
    return CheckedIntent(tuple(errors), tuple(documents))


def _checked(
    intent: Intent, placed: Mapping[str, Placement], name: str, before: PreviousState | None, skeletons: Skeletons
) -> tuple[CheckedDocument, list[MargoGitopsError]]:
    placement = placed[name]
    installed = installed_parameters(intent, placement, before)
    if installed is None and skeletons.filled(placed, name) is not None:
        return CheckedDocument(intent, placement, skeletons.of(placed, name), None), []
    resolved, wrong = resolve(intent, placement, installed)
    if not wrong:
        skeletons.written(placed, resolved, document_of(intent, resolved, placed))
    return CheckedDocument(intent, placement, None, resolved.parameters), wrong


def _is_placeable(deployment: Deployment, intent: Intent) -> bool:
    """Whether a deployment's application is there, with every profile that is preferred."""
    spec = deployment.spec
    application = intent.applications.get((spec.application.id, spec.application.version))
    if application is None:
        return False
    return {profile.id for profile in application.description.value.deployment_profiles}.issuperset(spec.profiles)


def _may_be_unread(error: MargoGitopsError, unread: frozenset[str]) -> bool:
    kind = error.kind if isinstance(error, ReferenceUnknown) else ""
    # Which parameters a site or a device may give follows from the applications.
    return kind in unread or (kind == SHARED_PARAMETER and "application" in unread)


def _follows(error: MargoGitopsError, intent: Intent, blamed: set[str]) -> bool:
    """Whether an error may only be there because of a reference that is reported already."""
    if error.device is not None and error.device in intent.devices and intent.devices[error.device].file in blamed:
        return True
    # A deployment that names unknown devices or sites may select none for that reason.
    return isinstance(error, NotPlaceable) and error.device is None and bool(error.where and error.where.file in blamed)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a deployment asks of a device around a change: a lock, hooks, a health, a policy, or what it stops.

    Attributes:
        value: as a device gets it.
        where: the line that says it.
    """

    name: str
    value: Json
    where: Location


@dataclass(frozen=True, slots=True)
class Explanation:
    """A deployment on a device, explained.

    Attributes:
        resolved: the profile and the parameters with their origins.
        rejected: why each other profile was not chosen, by profile id.
        calendars: when it may change on this device, each with where it is written.
        urgent: where the deployment says that no calendar counts; None where it does not.
        settings: what else it asks of the device around a change; nothing that is as by default.
    """

    resolved: Resolved
    rejected: dict[str, tuple[str, ...]]
    calendars: tuple[tuple[Calendar, Location], ...] = ()
    urgent: Location | None = None
    settings: tuple[Setting, ...] = ()


def explain(intent: Intent, device: str, deployment: str, previous: PreviousState | None = None) -> Explanation:
    """Explain a deployment on a device.

    Raises:
        ReferenceUnknown: there is no such device or deployment, or the deployment does not go to this device.
        RenderingRefused: the fleet cannot be rendered.
    """
    if device not in intent.devices:
        raise ReferenceUnknown(f"{device} is not a device of this fleet", remedy=did_you_mean(device, intent.devices))
    if deployment not in intent.deployments:
        remedy = did_you_mean(deployment, intent.deployments)
        raise ReferenceUnknown(f"{deployment} is not a deployment of this fleet", remedy=remedy)
    placements = place(intent)[device]
    if deployment not in placements:
        raise ReferenceUnknown(
            f"deployment {deployment} does not go to device {device}",
            where=intent.deployments[deployment].at("spec", "placement"),
            why=[f"deployments of this device: {', '.join(placements) or 'none'}"],
        )
    placement = placements[deployment]
    resolved, errors = resolve_placement(intent, placement, previous)
    if errors:
        raise RenderingRefused(f"deployment {deployment} cannot be rendered for {device}", errors)
    rejected = {}
    for profile in placement.application.description.value.deployment_profiles:
        if profile.id != placement.profile.id:
            facts = placement.target.facts
            reasons = deployment_type_unmet(profile.type, facts) or unmet(profile.device_constraints, facts)
            rejected[profile.id] = reasons or ("fits too, but is less preferred in spec.profiles",)
    wanted, target = intent.deployments[deployment], placement.target
    site = intent.sites.get(target.site or "")
    places = {f"device {device}": intent.devices[device], f"deployment {deployment}": wanted}
    places |= {f"site {target.site}": site} if site is not None else {}
    ruling = calendars(wanted.value, target, intent)
    urgent = wanted.at("spec", "urgent") if wanted.value.spec.urgent else None
    return Explanation(
        resolved,
        rejected,
        tuple((each, places[each.of].at("spec", "maintenance")) for each in ruling),
        urgent,
        tuple(_settings(intent, resolved, placements)),
    )


def _settings(intent: Intent, resolved: Resolved, here: Collection[str]) -> Iterator[Setting]:
    deployment = resolved.deployment.value
    origins = DocumentOrigins(intent, resolved, ())
    for index, lock in enumerate(locks(deployment, resolved.target)):
        yield Setting("lock", write(lock), origins.of(("spec", OWN_EXTENSION, "locks", index)).place)
    said = write(deployment.spec)
    for name in ("hooks", "health", "onFailure", "onDrift"):
        if name in said:
            yield Setting(name, said[name], origins.of(("spec", OWN_EXTENSION, name)).place)
    for index, other in enumerate(deployment.spec.stop):
        if other in here:
            yield Setting("stop", other, resolved.deployment.at("spec", "stop", index))
