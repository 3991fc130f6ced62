"""Whether a device can run a profile (Margo application description, device constraints).

FIT-1  Capacity first; rules are looked at only for a device that has the capacity.
FIT-2  One CPU alone must have the cores and a listed architecture; CPUs are never added together.
FIT-3  Rules are alternatives; in a rule both selectors must match; in a selector every expression must hold.
FIT-4  Text is compared exactly, true is not 1, and 1 equals 1.0.
FIT-5  What a pointer does not resolve to a scalar, a list of scalars or a list of objects holds no condition.

Every "no" comes with a reason that names the constraint and what the device has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

from margo_gitops.documents.capabilities import DeviceCapabilities, LabelValue, parse_quantity
from margo_gitops.documents.components import ProfileType
from margo_gitops.documents.constraints import (
    CapacityRequirements,
    CpuRequirement,
    DeviceConstraints,
    EligibilityRule,
    MatchExpression,
    Selector,
    is_number,
)
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.values import dataclass
from margo_gitops.wording import shortened

Reasons: TypeAlias = tuple[str, ...]
"""Why not; empty means yes."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


class _Absent:
    """Marks the value of a key that is not there."""


_ABSENT = _Absent()
_Found: TypeAlias = "Json | _Absent"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device's capabilities as matching uses them.

    Attributes:
        properties: as plain values, for pointers.
        labels: as plain values, by exact key.
    """

    capabilities: DeviceCapabilities
    properties: Mapping[str, Json]
    labels: Mapping[str, Json]

    @classmethod
    def of(cls, capabilities: DeviceCapabilities) -> DeviceFacts:
        """Return the facts in a capabilities document."""
        return cls(capabilities, write(capabilities.properties), plain_labels(capabilities.labels))


def plain_labels(labels: Mapping[str, LabelValue]) -> dict[str, Json]:
    """Return labels as plain values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in labels.items()}


def deployment_type_unmet(profile_type: ProfileType, facts: DeviceFacts) -> Reasons:
    """Return why a device cannot run profiles of this type at all."""
    supported = facts.capabilities.properties.supported_deployment_types
    if supported is None:
        return ("the device names no supportedDeploymentTypes: it hosts no applications",)
    if profile_type not in supported:
        return (f"the type is {profile_type}, the device supports {', '.join(supported)}",)
    return ()


def unmet(constraints: DeviceConstraints | None, facts: DeviceFacts) -> Reasons:
    """Return why a device does not meet a profile's constraints (FIT-1)."""
    if constraints is None:
        return ()
    missing = tuple(_capacity_unmet(constraints.capacity_requirements, facts))
    return missing or _rules_unmet(constraints.eligibility_rules, facts)


def _capacity_unmet(needed: CapacityRequirements | None, facts: DeviceFacts) -> Iterator[str]:
    if needed is None:
        return
    if needed.cpu is not None:
        yield from _cpu_unmet(needed.cpu, facts)
    properties = facts.capabilities.properties
    for name, amount, has in (
        ("memory", needed.memory, properties.memory),
        ("storage", needed.storage, properties.storage),
    ):
        if amount is not None and _amount(has) < parse_quantity(amount):
            yield f"{name}: {amount} needed, the device has {has or 'stated none'}"


def _amount(text: str | None) -> int:
    try:
        return parse_quantity(text) if text is not None else -1
    except ValueError:
        return -1  # an amount nobody can read is none (a warning at the device's document says so)


def _cpu_unmet(needed: CpuRequirement, facts: DeviceFacts) -> Iterator[str]:
    cpus = facts.capabilities.properties.cpus
    if any(
        cpu.cores >= needed.cores and (not needed.architectures or cpu.architecture in needed.architectures)
        for cpu in cpus
    ):
        return
    has = ", ".join(f"{cpu.cores:g} x {cpu.architecture or 'unknown'}" for cpu in cpus) or "stated none"
    kinds = f" of {' or '.join(needed.architectures)}" if needed.architectures else ""
    yield f"cpu: one CPU with {needed.cores:g} cores{kinds} needed, the device has {has}"


def _rules_unmet(rules: Sequence[EligibilityRule], facts: DeviceFacts) -> Reasons:
    reasons: list[str] = []
    for number, rule in enumerate(rules, start=1):
        failed = list(_rule_unmet(rule, facts))
        if not failed:
            return ()
        reasons += [f"rule {number}: {reason}" for reason in failed]
    return tuple(reasons)


