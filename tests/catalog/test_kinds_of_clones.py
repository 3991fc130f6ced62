"""Clones as people and pipelines make them: partial, sparse, with a split index; and files that are too large."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git

pytestmark = pytest.mark.real


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit("First")
    fleet.change("sites/north.yaml", "Grüezi", "Servus")
    fleet.commit("Second")
    fleet.git.run("config", "uploadpack.allowFilter", "true")
    fleet.git.run("config", "uploadpack.allowAnySHA1InWant", "true")
    return fleet


def clone(fleet: FleetFolder, tmp_path: Path, *options: str) -> Git:
    Git(tmp_path).run("clone", "--quiet", *options, f"file://{fleet.root}", "clone")
    return Git(tmp_path / "clone")


COMMANDS = (
    ("validate", "--rev", "HEAD"),
    ("validate",),
    ("validate", "--since", "HEAD~1"),
    ("plan", "--rev", "HEAD", "--base", "HEAD~1"),
)


@pytest.mark.parametrize("filtered", ["blob:none", "tree:0"])
@pytest.mark.parametrize("checkout", [(), ("--no-checkout",)], ids=["checkout", "no checkout"])
def test_a_partial_clone_is_read_whole(fleet: FleetFolder, tmp_path: Path, filtered: str, checkout: tuple[str, ...]):
    git = clone(fleet, tmp_path, f"--filter={filtered}", *checkout)
    for command in COMMANDS:
        if checkout and "--rev" not in command:
            continue
        whole = margo_gitops(*command, cwd=fleet.root)
        assert margo_gitops(*command, cwd=git.path) == whole, command


def test_a_partial_clone_whose_remote_is_gone_says_what_to_do(fleet: FleetFolder, tmp_path: Path):
    git = clone(fleet, tmp_path, "--filter=blob:none", "--no-checkout")
    fleet.root.rename(tmp_path / "gone")
    outcome = margo_gitops("validate", "--rev", "HEAD", cwd=git.path)
    assert outcome.code == 2, outcome
    assert "without --filter" in outcome.stderr


@pytest.mark.parametrize("index", [("--split-index",), ("--index-version", "4")], ids=str)
def test_every_kind_of_index_is_read(fleet: FleetFolder, tmp_path: Path, index: tuple[str, ...]):
    git = clone(fleet, tmp_path)
    git.run("update-index", *index)
    (git.path / "notes.txt").write_text("not committed")
    for command in COMMANDS:
        assert margo_gitops(*command, cwd=git.path) == margo_gitops(*command, cwd=fleet.root), command
    rendered = margo_gitops("render", "--state-repo", tmp_path / "state.git", cwd=git.path)
    assert rendered.code == 0, rendered
    assert "1 file differs from HEAD" in rendered.stderr


@pytest.mark.parametrize("kind", [(), ("--sparse-index",)], ids=["sparse", "sparse index"])
def test_a_sparse_checkout_is_read_by_commit_and_never_taken_for_a_smaller_fleet(
    fleet: FleetFolder, tmp_path: Path, kind: tuple[str, ...]
):
    git = clone(fleet, tmp_path)
    git.run("sparse-checkout", "init", "--cone", *kind)
    git.run("sparse-checkout", "set", "devices")
    for command in COMMANDS:
        outcome = margo_gitops(*command, cwd=git.path)
        if "--rev" in command:
            assert outcome == margo_gitops(*command, cwd=fleet.root), command
        else:
            assert outcome.code == 2, outcome
            assert "sparse-checkout disable" in outcome.stderr


ZEROS = 300 * 1024 * 1024
SMALL_MACHINE = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (280 << 20, 280 << 20))"


def test_a_blob_of_zeros_is_refused_by_its_size(fleet: FleetFolder, tmp_path: Path):
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(ZEROS)
    name = fleet.git.run("-c", "core.bigFileThreshold=1m", "-c", "core.compression=1", "hash-object", "-w", str(big))
    for path in ("devices/big.yaml", "applications.lock", "applications/a/1.0.0/big"):
        fleet.git.run("update-index", "--add", "--cacheinfo", f"100644,{name},{path}")
        fleet.git.run("commit", "--quiet", "-m", "Zeros")
        outcome = margo_gitops("validate", "--rev", "HEAD", cwd=fleet.root, prelude=SMALL_MACHINE)
        assert outcome.code in (1, 2), (path, outcome)
        assert "bytes" in outcome.stdout + outcome.stderr
        fleet.git.run("reset", "--quiet", "--hard", "HEAD~1")
