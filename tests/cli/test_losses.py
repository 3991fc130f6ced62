"""Losses of the state repo, and the way back that the refusals name: at the end, a device adopts the next state."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git
from support.rooted_fleet import Plant

Loss: TypeAlias = Literal["lost", "backup", "force-pushed"]


@dataclass
class Site:
    """A fleet, the server with its state repo, and a device that pulls from it."""

    plant: Plant
    rooted: bool
    changes: int = 0
    backup: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.plant.fleet.root.parent

    @property
    def url(self) -> str:
        return self.plant.state.path.as_uri()

    def change(self) -> None:
        self.changes += 1
        self.plant.fleet.deployment(f"app-{self.changes}")
        self.plant.fleet.commit(f"Change {self.changes}")

    def render(self, *more: str, code: int | None = 0) -> Outcome:
        key = self.plant.key("renderer")
        return self.plant.run("render", "--state-repo", self.url, "--signing-key", key, *more, code=code)

    def device(self) -> str:
        config = self.folder / "agent.yaml"
        if not config.exists():
            document = self.folder / "fleet/keys/1.json"
            signer = self.plant.pub("renderer").read_text()
            (self.folder / "signers").write_text(f"renderer {' '.join(signer.split()[:2])}\n")
            trust = f"document: {document}" if self.rooted else f"allowedSigners: {self.folder / 'signers'}"
            config.write_text(
                "apiVersion: margo-gitops/v1\nkind: AgentConfiguration\ndevice: press-07\nstateFolder: device\n"
                f"source: {{git: {{url: '{self.url}'}}}}\ntrust: {{{trust}}}\nappliers: {{files: {{folder: runs}}}}\n"
            )
        done = margo_gitops("agent", "once", "--config", config, cwd=self.folder)
        return done.stdout + done.stderr

    def holds(self) -> int:
        said = self.device()
        found = re.search(r"holds version (\d+)", said)
        assert found is not None, said
        return int(found[1])

    def restore(self) -> Outcome:
        return self.plant.run("state", "restore", "--state-repo", self.url, code=None)

    def raise_floor(self, version: int) -> None:
        """What docs/trust.md says, which the refusals name."""
        if not (self.folder / "fleet/keys").exists():
            self.plant.init()
        self.plant.run("keys", "floor", "--next", str(version), "--reason", "the state repo was lost")
        self.plant.sign("anna", "bert")
        self.plant.fleet.commit("Continue above what devices have seen")

    def lose(self, how: Loss) -> None:
        if how == "lost":
            shutil.rmtree(self.plant.state.path)
            Git(self.plant.state.path).init(bare=True)
            return
        for ref, commit in self.backup.items():
            self.plant.state.run("update-ref", ref, commit)
        if how == "backup":
            self.plant.state.run("reflog", "expire", "--expire=now", "--all")
            self.plant.state.run("gc", "-q", "--prune=now")


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """The device holds version 3; the backup is of version 2."""
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.application()
    fleet.device("press-07")
    fleet.deployment("app")
    fleet.commit("Make the fleet")
    plant = Plant(fleet, tmp_path / "keys")
    if request.param == "root":
        plant.rooted()
    Git(tmp_path / "state.git").init(bare=True)
    made = Site(plant, request.param == "root")
    made.render("--create")
    made.change()
    made.render()
    listed = plant.state.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    made.backup = dict(map(str.split, listed))
    shutil.copytree(fleet.root / ".cache", tmp_path / "older")
    made.change()
    made.render()
    assert made.holds() == 3
    return made


@pytest.mark.parametrize(
    ("site", "how"), [("root", "lost"), ("no keys", "backup"), ("root", "force-pushed")], indirect=["site"]
)
def test_with_a_mirror_the_refusal_names_state_restore_and_the_next_state_follows(site: Site, how: Loss) -> None:
    site.lose(how)
    site.change()
    refused = site.render(code=None)
    assert refused.code != 0
    assert "margo-gitops state restore" in " ".join(refused.stderr.split())
    assert site.restore().code == 0
    site.render()
    assert site.holds() == 4


@pytest.mark.parametrize(
    ("site", "how"), [("no keys", "lost"), ("root", "backup"), ("no keys", "force-pushed")], indirect=["site"]
)
def test_without_a_mirror_the_device_names_the_way_back(site: Site, how: Loss) -> None:
    """The render cannot know what devices hold: it makes a version that they know already."""
    site.lose(how)
    shutil.rmtree(site.folder / "fleet/.cache")
    site.change()
    refused = site.restore()
    assert refused.code == 2
    assert "restore the server's backup" in refused.stderr
    goes_on_above_what_devices_have_seen(site)


@pytest.mark.parametrize("site", ["root"], indirect=True)
def test_lost_and_the_mirror_is_older(site: Site) -> None:
    site.lose("lost")
    shutil.rmtree(site.folder / "fleet/.cache")
    shutil.copytree(site.folder / "older", site.folder / "fleet/.cache")
    site.change()
    assert "margo-gitops state restore" in " ".join(site.render(code=None).stderr.split())
    assert site.restore().code == 0
    goes_on_above_what_devices_have_seen(site)


def goes_on_above_what_devices_have_seen(site: Site) -> None:
    site.render("--create")
    said = site.device()
    assert re.search("MG150[456]", said), said
    assert "docs/trust.md" in said, "the remedy that always works"
    site.raise_floor(100)
    site.change()
    site.render()
    assert site.holds() == 100
    site.change()
    site.render()
    assert site.holds() == 101
