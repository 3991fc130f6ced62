"""Losses of the state repo, and the way back: each command that a refusal prints is run, and nothing else.

At the end, a device adopts the next state.
"""

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

_COMMAND = re.compile(r"margo-gitops ((?:state|keys|render)(?: [a-z]+)*(?: --[a-z]+(?: [A-Z]+)?)*)")

Loss: TypeAlias = Literal["lost", "backup", "force-pushed"]


@dataclass
class Site:
    """A fleet, the server with its state repo, and a device that pulls from it."""

    plant: Plant
    rooted: bool
    changes: int = 0
    backup: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.plant.fleet.root.parent

    @property
    def copy(self) -> Path:
        """A backup of the state repo; not there unless a test makes it."""
        return self.folder / "copy.git"

    @property
    def mirrors(self) -> Path:
        """What the machine that renders has of the state repo."""
        return self.plant.fleet.root / ".cache"

    @property
    def url(self) -> str:
        return self.plant.state.path.as_uri()

    def change(self) -> None:
        self.changes += 1
        self.plant.fleet.deployment(f"app-{self.changes}")
        self.plant.fleet.commit(f"Change {self.changes}")

    def render(self, *more: str, code: int | None = 0) -> Outcome:
        return self.plant.run("render", "--state-repo", self.url, "--signing-key", self.key, *more, code=code)

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

    def follow(self, said: str) -> bool:
        """Run the commands that a refusal prints, one sentence after the other, until those of one help."""
        for sentence in re.split(r"[.;] ", " ".join(said.split())):
            commands = _COMMAND.findall(sentence)
            if commands and all(self.helps(each) for each in commands):
                return True
        return False

    def helps(self, command: str) -> bool:
        if "BACKUP" in command and not self.copy.exists():
            return False
        values = {"BACKUP": str(self.copy), "VERSION": str(100 * (1 + self.changes)), "TEXT": "the server broke"}
        words = [values.get(word, word) for word in command.split()]
        if command == "keys init":
            self.plant.init()
            return True
        options = {"state": ["--state-repo", self.url], "render": ["--state-repo", self.url, "--signing-key", self.key]}
        done = self.plant.run(*words, *options.get(words[0], []), code=None)
        if done.code:
            # Who made what was missing runs the command again.
            return self.follow(done.stderr) and ("keys init" not in done.stderr or self.helps(command))
        self.ran.append(command)
        if "keys sign --key FILE" in done.stdout:
            self.plant.sign("anna", "bert")
            self.plant.fleet.commit("Sign it")
        return True

    @property
    def key(self) -> str:
        return str(self.plant.key("renderer"))

    def recover(self) -> list[str]:
        """Render, and let the device poll, until it adopts; return the commands that helped."""
        self.ran.clear()
        for _ in range(4):
            refused = self.render(code=None)
            said = refused.stderr if refused.code else self.device()
            if not refused.code and "refused" not in said:
                return self.ran
            assert "remedy: " in said, said
            assert self.follow(said), said
            if not refused.code:
                self.change()  # nothing changed, so no version is made
        raise AssertionError(f"the remedies do not end: {self.ran}, {said}")

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


RESTORE, FROM_BACKUP = "state restore", "state restore --from BACKUP"
CREATE = "render --create"
FLOOR = "keys floor --next VERSION --reason TEXT"


@pytest.mark.parametrize(
    ("site", "how"), [("root", "lost"), ("no keys", "backup"), ("root", "force-pushed")], indirect=["site"]
)
def test_with_a_mirror_nothing_is_lost(site: Site, how: Loss) -> None:
    site.lose(how)
    site.change()
    assert site.recover() == [RESTORE]
    assert site.holds() == 4


@pytest.mark.parametrize(
    ("site", "how"),
    [("root", "lost"), ("no keys", "lost"), ("root", "backup"), ("no keys", "force-pushed")],
    indirect=["site"],
)
def test_without_a_mirror_a_higher_version_is_named(site: Site, how: Loss) -> None:
    """A render that does not know what devices hold makes a version that they know already."""
    site.lose(how)
    shutil.rmtree(site.mirrors)
    site.change()
    ran = site.recover()
    assert [each for each in ran if each != CREATE] == [FLOOR]
    assert site.holds() >= 100


@pytest.mark.parametrize("site", ["root"], indirect=True)
def test_the_server_and_the_machine_that_renders_are_lost_and_a_backup_is_older(site: Site) -> None:
    Git(site.folder).run("clone", "--quiet", "--mirror", site.url, site.copy)
    site.change()
    site.render()
    assert site.holds() == 4
    site.lose("lost")
    shutil.rmtree(site.mirrors)
    site.change()
    assert site.recover() == [FROM_BACKUP, FLOOR]
    assert site.holds() >= 100


@pytest.mark.parametrize("site", ["root"], indirect=True)
def test_the_server_is_lost_and_the_mirror_is_older_and_then_all_is_lost_again(site: Site) -> None:
    site.lose("lost")
    shutil.rmtree(site.mirrors)
    shutil.copytree(site.folder / "older", site.mirrors)
    site.change()
    assert site.recover() == [RESTORE, FLOOR]
    first = site.holds()
    assert first >= 100
    site.lose("lost")
    shutil.rmtree(site.mirrors)
    site.change()
    assert site.recover() == [FLOOR, CREATE]
    assert site.holds() > first
