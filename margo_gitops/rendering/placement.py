"""Which devices a deployment goes to, and which profile each of them gets.

Selection is ours (labels of device and site); whether a device can run a profile is Margo's (device constraints):
capacity first, then eligibility rules, and the device must support the profile's type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from margo_gitops.documents.application import DeploymentProfile
from margo_gitops.documents.capabilities import LabelValue
from margo_gitops.documents.constraints import DeviceSelector, Selector
from margo_gitops.documents.fleet_kinds import Device
from margo_gitops.documents.matching import DeviceFacts, deployment_type_unmet, plain_labels, selects, unmet
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import AmbiguousProfile, NotPlaceable
from margo_gitops.rendering.intent import Intent
from margo_gitops.values import dataclass
from margo_gitops.wording import did_you_mean, json_text


@dataclass(frozen=True, slots=True)
class TargetDevice:
    """A device as placement and expressions see it.

    Attributes:
        labels: of its site, overridden by its own.
        facts: its capabilities, prepared for matching.
        names: what expressions may use of it.
    """

    device: Device
    labels: Mapping[str, LabelValue]
    facts: DeviceFacts
    names: Mapping[str, Json]

    @property
    def id(self) -> str:
        """The device id."""
        return self.device.metadata.name

    @property
    def site(self) -> str | None:
        """The name of its site."""
        return self.device.spec.site


def targets(intent: Intent) -> dict[str, TargetDevice]:
    """Return every device of the fleet, by id, sorted."""
    return {name: _target(intent, intent.devices[name].value) for name in sorted(intent.devices)}


def _target(intent: Intent, device: Device) -> TargetDevice:
    located = intent.sites.get(device.spec.site) if device.spec.site else None
    site = located.value if located else None
    site_labels = site.metadata.labels if site else {}
    labels = {**site_labels, **device.metadata.labels}
    facts = DeviceFacts.of(device.spec.capabilities)
    names: dict[str, Json] = {
        "device": {
            "id": device.metadata.name,
            "labels": plain_labels(labels),
            "properties": dict(facts.properties),
        },
        "fleet": {"id": intent.fleet.value.metadata.name},
    }
    if site:
        names["site"] = {
            "name": site.metadata.name,
            "labels": plain_labels(site_labels),
        }
    return TargetDevice(device, labels, facts, names)


def select(selector: DeviceSelector, fleet: Mapping[str, TargetDevice]) -> Iterator[TargetDevice]:
    """Yield the devices that a selector selects, in the fleet's order."""
    named = frozenset(selector.devices)
    for device_id, target in fleet.items():
        if selector.all or device_id in named or matches(selector, target):
            yield target


def matches(selector: DeviceSelector, target: TargetDevice) -> bool:
    """Return whether a device meets every condition of a selector; one without conditions matches none."""
    if not (selector.sites or selector.match_labels or selector.match_expressions):
        return False
    if selector.sites and target.site not in selector.sites:
        return False
    if any(not _same(target.labels.get(key), value) for key, value in selector.match_labels.items()):
        return False
    return not selector.match_expressions or selects(Selector(selector.match_expressions), target.labels)


def nearest(selector: DeviceSelector, fleet: Mapping[str, TargetDevice]) -> Iterator[str]:
    """Yield each label and value of a selector that no device has, with the nearest that one has."""
    wanted: list[tuple[str, Sequence[LabelValue]]] = [(key, [value]) for key, value in selector.match_labels.items()]
    wanted += [(each.key, each.values or ()) for each in selector.match_expressions if each.operator == "In"]
    wanted += [(each.key, ()) for each in selector.match_expressions if each.operator in ("Exists", "Gt", "Lt")]
    for key, values in wanted:
        held = [target.labels[key] for target in fleet.values() if key in target.labels]
        if not held:
            keys = {label for target in fleet.values() for label in target.labels}
            yield f"no device has the label {key}; {did_you_mean(key, keys)}"
            continue
        items = [*held, *(item for each in held if isinstance(each, tuple) for item in each)]
        shown = {json_text(item): item for item in items}
        for value in values:
            if not any(_same(item, value) for item in items):
                twin = next((text for text in shown if text.strip('"') == json_text(value).strip('"')), None)
                hint = f"did you mean {twin}?" if twin else did_you_mean(json_text(value), shown)
                yield f"no device has the label {key} with the value {json_text(value)}; {hint}"


def selected(selector: DeviceSelector, target: TargetDevice) -> bool:
    """Return whether a selector selects one device."""
    return selector.all or target.id in selector.devices or matches(selector, target)


def _same(left: object, right: object) -> bool:
    """Whether two label values are equal, where true is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def choose_profile(
    profiles: Sequence[DeploymentProfile], preferred: Sequence[str], target: TargetDevice
) -> DeploymentProfile:
    """Return the one profile that a device can run.

    Args:
        preferred: profile ids, best first; empty: the device must fit exactly one.

    Raises:
        NotPlaceable: no profile fits; each reason names a profile, the constraint, and the device's value.
        AmbiguousProfile: several fit, without a preferred one.
    """
    candidates = {profile.id: profile for profile in profiles if not preferred or profile.id in preferred}
    reasons = []
    fitting = []
    for profile_id in preferred or candidates:
        profile = candidates.get(profile_id)
        if profile is None:
            reasons.append(f'profile "{profile_id}": the application has no profile of this name')
            continue
        missing = deployment_type_unmet(profile.type, target.facts) or unmet(profile.device_constraints, target.facts)
        if not missing:
            fitting.append(profile)
        reasons += [f'profile "{profile_id}": {reason}' for reason in missing]
    if not fitting:
        raise NotPlaceable(f"device {target.id} cannot run the application", device=target.id, why=reasons)
    if len(fitting) > 1 and not preferred:
        names = " and ".join(profile.id for profile in fitting)
        raise AmbiguousProfile(f"device {target.id} can run several profiles: {names}", device=target.id)
    return fitting[0]
