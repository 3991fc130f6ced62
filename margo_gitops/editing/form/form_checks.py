"""Whether a render would take an answer of a form, found by the code of a render; pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final, TypeAlias

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Deployment
from margo_gitops.documents.nodes import exact
from margo_gitops.editing.deploy import DeployTarget
from margo_gitops.editing.named import all_known, unknown
from margo_gitops.editing.values import check_value, has_expression, parameter_schemas
from margo_gitops.errors import AmbiguousProfile, AnswerRefused, NotPlaceable
from margo_gitops.operations.compatibility import Compatibility, compatibility
from margo_gitops.rendering.desired_state import PreviousState
from margo_gitops.rendering.intent import Application, Intent, Located
from margo_gitops.rendering.placement import TargetDevice, choose_profile, select, targets
from margo_gitops.rendering.render import resolve_placement
from margo_gitops.rendering.resolution import Placement
from margo_gitops.rendering.value_rules import is_empty, rule_text
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import few

Previous: TypeAlias = Callable[[str], PreviousState | None]
"""The state of a device as rendered before; None for a device that never had one."""

_TOLD: Final = 5
"""Devices whose reasons are shown."""


@dataclass(frozen=True)
class FormCheck:
    """What the answers of one form are judged against."""

    intent: Intent
    target: DeployTarget
    previous: Previous

    @property
    def application(self) -> Application:
        """The application in the version that will run."""
        return self.intent.applications[self.target.description.id, self.target.version]

    @cached_property
    def compatible(self) -> Compatibility:
        """Which devices could take the application."""
        return compatibility(self.intent, self.application)

    def chosen(self, placement: DeviceSelector) -> tuple[TargetDevice, ...]:
        """Return the devices that a placement selects."""
        return tuple(select(placement, self._fleet))

    def profile(self, name: str) -> None:
        """Check the name of a profile (ReferenceUnknown: the application has no such profile)."""
        ids = [each.id for each in self.target.description.deployment_profiles]
        if name not in ids:
            raise unknown(f"profile of {self.target.description.id}", name, ids)

    @cached_property
    def _fleet(self) -> dict[str, TargetDevice]:
        return targets(self.intent)

    def parameter(
        self,
        name: str,
        value: ParameterValue | None,
        set_now: Mapping[str, ParameterValue],
        unset: Collection[str],
    ) -> None:
        """Check a parameter of the Deployment.

        Args:
            value: what the Deployment must say; None: nothing.

        Raises:
            ParameterNotTyped: the value breaks a rule of the application.
            AnswerRefused: it has no value anywhere, or a device that has the deployment cannot get it.
        """
        if value is not None:
            check_value(self.target.description, name, value)
        else:
            self._needed(name)
        known = self.target.known
        if known is None:
            return
        before = known.value.spec.parameters.get(name)
        immutable = name in self._immutable
        if immutable or (value is not None and exact(value) != exact(before) and has_expression(value)):
            self._on_devices(name, known, set_now, unset)

    def placement(self, placement: DeviceSelector, preferred: Sequence[str]) -> None:
        """Check where the deployment goes.

        Args:
            preferred: ids of profiles of the application, best first.

        Raises:
            ReferenceUnknown: it names a device or site that the fleet does not have.
            AnswerRefused: it selects nothing, or devices that cannot take the application.
        """
        all_known("device", placement.devices, self.intent.devices)
        all_known("site", placement.sites, self.intent.sites)
        chosen = self.chosen(placement)
        if not chosen:
            raise AnswerRefused("no device is selected", remedy="see the labels of devices: margo-gitops device list")
        refused: list[str] = []
        why: list[str] = []
        for target in chosen:
            try:
                choose_profile(self.target.description.deployment_profiles, preferred, target)
            except NotPlaceable as error:
                refused.append(target.id)
                if len(refused) <= _TOLD:
                    why += [f"{target.id}: {reason}" for reason in error.why]
            except AmbiguousProfile:
                continue  # asked for next
        if refused:
            raise AnswerRefused(
                f"{len(refused)} of {len(chosen)} devices cannot take it: {few(refused, _TOLD)}",
                why=why,
                remedy="choose others",
            )

    @cached_property
    def _immutable(self) -> frozenset[str]:
        configuration = self.target.description.configuration
        sections = configuration.sections if configuration else ()
        return frozenset(each.parameter for section in sections for each in section.settings if each.immutable)

    def _needed(self, name: str) -> None:
        """Refuse that nothing gives a value to a parameter that every profile needs."""
        description = self.target.description
        schemas = [each for each in parameter_schemas(description, name) if not each.allow_empty]
        if not schemas or not is_empty(description.parameters[name].value) or name in self._elsewhere:
            return
        parts = {part for target in description.parameters[name].targets for part in target.components}
        if all(parts & {each.name for each in profile.components} for profile in description.deployment_profiles):
            raise AnswerRefused(f"parameter {name} needs a value", why=[f"it is {rule_text(schemas[0])}"])

    @cached_property
    def _elsewhere(self) -> frozenset[str]:
        """The parameters that overlays, sites and devices give."""
        layers = [each.value.spec.parameters for each in self.intent.sites.values()]
        layers += [each.value.spec.parameters for each in self.intent.devices.values()]
        if self.target.known is not None:
            layers += [overlay.parameters for overlay in self.target.known.value.spec.overlays]
        return frozenset(name for layer in layers for name in layer)

    def _on_devices(
        self,
        name: str,
        known: Located[Deployment],
        set_now: Mapping[str, ParameterValue],
        unset: Collection[str],
    ) -> None:
        """Refuse a value that a device which has the deployment cannot get."""
        spec = known.value.spec
        parameters = {**{each: value for each, value in spec.parameters.items() if each not in unset}, **set_now}
        changed = replace(known, value=replace(known.value, spec=replace(spec, parameters=parameters)))
        alone = self._with_only(name)
        reasons: dict[str, list[str]] = {}
        for target in self.chosen(spec.placement):
            for reason in self._reasons(changed, alone, target):
                reasons.setdefault(reason, []).append(target.id)
        if reasons:
            told = [f"{few(devices, _TOLD)}: {reason}" for reason, devices in reasons.items()]
            raise AnswerRefused(f"parameter {name} cannot be this", why=told[:_TOLD])

    def _reasons(self, changed: Located[Deployment], alone: Application, target: TargetDevice) -> Iterator[str]:
        try:
            profile = choose_profile(alone.description.value.deployment_profiles, self.known_profiles, target)
            placement = Placement(changed, alone, profile, target)
            _, errors = resolve_placement(self.intent, placement, self.previous(client_of(target.id)))
        except (NotPlaceable, AmbiguousProfile):
            return  # where it goes is another question
        yield from ("; ".join([error.what, *error.why]) for error in errors)

    @property
    def known_profiles(self) -> tuple[str, ...]:
        """The profiles that the Deployment prefers now, as far as the application still has them."""
        ids = {each.id for each in self.target.description.deployment_profiles}
        preferred = self.target.known.value.spec.profiles if self.target.known else ()
        return tuple(each for each in preferred if each in ids)

    def _with_only(self, name: str) -> Application:
        """Return the application with one parameter: that alone is resolved then, on however many devices."""
        described = self.application.description
        value = replace(described.value, parameters={name: described.value.parameters[name]})
        return replace(self.application, description=replace(described, value=value))
