"""Where a parameter goes in Kubernetes manifests: `Deployment/web:spec.template.spec.containers[name=web].image`. Pure.

POINT-1  Before the colon: kind and name, or kind, namespace and name, `ConfigMap/plant/settings`. One object has it.
POINT-2  After it: keys with dots between them, in brackets and quotes where they hold dots, `["example.com/line"]`; an
         item of a list by a member, `[name=web]`, or by its number, `[0]`.
POINT-3  Keys that are missing are made, and so is the last item that is named by a member, unless it is a container. An
         item that is missing before that is a mistake: nothing would come of it.
POINT-4  Values keep their types. Where Kubernetes takes texts only (data of ConfigMaps and Secrets, labels,
         annotations, `value` of a variable), they become texts as everywhere else; in `data` of a Secret also base64.
POINT-5  A secret goes into a Secret only, which is made where it is missing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TypeAlias

from margo_gitops.documents.components import ParameterValue
from margo_gitops.documents.compose_variables import parameter_text
from margo_gitops.documents.kubernetes_objects import Fields, KubernetesObject, mapping_at
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import ManifestInvalid
from margo_gitops.values import dataclass, replace

_HEAD = re.compile(r"([A-Z][A-Za-z0-9]*)/(?:([a-z0-9-]+)/)?([A-Za-z0-9._-]+):(.+)", re.DOTALL)
_STEP = re.compile(r'\.?([A-Za-z0-9_-]+)|\["([^"\]]+)"\]|\[([A-Za-z0-9_]+)=([^\]]+)\]|\[([0-9]{1,4})\]')

_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")

Step: TypeAlias = str | int | tuple[str, str]
"""A key, the number of an item, or the member and value that an item has."""


@dataclass(frozen=True, slots=True)
class ObjectPointer:
    """A field of an object."""

    kind: str
    namespace: str
    name: str
    path: tuple[Step, ...]


def parse_pointer(pointer: str) -> ObjectPointer:
    """Return what a pointer names (ManifestInvalid: it names no field; POINT-1, POINT-2)."""
    head = _HEAD.fullmatch(pointer)
    steps: list[Step] = []
    at = 0
    while head and at < len(head[4]):
        step = _STEP.match(head[4], at)
        if step is None or (step[1] and (at == 0) == step[0].startswith(".")):
            break
        at = step.end()
        steps.append(step[1] or step[2] or ((step[3], step[4]) if step[3] else int(step[5])))
    if head is None or at < len(head[4]) or not isinstance(steps[0], str):
        raise ManifestInvalid(
            f"the pointer {pointer} names no field of a Kubernetes object",
            remedy="write Kind/name:path.to.field, such as ConfigMap/settings:data.GREETING",
        )
    return ObjectPointer(head[1], head[2] or "", head[3], tuple(steps))


def with_values(
    objects: Sequence[KubernetesObject], values: Mapping[str, ParameterValue]
) -> tuple[KubernetesObject, ...]:
    """Return objects with values by pointer; the given ones stay as they are (ManifestInvalid: POINT-1 to POINT-3)."""
    found = list(objects)
    for pointer, value in values.items():
        wanted = parse_pointer(pointer)
        at = _index(found, wanted, pointer)
        found[at] = _with_value(found[at], wanted, pointer, _placed(wanted, value))
    return tuple(found)


def with_secrets(objects: Sequence[KubernetesObject], secrets: Mapping[str, bytes]) -> tuple[KubernetesObject, ...]:
    """Return objects with values of secrets by pointer (ManifestInvalid: one is not for a Secret, POINT-5)."""
    found = list(objects)
    for pointer, value in secrets.items():
        wanted = secret_pointer(pointer)
        if not any(_matches(each, wanted) for each in found):
            metadata: Fields = {"name": wanted.name, **({"namespace": wanted.namespace} if wanted.namespace else {})}
            found.append(KubernetesObject({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}))
        at = _index(found, wanted, pointer)
        encoded = base64.b64encode(value).decode()
        found[at] = _with_value(found[at], replace(wanted, path=("data", *wanted.path[1:])), pointer, encoded)
    return tuple(found)


def secret_pointer(pointer: str) -> ObjectPointer:
    """Return where a secret goes (ManifestInvalid: not into the data of a Secret, POINT-5)."""
    wanted = parse_pointer(pointer)
    if wanted.kind != "Secret" or len(wanted.path) != 2 or wanted.path[0] not in ("data", "stringData"):
        raise ManifestInvalid(
            f"the pointer {pointer} is not for a secret",
            remedy="secrets go into Secrets: write Secret/name:stringData.key, and let the pod take it from there",
        )
    return wanted


def with_plain_data(obj: KubernetesObject) -> KubernetesObject:
    """Return a Secret whose `stringData` is in `data`, as the server has it; other objects as they are.

    With server-side apply, a key that is taken out of `stringData` would stay in the Secret.
    """
    texts = mapping_at(obj.body, "stringData")
    if obj.kind != "Secret" or obj.group or not texts:
        return obj
    encoded: Fields = {key: _base64(value) if isinstance(value, str) else value for key, value in texts.items()}
    body = {key: value for key, value in obj.body.items() if key != "stringData"}
    return replace(obj, body={**body, "data": {**mapping_at(obj.body, "data"), **encoded}})


def _index(objects: Sequence[KubernetesObject], wanted: ObjectPointer, pointer: str) -> int:
    found = [at for at, each in enumerate(objects) if _matches(each, wanted)]
    if len(found) != 1:
        names = ", ".join(sorted(f"{each.kind}/{each.name}" for each in objects)[:20])
        raise ManifestInvalid(
            f"the pointer {pointer} names {'no object' if not found else 'several objects'} of the manifests",
            why=[f"there are {names}"],
            remedy="correct it, or write the namespace too: Kind/namespace/name:field",
        )
    return found[0]


def _matches(obj: KubernetesObject, wanted: ObjectPointer) -> bool:
    return (obj.kind, obj.name) == (wanted.kind, wanted.name) and wanted.namespace in ("", obj.namespace)


def _placed(wanted: ObjectPointer, value: ParameterValue) -> Json:
    """Return a value as its place takes it (POINT-4)."""
    path = wanted.path
    if wanted.kind == "Secret" and path[0] == "data":
        return _base64(parameter_text(value))
    is_data = wanted.kind in ("ConfigMap", "Secret") and path[0] in ("data", "stringData")
    is_label = any(step in ("labels", "annotations") and path[at] == "metadata" for at, step in enumerate(path[1:]))
    is_variable = path[-1] == "value" and len(path) > 2 and path[-3] == "env"
    if is_data or is_label or is_variable:
        return parameter_text(value)
    return list(value) if isinstance(value, tuple) else value


def _with_value(obj: KubernetesObject, wanted: ObjectPointer, pointer: str, value: Json) -> KubernetesObject:
    body = deepcopy(obj.body)
    holder: Json = body
    *steps, last = wanted.path
    for at, step in enumerate(steps):
        made: Json = [] if not isinstance(wanted.path[at + 1], str) else {}
        is_last = not any(isinstance(each, tuple) for each in wanted.path[at + 1 :])
        holder = _step(holder, step, made, pointer, may_add=is_last and steps[at - 1] not in _CONTAINERS)
    if isinstance(holder, dict) and isinstance(last, str):
        holder[last] = value
        return replace(obj, body=body)
    if isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        holder[last] = value
        return replace(obj, body=body)
    raise _nowhere(pointer)


def _step(holder: Json, step: Step, made: Json, pointer: str, *, may_add: bool) -> Json:
    """Return what a step leads to, and make it where it is missing (POINT-3)."""
    if isinstance(holder, dict) and isinstance(step, str):
        if holder.get(step) is None:
            holder[step] = made
        return holder[step]
    if isinstance(holder, list) and isinstance(step, int) and step < len(holder):
        return holder[step]
    if isinstance(holder, list) and isinstance(step, tuple):
        member, text = step
        for item in holder:
            if isinstance(item, dict) and str(item.get(member)) == text:
                return item
        if may_add:
            item = {member: text}
            holder.append(item)
            return item
    raise _nowhere(pointer)


def _nowhere(pointer: str) -> ManifestInvalid:
    return ManifestInvalid(
        f"the pointer {pointer} leads nowhere in its object", remedy="correct it, or add the field to the manifest"
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
