"""The wheel holds what the program scaffolds, hidden files too, and scaffolds the same as a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.fleet import TEMPLATE
from support.git_cli import GIT_ENVIRONMENT

ROOT = TEMPLATE.parent
_FROM = "import margo_gitops; assert margo_gitops.__file__.startswith('{}'); from margo_gitops.cli.main import main"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_every_file_of_the_template_and_every_schema_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        for source in (TEMPLATE, ROOT / "schemas"):
            files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
            files = {name: path for name, path in files.items() if "__pycache__" not in name}
            prefix = f"margo_gitops/_data/{source.name}/"
            there = {name.removeprefix(prefix) for name in packed.namelist() if name.startswith(prefix)}
            assert there == set(files)
            for name, path in files.items():
                assert packed.read(prefix + name) == path.read_bytes()
    assert (TEMPLATE / ".gitignore").is_file()
    assert (TEMPLATE / ".github/workflows/review.yml").is_file()


def test_an_installed_wheel_scaffolds_what_a_checkout_does(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    for name, search in (("installed", tmp_path / "site"), ("checkout", ROOT)):
        arguments = [sys.executable, "-P", "-c", f"{_FROM.format(search)}; main()"]
        done = subprocess.run(
            [*arguments, "init", str(tmp_path / name / "plant"), "--artifacts-url", "https://a.example/"],
            env={**GIT_ENVIRONMENT, "PYTHONPATH": str(search)},
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    assert _contents(tmp_path / "installed/plant") == _contents(tmp_path / "checkout/plant")


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }
