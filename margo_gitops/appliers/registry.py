"""Finds appliers by name: ours, then the entry points of installed packages; imports only the one that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from margo_gitops.appliers.applier import ENTRY_POINT_GROUP, Applier, ApplierContext
from margo_gitops.errors import ApplierUnusable, MargoGitopsError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OURS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "compose": "compose.applier",
        "files": "files",
        "handover": "handover.applier",
        "helm": "helm.applier",
        "kubernetes": "kubernetes.applier",
    }
)
"""The modules of this package; no plug-in takes their place. Most devices need no other, nor what looks for others."""


def applier_names() -> tuple[str, ...]:
    """Return the names of all installed appliers, sorted; nothing of them is imported."""
    from importlib.metadata import entry_points

    return tuple(sorted({*OURS, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))}))


def create_applier(name: str, context: ApplierContext) -> Applier:
    """Return the applier of this name, ready to use.

    Raises:
        ApplierUnusable: no such applier, two packages bring one of this name, it cannot be imported, its factory is
            not a factory or fails, or its settings cannot work.
    """
    if name in OURS:
        ours: Applier = import_module(f"margo_gitops.appliers.{OURS[name]}").create(context)
        return ours
    entry = _entry_point(name)
    try:
        factory = entry.load()
        applier = factory(context)
    except MargoGitopsError:
        raise
    # A plug-in is foreign code: every error of it must name the plug-in, not end in a traceback of the agent.
    except Exception as error:
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    missing = [
        step for step in ("prepare", "install", "remove", "observe") if not callable(getattr(applier, step, None))
    ]
    types = getattr(applier, "profile_types", ())
    if missing or isinstance(types, str) or not types:
        raise _broken(entry, f"what {entry.value} returns has no {', '.join([*missing]) or 'profile_types'}")
    made: Applier = applier
    return made


def _entry_point(name: str) -> EntryPoint:
    from importlib.metadata import entry_points

    # A folder that is on the path twice shows the same entry point twice.
    found = {entry.value: entry for entry in entry_points(group=ENTRY_POINT_GROUP, name=name)}
    if not found:
        raise ApplierUnusable(
            f"there is no applier {name}",
            why=[f"installed: {', '.join(applier_names()) or 'none'}"],
            remedy="correct the name, or install the package that brings it",
        )
    if len(found) > 1:
        raise ApplierUnusable(
            f"several packages bring an applier {name}: {', '.join(sorted(found))}", remedy="remove all but one of them"
        )
    return next(iter(found.values()))


def _broken(entry: EntryPoint, reason: str) -> ApplierUnusable:
    package = f" from the package {entry.dist.name}" if entry.dist else ""
    return ApplierUnusable(
        f"the applier {entry.name}{package} cannot be used",
        why=[reason],
        remedy="update or remove that package, or tell its makers",
    )
