"""Margo's documents and our own as typed, immutable values: read with all findings, written as exact bytes.

Other packages may import the names in `__all__`; each is loaded when it is asked for. `read_as` and `check_document`
read, `write` makes plain values, `write_json` and `write_yaml` make bytes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "BUNDLE_MEDIA_TYPE",
    "MANIFEST_MEDIA_TYPE",
    "ApplicationDeployment",
    "ApplicationDescription",
    "ApplicationsLock",
    "Checked",
    "Component",
    "Deployment",
    "DeploymentExtension",
    "DeploymentStatus",
    "Device",
    "DeviceCapabilities",
    "Fleet",
    "FreshnessProof",
    "FreshnessStatement",
    "Site",
    "StateManifest",
    "WorkloadContent",
    "check_document",
    "deployment_path",
    "device_ref",
    "own_extension",
    "read_as",
    "read_source",
    "workload_contents",
    "write",
    "write_bundle",
    "write_json",
    "write_manifest",
    "write_yaml",
]

if TYPE_CHECKING:
    from margo_gitops.documents.application import ApplicationDescription
    from margo_gitops.documents.capabilities import DeviceCapabilities
    from margo_gitops.documents.components import Component
    from margo_gitops.documents.deployment import ApplicationDeployment, DeploymentExtension
    from margo_gitops.documents.fleet_kinds import ApplicationsLock, Deployment, Device, Fleet, Site
    from margo_gitops.documents.freshness import FreshnessProof, FreshnessStatement
    from margo_gitops.documents.json_text import write_json
    from margo_gitops.documents.kinds import Checked, check_document, read_as, read_source
    from margo_gitops.documents.manifest import (
        BUNDLE_MEDIA_TYPE,
        MANIFEST_MEDIA_TYPE,
        StateManifest,
        write_bundle,
        write_manifest,
    )
    from margo_gitops.documents.records import write
    from margo_gitops.documents.state_layout import deployment_path, device_ref
    from margo_gitops.documents.status import DeploymentStatus
    from margo_gitops.documents.workload_identity import WorkloadContent, own_extension, workload_contents
    from margo_gitops.documents.yaml_text import write_yaml
else:
    _HOMES = {
        "application": ("ApplicationDescription", "Component"),
        "capabilities": ("DeviceCapabilities",),
        "deployment": ("ApplicationDeployment", "DeploymentExtension"),
        "fleet_kinds": ("ApplicationsLock", "Deployment", "Device", "Fleet", "Site"),
        "freshness": ("FreshnessProof", "FreshnessStatement"),
        "json_text": ("write_json",),
        "kinds": ("Checked", "check_document", "read_as", "read_source"),
        "manifest": ("BUNDLE_MEDIA_TYPE", "MANIFEST_MEDIA_TYPE", "StateManifest", "write_bundle", "write_manifest"),
        "records": ("write",),
        "state_layout": ("deployment_path", "device_ref"),
        "status": ("DeploymentStatus",),
        "workload_identity": ("WorkloadContent", "own_extension", "workload_contents"),
        "yaml_text": ("write_yaml",),
    }

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
