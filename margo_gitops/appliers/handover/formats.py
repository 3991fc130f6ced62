"""The formats by name, and what `files` writes in each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.handover.forms import Answer, Target, unsupported
from margo_gitops.appliers.settings import Settings
from margo_gitops.disk.files import read_bounded
from margo_gitops.documents.kubernetes_objects import Fields
from margo_gitops.documents.yaml_text import write_yaml

CONTROLLERS: Final = ("flux", "argocd", "k3s")
QUADLET: Final = "quadlet"
"""Of `files` alone: Podman's units have no API server."""

_LARGEST_COMPOSE: Final = 1024 * 1024


class Controller(Protocol):
    """The module of a controller."""

    NAMESPACE: str
    READERS: Sequence[tuple[str, str]]
    """`apiVersion` and `kind` of what tells the status; a component has one of these."""
    SOURCES: Sequence[tuple[str, str]]
    """The same of what they read."""

    def build(self, workload: Workload, target: Target) -> list[Fields]:
        """Return a component's documents, what tells the status last (WorkloadUnsupported)."""

    def judge(self, found: Fields, _job: Fields | None = None) -> Answer:
        """Return what the controller says of a component."""


def controller_of(name: str | None, settings: Settings) -> Controller:
    """Return the controller of a format (ApplierUnusable: an unknown format)."""
    if name not in CONTROLLERS:
        raise settings.wrong("format", f"must be one of {', '.join(CONTROLLERS)}")
    found: Controller = import_module(f"margo_gitops.appliers.handover.{name}")
    return found


def files_for(name: str, device: str, settings: Settings) -> Callable[[Workload, Path], Mapping[str, bytes]]:
    """Return what writes a format into files (ApplierUnusable: a setting is wrong)."""
    if name == QUADLET:
        return _units
    controller = controller_of(name, settings)
    target = Target(device, settings.text("controllerNamespace") or controller.NAMESPACE)

    def files(workload: Workload, _content: Path) -> Mapping[str, bytes]:
        if workload.secrets:
            names = ", ".join(workload.secrets)
            raise unsupported(
                workload, f"its secrets ({names}) would be in plain files for {name}", "use the applier helm"
            )
        return {"handover.yaml": b"---\n".join(write_yaml(dict(each)) for each in controller.build(workload, target))}

    return files


def _units(workload: Workload, content: Path) -> Mapping[str, bytes]:
    from margo_gitops.appliers.compose.source import compose_file_in
    from margo_gitops.appliers.handover.quadlet import build

    if workload.deployment.spec.deployment_profile.type != "compose" or workload.artifact is None:
        raise unsupported(workload, "it has no Compose file", "hand over compose profiles with content")
    if workload.secrets:
        raise unsupported(workload, "a unit would show its secrets", "use the applier compose")
    path = compose_file_in(content, workload.component.name)
    found = build(workload, path.name, read_bounded(path, _LARGEST_COMPOSE))
    return {f"{QUADLET}/{name}": text for name, text in found.items()}
