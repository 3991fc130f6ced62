"""What a profile needs of a device, in words; pure."""

from __future__ import annotations

from collections.abc import Iterator

from margo_gitops.documents.constraints import CapacityRequirements, DeviceConstraints, EligibilityRule
from margo_gitops.documents.matching import condition_text


def constraint_words(constraints: DeviceConstraints | None) -> tuple[str, ...]:
    """Return what constraints want, one need a line; empty where any device will do.

    Args:
        constraints: of a profile (Margo application description, device constraints).
    """
    if constraints is None:
        return ()
    rules = [" and ".join(_conditions(rule)) or "any device" for rule in constraints.eligibility_rules]
    lines = list(_capacity(constraints.capacity_requirements))
    if len(rules) == 1:
        lines.append(rules[0])
    else:
        lines += [f"{'or ' if number else 'either '}{rule}" for number, rule in enumerate(rules)]
    return tuple(lines)


def _capacity(needed: CapacityRequirements | None) -> Iterator[str]:
    if needed is None:
        return
    if needed.cpu is not None:
        kinds = f" of {' or '.join(needed.cpu.architectures)}" if needed.cpu.architectures else ""
        yield f"one CPU with {needed.cpu.cores:g} {'core' if needed.cpu.cores == 1 else 'cores'}{kinds}"
    if needed.memory is not None:
        yield f"memory of {needed.memory}"
    if needed.storage is not None:
        yield f"storage of {needed.storage}"


def _conditions(rule: EligibilityRule) -> Iterator[str]:
    for expression in rule.property_selector.match_expressions if rule.property_selector else ():
        yield f"property {condition_text(expression)}"
    for expression in rule.label_selector.match_expressions if rule.label_selector else ():
        yield f"label {condition_text(expression)}"
