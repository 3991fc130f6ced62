"""Kubernetes manifests as objects: read from files, named, compared. Pure.

OBJECT-1  A file has any number of YAML documents, or is one JSON value. Its size, depth and number of values are
          bounded; anchors, aliases and tags are refused. A v1 List counts as its items; other lists are refused.
OBJECT-2  Plain scalars mean what Kubernetes takes them for (YAML 1.1 as its Go library reads it): `0644` is 420, `yes`
          is true, `12:30` and dates are texts. What has no JSON value (`.nan`) is refused.
OBJECT-3  Each object has apiVersion, kind and a name that can be part of a path. None appears twice. What only the
          server writes (uid, resourceVersion, managedFields) and what it chooses (generateName) is refused.
OBJECT-4  A mistake names file and line. Values of Secrets are never shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from margo_gitops.documents.json_text import read_json
from margo_gitops.documents.nodes import Bounds, Json, Node, Scalar, decoded
from margo_gitops.documents.yaml_events import read_stream
from margo_gitops.documents.yaml_scalars import MAX_INTEGER, MIN_INTEGER, AmbiguousScalarError
from margo_gitops.errors import Location, ManifestInvalid, UnreadableDocument
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import shortened

Fields: TypeAlias = dict[str, Json]

BOUNDS: Final = Bounds(size=8 * 1024 * 1024, depth=100, nodes=400_000)
"""Of one file; CRDs are long and deep."""
MOST_OBJECTS: Final = 2000
MOST_BYTES: Final = 32 * 1024 * 1024
"""Of all files of a component together."""
MANIFEST_SUFFIXES: Final = (".yaml", ".yml", ".json")
"""Files of a component that are manifests."""

_API_VERSION = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?v[a-z0-9]{1,62}")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,251}[A-Za-z0-9])?|system:[A-Za-z0-9._:-]{1,246}")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVERS_OWN = ("uid", "resourceVersion", "managedFields", "selfLink", "deletionTimestamp", "generateName")
_TRUE = frozenset(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
_FALSE = frozenset(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_BASED = re.compile(r"([-+]?)0([xX][0-9a-fA-F]+|[bB][01]+|[oO]?[0-7]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_EXACT = 2**53
_UNCLEAR = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|[-+]?[0-9][0-9_]*_[0-9_]*|[-+]?0[xXbBoO][0-9a-fA-F_]+")
_POD_SPECS: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": ("spec",),
    "PodTemplate": ("template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    **dict.fromkeys(
        ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"),
        ("spec", "template", "spec"),
    ),
}
_POD_GROUPS = ("", "apps", "batch")
HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True, order=True)
class ObjectId:
    """What an object is called in a cluster; its API version may change.

    Attributes:
        group: of its API; empty for the core.
        namespace: empty where it has none, or the manifest names none.
    """

    group: str
    kind: str
    namespace: str
    name: str

    @property
    def group_kind(self) -> str:
        """Kind and group as ApplySets name them: `Deployment.apps`, `ConfigMap`."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def __str__(self) -> str:
        return f"{self.group_kind} {self.namespace}/{self.name}" if self.namespace else f"{self.group_kind} {self.name}"


@dataclass(frozen=True, slots=True)
class KubernetesObject:
    """An object as a manifest has it.

    Attributes:
        body: the whole object; it is not changed in place.
        file, line: where it starts; empty and 0 for one that was never in a file.
    """

    body: Fields
    file: str = ""
    line: int = 0

    @property
    def api_version(self) -> str:
        """Group and version, `apps/v1`; `v1` for the core."""
        return text_at(self.body, "apiVersion")

    @property
    def group(self) -> str:
        """The group of its API; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def kind(self) -> str:
        """What it is."""
        return text_at(self.body, "kind")

    @property
    def name(self) -> str:
        """Its name in its namespace."""
        return text_at(self.body, "metadata", "name")

    @property
    def namespace(self) -> str:
        """Its namespace; empty where the manifest names none."""
        return text_at(self.body, "metadata", "namespace")

    @property
    def identity(self) -> ObjectId:
        """What it is called."""
        return ObjectId(self.group, self.kind, self.namespace, self.name)

    @property
    def place(self) -> Location | None:
        """Where it is written."""
        return Location(self.file, self.line or None) if self.file else None

    def with_metadata(self, **members: Json) -> KubernetesObject:
        """Return it with members of its metadata; mappings are added to what is there."""
        metadata = dict(mapping_at(self.body, "metadata"))
        for name, value in members.items():
            metadata[name] = {**mapping_at(metadata, name), **value} if isinstance(value, dict) else value
        return replace(self, body={**self.body, "metadata": metadata})


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field that differs between two forms of an object.

    Attributes:
        path: as people write it, `spec.template.spec.containers[name=web].image`.
        before, after: the value as JSON, shortened; None where it is missing.
    """

    path: str
    before: str | None
    after: str | None


def read_objects(files: Iterable[tuple[str, bytes]]) -> tuple[KubernetesObject, ...]:
    """Return the objects of manifests, in the order of the files given (ManifestInvalid: OBJECT-1 to OBJECT-4).

    Args:
        files: names as people know them, and contents; a name that ends with `.json` is read as JSON.
    """
    found: list[KubernetesObject] = []
    seen: dict[ObjectId, KubernetesObject] = {}
    size = 0
    for file, content in files:
        size += len(content)
        if size > MOST_BYTES:
            raise ManifestInvalid(f"the manifests have more than {MOST_BYTES} bytes", remedy="split the component")
        for node in _documents(file, content):
            for each in _objects(file, node):
                if len(found) == MOST_OBJECTS:
                    raise ManifestInvalid(f"there are more than {MOST_OBJECTS} objects", remedy="split the component")
                if (first := seen.setdefault(each.identity, each)) is not each:
                    raise ManifestInvalid(
                        f"{each.identity} appears twice, first at {first.place}", where=each.place, remedy="remove one"
                    )
                found.append(each)
    return tuple(found)


