"""A device's desired state as exact bytes: its deployment documents and the manifest over them.

What many documents share is written once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol

from margo_gitops.documents.components import Target
from margo_gitops.documents.deployment import ApplicationDeployment, DeployedParameter, DeployedProfile
from margo_gitops.documents.manifest import (
    MAX_MANIFEST_VERSION,
    write_manifest,
)
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.documents.state_layout import MANIFEST_FILE
from margo_gitops.documents.yaml_text import FilledForm, Prewritten, write_yaml
from margo_gitops.errors import StateTampered
from margo_gitops.rendering.intent import ById
from margo_gitops.values import dataclass

_VERSION = re.compile(rb'"manifestVersion":([1-9][0-9]{0,19})\}\Z')


class PreviousState(Protocol):
    """What was rendered for a device before, as the state repo holds it."""

    @property
    def manifest(self) -> bytes:
        """Bytes of the manifest."""
        ...

    def deployment(self, deployment_id: str) -> bytes | None:
        """Return a deployment document's bytes; None if this id does not exist."""
        ...


class Documents(Mapping[str, bytes]):
    """Exact bytes of documents, by deployment id; those of a filled form are put together each time."""

    __slots__ = ("_held",)

    def __init__(self, held: Mapping[str, bytes | FilledForm]) -> None:
        self._held = held

    def __getitem__(self, name: str) -> bytes:
        return bytes(self._held[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What a device must run.

    Attributes:
        device: the client: a device without children, or a gateway for itself and its children.
        site: the name of its site; None for none.
        version: `manifestVersion`.
        manifest: exact bytes of `manifest.json`.
        deployments: exact bytes of each deployment document, by deployment id.
        changed: whether it differs from what was rendered before.
    """

    device: str
    site: str | None
    version: int
    manifest: bytes
    deployments: Mapping[str, bytes]
    changed: bool


def desired_state(
    device: str, site: str | None, deployments: Mapping[str, bytes], previous: PreviousState | None, lowest: int = 1
) -> DesiredState:
    """Return a device's state; its version is one more than the previous one's if, and only if, anything changed.

    Args:
        lowest: the version is at least this one, whether anything changed or not.

    Raises:
        StateTampered: the previous manifest is not valid, or its version cannot be raised.
    """
    version = lowest if previous is None else rendered_version(device, previous.manifest)
    content = write_manifest(version, dict(deployments))
    if previous is None:
        return DesiredState(device, site, version, content, deployments, changed=True)
    held = DesiredState(device, site, version, content, deployments, changed=False)
    return held if content == previous.manifest and version >= lowest else raised(held, lowest)


def raised(state: DesiredState, lowest: int = 1) -> DesiredState:
    """Return a state with the next version, at least the lowest (StateTampered: there is no next version)."""
    if state.version == MAX_MANIFEST_VERSION:
        raise StateTampered(f"the manifest version of {state.device} cannot be raised any more", device=state.device)
    version = max(state.version + 1, lowest)
    content = write_manifest(version, state.deployments)
    return DesiredState(state.device, state.site, version, content, state.deployments, changed=True)


def rendered_version(device: str, content: bytes) -> int:
    """Return the version of a manifest that a render wrote (StateTampered: it is not one of ours)."""
    # Keys are sorted (RFC 8785), so the version stands last: no need to parse ten thousand manifests.
    match = _VERSION.search(content)
    if match is None or int(match[1]) > MAX_MANIFEST_VERSION:
        raise StateTampered(
            f"the state repo's {MANIFEST_FILE} of {device} was not written by a renderer",
            device=device,
            remedy="put the branch back to the last commit of the renderer",
        )
    return int(match[1])


class DocumentWriter:
    """Writes the documents of one render."""

    def __init__(self) -> None:
        self._profiles: dict[ById[DeployedProfile], Prewritten] = {}

    def write(self, document: ApplicationDeployment) -> bytes:
        """Return a document's exact bytes (UnwritableValue: a parameter holds what no YAML reader could read back)."""
        return write_yaml(self.plain(document))

    def plain(self, document: ApplicationDeployment) -> dict[str, Json]:
        """Return a document as plain values."""
        spec = document.spec
        body: dict[str, Json] = {
            "applicationId": spec.application_id,
            "deploymentProfile": self._profile(spec.deployment_profile),
        }
        # Always there: one published schema requires it, the other allows it.
        body["parameters"] = {name: _parameter(value) for name, value in spec.parameters.items()}
        body.update(spec.extensions)
        return {"id": document.id, "metadata": write(document.metadata), "spec": body}

    def _profile(self, profile: DeployedProfile) -> Prewritten:
        key = ById(profile)
        if key not in self._profiles:
            self._profiles[key] = Prewritten(write(profile))
        return self._profiles[key]


def _parameter(parameter: DeployedParameter) -> dict[str, Json]:
    """Return a parameter as plain values; one whose value is plain text is written once for all devices."""
    value, targets = parameter.value, parameter.targets
    return _text_parameter(value, ById(targets)) if type(value) is str else write(parameter)


@lru_cache(maxsize=4096)
def _text_parameter(value: str, targets: ById[tuple[Target, ...]]) -> Prewritten:
    return Prewritten(write(DeployedParameter(value, targets.value)))
