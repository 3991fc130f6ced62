"""A small fleet repo to change and render: a folder, written as data, pinned, committed where a test wants git."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.package import LOCK_FILE, read_package, write_lock
from margo_gitops.documents.deployment import ApplicationDeployment
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import render
from support.git_cli import Git

TEMPLATE = Path(__file__).parents[2] / "repo-template"

Document = dict[str, Any]


def merged(base: Document, changes: Mapping[str, Any]) -> Document:
    """Return `base` with `changes`; mappings are merged, everything else is replaced."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result


def profile(name: str = "compose", kind: str = "compose", **more: Any) -> Document:
    """Return a profile with one component, named after it, that is fetched from a registry."""
    properties = {"repository": f"oci://registry.example.com/{name}", "revision": "1.0.0"}
    return {"type": kind, "id": name, "components": [{"name": name, "properties": properties}], **more}


def parameter(*components: str, value: Any = None, pointer: str = "VALUE") -> Document:
    """Return a described parameter of these components; the component "compose" where none is named."""
    target = {"pointer": pointer, "components": list(components or ("compose",))}
    return {"targets": [target]} | ({} if value is None else {"value": value})


def rules(schema: Mapping[str, Any], name: str = "setting", *, immutable: bool = False) -> Document:
    """Return a configuration that holds one parameter to one schema."""
    setting = {"parameter": name, "name": name.title(), "schema": "rule"}
    return {
        "sections": [{"name": "General", "settings": [setting | ({"immutable": True} if immutable else {})]}],
        "schema": [{"name": "rule", **schema}],
    }


@dataclass(frozen=True)
class Held:
    """A rendered state as the previous one of the next render."""

    state: DesiredState

    @property
    def manifest(self) -> bytes:
        return self.state.manifest

    def deployment(self, deployment_id: str) -> bytes | None:
        return self.state.deployments.get(deployment_id)


States = dict[str, DesiredState]


