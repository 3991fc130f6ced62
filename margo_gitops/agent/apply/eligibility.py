"""Whether this device may run a deployment: it evaluates the rules itself (Margo device constraints).

ELIGIBLE-1  Where a profile has eligibility rules, one of them must hold for the device's capabilities, or the
            deployment is refused. Without capabilities nothing holds.
ELIGIBLE-2  Capacity that the profile asks for is compared as well, where there are capabilities to compare it with.
ELIGIBLE-3  A deployment for a child device is held against that child's capabilities, found by `properties.id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from margo_gitops.agent.settings.loading import capabilities_unusable, read_capabilities
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.matching import DeviceFacts, unmet
from margo_gitops.errors import DeviceIneligible


@dataclass(frozen=True, slots=True)
class Eligibility:
    """What is known of this device and its children.

    Attributes:
        device: this device's id, for deployments that name none.
        facts: capabilities by device id.
    """

    device: str = ""
    facts: Mapping[str, DeviceFacts] = field(default_factory=dict)

    def objection(self, document: ApplicationDeployment) -> DeviceIneligible | None:
        """Return why a deployment must not be applied here, or None (ELIGIBLE-1 to ELIGIBLE-3)."""
        constraints = document.spec.deployment_profile.device_constraints
        if constraints is None:
            return None
        device = document.metadata.device_id or self.device
        facts = self.facts.get(device)
        name = document.metadata.name
        if facts is None:
            if not constraints.eligibility_rules:
                return None
            return DeviceIneligible(
                f"the deployment {name} has eligibility rules, and this agent has no capabilities of {device or 'it'}",
                remedy="name the device's capabilities document at `capabilities` in the agent's configuration",
            )
        reasons = unmet(constraints, facts)
        if not reasons:
            return None
        return DeviceIneligible(
            f"the device {device} does not meet what the deployment {name} asks for",
            why=reasons,
            remedy="place it elsewhere, or correct the device's capabilities document",
        )


def read_eligibility(device: str, files: Iterable[Path]) -> Eligibility:
    """Return what these capabilities documents say, in any shape of the standard.

    Args:
        device: this device's id.
        files: one document each, of the device first, then of its children.

    Raises:
        AgentMisconfigured: a file cannot be read, is no capabilities document, is not of this device (the first) or
            of a child of it (the others), or says of a device what another file says already.
    """
    facts: dict[str, DeviceFacts] = {}
    for path in files:
        capabilities = read_capabilities(path)
        owner = capabilities.properties.id
        if not facts and owner != device:
            why = f"it describes {owner}; the first document describes this device, {device}"
            raise capabilities_unusable(path, why)
        if facts and not owner.startswith(f"{device}/"):
            raise capabilities_unusable(path, f"it describes {owner}, which is no child of {device}")
        if owner in facts:
            raise capabilities_unusable(path, f"another file describes {owner} already")
        facts[owner] = DeviceFacts.of(capabilities)
    return Eligibility(device, facts)