def _rule_unmet(rule: EligibilityRule, facts: DeviceFacts) -> Iterator[str]:
    for expression in rule.property_selector.match_expressions if rule.property_selector else ():
        found = resolve(facts.properties, expression.key)
        if not holds(expression, found):
            yield f"{condition_text(expression)} needed, the device has {_shown(found)}"
    for expression in rule.label_selector.match_expressions if rule.label_selector else ():
        label: _Found = facts.labels.get(expression.key, _ABSENT)
        if not holds(expression, label):
            yield f"label {condition_text(expression)} needed, the device has {_shown(label)}"


def selects(selector: Selector, labels: Mapping[str, LabelValue]) -> bool:
    """Return whether labels meet every expression of a selector."""
    plain = plain_labels(labels)
    return all(holds(expression, plain.get(expression.key, _ABSENT)) for expression in selector.match_expressions)


def resolve(root: Json | Mapping[str, Json], pointer: str) -> _Found:
    """Return what a JSON Pointer (RFC 6901) leads to below `root`."""
    found: _Found = cast("Json", root)
    if pointer == "":
        return found
    if not pointer.startswith("/"):
        return _ABSENT
    for part in pointer[1:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(key, _ABSENT)
        elif isinstance(found, list) and _INDEX.fullmatch(key) and int(key) < len(found):
            found = found[int(key)]
        else:
            return _ABSENT
    return found


def holds(expression: MatchExpression, found: _Found) -> bool:
    """Return whether an expression holds for what its key leads to (FIT-4, FIT-5)."""
    if expression.operator == "DoesNotExist":
        return isinstance(found, _Absent)
    if isinstance(found, _Absent):
        return False
    if expression.operator == "Exists":
        return _scalars(found) is not None or _is_list_of_objects(found)
    return _OPERATORS[expression.operator](expression, found)


def _is_in(expression: MatchExpression, found: Json) -> bool | None:
    """Return whether a value is among those of the expression; None where it can be neither in nor out."""
    scalars = _scalars(found)
    return None if scalars is None else _shares(scalars, expression.values or ())


def _bound(expression: MatchExpression) -> float:
    return cast("float", (expression.values or (0,))[0])


def _inner(expression: MatchExpression, found: Json) -> Iterator[list[bool]]:
    """Yield, for each object of a list, which of the item selector's expressions hold."""
    items = found if isinstance(found, list) else []
    inner = expression.item_selector.match_expressions if expression.item_selector else ()
    for item in items:
        if isinstance(item, dict):
            yield [holds(each, resolve(item, each.key)) for each in inner]


_OPERATORS: dict[str, Callable[[MatchExpression, Json], bool]] = {
    "In": lambda wanted, found: _is_in(wanted, found) is True,
    "NotIn": lambda wanted, found: _is_in(wanted, found) is False,
    "Gt": lambda wanted, found: is_number(found) and cast("float", found) > _bound(wanted),
    "Lt": lambda wanted, found: is_number(found) and cast("float", found) < _bound(wanted),
    "ContainsAll": lambda wanted, found: any(all(inner) for inner in _inner(wanted, found)),
    "ContainsAny": lambda wanted, found: any(any(inner) for inner in _inner(wanted, found)),
}


def _scalars(found: Json) -> list[Json] | None:
    """Return a scalar, or the items of a list of strings or numbers, as a list; None for anything else."""
    if isinstance(found, list):
        return None if any(isinstance(item, (dict, list)) for item in found) else found
    return None if isinstance(found, dict) or found is None else [found]


def _is_list_of_objects(found: Json) -> bool:
    return isinstance(found, list) and all(isinstance(item, dict) for item in found)


def _shares(left: Sequence[Json], right: Sequence[Json]) -> bool:
    return any(a == b and isinstance(a, bool) == isinstance(b, bool) for a in left for b in right)


def condition_text(expression: MatchExpression) -> str:
    """Return a condition in words, as reasons tell it: `/vendor In Northstar`."""
    values = f" {', '.join(map(str, expression.values))}" if expression.values else ""
    inner = ""
    if expression.item_selector:
        joint = " and " if expression.operator == "ContainsAll" else " or "
        inner = f" ({joint.join(condition_text(each) for each in expression.item_selector.match_expressions)})"
    return f"{expression.key} {expression.operator}{values}{inner}"


def _shown(found: _Found) -> str:
    return "nothing there" if isinstance(found, _Absent) else shortened(repr(found), 80)
