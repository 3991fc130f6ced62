"""The agent as one file (scripts/build-zipapp) and as a Debian package (scripts/build-deb) does what it does here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_world import World, deployment_bytes
from support.real import require_program
from support.throwaway_root import throwaway_root
from testbed.places import locked

from margo_gitops import __version__
from margo_gitops.agent.install import USER

ROOT = Path(__file__).parents[2]
STATE = "/var/lib/margo-gitops"
GONE = "usr/lib/margo-gitops/margo_gitops/gone.py"
COMPILED = "usr/lib/margo-gitops/margo_gitops/__pycache__"
APT_INSTALL = """\
install() { apt-get install --yes --no-install-recommends "$1"; }
install "$1" || { apt-get update && install "$1"; }
"""


@pytest.mark.real
def test_one_file_polls_and_applies_and_unpacks_itself_once(tmp_path: Path) -> None:
    program, cache = tmp_path / "margo-gitops.pyz", tmp_path / "cache"
    build = [sys.executable, ROOT / "scripts/build-zipapp", program]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    world = World(tmp_path / "world")
    world.publish({1: deployment_bytes(1)})

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # Without `site`, nothing that is installed here is found.
        command = [sys.executable, "-S", str(program), "agent", *arguments, "--config", str(world.config)]
        variables = world.environment(XDG_CACHE_HOME=str(cache))
        return subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    first = run("once")
    assert (first.returncode, first.stdout) == (0, "poll: new; holds version 1\n"), first.stderr
    assert world.value(1) is not None
    (unpacked,) = (cache / "margo-gitops").iterdir()
    made = unpacked.stat().st_mtime_ns
    assert run("once").returncode == 0
    assert (unpacked.stat().st_mtime_ns, list((cache / "margo-gitops").iterdir())) == (made, [unpacked])
    unpacked.chmod(0o777)
    refused = run("once")
    assert refused.returncode == 1
    assert "others may write to it" in refused.stderr


def older(package: Path, folder: Path) -> Path:
    """Return an older build of a package, with a module that is gone since."""
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder / "tree"], check=True, timeout=60)
    control = folder / "tree/DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}\n", f"Version: {__version__}~older\n"))
    (folder / f"tree/{GONE}").write_text("")
    made = folder / "older.deb"
    subprocess.run(
        ["dpkg-deb", "-Znone", "--root-owner-group", "--build", folder / "tree", made], check=True, timeout=60
    )
    return made


@pytest.mark.real
def test_a_debian_package_lives_from_its_installation_to_its_purge(tmp_path: Path) -> None:
    require_program("dpkg-deb", "dpkg")
    shared, layers = tmp_path / "shared", tmp_path / "layers"
    world = World(shared / "world")
    layers.mkdir()
    build = [sys.executable, ROOT / "scripts/build-deb", shared]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    (package,) = shared.glob("*.deb")
    older(package, shared)
    world.publish({1: deployment_bytes(1)})
    world.configure(
        stateFolder=STATE,
        source={"git": {"url": "file:///srv/shared/world/state.git"}},
        trust={"allowedSigners": "allowed_signers"},
        appliers={"files": {"folder": f"{STATE}/files"}},
    )
    with throwaway_root(Path(os.environ.get("MARGO_GITOPS_DEBIAN_ROOT", "/")), layers, shared) as root:

        def agent(*arguments: str) -> str:
            return root.run("runuser", "-u", USER, "--", "margo-gitops", "agent", *arguments)

        def applied() -> str:
            return root.run("find", f"{STATE}/files", "-printf", "%p %i %T@\n")

        with locked(Path("/var/cache/apt")):  # what the testbed installs meanwhile would be half there
            root.run("sh", "-c", APT_INSTALL, "sh", "/srv/shared/older.deb")
        assert root.run("stat", "--format=%U %a", "/etc/margo-gitops", STATE) == f"{USER} 750\n{USER} 700\n"
        assert root.there(f"/{COMPILED}"), "the agent cannot write there: each start would compile everything"
        for name in ("agent.yaml", "allowed_signers"):
            root.run("cp", f"/srv/shared/world/{name}", "/etc/margo-gitops/")
        assert agent("config", "check") == f"the configuration of {world.device} can be used\n"
        assert agent("once") == "poll: new; holds version 1\n"
        before = applied()
        assert "values.env" in before

        root.run("dpkg", "--install", f"/srv/shared/{package.name}")
        assert not root.there(f"/{GONE}")
        assert (agent("once"), applied()) == ("poll: unchanged; holds version 1\n", before)

        root.run("dpkg", "--remove", "margo-gitops")
        assert not root.there("/usr/lib/margo-gitops"), "nothing that was compiled is left"
        assert applied() == before
        assert root.there("/etc/margo-gitops/agent.yaml")
        said = root.run("dpkg", "--purge", "margo-gitops")
        assert f"kept: {STATE}" in said
        assert not root.there("/etc/margo-gitops")
        assert applied() == before