def _documents(file: str, content: bytes) -> list[Node]:
    try:
        if file.endswith(".json"):
            return [read_json(content, file, BOUNDS, foreign=True).root]
        decoded(content, file, BOUNDS)
        return read_stream(content, file, BOUNDS, plain_scalar)
    except UnreadableDocument as error:
        raise ManifestInvalid(error.what, where=error.where, why=error.why, remedy=error.remedy) from error


def plain_scalar(text: str) -> Scalar:
    """Return what Kubernetes takes a plain scalar for (OBJECT-2; AmbiguousScalarError: nothing that JSON has)."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _DECIMAL.fullmatch(text) and len(text) < 24:
        number = int(text)
        return number if MIN_INTEGER <= number <= MAX_INTEGER else float(text)
    if len(text) < 70 and (match := _BASED.fullmatch(text)):
        digits = match[2].lower()
        base = {"x": 16, "b": 2}.get(digits[0], 8)
        return int(match[1] + digits.lstrip("xbo"), base) if base != 16 else int(match[1] + digits[1:], 16)
    if len(text) < 64 and _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    if _UNCLEAR.fullmatch(text):
        raise AmbiguousScalarError("is a number that not every reader knows", "quote it, or write it plainly")
    return text


def _objects(file: str, node: Node) -> Iterator[KubernetesObject]:
    if not isinstance(node.value, dict):
        raise _wrong(file, node, "is not an object", "a manifest is a mapping with apiVersion, kind and metadata")
    kind, version = node.text("kind") or "", node.text("apiVersion") or ""
    # Programs for Kubernetes take whatever has items for a list, and make an object of each of them.
    listed = [key for key in node.value if str(key).lower() == "items"]
    if kind == "List" and version == "v1" and listed in ([], ["items"]):
        for item in node.items("items"):
            yield from _objects(file, item)
        return
    if listed:
        raise _wrong(file, node, f"{kind} is a list", "write its objects one by one, or as a v1 List")
    if "kustomize.config.k8s.io" in version:
        raise _wrong(file, node, "is for kustomize", "put what `kustomize build` prints into the content")
    for what, text, pattern in (("apiVersion", version, _API_VERSION), ("kind", kind, _KIND)):
        if not pattern.fullmatch(text):
            raise _wrong(file, node, f"has no {what} that can be used", f"add {what}")
    metadata = node.entries("metadata")
    if own := [name for name in _SERVERS_OWN if name in metadata]:
        raise _wrong(file, metadata[own[0]], f"metadata.{own[0]} is not for manifests", "remove it; give it a name")
    if not _NAME.fullmatch(node.text("metadata", "name") or ""):
        raise _wrong(file, node, f"this {kind} has no name that can be used", "add metadata.name")
    if "namespace" in metadata and not _NAMESPACE.fullmatch(node.text("metadata", "namespace") or ""):
        raise _wrong(file, metadata["namespace"], f"this {kind} has no namespace that can be used", "correct it")
    body = node.plain()
    yield KubernetesObject(body if isinstance(body, dict) else {}, file, node.line)


def _wrong(file: str, node: Node, what: str, remedy: str) -> ManifestInvalid:
    return ManifestInvalid(what, where=Location(file, node.line or None), remedy=remedy)


def pod_path(obj: KubernetesObject) -> tuple[str, ...] | None:
    """Return where an object has the specification of its pods; None where it has no pods."""
    return _POD_SPECS.get(obj.kind) if obj.group in _POD_GROUPS else None


def field_differences(before: Json, after: Json) -> tuple[FieldDifference, ...]:
    """Return which fields of an object differ, sorted by path; values of a Secret are hidden (OBJECT-4)."""
    secret = any(isinstance(each, dict) and each.get("kind") == "Secret" for each in (before, after))

    def shown(path: str, value: object) -> str | None:
        if value is ...:
            return None
        if secret and path.startswith(("data", "stringData")):
            return HIDDEN
        return shortened(json.dumps(value, sort_keys=True, ensure_ascii=False), 120)

    found = [FieldDifference(path, shown(path, old), shown(path, new)) for path, old, new in _differ("", before, after)]
    return tuple(sorted(found, key=lambda each: each.path))


def _differ(path: str, before: object, after: object) -> Iterator[tuple[str, object, object]]:
    old, new = _entries(before), _entries(after)
    if old is None or new is None:
        if type(before) is not type(after) or before != after:
            yield path, before, after
        return
    for name in sorted({*old, *new}):
        key = name if name.startswith("[") or not path else f".{name}"
        yield from _differ(path + key, old.get(name, ...), new.get(name, ...))


def _entries(value: object) -> Mapping[str, object] | None:
    """Return the members of a mapping, or of a list by name or place; None for another value."""
    if isinstance(value, dict):
        return {key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'["{key}"]': each for key, each in value.items()}
    if not isinstance(value, list):
        return None
    names = [each.get("name") if isinstance(each, dict) else None for each in value]
    if all(isinstance(name, str) for name in names) and len({*names}) == len(names):
        return {f"[name={name}]": each for name, each in zip(names, value, strict=True)}
    return {f"[{at}]": each for at, each in enumerate(value)}


def mapping_at(value: Json, *path: str) -> Fields:
    """Return the mapping at a path; an empty one where it is missing."""
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def list_at(value: Json, *path: str) -> list[Json]:
    """Return the list at a path; an empty one where it is missing."""
    found = mapping_at(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, list) else []


def text_at(value: Json, *path: str) -> str:
    """Return the text at a path; empty where it is missing."""
    found = mapping_at(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""
