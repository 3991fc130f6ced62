"""What two versions of an application differ in, as far as those who deploy it are concerned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from margo_gitops.documents.application import ApplicationDescription, DeploymentProfile, DescribedParameter
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.editing.values import parameter_schemas


@dataclass(frozen=True, slots=True)
class Difference:
    """A parameter or profile that is not the same.

    Attributes:
        subject: "parameter greeting", "profile greeting-compose".
        change: "added", "removed" or "changed".
        details: what is different, for people.
    """

    subject: str
    change: str
    details: tuple[str, ...]


def version_differences(old: ApplicationDescription, new: ApplicationDescription) -> tuple[Difference, ...]:
    """Return what differs: parameters (defaults, rules, immutability, targets), then profiles (what devices need)."""
    parameters = _differences(
        "parameter",
        {name: _parameter(old, name, each) for name, each in old.parameters.items()},
        {name: _parameter(new, name, each) for name, each in new.parameters.items()},
    )
    profiles = _differences(
        "profile",
        {each.id: _profile(each) for each in old.deployment_profiles},
        {each.id: _profile(each) for each in new.deployment_profiles},
    )
    return (*parameters, *profiles)


Facts = Mapping[str, Json]
"""What is said of a parameter or profile, each fact by its name."""


def _differences(kind: str, old: Mapping[str, Facts], new: Mapping[str, Facts]) -> Iterator[Difference]:
    for name in [*old, *(each for each in new if each not in old)]:
        subject = f"{kind} {name}"
        if name not in new:
            yield Difference(subject, "removed", ())
        elif name not in old:
            yield Difference(subject, "added", tuple(f"{fact}: {_shown(value)}" for fact, value in new[name].items()))
        else:
            before, after = old[name], new[name]
            changed = [fact for fact in {**before, **after} if _exact(before, fact) != _exact(after, fact)]
            if changed:
                told = (f"{fact}: {_shown(before.get(fact))} -> {_shown(after.get(fact))}" for fact in changed)
                yield Difference(subject, "changed", tuple(told))


def _exact(facts: Facts, fact: str) -> str:
    return json.dumps(facts[fact], sort_keys=True) if fact in facts else ""


def _shown(value: Json) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _parameter(description: ApplicationDescription, name: str, parameter: DescribedParameter) -> dict[str, Json]:
    """Return what is said of a parameter, the default first."""
    facts: dict[str, Json] = {}
    written = write(parameter)
    if "value" in written:
        facts["default"] = written["value"]
    for schema in parameter_schemas(description, name):
        facts |= {key: value for key, value in write(schema).items() if key != "name"}
    configuration = description.configuration
    for section in configuration.sections if configuration else ():
        if any(setting.parameter == name and setting.immutable for setting in section.settings):
            facts["immutable"] = True
    facts["targets"] = written.get("targets")
    return facts


def _profile(profile: DeploymentProfile) -> dict[str, Json]:
    """Return what is said of a profile: its type, its components, what it needs of a device."""
    facts: dict[str, Json] = {"type": profile.type}
    for component in profile.components:
        properties = component.properties
        facts[f"component {component.name}"] = properties.revision or properties.package_location
    if profile.device_constraints is not None:
        facts |= dict(_leaves("needs", write(profile.device_constraints)))
    return facts


_NAMES = {"capacityRequirements": "", "eligibilityRules": "eligibility rule"}


def _leaves(path: str, value: Json) -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict):
        for key, child in value.items():
            name = _NAMES.get(key, key)
            yield from _leaves(f"{path} {name}".strip(), child)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for number, child in enumerate(value, 1):
            yield f"{path} {number}", child
    else:
        yield path, value
