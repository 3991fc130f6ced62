"""The examples run as their docstrings say, refuse what they should, and import public names only."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.git_cli import GIT_ENVIRONMENT
from support.real import require_program

from margo_gitops import errors
from margo_gitops.errors import SignerUnknown, VersionRollback

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DEVICE = "press-07"
SAMPLE = f"""\
id: 7b7f1d2c-3a7e-5d0c-8a51-0c6f2f6d6a01
metadata:
  name: greeting
  namespace: margo
  deviceId: {DEVICE}
spec:
  applicationId: com-example-greeting
  deploymentProfile:
    type: compose
    components:
      - name: greeting
        properties:
          packageLocation: https://artifacts.plant.example/greeting.tar.gz
  parameters:
    greeting:
      value: Hello
      targets:
        - pointer: GREETING
          components: [greeting]
"""
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Renderer"), ("EMAIL", "renderer@plant.example"))
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_imports_public_names_only(example: Path) -> None:
    imported = [
        node for node in ast.walk(ast.parse(example.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)
    ]
    assert not [each for each in imported if isinstance(each, ast.Import) and "margo" in each.names[0].name]
    ours = [each for each in imported if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("margo")]
    assert ours
    for each in ours:
        module = importlib.import_module(each.module or "")
        public = errors_of(module) if module is errors else set(module.__all__)
        assert {alias.name for alias in each.names} <= public, f"{each.module} has other public names"


def errors_of(module: ModuleType) -> set[str]:
    """Return the names of the errors, which are all public."""
    return {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Exception)}


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A folder with an empty state repo, the renderer's key and a stranger's, and who may sign."""
    require_program("ssh-keygen", "openssh-client")
    run("git", "init", "--quiet", "--bare", tmp_path / "state.git")
    for name in ("renderer", "stranger"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", tmp_path / name)
    public = (tmp_path / "renderer.pub").read_text().rsplit(" ", 1)[0]
    (tmp_path / "signers").write_text(f'renderer@plant.example namespaces="git" {public}\n')
    return tmp_path


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command],
        env={**GIT_ENVIRONMENT, **IDENTITY},
        cwd=ROOT,
        check=check,
        capture_output=True,
        text=True,
        timeout=60,
    )


def render(plant: Path, *texts: str, key: str = "renderer") -> None:
    files = []
    for number, text in enumerate(texts):
        files.append(plant / f"{number}.yaml")
        files[-1].write_text(text, encoding="utf-8")
    run(sys.executable, "examples/minimal_renderer.py", plant / "state.git", DEVICE, plant / key, *files)


def pull(plant: Path) -> subprocess.CompletedProcess[str]:
    url = f"file://{plant}/state.git"
    arguments = (url, DEVICE, plant / "signers", plant / "device")
    return run(sys.executable, "examples/minimal_agent.py", *arguments, check=False)


def test_the_agent_runs_what_the_renderer_wrote_and_nothing_older_or_foreign(plant: Path) -> None:
    render(plant, SAMPLE)
    assert pull(plant).stdout == "runs version 1\n"
    assert list((plant / "device" / "workloads").rglob("deployment.yaml"))
    first = run("git", "-C", plant / "state.git", "rev-parse", f"devices/{DEVICE}").stdout.strip()

    render(plant)
    assert pull(plant).stdout == "runs version 2\n"
    assert not list((plant / "device" / "workloads").rglob("deployment.yaml"))

    run("git", "-C", plant / "state.git", "update-ref", f"refs/heads/devices/{DEVICE}", first)
    refused = pull(plant)
    assert refused.returncode == 1
    assert VersionRollback.code in refused.stderr

    shutil.rmtree(plant / "state.git")
    run("git", "init", "--quiet", "--bare", plant / "state.git")
    render(plant, SAMPLE, key="stranger")
    refused = pull(plant)
    assert refused.returncode == 1
    assert SignerUnknown.code in refused.stderr
