"""The chart in a component's content, and which content a device still needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from margo_gitops.appliers.applier import Workload, WorkloadKey, read_record, storing
from margo_gitops.appliers.helm.program import HelmProgram
from margo_gitops.appliers.helm.releases import manifest_objects
from margo_gitops.digests import Digest
from margo_gitops.disk.files import replace_file
from margo_gitops.documents.declarations import DigestText
from margo_gitops.documents.deployment import Artifact
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.kubernetes_objects import KubernetesObject
from margo_gitops.documents.records import write
from margo_gitops.documents.workload_policy import WorkloadPolicy
from margo_gitops.errors import ArtifactRefused, ManifestInvalid, WorkloadUnsupported
from margo_gitops.values import dataclass

_CHECK_SECONDS: Final = 30.0
_SEPARATES_CRDS: Final = 4
_LARGEST_NOTE: Final = 64 * 1024


def chart_content(workload: Workload) -> Artifact:
    """Return the content of a workload (WorkloadUnsupported: the deployment names none)."""
    if workload.artifact is None:
        raise WorkloadUnsupported(
            f"the deployment names no content for component {workload.component.name}",
            remedy="give the component an artifact in the fleet repo: a path, or a URL and its digest",
        )
    return workload.artifact


def chart_in(content: Path, component: str, *, signed: bool) -> Path:
    """Return the path of the chart: a folder or a package, in the content's root or in its one top-level folder.

    Args:
        signed: whether it must be a package with a signature (`.prov`).

    Raises:
        ManifestInvalid: there is no chart, or more than one package.
        ArtifactRefused: it has no signature.
    """
    folders = [path for path in content.iterdir() if path.is_dir() and not path.is_symlink()]
    for folder in [content, *(folders if len(folders) == 1 else [])]:
        packages = [path for path in folder.glob("*.tgz") if path.is_file() and not path.is_symlink()]
        if len(packages) == 1:
            if signed and not Path(f"{packages[0]}.prov").is_file():
                break
            return packages[0]
        if (folder / "Chart.yaml").is_file() and not packages:
            if signed:
                break
            return folder
    else:
        raise ManifestInvalid(
            f"the content of component {component} holds no Helm chart",
            remedy="put Chart.yaml, or one package (.tgz), into the root of the content or its one top-level folder",
        )
    raise ArtifactRefused(
        f"the chart of component {component} has no signature, and this device wants one (`keyring`)",
        remedy="make the content of the component the package and its .prov file: `helm package --sign`",
    )


def check_signature(helm: HelmProgram, chart: Path, keyring: Path, component: str) -> None:
    """Refuse a package that no key of a keyring signed (ArtifactRefused)."""
    done = helm.run("verify", str(chart), "--keyring", str(keyring), namespace="default", seconds=_CHECK_SECONDS)
    if done.status != 0:
        raise ArtifactRefused(
            f"the signature of the chart of component {component} does not hold on this device (`keyring`)",
            why=done.last_lines(),
            remedy="sign the package with a key that this device trusts, or add the key to its keyring",
        )


def first_objects(
    helm: HelmProgram, chart: Path, component: str, policy: WorkloadPolicy
) -> tuple[KubernetesObject, ...]:
    """Return what a policy must judge in `crds/`: helm installs all of it first, and a dry run does not show it.

    Raises:
        ManifestInvalid: it cannot be read.
        WorkloadUnsupported: there is something, and Helm 3 prints the files without a line between them.
    """
    if policy.unrestricted or policy.engine_socket:
        return ()  # a workload that may start any pod needs no CRDs for that
    done = helm.run("show", "crds", str(chart), namespace="default", seconds=_CHECK_SECONDS)
    if done.status != 0:
        raise ManifestInvalid(f"helm cannot show the CRDs of component {component}", why=done.last_lines())
    if done.output.strip() and helm.version() < _SEPARATES_CRDS:
        raise WorkloadUnsupported(
            f"the chart of component {component} has a folder crds, and Helm 3 does not show what is in it",
            remedy="install Helm 4 on the device, or allow `engineSocket: true` in the agent's configuration",
        )
    return manifest_objects(done.output, f"{component} (crds)")


@dataclass(frozen=True, slots=True)
class _Note:
    """What is noted of a workload: where its release is, and the content of each of its digests."""

    namespace: str
    artifacts: Mapping[str, DigestText]


@dataclass(eq=False)
class Notes:
    """Which content is in use, and where to look for releases; nothing else relies on it (APPLIER-6)."""

    folder: Path

    def add(self, workload: Workload) -> None:
        """Note a workload before it is installed (StorageFailed: the disk does not take it)."""
        note = self._read(self._path(workload.key))
        self._write(workload, {**(note.artifacts if note else {}), **self._artifact(workload)})

    def keep(self, workload: Workload) -> None:
        """Forget all content of a workload but its own and what it may go back to (StorageFailed)."""
        note = self._read(self._path(workload.key))
        kept = {key: each for key, each in (note.artifacts if note else {}).items() if key == workload.keeps}
        wanted = {**kept, **self._artifact(workload)}
        if note is None or (note.namespace, note.artifacts) != (workload.deployment.metadata.namespace, wanted):
            self._write(workload, wanted)

    def remove(self, key: WorkloadKey) -> None:
        """Forget a workload (StorageFailed)."""
        with storing(self.folder):
            self._path(key).unlink(missing_ok=True)

    def artifacts(self) -> set[Digest]:
        """Return the digests of the content that is in use."""
        return {Digest(each) for note in self._notes() for each in note.artifacts.values()}

    def namespaces(self, key: WorkloadKey | None = None) -> set[str]:
        """Return the namespaces of all workloads, or of one."""
        notes = self._notes() if key is None else [self._read(self._path(key))]
        return {note.namespace for note in notes if note}

    def _notes(self) -> Iterator[_Note]:
        return (note for path in sorted(self.folder.glob("*.json")) if (note := self._read(path)))

    def _artifact(self, workload: Workload) -> dict[str, DigestText]:
        return {workload.digest: workload.artifact.digest} if workload.artifact else {}

    def _write(self, workload: Workload, artifacts: Mapping[str, DigestText]) -> None:
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            note = _Note(workload.deployment.metadata.namespace, artifacts)
            replace_file(self._path(workload.key), write_json(write(note)))

    def _path(self, key: WorkloadKey) -> Path:
        return self.folder / f"{key.deployment_id}_{key.component}.json"

    @staticmethod
    def _read(path: Path) -> _Note | None:
        return read_record(_Note, path, _LARGEST_NOTE)
