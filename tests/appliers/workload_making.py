"""Workloads, archives and appliers for the tests of this folder."""

import gzip
import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from margo_gitops.appliers.applier import Workload
from margo_gitops.digests import Digest, folder_digest, sha256
from margo_gitops.documents.components import Component, ComponentProperties, ParameterValue
from margo_gitops.documents.deployment import (
    ApplicationDeployment,
    Artifact,
    DeployedProfile,
    DeploymentMetadata,
    DeploymentSpec,
)


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644):
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = link
    member.mode = mode
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    return member, content


def tar_gz(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def compose_archive(compose: str, files: Mapping[str, bytes] | None = None) -> bytes:
    members = {"app/compose.yaml": compose.encode(), **{f"app/{name}": text for name, text in (files or {}).items()}}
    return tar_gz(*(entry(name, content) for name, content in members.items()))


def artifact_of(archive: bytes, folder: Path, component: str = "hmi") -> Artifact:
    digest = sha256(archive)
    path = folder / f"{digest[7:19]}.tar.gz"
    path.write_bytes(archive)
    return Artifact(component, path.as_uri(), digest)


def folder_artifact(folder: Path, component: str = "hmi") -> Artifact:
    files = {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }
    return Artifact(component, folder.as_uri(), folder_digest(files))


def workload(
    artifact: Artifact | None,
    values: Mapping[str, ParameterValue] | None = None,
    *,
    deployment_id: str | None = None,
    component: str = "hmi",
    wait: bool = True,
    timeout: str = "0m40s",
    profile: str = "compose",
) -> Workload:
    part = Component(
        component, ComponentProperties("oci://registry.example.com/hmi", "1.0.0", wait=wait, timeout=timeout)
    )
    deployment = ApplicationDeployment(
        deployment_id or str(uuid.uuid4()),
        DeploymentMetadata("line-hmi", "margo", "press-07"),
        DeploymentSpec("com-acme-hmi", DeployedProfile(profile, (part,))),
    )
    told = json.dumps([repr(part), artifact.digest if artifact else None, repr(dict(values or {}))])
    digest = Digest("sha256:" + hashlib.sha256(told.encode()).hexdigest())
    return Workload(deployment, part, artifact, values or {}, digest)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".new-")]