class FleetFolder:
    """A fleet repo in a folder. Documents are written as JSON, which is YAML too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git = Git(root)
        root.mkdir(parents=True, exist_ok=True)

    @classmethod
    def empty(cls, root: Path, **spec: Any) -> FleetFolder:
        """Make a fleet without devices."""
        fleet = cls(root)
        fleet.fleet(**spec)
        return fleet

    @classmethod
    def from_template(cls, root: Path) -> FleetFolder:
        """Make the fleet that `margo-gitops init` makes."""
        shutil.copytree(TEMPLATE, root)
        return cls(root)

    def put(self, path: str, document: Document | str | bytes) -> Path:
        """Write a file."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(document, dict):
            document = json.dumps(document, indent=2, ensure_ascii=False)
        place.write_bytes(document.encode() if isinstance(document, str) else document)
        return place

    def change(self, path: str, old: str, new: str) -> None:
        """Replace text that stands in a file."""
        text = (self.root / path).read_text()
        assert old in text
        self.put(path, text.replace(old, new))

    def remove(self, path: str) -> None:
        """Remove a file or folder."""
        place = self.root / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()

    def fleet(self, **spec: Any) -> None:
        """Write margo-gitops.yaml."""
        self.put("margo-gitops.yaml", _document("Fleet", "plant", {"stateRepo": "../state.git", **spec}))

    def site(
        self, name: str, labels: Document | None = None, *, maintenance: Document | None = None, **parameters: Any
    ) -> None:
        """Write a site."""
        spec: Document = {"parameters": parameters, **({"maintenance": maintenance} if maintenance else {})}
        self.put(f"sites/{name}.yaml", _document("Site", name, spec, labels or {}))

    def device(
        self,
        name: str,
        *,
        site: str | None = None,
        labels: Document | None = None,
        properties: Document | None = None,
        capability_labels: Document | None = None,
        workloads: Document | None = None,
        maintenance: Document | None = None,
        locks: list[Document] | None = None,
        **parameters: Any,
    ) -> None:
        """Write a device that runs compose projects."""
        offered = {
            "id": name,
            "vendor": "Northstar",
            "modelNumber": "NIA-300",
            "serialNumber": "1",
            "cpus": [{"cores": 4, "architecture": "amd64"}],
            "memory": "8 Gi",
            "storage": "64 Gi",
            "supportedRuntimes": ["oci"],
            "supportedDeploymentTypes": ["compose"],
            **(properties or {}),
        }
        spec: Document = {"capabilities": {"properties": offered}, "parameters": parameters}
        if capability_labels:
            spec["capabilities"]["labels"] = capability_labels
        if site:
            spec["site"] = site
        if workloads is not None:
            spec["workloads"] = workloads
        if maintenance is not None:
            spec["maintenance"] = maintenance
        if locks is not None:
            spec["locks"] = locks
        self.put(f"devices/{name}.yaml", _document("Device", name, spec, labels or {}))

    def deployment(self, name: str, application: str = "app", *, on: Any = "all", **spec: Any) -> None:
        """Write a deployment; `on` is a list of devices, a selector, or "all"."""
        placement = {"all": True} if on == "all" else {"devices": on} if isinstance(on, list) else on
        version = spec.pop("version", "1.0.0")
        body = {"application": {"id": application, "version": version}, "placement": placement, **spec}
        self.put(f"deployments/{name}.yaml", _document("Deployment", name, body))

    def application(self, name: str = "app", version: str = "1.0.0", *, pin: bool = True, **changes: Any) -> str:
        """Write and pin an application with one compose profile; returns its folder."""
        description = {
            "apiVersion": "v1",
            "id": name,
            "metadata": {
                "name": name.title(),
                "version": version,
                "catalog": {"organization": [{"name": "Example"}]},
            },
            "deploymentProfiles": [profile()],
            **changes,
        }
        folder = f"applications/{name}/{version}"
        self.put(f"{folder}/margo.yaml", description)
        if pin:
            self.pin()
        return folder

    def pin(self) -> None:
        """Write applications.lock for what is in applications/."""
        pins = {}
        for description in sorted(self.root.glob("applications/*/*/margo.yaml")):
            application = read_package(DiskTree(description.parent)).application
            value = application.description.value
            pins[value.id, value.metadata.version] = application.digest
        self.put(LOCK_FILE, write_lock(pins))

    def read(self) -> Intent:
        """Return what the fleet says."""
        return read_fleet(DiskTree(self.root))

    def render(self, previous: Mapping[str, DesiredState] | None = None) -> States:
        """Return the state of every device, after `previous`."""
        before = previous or {}
        states = render(self.read(), lambda device: Held(before[device]) if device in before else None)
        return {state.device: state for state in states}

    def commit(self, message: str = "Change the fleet") -> str:
        """Commit everything; returns the commit's id."""
        if not (self.root / ".git").exists():
            self.git.init()
        return self.git.commit({}, message)


def _document(kind: str, name: str, spec: Document, labels: Document | None = None) -> Document:
    metadata: Document = {"name": name} | ({"labels": labels} if labels else {})
    return {"apiVersion": "margo-gitops/v1", "kind": kind, "metadata": metadata, "spec": spec}


def documents(state: DesiredState) -> dict[str, ApplicationDeployment]:
    """Return the deployment documents of a state by "device deployment" names."""
    found = {}
    for name, content in state.deployments.items():
        document = read_as(ApplicationDeployment, read_source(content, f"{name}.yaml"))
        assert document.id == name
        found[f"{document.metadata.device_id} {document.metadata.name}"] = document
    return found


def values(state: DesiredState, deployment: str) -> dict[str, Any]:
    """Return the parameter values of one deployment of a device without children."""
    return {name: each.value for name, each in documents(state)[f"{state.device} {deployment}"].spec.parameters.items()}


def write_signing_key(path: Path, seed: int = 1) -> Path:
    """Write an ed25519 key, always the same for a seed, and an allowed-signers file beside it; returns the key's path.

    The file beside it is `<path>.allowed`, for git's `gpg.ssh.allowedSignersFile`.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.write_bytes(private)
    path.chmod(0o600)
    path.with_name(f"{path.name}.allowed").write_bytes(b"renderer " + public + b"\n")
    return path
