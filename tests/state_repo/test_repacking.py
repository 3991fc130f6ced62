"""Packs are merged (REPACK-1 to REPACK-5): nothing is lost, no reader stops, and nothing depends on git being there."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from dulwich.repo import Repo
from support.fleet import FleetFolder
from support.git_cli import Git
from support.state_publishing import Renderer

from margo_gitops.disk.locks import take_lock
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.state_repo import repacking
from margo_gitops.state_repo.git_store import GitStore
from margo_gitops.state_repo.object_pack import KEPT_BY
from margo_gitops.state_repo.repacking import repack
from margo_gitops.state_repo.served_state import ServedState

DEVICES = {f"press-{number}": {"web": b"value: %d\n" % number * 40} for number in range(30)}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repacking, "MOST_PACKS", 4)


def edit(renderer: Renderer, number: int) -> None:
    renderer.publish({**DEVICES, "press-3": {"web": b"value: %d\n" % number + b"same: x\n" * 40}})


def grown(renderer: Renderer, edits: int = 6) -> Renderer:
    renderer.publish(DEVICES)
    for number in range(edits):
        edit(renderer, number)
    return renderer


def packs(renderer: Renderer) -> set[str]:
    return {path.name for path in (renderer.git.path / "objects" / "pack").glob("*.pack")}


def objects(renderer: Renderer) -> list[str]:
    return sorted(renderer.git.run("cat-file", "--batch-all-objects", "--batch-check").splitlines())


def test_all_packs_become_one_then_only_small_ones_are_merged(renderer: Renderer):
    before = objects(grown(renderer))
    renderer.git.run("hash-object", "-w", "--stdin", content="no ref leads to this")
    lonely = renderer.git.run("hash-object", "--stdin", content="no ref leads to this")
    assert repack(renderer.repo.folder)
    (large,) = packs(renderer)
    assert set(before) <= set(objects(renderer))
    assert renderer.git.run("cat-file", "blob", lonely) == "no ref leads to this"
    counts = []
    for number in range(8):
        edit(renderer, 100 + number)
        repack(renderer.repo.folder)
        counts.append(len(packs(renderer)))
    assert max(counts) <= 6
    assert large in packs(renderer)  # what is large is not written again for every edit
    assert set(before) <= set(objects(renderer))
    renderer.git.run("fsck", "--strict", "--full")


def test_few_packs_stay_as_they_are(renderer: Renderer):
    before = packs(grown(renderer, edits=3))
    assert not repack(renderer.repo.folder)
    assert packs(renderer) == before


def test_loose_objects_become_a_pack(renderer: Renderer):
    renderer.publish(DEVICES)
    names = [renderer.git.run("hash-object", "-w", "--stdin", content=f"{number}") for number in range(3)]
    folder = renderer.git.path / "objects" / "17"
    folder.mkdir(exist_ok=True)
    for number in range(9):
        (folder / f"tmp_obj_{number}").touch()
    assert repack(renderer.repo.folder)
    assert not [name for name in names if (renderer.git.path / "objects" / name[:2] / name[2:]).exists()]
    assert renderer.git.run("cat-file", "blob", names[2]) == "2"


def test_a_reader_that_was_open_before_finds_everything_after(renderer: Renderer):
    grown(renderer)
    tips = renderer.refs()
    unused, used, served = (GitStore(renderer.repo.folder) for _ in range(3))
    state = ServedState(renderer.repo)
    with Repo(str(renderer.repo.folder)) as by_dulwich:
        commit = tips["refs/heads/devices/press-3"]
        parents = unused.branch(commit)
        used.commit(commit)
        assert by_dulwich[commit.encode()].id == commit.encode()
        assert repack(renderer.repo.folder)
        for name in parents:
            assert used.commit(name) == GitStore(renderer.repo.folder).commit(name) == served.commit(name)
            assert by_dulwich[name.encode()].id == name.encode()
        assert state.view().manifest("press-3") is not None
    edit(renderer, 99)
    assert state.refresh()
    assert b'"manifestVersion":8' in (state.view().manifest("press-3") or b"")


def test_a_server_lets_go_of_packs_that_are_gone(renderer: Renderer):
    """libgit2 holds the file of every pack that it read: after a thousand renders a server could open no more."""
    folder = grown(renderer).repo.folder
    state = ServedState(renderer.repo)
    del renderer.repo

    def held() -> int:
        names = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sum(str(folder) in name and ".pack" in name for name in names)

    for number in range(10):
        edit(Renderer(folder), 100 + number)
        repack(folder)
        assert state.refresh()
        assert state.view().manifest("press-3")
    gc.collect()  # what this test itself opened
    assert held() <= 6


@pytest.mark.parametrize("remote", [False, True])
def test_renders_merge_the_packs_of_a_state_repo_and_of_a_mirror(tmp_path: Path, remote: bool):
    state, cache = tmp_path / "state.git", tmp_path / "cache"
    if remote:
        Git(state).init(bare=True)
    fleet = FleetFolder.empty(tmp_path / "fleet", namespace="n0")
    fleet.device("a")
    fleet.application()
    fleet.deployment("web")
    for number in range(6):
        fleet.change("margo-gitops.yaml", f'"namespace": "n{number}', f'"namespace": "n{number + 1}')
        fleet.commit(f"Change to {number}")
        render_fleet(RenderRequest(fleet.root, "HEAD", state.as_uri() if remote else str(state), cache))
    written = next(cache.glob("*/HEAD")).parent if remote else state
    assert len(list((written / "objects" / "pack").glob("*.pack"))) < 5
    Git(state).run("fsck", "--full")


@pytest.mark.parametrize("hinder", ["no git", "lock taken", "no such folder", "little room"])
def test_what_hinders_it_is_no_error_and_changes_nothing(
    renderer: Renderer, hinder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = packs(grown(renderer))
    folder = renderer.repo.folder
    lock = take_lock(folder / "margo-gitops-repack.lock") if hinder == "lock taken" else None
    if hinder == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    if hinder == "little room":
        monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    assert not repack(tmp_path / "nowhere" if hinder == "no such folder" else folder)
    assert packs(renderer) == before
    if lock:
        lock.release()


def test_what_a_killed_process_left_is_removed_a_day_later(renderer: Renderer):
    folder = grown(renderer).repo.folder / "objects" / "pack"
    contents = {".tmp-1-pack-2.pack": "", "pack-3.keep": KEPT_BY, "pack-4.keep": "of a person", "tmp_pack_5": ""}
    for name, content in contents.items():
        (folder / name).write_text(content)
        if name != "tmp_pack_5":
            os.utime(folder / name, (time.time() - 90_000,) * 2)
    repack(renderer.repo.folder)
    assert {name for name in contents if (folder / name).exists()} == {"pack-4.keep", "tmp_pack_5"}
