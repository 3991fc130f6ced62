"""Parameter layers: which value a parameter has on a device, and where it was written.

Weakest first: the application's default, the deployment, its overlays in order, the site, the device. A default is the
supplier's text and taken as it is; in every other layer text may be an expression.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

from margo_gitops.documents.application import DeploymentProfile, Setting, ValueSchema
from margo_gitops.documents.components import ParameterValue, Target
from margo_gitops.documents.compose_variables import value_problem
from margo_gitops.documents.deployment import DeployedParameter
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.nodes import Json, exact
from margo_gitops.errors import Location, MargoGitopsError, ParameterInvalid, ParameterMissing, TemplateInvalid
from margo_gitops.rendering.intent import Application, ById, Intent, Located
from margo_gitops.rendering.placement import TargetDevice, selected
from margo_gitops.rendering.templates import evaluate
from margo_gitops.rendering.value_rules import RuleUnusableError, rule_text, violations
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """One place where parameters are written.

    Attributes:
        name: for people, "site north".
        path: of the mapping of parameters in it.
        values: as written, by parameter name.
    """

    name: str
    document: Located[object]
    path: tuple[str | int, ...]
    values: Mapping[str, ParameterValue]
    is_default: bool = False

    def location(self, parameter: str) -> Location:
        """Return where a parameter's value is written."""
        # A description says more of a parameter than its value.
        return self.document.at(*self.path, parameter, *(("value",) if self.is_default else ()))


@dataclass(frozen=True, slots=True)
class Origin:
    """A value as one layer gives it.

    Attributes:
        layer: where it is written.
        written: as it is there, expressions included.
    """

    layer: Layer
    written: ParameterValue


@dataclass(frozen=True, slots=True)
class Effective:
    """A parameter on a device.

    Attributes:
        value: that holds, evaluated.
        origin: where it is written.
        overridden: the weaker ones, weakest first. They are not evaluated: an expression that means nothing on this
            device does no harm where the device has a value of its own.
        targets: where it goes, in the chosen profile.
    """

    name: str
    value: ParameterValue
    origin: Origin
    overridden: tuple[Origin, ...]
    targets: tuple[Target, ...]

    @property
    def location(self) -> Location:
        """Where the value is written."""
        return self.origin.layer.location(self.name)


def layers(
    intent: Intent, deployment: Located[Deployment], application: Application, target: TargetDevice
) -> Iterator[Layer]:
    """Yield the layers of a deployment on a device, weakest first."""
    yield _defaults(ById(application))
    spec = deployment.value.spec
    name = deployment.value.metadata.name
    yield Layer(f"deployment {name}", deployment, ("spec", "parameters"), spec.parameters)
    for index, overlay in enumerate(spec.overlays):
        if selected(overlay.match, target):
            path = ("spec", "overlays", index, "parameters")
            yield Layer(f"overlay {overlay.name}", deployment, path, overlay.parameters)
    if target.site is not None and target.site in intent.sites:
        site = intent.sites[target.site]
        yield Layer(f"site {target.site}", site, ("spec", "parameters"), site.value.spec.parameters)
    device = intent.devices[target.id]
    yield Layer(f"device {target.id}", device, ("spec", "parameters"), device.value.spec.parameters)


def effective_parameters(
    stack: Sequence[Layer],
    application: Application,
    profile: DeploymentProfile,
    names: Mapping[str, Json],
    previous: Mapping[str, DeployedParameter] | None,
    secrets: Collection[str] = (),
) -> tuple[list[Effective], list[MargoGitopsError]]:
    """Return the parameters of a deployment on a device, in the description's order, and everything wrong with them.

    Only parameters that the chosen profile uses are there, each with the targets in that profile.

    Args:
        stack: the layers, weakest first.
        names: what expressions may use.
        previous: the parameters of this deployment as installed before; None for a new one.
        secrets: parameters that get their values on the device; no layer but the application may have one.
    """
    found: list[Effective] = []
    errors: list[MargoGitopsError] = []
    for name, (targets, rules) in _used_parameters(ById(application), ById(profile)).items():
        if name in secrets:
            errors += _written_secrets(name, stack)
            continue
        try:
            effective = _effective(name, stack, targets, names)
        except TemplateInvalid as error:
            errors.append(error)
            continue
        errors += _problems(name, effective, rules, profile, stack, previous)
        if effective is not None:
            found.append(effective)
    return found, errors


def secret_targets(application: Application, profile: DeploymentProfile, name: str) -> tuple[Target, ...]:
    """Return where a parameter goes in a profile; nowhere for one that the profile does not use."""
    used = _used_parameters(ById(application), ById(profile)).get(name)
    return used[0] if used else ()


def _written_secrets(name: str, stack: Sequence[Layer]) -> Iterator[MargoGitopsError]:
    for layer in stack:
        if name in layer.values and not layer.is_default:
            yield ParameterInvalid(
                f"parameter {name} is a secret of the deployment, and its value is written here",
                where=layer.location(name),
                why=[f"it comes from the layer: {layer.name}"],
                remedy="remove the value, and change the secret: it is in the history of the fleet repo",
            )


def is_right(effective: Effective, application: Application, profile: DeploymentProfile) -> bool:
    """Return whether a value that was not installed before has nothing wrong with it."""
    _, rules = _used_parameters(ById(application), ById(profile))[effective.name]
    return not any(_problems(effective.name, effective, rules, profile, (), None))


