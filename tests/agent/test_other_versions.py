"""Another version of the agent on the same state folder, newer or older, touches no workload."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from device_world import World, deployment_bytes

ROOT = Path(__file__).parents[2]
# The version before the agent had its rooms: the first whose folders today's agent takes over without a change.
FIRST_FILE_AFTER = "margo_gitops/agent/memory/poll_record.py"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The package of an older version, as it would be installed."""
    try:
        after = git("log", "--diff-filter=A", "--format=%H", "--", FIRST_FILE_AFTER).split()[-1].decode()
        packed, project = git("archive", f"{after}^", "margo_gitops"), git("show", f"{after}^:pyproject.toml")
    except (subprocess.CalledProcessError, IndexError, FileNotFoundError):
        pytest.skip("needs the project's history")
    folder = tmp_path / "older"
    known = folder / "older-0.dist-info"
    known.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True, timeout=60)
    appliers = tomllib.loads(project.decode())["project"]["entry-points"]["margo_gitops.appliers"]
    rows = "".join(f"{name} = {place}\n" for name, place in appliers.items())
    (known / "entry_points.txt").write_text(f"[margo_gitops.appliers]\n{rows}")
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: older\nVersion: 0\n")
    return folder


@pytest.mark.real
def test_upgrade_and_downgrade_touch_no_workload(tmp_path: Path, older: Path) -> None:
    world = World(tmp_path / "world")

    def old_agent() -> str:
        variables = world.environment(PYTHONPATH=str(older))
        done = subprocess.run(
            world.command("once"), env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def new_agent() -> str:
        done = world.agent("once")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def running() -> dict[Path, tuple[int, int]]:
        files = [path for path in world.output.rglob("*") if path.is_file()]
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    world.publish({1: deployment_bytes(1), 2: deployment_bytes(2)})
    assert old_agent().count("WorkloadInstalled") == 2
    assert world.agent("status").returncode == 0, "also before the newer agent worked here"
    before = running()
    for agent in (new_agent, old_agent):
        assert "JournalRebuilt" not in agent()
        assert running() == before
    world.publish({1: deployment_bytes(1), 2: deployment_bytes(2, values={"GREETING": "later"})})
    assert new_agent().count("WorkloadInstalled") == 1, "what changed is all that changes"
    before = running()
    assert "JournalRebuilt" not in old_agent()
    assert running() == before
    assert world.agent("verify").returncode == 0
