"""Watching a fleet: every change is shown, and nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from queue import Queue
from threading import Event, Thread

import pytest
from support.reporting import Reporter
from support.state_publishing import Renderer

from margo_gitops.errors import MargoGitopsError, StateRepoUnusable
from margo_gitops.fleet_status import watch
from margo_gitops.fleet_status.reading import StatusRequest
from margo_gitops.fleet_status.status import FleetStatus
from margo_gitops.fleet_status.watch import StatusWatch

SECONDS = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)


def test_every_change_is_shown_and_errors_do_not_end_the_watch(tmp_path: Path):
    folder = tmp_path / "state.git"
    renderer = Renderer(folder)
    renderer.publish({"a": {"web": b"1"}})
    stop = Event()
    shown: Queue[FleetStatus | MargoGitopsError] = Queue()

    def run() -> None:
        for each in StatusWatch(StatusRequest(tmp_path, str(folder), tmp_path), stop).changes():
            shown.put(each)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        first = shown.get(timeout=SECONDS)
        assert isinstance(first, FleetStatus)
        assert first.devices[0].state == "silent"
        Reporter(folder).report("a")
        assert next_status(shown).devices[0].state == "installed"
        renderer.publish({"a": {"web": b"2"}})
        assert next_status(shown).devices[0].state == "behind"
        broken = folder / "refs/heads/broken"
        broken.write_text("nothing")
        assert isinstance(shown.get(timeout=SECONDS), StateRepoUnusable)
        broken.unlink()
        renderer.publish({"a": {"web": b"3"}})
        assert next_status(shown).devices[0].desired == 3
        assert shown.empty()
    finally:
        stop.set()
        thread.join(SECONDS)
    assert not thread.is_alive()


def next_status(shown: Queue[FleetStatus | MargoGitopsError]) -> FleetStatus:
    found = shown.get(timeout=SECONDS)
    assert isinstance(found, FleetStatus), found
    return found


def test_without_a_state_repo_there_is_nothing_to_watch(tmp_path: Path):
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    watching = StatusWatch(StatusRequest(tmp_path, str(tmp_path / "none"), tmp_path), Event())
    with pytest.raises(StateRepoUnusable):
        next(watching.changes())
