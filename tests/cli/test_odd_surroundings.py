"""Commands as in a container of a pipeline: a user without a passwd entry, a home and a name, and with any umask."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-c", "from margo_gitops.cli.main import main; main()")
ANNA = {f"GIT_{who}_{what}": "anna@plant.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
NOBODY_KNOWS = 4711  # no such user id on any machine of ours


def unnamed(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without a passwd entry and without HOME."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() or setpriv is None:
        pytest.skip("another user is played by root with setpriv")
    user = f"--reuid={NOBODY_KNOWS} --regid={NOBODY_KNOWS} --clear-groups".split()
    # This Python may lie in a folder of root's own.
    reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return subprocess.run(
        [setpriv, *user, *reads, *PROGRAM, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: only root may look into folders of pytest.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        mine = Path(name) / "mine"
        mine.mkdir()
        if os.geteuid() == 0:
            os.chown(mine, NOBODY_KNOWS, NOBODY_KNOWS)
        yield mine


def test_a_user_without_a_home_can_do_what_others_can(folder: Path):
    made = unnamed(folder, "init", "fleet", "--yes", **ANNA)
    assert made.returncode == 0, made
    assert "nothing is committed" not in made.stdout, "git's variables say who commits"
    fleet = folder / "fleet"
    for command in ("validate", "plan", "render", "status", "explain press-01 greeting", "audit verify", "device list"):
        done = unnamed(fleet, *command.split())
        assert done.returncode in (0, 1), done
        assert done.stderr == "" or command in ("status", "audit verify"), done


def test_who_cannot_commit_is_told_why(folder: Path, tmp_path: Path):
    assert "git does not know who you are" in unnamed(folder, "init", "fleet", "--yes").stdout
    (tmp_path / "bin").mkdir()
    assert "git is missing" in unnamed(folder, "init", "other", "--yes", PATH=str(tmp_path / "bin")).stdout


def test_mirrors_of_a_user_without_a_home_are_never_in_a_folder_of_another(folder: Path, tmp_path: Path):
    unnamed(folder, "init", "fleet", "--yes")
    (folder / f"margo-gitops-{NOBODY_KNOWS}").mkdir()  # root's; the folder for temporary files is `folder`
    refused = unnamed(folder / "fleet", "plan")
    assert (refused.returncode, "MARGO_GITOPS_CACHE" in refused.stderr) == (2, True), refused
    assert unnamed(folder / "fleet", "plan", MARGO_GITOPS_CACHE=str(folder / "cache")).returncode in (0, 1)


@pytest.mark.parametrize(("mask", "allowed"), [(0o000, 0o775), (0o027, 0o750)])
def test_nothing_that_is_made_is_for_all_to_write(tmp_path: Path, mask: int, allowed: int):
    for command in ("init fleet --yes", "render --fleet fleet"):
        named = {**os.environ, **ANNA}
        subprocess.run(
            [*PROGRAM, *command.split()], cwd=tmp_path, env=named, umask=mask, capture_output=True, check=True
        )
    modes = {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.rglob("*") if each.is_dir()}
    assert max(modes) == allowed
    assert not any(mode & ~allowed for mode in modes)
