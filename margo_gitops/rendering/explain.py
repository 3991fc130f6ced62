"""Why a device gets what it gets: the profile, the reasons against the others, and every parameter's origin."""

from __future__ import annotations

from dataclasses import dataclass

from margo_gitops.documents.matching import deployment_type_unmet, unmet
from margo_gitops.errors import ReferenceUnknown, RenderingRefused
from margo_gitops.rendering.desired_state import PreviousState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import place, resolve_placement
from margo_gitops.rendering.resolution import Resolved


@dataclass(frozen=True, slots=True)
class Explanation:
    """A deployment on a device, explained.

    Attributes:
        resolved: the profile and the parameters with their origins.
        rejected: why each other profile was not chosen, by profile id.
    """

    resolved: Resolved
    rejected: dict[str, tuple[str, ...]]


def explain(intent: Intent, device: str, deployment: str, previous: PreviousState | None = None) -> Explanation:
    """Explain a deployment on a device.

    Raises:
        ReferenceUnknown: there is no such device or deployment, or the deployment does not go to this device.
        RenderingRefused: the fleet cannot be rendered.
    """
    if device not in intent.devices:
        raise ReferenceUnknown(f"{device} is no device of this fleet", remedy="list them: ls devices/")
    if deployment not in intent.deployments:
        known = ", ".join(sorted(intent.deployments)) or "none"
        raise ReferenceUnknown(f"{deployment} is no deployment of this fleet", remedy=f"known: {known}")
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
    return Explanation(resolved, rejected)
