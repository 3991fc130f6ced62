"""States of one device as a renderer makes them, and what an agent holds of them on disk."""

from __future__ import annotations

from pathlib import Path

from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.rendering.resolution import deployment_id

DEVICE = "press-01"


def content(name: str, greeting: str) -> bytes:
    component: Json = {"name": "web", "properties": {"repository": "oci://r.example/app", "revision": "1.0.0"}}
    target: Json = {"pointer": "GREETING", "components": ["web"]}
    return write_yaml(
        {
            "id": deployment_id("plant", DEVICE, name),
            "metadata": {"name": name, "namespace": "margo", "deviceId": DEVICE},
            "spec": {
                "applicationId": "com-example-app",
                "deploymentProfile": {"type": "compose", "components": [component]},
                "parameters": {"greeting": {"value": greeting, "targets": [target]}},
            },
        }
    )


RENDERS = (
    {"hmi": content("hmi", "hello"), "mes": content("mes", "hello")},
    {"hmi": content("hmi", "good morning"), "opc": content("opc", "hello")},
    {},
)
"""One state after the other."""


def files(folder: Path) -> dict[str, bytes]:
    """Return every file in a folder with its content, by its path in it, but what applies to one disk alone."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".written")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def held(state: Path) -> dict[str, bytes]:
    """Return the stored state of an agent without what a transport adds: the commit, and its name in the index."""
    stored = files((state / "trusted" / "current").resolve())
    return {name: body for name, body in stored.items() if name not in ("commit", "index.json")}
