"""The one step from older document shapes (G0, G1) to the current one (G2), and back to G1 for what devices get.

It rewrites nodes, so findings of the typed reader still point to the line in the older file. It also corrects what
published examples of the current shape get wrong although the contract refuses it: `wait: "true"` as text.

UPGRADE-1  `apiVersion` and `kind` go; a description's `apiVersion` becomes `v1`.
UPGRADE-2  Ids move to the top level from `metadata.id` or `metadata.annotations.id`.
UPGRADE-3  `metadata.annotations.applicationId` becomes `spec.applicationId`; annotations go.
UPGRADE-4  Profile types `helm.v3` and `docker-compose` become `helm` and `compose`.
UPGRADE-5  The prefix `ENV.` of compose pointers goes.
UPGRADE-6  `requiredResources` becomes `deviceConstraints` with the same meaning.
UPGRADE-7  Capabilities: `resources` is spread out, `cpu` becomes `cpus`, `roles` goes, `x86_64` becomes `amd64`.
UPGRADE-8  `wait: "true"` and `"false"` become booleans.
UPGRADE-9  Older descriptions: a profile without `id` gets its type as the id, and a number after the first of a type;
           a component with a repository and without `revision` gets the application's version. A repository without a
           scheme gets `oci://`; a time-out of other units (`5m`, `90s`, `1h30m`) becomes minutes and seconds. Each is
           a warning, because it is a guess or not what the document says.
UPGRADE-10  A deployment's `packageLocation` goes where it only repeats the artifact of our extension.
UPGRADE-11  Older descriptions: a profile that no current document can express is left out with a warning, if another
            one remains: a repository that is not OCI, or a revision that is not SemVer. Its targets go, too.

A state in the older shape is a pure function of the current one, and the upgrade gives back the same bytes:

DOWNGRADE-1  A deployment gets `apiVersion` and `kind`, and annotations with its `id` (it stays at the top, too) and
             its `applicationId`, which leaves the spec. `helm` is `helm.v3` and `wait` is text, as in the released
             preview. A component whose artifact our extension names by https gets that as its `packageLocation`.
DOWNGRADE-2  What the older shape has no words for stays: device id, labels, constraints, extensions.
DOWNGRADE-3  The manifest has the digests of these documents and of their bundle, and links below the client's id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from margo_gitops.documents.components import REVISION_PATTERN
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.manifest import write_manifest
from margo_gitops.documents.nodes import Json, Node, SourceText
from margo_gitops.documents.yaml_text import read_yaml, write_yaml
from margo_gitops.errors import UnreadableDocument, UnwritableValue
from margo_gitops.values import replace

_PROFILE_TYPES = {"helm.v3": "helm", "docker-compose": "compose"}
_TIMEOUT = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def upgrade_description(source: SourceText) -> SourceText:
    """Return an ApplicationDescription in the current shape."""
    root = _without(source.root, "kind")
    if "kind" in source.root.entries():
        root.entries()["apiVersion"] = _at(root, "v1")
    metadata = root.get("metadata")
    if metadata is not None and "id" in metadata.entries() and "id" not in root.entries():
        root.entries()["id"] = metadata.entries()["id"]
        root.entries()["metadata"] = _without(metadata, "id")
    used: dict[str, int] = {}
    for profile in root.items("deploymentProfiles"):
        _upgrade_profile(profile)
        if "kind" in source.root.entries():
            _complete_profile(profile, root.text("metadata", "version"), used)
    if "kind" in source.root.entries():
        _leave_out_profiles(root)
    for parameter in root.entries("parameters").values():
        _upgrade_targets(parameter)
    return replace(source, root=root)


def upgrade_deployment(source: SourceText) -> SourceText:
    """Return an ApplicationDeployment in the current shape; a device id that an older one lacks stays absent."""
    root = _without(source.root, "kind", "apiVersion")
    metadata = root.get("metadata")
    noted = root.get("metadata", "annotations")
    if metadata is not None and noted is not None and isinstance(noted.value, dict):
        annotations = noted.value
        if "id" in annotations and "id" not in root.entries():
            root.entries()["id"] = annotations["id"]
        spec = root.get("spec")
        if spec is not None and "applicationId" in annotations and "applicationId" not in spec.entries():
            moved = {"applicationId": annotations["applicationId"], **spec.entries()}
            root.entries()["spec"] = replace(spec, value=moved)
        root.entries()["metadata"] = _without(metadata, "annotations")
    for properties, url in _packaged(root):
        if properties.text("packageLocation") == url and "repository" in properties.entries():
            del properties.entries()["packageLocation"]
    profile = root.get("spec", "deploymentProfile")
    if profile is not None:
        _upgrade_profile(profile)
    for parameter in root.entries("spec", "parameters").values():
        _upgrade_targets(parameter)
    return replace(source, root=root)


def older_deployment(document: bytes) -> bytes:
    """Return a deployment in the older shape (DOWNGRADE-1, DOWNGRADE-2).

    What is not a current deployment stays as it is, and so does what the upgrade would not give back byte for byte.
    """
    try:
        root = read_yaml(document, "").root
        spec, noted = root.get("spec"), {"id": root.text("id"), "applicationId": root.text("spec", "applicationId")}
        if spec is None or not all(noted.values()) or "kind" in root.entries():
            return document
        for properties, url in _packaged(root):
            properties.entries().setdefault("packageLocation", Node(url))
        for component in root.items("spec", "deploymentProfile", "components"):
            if (wait := component.get("properties", "wait")) is not None:
                wait.value = str(wait.plain()).lower()
        if root.text("spec", "deploymentProfile", "type") == "helm":
            root.entries("spec", "deploymentProfile")["type"] = Node("helm.v3")
        older = {
            "apiVersion": Node("application.margo.org/v1alpha1"),
            "kind": Node("ApplicationDeployment"),
            **root.entries(),
            "metadata": Node({"annotations": Node.of({**noted}), **root.entries("metadata")}),
            "spec": _without(spec, "applicationId"),
        }
        written = write_yaml(Node(older).plain())
        return written if current_deployment(written) == document else document
    except (UnreadableDocument, UnwritableValue):
        return document


def current_deployment(document: bytes) -> bytes:
    """Return a deployment of the older shape in the current one; what is not one as it is."""
    try:
        source = read_yaml(document, "")
        return write_yaml(upgrade_deployment(source).root.plain()) if source.root.text("kind") else document
    except (UnreadableDocument, UnwritableValue):
        return document


def older_state(
    version: int,
    deployments: Mapping[str, bytes],
    client_id: str,
    convert: Callable[[bytes], bytes] = older_deployment,
) -> tuple[bytes, dict[str, bytes]]:
    """Return the manifest and the deployments of a client of the older contract (DOWNGRADE-3).

    Args:
        version: `manifestVersion`.
        deployments: exact bytes of each deployment document in the current shape, by deployment id.
        convert: `older_deployment`, or what remembers its results.
    """
    older = {name: convert(content) for name, content in deployments.items()}
    return write_manifest(version, older, f"/api/v1/clients/{client_id}"), older


def upgrade_capabilities(source: SourceText) -> SourceText:
    """Return a DeviceCapabilities document in the current shape."""
    root = _without(source.root, "kind", "apiVersion")
    properties = root.get("properties")
    resources = root.get("properties", "resources")
    if properties is None or (resources is None and "roles" not in properties.entries()):
        return replace(source, root=root)
    moved = _without(properties, "roles", "resources").entries()
    for name, value in root.entries("properties", "resources").items():
        if name == "cpu":
            cpus = value.items() if isinstance(value.value, list) else [value]
            moved["cpus"] = Node([_upgrade_cpu(cpu) for cpu in cpus], value.line, value.column)
        else:
            moved.setdefault(name, value)
    root.entries()["properties"] = replace(properties, value=moved)
    return replace(source, root=root)


def upgrade_status(source: SourceText) -> SourceText:
    """Return a DeploymentStatus in the current shape; the adopted version that an older one lacks stays absent."""
    return replace(source, root=_without(source.root, "kind", "apiVersion"))


def _upgrade_cpu(cpu: Node) -> Node:
    entries = dict(cpu.entries())
    entries.pop("architectures", None)
    for architecture in cpu.items("architectures")[:1]:
        entries.setdefault("architecture", architecture)
    if "architecture" in entries:
        entries["architecture"] = _renamed(entries["architecture"], _ARCHITECTURES)
    return replace(cpu, value=entries)


def _upgrade_profile(profile: Node) -> None:
    entries = profile.entries()
    if "type" in entries:
        entries["type"] = _renamed(entries["type"], _PROFILE_TYPES)
    for component in profile.items("components"):
        wait = component.get("properties", "wait")
        if wait is not None and wait.value in ("true", "false"):
            wait.value = wait.value == "true"
    if "requiredResources" in entries and "deviceConstraints" not in entries:
        resources = entries.pop("requiredResources")
        entries["deviceConstraints"] = _constraints(resources) if isinstance(resources.value, dict) else resources


def _complete_profile(profile: Node, version: str | None, used: dict[str, int]) -> None:
    """Give a profile of an older description what the current shape requires (UPGRADE-9)."""
    kind = profile.text("type")
    if kind is not None and isinstance(profile.value, dict) and "id" not in profile.value:
        used[kind] = used.get(kind, 0) + 1
        profile.value["id"] = _at(profile, kind if used[kind] == 1 else f"{kind}-{used[kind]}")
    for component in profile.items("components"):
        properties = component.get("properties")
        entries = component.entries("properties")
        repository, timeout = component.text("properties", "repository"), component.text("properties", "timeout")
        if properties is not None and repository and "revision" not in entries and version is not None:
            entries["revision"] = _at(properties, version)
        if repository and "://" not in repository:
            entries["repository"].value = f"oci://{repository}"
        if meant := _timeout(timeout or ""):
            entries["timeout"].value = meant


def _timeout(text: str) -> str:
    """Return a time-out of an older form, such as `30s`, as Margo writes it; empty where it is something else."""
    found = _TIMEOUT.fullmatch(text)
    if not found or not found[0]:
        return ""
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    whole = hours * 3600 + minutes * 60 + seconds
    return f"{whole // 60}m{whole % 60}s"


def _leave_out_profiles(root: Node) -> None:
    """Remove the profiles that no current document can express, if another one remains (UPGRADE-11)."""
    profiles, version = root.get("deploymentProfiles"), root.text("metadata", "version")
    kept = [profile for profile in root.items("deploymentProfiles") if not list(_inexpressible(profile, version))]
    if profiles is None or not kept:
        return
    gone = {part.text("name") for profile in profiles.items() for part in profile.items("components")}
    gone -= {part.text("name") for profile in kept for part in profile.items("components")}
    profiles.value = kept
    for parameter in root.entries("parameters").values():
        for target in parameter.items("targets"):
            if names := target.get("components"):
                names.value = [name for name in names.items() if name.value not in gone]
        if targets := parameter.get("targets"):
            targets.value = [target for target in targets.items() if target.items("components")]


def _inexpressible(profile: Node, version: str | None) -> Iterator[tuple[Node, str]]:
    """Yield each component of an older profile that no current document can express, and why."""
    for component in profile.items("components"):
        repository, revision = component.text("properties", "repository"), component.text("properties", "revision")
        revision = revision or version
        if repository and "://" in repository and not repository.startswith("oci://"):
            yield component, f"{repository!r} is not an OCI repository"
        elif repository and revision and not re.fullmatch(REVISION_PATTERN, revision):
            yield component, f"the revision {revision!r} is not SemVer"


def older_doubts(source: SourceText) -> Iterator[tuple[Node, str, str, str]]:
    """Yield what the upgrade of an older document guesses or drops: the place, what, what to do, and how bad it is."""
    version, profiles = source.root.text("metadata", "version"), source.root.items("deploymentProfiles")
    wrong = [list(_inexpressible(profile, version)) for profile in profiles]
    for at, profile in enumerate(profiles):
        for component, why in wrong[at] if [] in wrong else ():
            message = f"component {component.text('name')}: {why}, so this profile is left out"
            yield component, message, "write an oci:// repository and a revision such as 1.4.2", "warning"
        if profile.text("type") is not None and "id" not in profile.entries():
            yield profile, f"deploymentProfiles.{at}: no id; it is named after its type", "add an id", "warning"
        for component in profile.items("components"):
            repository = component.get("properties", "repository")
            name = component.text("name")
            if repository is not None and "revision" not in component.entries("properties"):
                message = f"component {name}: no revision; the application's version is taken"
                yield component, message, "add the revision", "warning"
            if repository is not None and isinstance(repository.value, str) and "://" not in repository.value:
                yield repository, f"component {name}: the repository has no scheme", "write oci:// before it", "warning"
            timeout = component.get("properties", "timeout")
            text = timeout.value if timeout is not None else None
            if timeout is not None and isinstance(text, str) and not re.fullmatch(r"\d+m\d+s", text):
                yield (
                    timeout,
                    f"component {name}: {text!r} is not a time-out of the form 8m30s",
                    f"write {_timeout(text) or '8m30s'}",
                    "warning",
                )
    roles = source.root.get("properties", "roles")
    if roles is not None:
        texts = [item.value for item in roles.items()]
        if not isinstance(roles.value, list) or not all(isinstance(text, str) and text for text in texts):
            yield roles, "properties.roles: must be a list of texts", 'write roles: ["Standalone Device"]', "error"


def _packaged(root: Node) -> Iterator[tuple[Node, str]]:
    """Yield the properties of each component whose artifact our extension names by https, and that URL."""
    urls = {
        each.text("component"): url
        for each in root.items("spec", OWN_EXTENSION, "artifacts")
        if (url := each.text("url")) and url.startswith("https://")
    }
    for component in root.items("spec", "deploymentProfile", "components"):
        properties, url = component.get("properties"), urls.get(component.text("name"))
        if properties is not None and url and root.text("spec", "deploymentProfile", "type") == "compose":
            yield properties, url


def _upgrade_targets(parameter: Node) -> None:
    for target in parameter.items("targets"):
        pointer = target.get("pointer")
        if pointer is not None and isinstance(pointer.value, str):
            pointer.value = pointer.value.removeprefix("ENV.")


def _constraints(resources: Node) -> Node:
    """Return `requiredResources` as constraints: capacity, and one rule that asks for every item listed."""
    needed = resources.entries()
    # Keys that no shape knows travel along, so that the reader refuses them at their line.
    capacity = {name: child for name, child in needed.items() if name not in ("cpu", "peripherals", "interfaces")}
    if "cpu" in needed:
        cpu = dict(needed["cpu"].entries())
        if "architectures" in cpu:
            cpu["architectures"] = Node(
                [_renamed(item, _ARCHITECTURES) for item in cpu["architectures"].items()], needed["cpu"].line
            )
        capacity["cpu"] = Node(cpu, needed["cpu"].line, needed["cpu"].column)
    place = {"line": resources.line, "column": resources.column}
    expressions = [
        Node.of(_contains(f"/{name}", item), **place)
        for name in ("peripherals", "interfaces")
        for item in resources.items(name)
    ]
    entries: dict[str, Node] = {}
    if capacity:
        entries["capacityRequirements"] = Node(capacity, resources.line, resources.column)
    if expressions:
        selector = Node({"matchExpressions": Node(list(expressions), **place)}, **place)
        rule = Node({"propertySelector": selector}, **place)
        entries["eligibilityRules"] = Node([rule], **place)
    return replace(resources, value=entries)


def _contains(pointer: str, item: Node) -> Json:
    # Keys as steps of a JSON Pointer (RFC 6901 section 3).
    conditions: list[Json] = [
        {"key": f"/{name.replace('~', '~0').replace('/', '~1')}", "operator": "In", "values": [value.plain()]}
        for name, value in item.entries().items()
    ]
    return {"key": pointer, "operator": "ContainsAll", "itemSelector": {"matchExpressions": conditions}}


def _without(node: Node, *keys: str) -> Node:
    """Return a mapping without some keys, as a new node; any other node as it is."""
    if not isinstance(node.value, dict):
        return node
    return replace(node, value={key: child for key, child in node.value.items() if key not in keys})


def _renamed(node: Node, names: dict[str, str]) -> Node:
    if isinstance(node.value, str) and node.value in names:
        return replace(node, value=names[node.value])
    return node


def _at(place: Node, value: str) -> Node:
    return Node(value, place.line, place.column)
