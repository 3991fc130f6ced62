"""What a person names, found in the fleet; a name that it does not have is told with a near match."""

from __future__ import annotations

from collections.abc import Collection

from margo_gitops.editing.unknown_names import unknown
from margo_gitops.errors import ReferenceUnknown
from margo_gitops.operations.application_catalog import application_versions
from margo_gitops.rendering.intent import Application, Intent


def named_application(intent: Intent, application: str, version: str | None) -> Application:
    """Return an application in a version; None: in its newest one.

    Raises:
        ReferenceUnknown: the fleet repo does not have it.
    """
    versions = application_versions(intent, application)
    if not versions:
        raise unknown("application", application, {each for each, _ in intent.applications})
    if version is not None and version not in versions:
        raise ReferenceUnknown(
            f"there is no version {version} of the application {application}",
            why=[f"versions in this fleet repo: {', '.join(versions)}"],
            remedy="name one of these, or add it with `margo-gitops app add PATH`",
        )
    return intent.applications[application, version or versions[0]]


def named_devices(intent: Intent, devices: Collection[str]) -> frozenset[str]:
    """Return devices that are named.

    Raises:
        ReferenceUnknown: the fleet has no such device.
    """
    return _all_known("device", devices, intent.devices)


def named_sites(intent: Intent, sites: Collection[str]) -> frozenset[str]:
    """Return sites that are named.

    Raises:
        ReferenceUnknown: the fleet has no such site.
    """
    return _all_known("site", sites, intent.sites)


def _all_known(what: str, names: Collection[str], known: Collection[str]) -> frozenset[str]:
    for name in names:
        if name not in known:
            raise unknown(what, name, known)
    return frozenset(names)
