"""Where each value of a deployed document comes from: the line of the fleet repo that says it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.nodes import FieldPath
from margo_gitops.errors import Location
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.parameters import Effective
from margo_gitops.rendering.resolution import Resolved, deployed_secrets, locks
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class LineOrigin:
    """What a value was made from.

    Attributes:
        layer: for people, "site north".
        place: the line, or the nearest one above it where the value is a default.
    """

    layer: str
    place: Location


@dataclass(frozen=True, slots=True)
class DocumentOrigins:
    """The origins of one deployment document.

    Attributes:
        device_deployments: names of all deployments of this device.
    """

    intent: Intent
    resolved: Resolved
    device_deployments: Collection[str]

    def of(self, path: FieldPath) -> LineOrigin:
        """Return where the value at a path of the document comes from."""
        match path:
            case ("spec", "parameters", str(name), *rest):
                return self._parameter(name, tuple(rest))
            case ("spec", "deploymentProfile", *rest):
                return self._application("deploymentProfiles", self._profile_index(), *rest)
            case ("spec", str(own), *rest) if own == OWN_EXTENSION:
                return self._extension(tuple(rest))
            case ("spec", "applicationId"):
                return self._deployment("spec", "application", "id")
            case ("metadata", "namespace"):
                return self._fleet("spec", "namespace")
            case ("metadata", "deviceId"):
                return self._called()
            case _:
                # The id is made from the names of fleet, device and deployment.
                return self._deployment("metadata", "name")

    def _parameter(self, name: str, rest: FieldPath) -> LineOrigin:
        effective = next((each for each in self.resolved.parameters if each.name == name), None)
        if effective is None:
            return self._application("parameters", name)
        if rest[:1] == ("targets",):
            return self._application("parameters", name, "targets", *self._target(name, effective, rest[1:]))
        layer = effective.origin.layer
        return LineOrigin(layer.name, layer.location(name))

    def _target(self, name: str, effective: Effective, rest: FieldPath) -> FieldPath:
        """Return the path below the description's targets: a profile leaves out those of other components."""
        if not rest or not isinstance(rest[0], int) or rest[0] >= len(effective.targets):
            return ()
        target = effective.targets[rest[0]]
        described = self.resolved.application.description.value.parameters[name].targets
        for index, each in enumerate(described):
            if each.pointer == target.pointer and set(target.components) <= set(each.components):
                if rest[1:2] == ("components",) and isinstance(at := rest[-1], int) and at < len(target.components):
                    return index, "components", each.components.index(target.components[at])
                return index, *rest[1:]
        return ()

    def _extension(self, rest: FieldPath) -> LineOrigin:
        match rest:
            case ("applicationVersion",):
                return self._deployment("spec", "application", "version")
            case ("profile",):
                if self.resolved.profile.id in self.resolved.deployment.value.spec.profiles:
                    index = self.resolved.deployment.value.spec.profiles.index(self.resolved.profile.id)
                    return self._deployment("spec", "profiles", index)
                return self._application("deploymentProfiles", self._profile_index(), "id")
            case ("after" | "stop" as name, int(index)):
                spec = self.resolved.deployment.value.spec
                return self._deployment("spec", name, *self._there(spec.after if name == "after" else spec.stop, index))
            case ("artifacts", int(index), "url") if self._is_vendored(index):
                return self._fleet("spec", "artifacts", "baseUrl")
            case ("artifacts", int(index), *_):
                return self._artifact(index)
            case ("secrets", int(index), *parts) if index < len(secrets := list(deployed_secrets(self.resolved))):
                if parts == ["sealed"]:
                    return self._device("spec", "secrets", secrets[index].name, "sealed")
                return self._deployment("spec", "secretRefs", secrets[index].parameter)
            case ("locks", int(index), *_):
                return self._lock(index)
            case ("largeArtifacts", *parts):
                return self._deployment("spec", "artifacts", *parts)
            case ("hooks" | "health" | "onFailure" | "onDrift" as name, *parts):
                return self._deployment("spec", name, *parts)
            case _:
                return self._deployment("metadata", "name")

    def _lock(self, index: int) -> LineOrigin:
        deployment, target = self.resolved.deployment.value, self.resolved.target
        lock = locks(deployment, target)[index]
        is_own = lock.of.startswith("deployment ")
        places = deployment.spec.locks if is_own else target.device.spec.locks
        path = ("spec", "locks", [each.name for each in places].index(lock.name))
        return self._deployment(*path) if is_own else self._device(*path)

    def _there(self, named: Sequence[str], index: int) -> tuple[int, ...]:
        """Return where a list names this deployment: those that do not go to the device are left out."""
        there = [at for at, name in enumerate(named) if name in self.device_deployments]
        return (there[index],) if index < len(there) else ()

    def _contents(self) -> list[int]:
        """Return the indexes of the profile's components with content, in the order of the document's artifacts."""
        profile, contents = self.resolved.profile, self.resolved.application.contents
        return [at for at, each in enumerate(profile.components) if (profile.type, each.name) in contents]

    def _is_vendored(self, index: int) -> bool:
        found = self._contents()
        if index >= len(found):
            return False
        profile = self.resolved.profile
        name = profile.components[found[index]].name
        return "://" not in self.resolved.application.contents[profile.type, name].location

    def _artifact(self, index: int) -> LineOrigin:
        found = self._contents()
        at = found[index] if index < len(found) else 0
        path = ("deploymentProfiles", self._profile_index(), "components", at, OWN_EXTENSION, "artifact")
        return self._application(*path)

    def _profile_index(self) -> int:
        profiles = self.resolved.application.description.value.deployment_profiles
        return next(at for at, each in enumerate(profiles) if each.id == self.resolved.profile.id)

    def _application(self, *path: str | int) -> LineOrigin:
        description = self.resolved.application.description
        name = f"application {description.value.id} {description.value.metadata.version}"
        return LineOrigin(name, description.at(*path))

    def _deployment(self, *path: str | int) -> LineOrigin:
        deployment = self.resolved.deployment
        return LineOrigin(f"deployment {deployment.value.metadata.name}", deployment.at(*path))

    def _device(self, *path: str | int) -> LineOrigin:
        device = self.intent.devices[self.resolved.target.id]
        return LineOrigin(f"device {self.resolved.target.id}", device.at(*path))

    def _called(self) -> LineOrigin:
        """Return where the device's name, or its alias, is."""
        client = self.intent.devices.get(client_of(self.resolved.target.id))
        if client is None or client.value.spec.alias is None:
            return self._device("metadata", "name")
        return LineOrigin(f"device {client.value.metadata.name}", client.at("spec", "alias"))

    def _fleet(self, *path: str | int) -> LineOrigin:
        return LineOrigin(f"fleet {self.intent.fleet.value.metadata.name}", self.intent.fleet.at(*path))
