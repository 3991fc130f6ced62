"""Appliers make workloads run, each with one engine; other packages bring more.

Other packages may import the names in `__all__`; each is loaded when it is asked for. `applier` is the contract with
its promises, and `contract_kit` tests them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "ENTRY_POINT_GROUP",
    "LONGEST_TIMEOUT_SECONDS",
    "Applier",
    "ApplierContext",
    "ArtifactCache",
    "Observed",
    "Settings",
    "Workload",
    "WorkloadKey",
    "applier_names",
    "create_applier",
    "create_artifact_cache",
]

if TYPE_CHECKING:
    from margo_gitops.appliers.applier import (
        DEFAULT_TIMEOUT_SECONDS,
        ENTRY_POINT_GROUP,
        LONGEST_TIMEOUT_SECONDS,
        Applier,
        ApplierContext,
        Observed,
        Workload,
        WorkloadKey,
    )
    from margo_gitops.appliers.artifacts import ArtifactCache, create_artifact_cache
    from margo_gitops.appliers.registry import applier_names, create_applier
    from margo_gitops.appliers.settings import Settings
else:
    _HOMES = {
        "artifacts": ("ArtifactCache", "create_artifact_cache"),
        "registry": ("applier_names", "create_applier"),
        "settings": ("Settings",),
    }

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = next((home for home, names in _HOMES.items() if name in names), "applier")
        return getattr(import_module(f"{__name__}.{home}"), name)
