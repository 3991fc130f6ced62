"""Reports in the shapes of the older contract (pure): what it has no words for stays out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from margo_gitops.documents.json_reader import read_json
from margo_gitops.documents.nodes import Json

_CAPABILITIES: Final[dict[str, Json]] = {
    "apiVersion": "device.margo.org/v1alpha1",
    "kind": "DeviceCapabilitiesManifest",
}
_STATUS: Final[dict[str, Json]] = {"apiVersion": "deployment.margo.org/v1alpha1", "kind": "DeploymentStatusManifest"}
_SAME: Final = ("vendor", "modelNumber", "serialNumber")
_RESOURCES: Final = ("memory", "storage", "peripherals", "interfaces")


def older_capabilities(document: bytes, name: str) -> bytes:
    """Return capabilities as a `DeviceCapabilitiesManifest`: labels, runtimes and the collector have no place there.

    Args:
        document: in the current shape.
        name: what the client calls the device: its client id, and a child's name behind it.
    """
    found = read_json(document, "capabilities").root.get("properties")
    properties = found.plain() if found is not None else {}
    if not isinstance(properties, dict):
        raise TypeError("capabilities without properties")
    resources: dict[str, Json] = {key: properties[key] for key in _RESOURCES if key in properties}
    cpu = _largest(properties.get("cpus"))
    if cpu is not None:
        resources = {"cpu": cpu, **resources}
    older: dict[str, Json] = {"id": name, **{key: properties[key] for key in _SAME if key in properties}}
    older |= {"roles": [_role(properties)], "resources": resources}
    return _written({**_CAPABILITIES, "properties": older})


def older_status(document: bytes) -> bytes:
    """Return a status as a `DeploymentStatusManifest`; its shape is open, so nothing stays out.

    Args:
        document: in the current shape.
    """
    found = read_json(document, "status").root.plain()
    if not isinstance(found, dict):
        raise TypeError("a status is an object")
    return _written({**_STATUS, **found})


def _largest(cpus: Json) -> Json:
    """Return one CPU, because the older shape has but one, and CPUs are not added together."""
    if not isinstance(cpus, list):
        return None
    return max(cpus, key=_cores, default=None)


def _cores(cpu: Json) -> float:
    cores = cpu.get("cores") if isinstance(cpu, dict) else None
    return float(cores) if isinstance(cores, int | float) else 0.0


def _role(properties: Mapping[str, Json]) -> str:
    types = properties.get("supportedDeploymentTypes")
    if not isinstance(types, list):
        return "Gateway"
    return "Standalone Cluster" if "helm" in types else "Standalone Device"


def _written(document: Json) -> bytes:
    # Amounts of CPU may be fractions, which documents of the state never hold, and their writer refuses.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
