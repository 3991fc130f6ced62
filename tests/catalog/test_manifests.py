"""Manifests that a cluster cannot take are found when their package is added and validated, without a cluster."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from support.fleet import FleetFolder, parameter, profile

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.package_check import check_package
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.errors import Finding, PackageInvalid

MANIFESTS = """apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {containers: [{name: web, image: busybox}]}}}
"""


def findings(folder: Path, content: str | bytes, pointers: dict[str, object], file: str = "all.yaml") -> list[Finding]:
    """Return what is found in a package with one component of manifests: text is a folder, bytes are an archive."""
    fleet = FleetFolder.empty(folder / "fleet")
    part = profile("web", "custom")
    path = "parts.tar.gz" if isinstance(content, bytes) else "parts"
    part["components"][0][OWN_EXTENSION] = {"artifact": {"path": path}, "format": "kubernetes"}
    parameters = {
        f"p{at}": parameter("web", pointer=pointer, value=value) for at, (pointer, value) in enumerate(pointers.items())
    }
    place = fleet.application("app", pin=False, deploymentProfiles=[part], parameters=parameters)
    fleet.put(f"{place}/{path}" if isinstance(content, bytes) else f"{place}/{path}/{file}", content)
    try:
        return list(check_package(DiskTree(fleet.root / place), "app/").findings)
    except PackageInvalid as error:
        return list(error.findings)


def packed(content: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        member = tarfile.TarInfo("web/all.yaml")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content.encode()))
    return out.getvalue()


GOOD = {
    "ConfigMap/settings:data.GREETING": "Hello",
    "Deployment/web:spec.replicas": 2,
    "Deployment/web:spec.template.spec.containers[name=web].env[name=MODE].value": None,
    "Secret/db:stringData.password": None,
}


@pytest.mark.parametrize("content", [MANIFESTS, packed(MANIFESTS)], ids=["folder", "archive"])
def test_what_a_cluster_can_take_is_no_finding(tmp_path: Path, content: str | bytes) -> None:
    assert findings(tmp_path, content, GOOD) == []


@pytest.mark.parametrize(
    ("content", "file", "told"),
    [
        ("kind: ConfigMap\nmetadata: {name: a}\n", "all.yaml", "app/parts/all.yaml:1: has no apiVersion"),
        (
            MANIFESTS + "---\napiVersion: v1\nkind: Service\n",
            "all.yaml",
            "app/parts/all.yaml:10: this Service has no name",
        ),
        (MANIFESTS + "---\n" + MANIFESTS, "all.yaml", "app/parts/all.yaml:10: ConfigMap settings appears twice"),
        ("a: &b 1\n", "all.yml", "app/parts/all.yml:1"),
        ("{", "all.json", "app/parts/all.json:1"),
        (MANIFESTS, "all.txt", "parts has no manifests"),
        (b"no archive", "", "app/parts.tar.gz: is not a tar.gz"),
    ],
    ids=["no-version", "no-name", "twice", "anchor", "json", "no-manifests", "no-archive"],
)
def test_a_manifest_that_no_cluster_takes_is_named(tmp_path: Path, content: str | bytes, file: str, told: str) -> None:
    (found,) = findings(tmp_path, content, {}, file)
    assert found.rule == "R221"
    assert found.severity == "error"
    assert told in str(found)
    assert found.remedy or file.startswith("all.") or not file


@pytest.mark.parametrize(
    ("pointer", "value", "told"),
    [
        ("GREETING", "x", "names no field of a Kubernetes object"),
        (
            "Deployment/wep:spec.replicas",
            1,
            "names no object of the manifests (parameter p0); there are ConfigMap/settings",
        ),
        ("Deployment/web:spec.template.spec.containers[name=app].image", "x", "leads nowhere"),
        ("Secret/db:stringData.password", "x", "names no object"),
        ("Secret/db:type", None, "is not for a secret"),
    ],
    ids=["a-variable", "wrong-name", "no-item", "a-value-makes-no-secret", "not-of-a-secret"],
)
def test_a_pointer_that_leads_nowhere_is_named(tmp_path: Path, pointer: str, value: object, told: str) -> None:
    (found,) = findings(tmp_path, MANIFESTS, {pointer: value})
    assert found.rule == "R222"
    assert told in str(found)
    assert str(found).startswith("app/margo.yaml:")
    assert found.remedy
