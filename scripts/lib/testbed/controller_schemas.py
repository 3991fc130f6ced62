"""The schemas that Flux, Argo CD and k3s publish for their documents, taken from their Go modules, once per version.

Flux's helm-controller is no module that can be fetched. The schema of its `HelmRelease` is in this folder: made with
controller-gen from the types in github.com/fluxcd/helm-controller/api v1.6.4 (Apache-2.0), without its descriptions.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from testbed.go_programs import Go, go_program

_MODULES = {
    "github.com/fluxcd/kustomize-controller@v1.7.3": "config/crd/bases",
    "github.com/fluxcd/source-controller@v1.8.5": "config/crd/bases",
    "github.com/k3s-io/helm-controller@v0.17.9": "pkg/crds/yaml/generated",
    "github.com/argoproj/argo-cd/v3@v3.3.9": "manifests/crds",
}
_VERSION = "1"
"""Another one where `_MODULES` changes."""


def controller_definitions(state: Path) -> Path:
    """Return a folder with the definitions (CRDs) of those controllers, fetched the first time.

    Raises:
        UnavailableError: no Go here, a download that nobody asked for, or one that fails.
    """
    return go_program("definitions", state / "packages" / f"controllers-{_VERSION}", _fetch, 1)


def controller_schema(state: Path, api_version: str, kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind, which refuses what the schema does not name (UnavailableError)."""
    if kind == "HelmRelease":
        return _strict(json.loads(Path(__file__).with_name("helmrelease.schema.json").read_text(encoding="utf-8")))
    import yaml  # not there where a person runs the testbed

    group, _, version = api_version.partition("/")
    for file in sorted(controller_definitions(state).glob("*.yaml")):
        definition = yaml.load(file.read_bytes(), yaml.CSafeLoader)
        spec = definition.get("spec", {})
        if (spec.get("group"), spec.get("names", {}).get("kind")) == (group, kind):
            return _strict(
                next(each for each in spec["versions"] if each["name"] == version)["schema"]["openAPIV3Schema"]
            )
    raise LookupError(f"no schema of {kind} in {api_version}")


def _fetch(go: Go, folder: Path) -> None:
    (folder / "definitions").mkdir()
    for module, place in _MODULES.items():
        for file in (go.download(module)[1] / place).glob("*.yaml"):
            if file.name != "kustomization.yaml":
                shutil.copyfile(file, folder / "definitions" / file.name)


def _strict(schema: Any) -> Any:  # noqa: ANN401
    """Return a schema of Kubernetes as JSON Schema; like the API server, it names fields that it does not know."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key != "format"}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        strict["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict
