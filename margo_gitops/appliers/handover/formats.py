"""The formats by name, and what `files` writes in each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops.appliers.applier import Workload
from margo_gitops.appliers.handover.forms import Document, Target, unsupported
from margo_gitops.appliers.settings import Settings
from margo_gitops.documents.yaml_text import write_yaml

CONTROLLERS: Final = ("flux", "argocd", "k3s")
"""Each is a module with `NAMESPACE`, `build` and `judge`."""

Build: TypeAlias = Callable[[Workload, Target], list[Document]]


def controller(settings: Settings, name: str, device: str, *, has_server: bool) -> tuple[Build, Target]:
    """Return what builds a controller's documents, and where they go, from the setting namespace (ApplierUnusable)."""
    if name not in CONTROLLERS:
        raise settings.wrong("format", f"must be one of {', '.join(CONTROLLERS)}")
    module = import_module(f"margo_gitops.appliers.handover.{name}")
    namespace = settings.text("controllerNamespace") or module.NAMESPACE
    build: Build = module.build
    return build, Target(device, namespace, has_server)


def files_for(name: str, device: str, settings: Settings) -> Callable[[Workload, Path], Mapping[str, bytes]]:
    """Return what writes a format into files (ApplierUnusable: a setting is wrong)."""
    build, target = controller(settings, name, device, has_server=False)

    def files(workload: Workload, _content: Path) -> Mapping[str, bytes]:
        if workload.secrets:
            names = ", ".join(workload.secrets)
            raise unsupported(
                workload, f"its secrets ({names}) would be in plain files for {name}", "use the applier handover"
            )
        return {"handover.yaml": b"---\n".join(write_yaml(dict(each)) for each in build(workload, target))}

    return files
