"""The documents of many devices: the bytes that they share are written once, each device's own values are filled in.

SKELETON-1  Devices share the skeleton of a deployment's document if they have in common: the deployment, its profile,
            the overlays that select them, the names of the parameters that site and device give, which deployments
            come first or are stopped, the calendars, when the device polls, and the locks.
SKELETON-2  Its holes are what `application_deployment` takes from the device: ids, what the device calls itself, and
            each parameter that site or device give, or whose expression names one of them or the deployment.
SKELETON-3  A skeleton counts once it gave the exact bytes of the documents of two devices. A value that fills a hole
            obeys the rules of its parameter. A document with a mistake, a secret, or a list in a hole, is written in
            full.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.compose_variables import variable_name
from margo_gitops.documents.deployment import OWN_EXTENSION, ApplicationDeployment, DeployedParameter
from margo_gitops.documents.nodes import Json, Scalar
from margo_gitops.documents.yaml_text import FilledForm, Hole, YamlForm
from margo_gitops.errors import TemplateInvalid
from margo_gitops.rendering.desired_state import DocumentWriter
from margo_gitops.rendering.intent import ById, Intent
from margo_gitops.rendering.parameters import Effective, is_right
from margo_gitops.rendering.placement import selected
from margo_gitops.rendering.resolution import (
    Placement,
    Resolved,
    calendars,
    contact,
    deployment_id,
    expression_names,
    locks,
)
from margo_gitops.rendering.templates import evaluate, names_in
from margo_gitops.values import dataclass, replace

_DIFFERENT = frozenset({"device", "site", "deployment"})
"""Names in expressions whose values differ between devices that share a skeleton."""


@dataclass(slots=True, eq=False)
class Skeleton:
    """What documents share.

    Attributes:
        parameters: whose values are filled in; with the values of the first device.
        proven: whether it gave the bytes of a second document.
    """

    form: YamlForm
    parameters: tuple[Effective, ...]
    proven: bool = False

    def differs_in(self, component: str, variables: Collection[str]) -> bool:
        """Whether these variables of a component may have other values in another document."""
        targets = (target for each in self.parameters for target in each.targets if component in target.components)
        return any(variable_name(target.pointer) in variables for target in targets)


class Skeletons:
    """Writes the documents of one render."""

    def __init__(self, intent: Intent) -> None:
        self._intent = intent
        self._writer = DocumentWriter()
        self._held: dict[Hashable, Skeleton] = {}

    def filled(self, placements: Mapping[str, Placement], name: str) -> FilledForm | None:
        """Return a deployment's document; None where it has to be resolved and written in full.

        Args:
            placements: all deployments of the device, by name.
        """
        skeleton = self.of(placements, name)
        return self._fill(skeleton, placements, name) if skeleton is not None else None

    def of(self, placements: Mapping[str, Placement], name: str) -> Skeleton | None:
        """Return the skeleton of a deployment's document; None where none counts yet."""
        if placements[name].deployment.value.spec.secret_refs:
            return None
        skeleton = self._held.get(self._shared(placements, name))
        return skeleton if skeleton is not None and skeleton.proven else None

    def written(
        self, placements: Mapping[str, Placement], resolved: Resolved, document: ApplicationDeployment
    ) -> bytes:
        """Return the bytes of a document without mistakes, written in full, and learn from it.

        Raises:
            UnwritableValue: a parameter holds what no YAML reader could read back.
        """
        content = self._writer.write(document)
        name = resolved.deployment.value.metadata.name
        if resolved.deployment.value.spec.secret_refs:
            return content
        shared = self._shared(placements, name)
        skeleton = self._held.get(shared)
        if skeleton is None:
            varying = tuple(each for each in resolved.parameters if self._varies(each, resolved))
            form = YamlForm.of(self._writer.plain(_with_holes(document, varying)))
            self._held[shared] = Skeleton(form, varying)
        elif not skeleton.proven:
            filled = self._fill(skeleton, placements, name)
            skeleton.proven = filled is not None and bytes(filled) == content
        return content

    def _shared(self, placements: Mapping[str, Placement], name: str) -> Hashable:
        """Return what a document has in common with those of the same skeleton (SKELETON-1)."""
        placement = placements[name]
        spec, target = placement.deployment.value.spec, placement.target
        return (
            ById(placement.deployment),
            ById(placement.profile),
            tuple(selected(overlay.match, target) for overlay in spec.overlays),
            tuple(frozenset(given) for given in self._given(placement)),
            tuple(tuple(other for other in named if other in placements) for named in (spec.after, spec.stop)),
            self._intent.called(target.id) == target.id,
            calendars(placement.deployment.value, target, self._intent),
            contact(target, self._intent),
            locks(placement.deployment.value, target),
        )

    def _given(self, placement: Placement) -> Iterator[Mapping[str, ParameterValue]]:
        """Yield the parameters that the device and its site give, strongest first."""
        yield placement.target.device.spec.parameters
        site = self._intent.sites.get(placement.target.site or "")
        if site is not None:
            yield site.value.spec.parameters

    def _varies(self, parameter: Effective, resolved: Resolved) -> bool:
        layer = parameter.origin.layer
        if layer.is_default:
            return False
        is_own = layer.document is not resolved.deployment
        return is_own or not _DIFFERENT.isdisjoint(names_in(parameter.origin.written))

    def _fill(self, skeleton: Skeleton, placements: Mapping[str, Placement], name: str) -> FilledForm | None:
        placement = placements[name]
        fleet, target = self._intent.fleet.value.metadata.name, placement.target
        identity = deployment_id(fleet, target.id, name)
        spec = placement.deployment.value.spec
        named = [other for other in (*spec.after, *spec.stop) if other in placements]
        values: list[Scalar] = [identity, self._intent.called(target.id), target.id]
        values += (deployment_id(fleet, target.id, other) for other in named)
        names, given = expression_names(placement, identity), tuple(self._given(placement))
        try:
            for model in skeleton.parameters:
                own = (each[model.name] for each in given if model.name in each)
                value = evaluate(next(own, model.origin.written), names)
                parameter = Effective(model.name, value, model.origin, (), model.targets)
                if isinstance(value, tuple) or not is_right(parameter, placement.application, placement.profile):
                    return None
                values.append(value)
            return skeleton.form.filled(values)
        except (TemplateInvalid, ValueError):
            return None


def _with_holes(document: ApplicationDeployment, parameters: tuple[Effective, ...]) -> ApplicationDeployment:
    """Return a document with holes in the order in which `Skeletons` fills them (SKELETON-2)."""
    spec = document.spec
    own = spec.extensions[OWN_EXTENSION]
    holes: dict[str, Json] = {}
    at = 3
    if isinstance(own, dict):
        for key in ("after", "stop"):
            named = own.get(key)
            if isinstance(named, list):
                holes[key] = [Hole(at + index) for index in range(len(named))]
                at += len(named)
        if "device" in own:
            holes["device"] = Hole(2)
        holes = {**own, **holes}
    filled = {each.name: DeployedParameter(Hole(at + index), each.targets) for index, each in enumerate(parameters)}
    return replace(
        document,
        id=Hole(0),
        metadata=replace(document.metadata, device_id=Hole(1)),
        spec=replace(spec, parameters={**spec.parameters, **filled}, extensions={OWN_EXTENSION: holes}),
    )
