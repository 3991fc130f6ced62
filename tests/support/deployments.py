"""A deployment as the renderer writes it."""

from __future__ import annotations

from typing import Any

from margo_gitops.digests import sha256

ID = "a3e2f5dc-912e-494f-8395-52cf3769bc06"
URL = "https://files.example.com/hmi.tar.gz"


def deployment(kind: str = "compose", own: str = ID, **properties: Any) -> dict[str, Any]:
    """Return a deployment of one component, `hmi`, as the renderer writes it."""
    component = {"repository": "oci://registry.example.com/hmi", "revision": "1.0.0", **properties}
    return {
        "id": own,
        "metadata": {"name": "hmi", "namespace": "margo", "deviceId": "press-01"},
        "spec": {
            "applicationId": "com-acme-hmi",
            "deploymentProfile": {"type": kind, "components": [{"name": "hmi", "properties": component}]},
            "parameters": {},
            "x-margo-gitops-extensions": {"deployment": "hmi", "applicationVersion": "1.0.0", "profile": "hmi"},
        },
    }


def packaged(document: dict[str, Any], url: str = URL) -> dict[str, Any]:
    artifact = {"component": "hmi", "url": url, "digest": sha256(b"")}
    document["spec"]["x-margo-gitops-extensions"]["artifacts"] = [artifact]
    return document
