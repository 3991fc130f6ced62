"""Which Kubernetes objects a change of deployments adds, changes and removes: charts and manifests before and after.

FORETOLD-1  Only components whose workload changes are looked at, and only those whose content is in the fleet repo.
FORETOLD-2  What cannot be known is a note, once for each reason; the plan then shows the values as always.
FORETOLD-3  A field has an origin if the change of one parameter, and of no other, explains it.
FORETOLD-4  A field that a chart makes of chance or the time is named as such, without its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from margo_gitops.catalog.chart_check import changing_functions, packaged_chart
from margo_gitops.catalog.file_tree import FileTree
from margo_gitops.catalog.manifests import read_manifests
from margo_gitops.documents.application import DeploymentProfile
from margo_gitops.documents.capabilities import LabelValue
from margo_gitops.documents.charts import Chart
from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.deployment import ApplicationDeployment, DeployedProfile, component_format
from margo_gitops.documents.helm_values import PointerMistake, values_of
from margo_gitops.documents.kubernetes_objects import (
    KubernetesObject,
    ObjectId,
    field_differences,
)
from margo_gitops.documents.kubernetes_pointers import with_secrets, with_values
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.workload_identity import WorkloadContent, own_extension, workload_contents
from margo_gitops.errors import DeploymentUnusable, ManifestInvalid, UnreadableDocument
from margo_gitops.operations.content_sources import content_by_digest
from margo_gitops.operations.plan.chart_templates import ChartTemplates, Cluster, NotTemplatedError
from margo_gitops.rendering.changes import (
    DeploymentChange,
    DeviceChange,
    ObjectChange,
    ObjectFieldChange,
    ParameterChange,
    ValueOrigin,
)
from margo_gitops.rendering.intent import ComponentContent, Intent
from margo_gitops.values import dataclass, field, replace
from margo_gitops.wording import json_text

VERSION_LABEL = "org.margo-gitops.kubernetes-version"
APIS_LABEL = "org.margo-gitops.kubernetes-apis"
CHANGES_EACH_TIME = "(changes each time)"

Documents: TypeAlias = Callable[[str, str], tuple[ApplicationDeployment | None, ApplicationDeployment | None]]
"""Returns a deployment's document before and after, by the device that pulls and the deployment's id."""
_Objects: TypeAlias = Mapping[ObjectId, KubernetesObject]


@dataclass(slots=True)
class ObjectChanges:
    """Finds the objects of changes.

    Attributes:
        tree: of the fleet repo, with the content of applications.
        notes: what cannot be known, each with the deployments concerned.
    """

    intent: Intent
    tree: FileTree
    templates: ChartTemplates
    documents: Documents
    notes: dict[str, dict[str, None]] = field(default_factory=dict)
    _charts: dict[str, Chart | None] = field(default_factory=dict)
    _contents: Mapping[str, ComponentContent] = field(default_factory=dict)

    def of(self, changes: Sequence[DeviceChange]) -> tuple[DeviceChange, ...]:
        """Return changes with the objects of their deployments."""
        every = (each.description.value for each in self.intent.applications.values())
        if not any(_is_kubernetes(profile) for each in every for profile in each.deployment_profiles):
            return tuple(changes)
        self._contents = {str(digest): each for digest, each in content_by_digest(self.intent).items()}
        return tuple(
            replace(change, deployments=tuple(self._with_objects(change.device, each) for each in change.deployments))
            if change.deployments
            else change
            for change in changes
        )

    def told(self) -> Iterator[str]:
        """Yield the notes."""
        for reason, names in self.notes.items():
            yield f"Kubernetes objects of {', '.join(names)} are not shown: {reason}"

    def _with_objects(self, client: str, change: DeploymentChange) -> DeploymentChange:
        if not change.workloads:
            return change
        before, after = self.documents(client, change.id)
        if not any(_is_kubernetes(each.spec.deployment_profile) for each in (before, after) if each is not None):
            return change
        old, new = _contents(before), _contents(after)
        cluster = self._cluster(change.device)
        found: list[ObjectChange] = []
        for workload in change.workloads:
            sides = old.get(workload.component), new.get(workload.component)
            try:
                held, wanted = self._objects(before, sides[0], cluster), self._objects(after, sides[1], cluster)
                changing = self._changing(after, sides[1], cluster, wanted)
                found += _differences(workload.component, held, wanted, change.parameters, changing)
            except (NotTemplatedError, ManifestInvalid, UnreadableDocument, PointerMistake) as error:
                reason = str(error) if isinstance(error, (NotTemplatedError, PointerMistake)) else error.what
                name = f"{change.deployment}/{workload.component}"
                self.notes.setdefault(reason, {})[name] = None
        return replace(change, objects=tuple(found)) if found else change

    def _cluster(self, device: str) -> Cluster:
        document = self.intent.devices.get(device)
        labels: Mapping[str, LabelValue] = document.value.spec.capabilities.labels if document else {}
        version, apis = labels.get(VERSION_LABEL), labels.get(APIS_LABEL)
        plain = Cluster(apis=tuple(sorted(str(each) for each in apis)) if isinstance(apis, tuple) else ())
        return replace(plain, version=version.removeprefix("v")) if isinstance(version, str) else plain

    def _objects(
        self, document: ApplicationDeployment | None, side: WorkloadContent | None, cluster: Cluster
    ) -> _Objects:
        if document is None or side is None:
            return {}
        if document.spec.deployment_profile.type == "helm":
            values = _values(side)
            chart, digest, name = self._chart(side), str(side.artifact and side.artifact.digest), side.component.name
            made = self.templates.objects(digest, chart, name, document.metadata.namespace, values, cluster)
        elif component_format(side.component) == "kubernetes":
            made = self._manifests(side)
        else:
            return {}
        return {each.identity: each for each in made}

    def _changing(
        self, document: ApplicationDeployment | None, side: WorkloadContent | None, cluster: Cluster, wanted: _Objects
    ) -> frozenset[tuple[ObjectId, str]]:
        """Return the fields that are another each time, of a chart whose templates may make such (FORETOLD-4)."""
        if document is None or side is None or document.spec.deployment_profile.type != "helm":
            return frozenset()
        chart = self._chart(side)
        if not changing_functions(chart):
            return frozenset()
        namespace, values = document.metadata.namespace, _values(side)
        again = self.templates.once(chart, side.component.name, namespace, values, cluster)
        return frozenset(
            (each.identity, difference.path)
            for each in again
            if each.identity in wanted
            for difference in field_differences(wanted[each.identity].body, each.body)
        )

    def _content(self, side: WorkloadContent) -> ComponentContent:
        content = self._contents.get(side.artifact.digest) if side.artifact is not None else None
        if content is None or "://" in content.location:
            raise NotTemplatedError("their content, as it is or was, is not in the fleet repo")
        return content

    def _chart(self, side: WorkloadContent) -> Chart:
        content = self._content(side)
        if content.location not in self._charts:
            path = f"applications/{content.location}"
            self._charts[content.location] = packaged_chart(self.tree, path, is_folder=content.is_folder)
        chart = self._charts[content.location]
        if chart is None:
            raise NotTemplatedError("their content is not a chart")
        return chart

    def _manifests(self, side: WorkloadContent) -> tuple[KubernetesObject, ...]:
        content = self._content(side)
        made = read_manifests(self.tree, f"applications/{content.location}", is_folder=content.is_folder)
        objects = with_values(made, side.values)
        return with_secrets(objects, dict.fromkeys(side.secrets, b"(secret)"))


def _is_kubernetes(profile: DeploymentProfile | DeployedProfile) -> bool:
    return profile.type == "helm" or any(map(component_format, profile.components))


def _contents(document: ApplicationDeployment | None) -> dict[str, WorkloadContent]:
    if document is None:
        return {}
    try:
        return {each.component.name: each for each in workload_contents(document, own_extension(document))}
    except DeploymentUnusable:
        return {}


def _values(side: WorkloadContent) -> dict[str, Json]:
    secrets: list[tuple[str, ParameterValue]] = [(pointer, "(secret)") for pointer in side.secrets]
    return values_of([*side.values.items(), *secrets])


def _differences(
    component: str,
    held: _Objects,
    wanted: _Objects,
    parameters: Sequence[ParameterChange],
    changing: frozenset[tuple[ObjectId, str]],
) -> Iterator[ObjectChange]:
    for identity in sorted({*held, *wanted}):
        old, new = held.get(identity), wanted.get(identity)
        named = {"component": component, "kind": identity.kind, "namespace": identity.namespace, "name": identity.name}
        if old is None or new is None:
            yield ObjectChange(**named, change="added" if old is None else "removed", fields=())
            continue
        fields = []
        for each in field_differences(old.body, new.body):
            if (identity, each.path) in changing:
                fields.append(ObjectFieldChange(each.path, CHANGES_EACH_TIME, CHANGES_EACH_TIME, None))
            else:
                origin = _origin(each.before, each.after, parameters)
                fields.append(ObjectFieldChange(each.path, each.before, each.after, origin))
        if fields:
            yield ObjectChange(**named, change="changed", fields=tuple(fields))


def _origin(before: str | None, after: str | None, parameters: Sequence[ParameterChange]) -> ValueOrigin | None:
    """Return where the value of the one parameter is written whose change explains that of a field (FORETOLD-3)."""
    found = [each.origin for each in parameters if each.origin is not None and _explains(each, before, after)]
    return found[0] if len(found) == 1 else None


def _explains(parameter: ParameterChange, before: str | None, after: str | None) -> bool:
    if parameter.before is None or parameter.after is None or before is None or after is None:
        return False
    old, new = (json_text(each).strip('"') for each in (parameter.before, parameter.after))
    return bool(old) and before.replace(old, new) == after
