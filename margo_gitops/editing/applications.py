"""Vendor a package, pin it, and move deployments to another version, with what differs for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.package import LOCK_FILE, Package, locked_applications, package_folder, write_locked
from margo_gitops.documents.application import ApplicationDescription, DeploymentProfile, DescribedParameter
from margo_gitops.documents.fleet_kinds import ApplicationsLock, Deployment, LockedApplication
from margo_gitops.documents.nodes import Json, exact
from margo_gitops.documents.records import write
from margo_gitops.documents.versions import newest, version_key
from margo_gitops.editing.deploy import with_version
from margo_gitops.editing.edit import Base, Edit, FileChange, make_edit
from margo_gitops.editing.named import unknown, unknown_version
from margo_gitops.editing.round_trip import rewritten
from margo_gitops.editing.values import parameter_schemas
from margo_gitops.errors import EditImpossible, Location, PackageExists
from margo_gitops.rendering.intent import Intent, Located
from margo_gitops.values import dataclass
from margo_gitops.wording import json_text, shortened


def add_edit(base: Base, package: Package, *, replace: bool = False, source: str | None = None) -> Edit:
    """Return the edit that vendors a package and pins it.

    Args:
        source: the registry that it came from.

    Raises:
        PackageExists: this version is there with other content, and may not be replaced.
    """
    description = package.application.description.value
    name, version = description.id, description.metadata.version
    changes = vendored(base, package, replace=replace, source=source)
    return make_edit(f"Add {name} {version}", ["add", name, version], changes)


def vendored(base: Base, package: Package, *, replace: bool = False, source: str | None = None) -> list[FileChange]:
    """Return what puts a package into the fleet repo and pins it; nothing where it is there already.

    Args:
        source: the registry that it came from.

    Raises:
        PackageExists: this version is there with other content, and may not be replaced.
    """
    description = package.application.description.value
    key = (description.id, description.metadata.version)
    known = base.intent.applications.get(key)
    folder = f"applications/{package_folder(description)}"
    if known is not None and known.digest != package.application.digest and not replace:
        raise PackageExists(
            f"{key[0]} {key[1]} is in this fleet repo with other content",
            where=Location(folder),
            why=[f"there: {known.digest}", f"new: {package.application.digest}"],
            remedy="raise the version in the package; a version is published once",
        )
    files = {path: file.read() for path, file in package.files.items()}
    entry = LockedApplication(*key, package.application.digest, source)
    return [*folder_changes(base.tree, folder, files), pinned(base.tree, entry)]


def folder_changes(tree: RootTree, folder: str, files: Mapping[str, bytes]) -> Iterator[FileChange]:
    """Yield what makes a folder hold these files and no others."""
    there = {file.path: file for file in tree.files(folder)}
    wanted = {f"{folder}/{path}": content for path, content in files.items()}
    for path in sorted(there.keys() | wanted.keys()):
        yield FileChange(path, there[path].read() if path in there else None, wanted.get(path))


def pinned(tree: RootTree, entry: LockedApplication) -> FileChange:
    """Return what pins a package in `applications.lock`.

    Raises:
        UnreadableDocument, InvalidDocument: the file is not a lock file.
        NotEditable: it cannot be changed.
    """
    file = tree.file(LOCK_FILE)
    if file is None:
        return FileChange(LOCK_FILE, None, write_locked([entry]))
    content = file.read()
    pins = {**locked_applications(content), (entry.id, entry.version): entry}
    value = write(ApplicationsLock(tuple(pins[each] for each in sorted(pins))))
    return FileChange(LOCK_FILE, content, rewritten(content, LOCK_FILE, value))


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """Which deployments must run what.

    Attributes:
        package: a package to vendor; None: the version is in the fleet repo already.
        version: None: that of the package, or the newest one in the fleet repo.
        deployments: names; empty: every deployment of the application.
        source: the registry that the package came from.
    """

    application: str
    package: Package | None = None
    version: str | None = None
    deployments: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What changes for deployments that come from one version."""

    version: str
    deployments: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade, not written yet.

    Attributes:
        steps: for each version that deployments come from, newest first.
    """

    version: str
    steps: tuple[Step, ...]
    edit: Edit


def upgrade(base: Base, request: UpgradeRequest) -> Upgrade:
    """Return the edit that upgrades deployments, and what changes for them.

    Raises:
        ReferenceUnknown: there is no such application, version or deployment.
        EditImpossible: the package is of another application or version, or no deployment is there to upgrade.
        PackageExists: the package's version is there with other content.
        NotEditable: a deployment's file cannot be changed.
    """
    description = _new_description(base.intent, request)
    version = description.metadata.version
    moving = _moving(base.intent, request, version)
    changes: list[FileChange] = []
    if request.package is not None:
        changes = vendored(base, request.package, source=request.source)
    changes += [with_version(each, version) for each in moving]
    steps = tuple(_step(base.intent, old, moving, description) for old in _versions(moving))
    notes = [
        f"{version} is older than {step.version}, which {', '.join(step.deployments)} runs now"
        for step in steps
        if version_key(version) < version_key(step.version)
    ]
    title = f"Upgrade {request.application} to {version}"
    return Upgrade(version, steps, make_edit(title, ["upgrade", request.application, version], changes, notes))


def _new_description(intent: Intent, request: UpgradeRequest) -> ApplicationDescription:
    known = {number: each for (name, number), each in intent.applications.items() if name == request.application}
    if request.package is not None:
        description = request.package.application.description.value
        if description.id != request.application:
            raise EditImpossible(f"the package is of {description.id}, not of {request.application}")
        if request.version not in (None, description.metadata.version):
            raise EditImpossible(f"the package is {description.metadata.version}, not {request.version}")
        return description
    if not known:
        raise unknown("application", request.application, {name for name, _ in intent.applications})
    version = request.version or newest(known)
    if version not in known:
        raise unknown_version(request.application, version, sorted(known), "the folder of the package")
    return known[version].description.value


def _moving(intent: Intent, request: UpgradeRequest, version: str) -> list[Located[Deployment]]:
    """Return the deployments that run another version and must not."""
    having = {
        name: each
        for name, each in sorted(intent.deployments.items())
        if each.value.spec.application.id == request.application
    }
    for name in request.deployments:
        if name not in having:
            raise unknown(f"deployment of {request.application}", name, having)
    chosen = [each for name, each in having.items() if not request.deployments or name in request.deployments]
    if not chosen and request.package is None:
        raise EditImpossible(
            f"no deployment is of {request.application}",
            remedy=f"deploy it: margo-gitops deploy {request.application} {version} --to SELECTOR",
        )
    return [each for each in chosen if each.value.spec.application.version != version]


def _versions(moving: list[Located[Deployment]]) -> list[str]:
    found = {each.value.spec.application.version for each in moving}
    return sorted(found, key=version_key, reverse=True)


def _step(intent: Intent, version: str, moving: list[Located[Deployment]], new: ApplicationDescription) -> Step:
    names = tuple(each.value.metadata.name for each in moving if each.value.spec.application.version == version)
    old = intent.applications.get((new.id, version))
    return Step(version, names, version_differences(old.description.value, new) if old is not None else ())


@dataclass(frozen=True, slots=True)
class Difference:
    """A parameter or profile that is not the same.

    Attributes:
        subject: "parameter greeting", "profile greeting-compose".
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
    return exact(facts[fact]) if fact in facts else ""


def _shown(value: Json) -> str:
    return shortened("none" if value is None else json_text(value), 100)


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
