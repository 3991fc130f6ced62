"""The agent as one file (scripts/build-zipapp) and as a Debian package (scripts/build-deb) does what it does here."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from device_world import World, deployment_bytes

ROOT = Path(__file__).parents[2]


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


@pytest.mark.real
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_debian_package_holds_an_agent_that_works_and_a_unit(tmp_path: Path) -> None:
    build = [sys.executable, ROOT / "scripts/build-deb", tmp_path]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    (package,) = tmp_path.glob("*.deb")
    root = tmp_path / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True, timeout=60)
    for script in ("postinst", "prerm"):
        subprocess.run(["sh", "-n", root / "DEBIAN" / script], check=True, timeout=10)
    units = {path.name for path in (root / "usr/lib/systemd/system").iterdir()}
    assert units == {"margo-gitops-agent.service", "margo-gitops-agent-once.service", "margo-gitops-agent-once.timer"}
    assert {path.name for path in root.iterdir()} == {"DEBIAN", "usr"}, "nothing in /etc: it is the person's"
    program = (root / "usr/bin/margo-gitops").read_text().replace("/usr/lib/", f"{root}/usr/lib/")
    world = World(tmp_path / "world")
    world.publish({1: deployment_bytes(1)})
    command = [sys.executable, "-S", "-c", program, "agent", "once", "--config", str(world.config)]
    done = subprocess.run(command, env=world.environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "poll: new; holds version 1\n"), done.stderr
