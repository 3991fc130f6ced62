"""What a state repo lost comes back, with reports and receipts (rules RESTORE-1 to RESTORE-3)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git
from support.reporting import Reporter

from margo_gitops.documents.state_layout import REPORTS_REF, device_reports_ref
from margo_gitops.errors import StateRepoUnusable, StateTampered
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.state_repo.lost_state import LostState, Restored
from margo_gitops.state_repo.remote import RemoteState


@dataclass
class Machine:
    """A machine that renders, and reads what devices reported."""

    folder: Path

    @property
    def state(self) -> Git:
        return Git(self.folder / "state.git")

    @property
    def url(self) -> str:
        return self.state.path.as_uri()

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def copy(self) -> Path:
        return self.folder / "copy.git"

    def render(self, name: str) -> None:
        fleet = FleetFolder(self.folder / "fleet")
        fleet.deployment(name)
        fleet.commit(f"Add {name}")
        render_fleet(RenderRequest(fleet.root, "HEAD", self.url, self.cache))

    def look(self) -> None:
        """Do what `status` does."""
        remote = RemoteState(self.url, self.cache, reports=True)
        remote.fetch()
        remote.release()

    def refs(self) -> dict[str, str]:
        lines = self.state.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)

    def lose(self) -> None:
        shutil.rmtree(self.state.path)
        Git(self.state.path).init(bare=True)

    def push(self, device: str, text: str) -> str:
        """Do what a device does that pushes its reports."""
        tree = self.state.run("mktree", content="")
        commit = self.state.run("commit-tree", tree, "-m", text)
        self.state.run("update-ref", device_reports_ref(device), commit)
        return commit

    def restore(self, backup: Path | None = None) -> Restored:
        lost = LostState(self.url, self.cache)
        try:
            return lost.restore(str(backup) if backup else None)
        finally:
            lost.release()

    def command(self, *more: str | Path) -> Outcome:
        fleet = ("--fleet", self.folder / "fleet")
        return margo_gitops("state", "restore", *fleet, *more, cwd=self.folder)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.application()
    for name in ("a", "b"):
        fleet.device(name)
    Git(tmp_path / "state.git").init(bare=True)
    made = Machine(tmp_path)
    made.render("app")
    Reporter(made.state.path).report("a")
    return made


def test_reports_and_what_devices_pushed_come_back(machine: Machine) -> None:
    machine.push("a", "one")
    machine.look()
    kept = machine.refs()
    machine.lose()
    assert machine.restore() == Restored(kept, {})
    assert machine.refs() == kept
    assert machine.restore() == Restored()


def test_reports_move_only_forward_and_what_began_again_is_named(machine: Machine) -> None:
    machine.push("b", "old")
    machine.look()
    kept = machine.refs()
    machine.lose()
    state = {name: value for name, value in kept.items() if not name.endswith(("reports", "device-reports/b"))}
    assert machine.restore().refs == kept
    newer, pushed = Reporter(machine.state.path).report("a", "failed"), machine.push("b", "new")
    assert machine.restore() == Restored(), "what is there builds on what is here"
    machine.lose()
    shutil.copytree(machine.cache, machine.folder / "kept")
    machine.restore()
    machine.state.run("update-ref", "-d", REPORTS_REF)
    begun = Reporter(machine.state.path).report("b")
    pushed = machine.push("b", "new")
    restored = machine.restore()
    assert restored.refs == {}
    assert restored.missing.keys() == {REPORTS_REF}
    assert kept[REPORTS_REF] in restored.missing[REPORTS_REF]
    assert machine.refs() == {**state, REPORTS_REF: begun, device_reports_ref("b"): pushed}
    assert newer not in (None, begun)


def test_reports_alone_that_are_lost_come_back(machine: Machine) -> None:
    machine.look()
    kept = machine.refs()
    machine.state.run("update-ref", "-d", REPORTS_REF)
    machine.look()
    assert machine.restore().refs == {REPORTS_REF: kept[REPORTS_REF]}
    assert machine.refs() == kept


def test_what_there_is_no_copy_of_is_named(machine: Machine) -> None:
    machine.lose()
    done = machine.command("--state-repo", machine.url)
    assert done.code == 2, "the cache of the command is another one"
    restored = machine.restore()
    assert restored.missing == {REPORTS_REF: "there is no copy here; a server commits again what its journal holds"}


def test_a_server_that_refuses_reports_gets_the_state(machine: Machine) -> None:
    machine.look()
    machine.lose()
    hook = machine.state.path / "hooks/update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntest $1 != {REPORTS_REF}\n")
    hook.chmod(0o755)
    restored = machine.restore()
    assert "refs/heads/fleet" in restored.refs
    assert "declined the push" in restored.missing[REPORTS_REF]


@pytest.mark.parametrize("form", ["folder", "bundle"])
def test_a_backup_gives_a_state_repo_at_a_path_back(machine: Machine, form: str) -> None:
    kept, backup = machine.refs(), machine.copy
    if form == "bundle":
        machine.state.run("bundle", "create", "-q", str(backup), "--all")
    else:
        Git(machine.folder).run("clone", "-q", "--mirror", machine.url, str(backup))
    shutil.rmtree(machine.state.path)
    refused = machine.command("--state-repo", machine.state.path)
    assert (refused.code, "--from BACKUP" in refused.stderr) == (2, True)
    done = machine.command("--state-repo", machine.state.path, "--from", backup)
    assert done.stdout == f"{len(kept)} refs restored\n", done
    assert machine.refs() == kept


def test_of_a_backup_and_the_mirror_the_one_that_has_more_counts(machine: Machine) -> None:
    Git(machine.folder).run("clone", "-q", "--mirror", machine.url, str(machine.copy))
    reports = machine.refs()[REPORTS_REF]
    machine.render("db")  # the mirror has more of the state, and no reports
    kept = machine.refs()
    machine.lose()
    assert machine.restore(machine.copy).refs == kept == {**kept, REPORTS_REF: reports}
    machine.render("broker")
    machine.lose()
    Git(machine.copy).run(
        "update-ref", "refs/heads/fleet", Git(machine.copy).run("commit-tree", "fleet^{tree}", "-m", "x")
    )
    with pytest.raises(StateTampered, match="different histories"):
        machine.restore(machine.copy)
    assert machine.refs() == {}
    with pytest.raises(StateRepoUnusable, match="cannot be read"):
        machine.restore(machine.folder / "nothing")
