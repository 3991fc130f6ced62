"""scripts/release refuses what is not ready, and builds the same bytes twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.git_cli import GIT_ENVIRONMENT

from margo_gitops import __version__

ROOT = Path(__file__).parents[2]
COMMITTER = ["-c", "user.name=Ada", "-c", "user.email=ada@plant.example"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone of the project, whose changelog has a section of the version."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
    # The script that is tested is the one here, not the one of the last commit.
    (clone / "scripts" / "release").write_bytes((ROOT / "scripts" / "release").read_bytes())
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## [Unreleased]", f"## [{__version__}] - 2026-12-01", 1))
    commit(clone)
    return clone


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *COMMITTER, *arguments], cwd=folder, env=GIT_ENVIRONMENT, check=True, timeout=60)


def commit(clone: Path) -> None:
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "Release")


def release(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/release", "--no-validate", *arguments],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_two_builds_of_a_commit_are_equal_byte_for_byte(project: Path, tmp_path: Path) -> None:
    built = []
    for name in ("first", "second"):
        done = release(project, "--output", str(tmp_path / name), __version__)
        assert done.returncode == 0, done.stderr
        built.append({each.name: each.read_bytes() for each in (tmp_path / name).iterdir()})
    first, second = built
    assert first == second
    stem = f"margo_gitops-{__version__}"
    assert set(first) == {f"{stem}.tar.gz", f"{stem}-py3-none-any.whl", f"{stem}.cdx.json", "SHA256SUMS"}
    assert done.stdout.endswith(f"to tag it: git tag --sign v{__version__} --message 'margo-gitops {__version__}'\n")
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=tmp_path / "first", check=True)
    with zipfile.ZipFile(tmp_path / "first" / f"{stem}-py3-none-any.whl") as wheel:
        assert "margo_gitops/cli/main.py" in wheel.namelist()
    with tarfile.open(tmp_path / "first" / f"{stem}.tar.gz") as source:
        assert {f"{stem}/LICENSE", f"{stem}/tests/conftest.py"} <= set(source.getnames())
    bill = json.loads(first[f"{stem}.cdx.json"])
    listed = {each["name"].lower() for each in bill["components"]}
    assert bill["metadata"]["component"]["name"] == "margo-gitops"
    assert {"click", "cryptography", "dulwich", "pygit2", "starlette", "boto3"} <= listed
    assert not {"pytest", "mypy", "cyclonedx-bom", "mkdocs"} & listed


def test_a_project_that_is_not_ready_is_refused_and_nothing_is_built(project: Path) -> None:
    git(project, "tag", f"v{__version__}")
    changelog = project / "CHANGELOG.md"
    changelog.write_text(re.sub(r"(?s)(- 2026-12-01\n).*", r"\1", changelog.read_text()))
    done = release(project, __version__)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the working tree has changes; commit them first",
        f"error: the section {__version__} of CHANGELOG.md lists nothing",
        f"error: the tag v{__version__} exists",
    ]
    commit(project)
    done = release(project, "9.9.9")
    assert done.stderr.splitlines() == [
        f"error: margo_gitops/__init__.py has version {__version__}, not 9.9.9",
        'error: CHANGELOG.md has no section "## [9.9.9] - YYYY-MM-DD"; rename "Unreleased"',
    ]
    assert not (project / "dist").exists()