def _problems(
    name: str,
    effective: Effective | None,
    rules: Sequence[Rule],
    profile: DeploymentProfile,
    stack: Sequence[Layer],
    previous: Mapping[str, DeployedParameter] | None,
) -> Iterator[MargoGitopsError]:
    yield from _control_characters(effective)
    if profile.type == "compose":
        yield from _no_variable(effective)
    yield from _broken_rules(name, effective, rules, stack, previous)


def _effective(
    name: str, stack: Sequence[Layer], targets: tuple[Target, ...], names: Mapping[str, Json]
) -> Effective | None:
    origins = [Origin(layer, layer.values[name]) for layer in stack if name in layer.values]
    if not origins:
        return None
    strongest = origins[-1]
    layer, written = strongest.layer, strongest.written
    value = written if layer.is_default else _evaluated(layer, name, written, names)
    return Effective(name, value, strongest, tuple(origins[:-1]), targets)


def _evaluated(layer: Layer, name: str, written: ParameterValue, names: Mapping[str, Json]) -> ParameterValue:
    try:
        return evaluate(written, names)
    except TemplateInvalid as error:
        raise TemplateInvalid(
            f"parameter {name}: {error.what}", where=layer.location(name), why=error.why, remedy=error.remedy
        ) from error


Rule = tuple[Setting, ValueSchema]


@lru_cache(maxsize=1024)
def _used_parameters(
    application: ById[Application], profile: ById[DeploymentProfile]
) -> Mapping[str, tuple[tuple[Target, ...], tuple[Rule, ...]]]:
    """Return the parameters that a profile uses: by name, targets in this profile, and the rules for their values."""
    components = {component.name for component in profile.value.components}
    rules = _rules(application.value)
    used = {}
    for name, parameter in application.value.description.value.parameters.items():
        targets = tuple(
            Target(target.pointer, tuple(part for part in target.components if part in components))
            for target in parameter.targets
            if components.intersection(target.components)
        )
        if targets:
            used[name] = (targets, tuple(rules.get(name, ())))
    return used


def _rules(application: Application) -> dict[str, list[Rule]]:
    """Return the settings and schemas that speak of each parameter."""
    configuration = application.description.value.configuration
    if configuration is None:
        return {}
    schemas = {schema.name: schema for schema in configuration.schema}
    rules: dict[str, list[Rule]] = {}
    for section in configuration.sections:
        for setting in section.settings:
            if setting.schema in schemas:
                rules.setdefault(setting.parameter, []).append((setting, schemas[setting.schema]))
    return rules


@lru_cache(maxsize=1024)
def _defaults(application: ById[Application]) -> Layer:
    """Return the weakest layer: what the supplier wrote."""
    description = application.value.description
    parameters = description.value.parameters
    values = {name: parameter.value for name, parameter in parameters.items() if parameter.value is not None}
    return Layer("application default", description, ("parameters",), values, is_default=True)


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _control_characters(effective: Effective | None) -> Iterator[MargoGitopsError]:
    """Yield text that no environment variable or file of settings can hold."""
    value = effective.value if effective else None
    for text in value if isinstance(value, tuple) else (value,):
        if effective and isinstance(text, str) and (found := _CONTROL.search(text)):
            yield ParameterInvalid(
                f"parameter {effective.name} holds the control character U+{ord(found[0]):04X}",
                where=effective.location,
                remedy="take it out; tabs and line ends are possible",
            )


def _no_variable(effective: Effective | None) -> Iterator[MargoGitopsError]:
    """Yield a value that no environment variable can hold."""
    for target in effective.targets if effective else ():
        if effective and (problem := value_problem(target.pointer, effective.value)):
            yield ParameterInvalid(
                f"parameter {effective.name}: {target.pointer} {problem}",
                where=effective.location,
                remedy="put long content into a file of the component, and name the file",
            )
            return


def _broken_rules(
    name: str,
    effective: Effective | None,
    rules: Sequence[Rule],
    stack: Sequence[Layer],
    previous: Mapping[str, DeployedParameter] | None,
) -> Iterator[MargoGitopsError]:
    for setting, schema in rules:
        if effective is None:
            if not schema.allow_empty:
                yield ParameterMissing(
                    f'parameter {name} ("{setting.name}") has no value in any layer',
                    where=stack[1].document.at("spec"),  # the deployment's layer
                    remedy=f"give it one in spec.parameters of the deployment: {rule_text(schema)}",
                )
            continue
        layer = effective.origin.layer
        try:
            for violation in violations(schema, effective.value):
                yield ParameterInvalid(
                    f'parameter {name} ("{setting.name}") {violation}',
                    where=layer.location(name),
                    why=[f"it comes from the layer: {layer.name}"],
                    remedy=f"the application wants {rule_text(schema)}",
                )
        except RuleUnusableError as error:
            yield ParameterInvalid(
                f"parameter {name}: {error}", where=layer.location(name), remedy="tell the application's supplier"
            )
        before = previous.get(name) if previous is not None and setting.immutable else None
        if before is not None and exact(before.value) != exact(effective.value):
            yield ParameterInvalid(
                f'parameter {name} ("{setting.name}") may not change any more: it was installed as {before.value!r}',
                where=layer.location(name),
                why=["the application calls this setting immutable"],
                remedy="put the old value back, or remove the deployment from this device and add it under a new name",
            )
