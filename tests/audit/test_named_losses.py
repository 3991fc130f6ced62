"""A history that was verified and then lost: only a statement about this loss turns the alarm into a warning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.fleet import FleetFolder
from support.git_cli import Git
from support.reporting import Reporter
from support.rooted_fleet import Plant

from margo_gitops.documents.state_layout import FLEET_REF
from margo_gitops.errors import StateTampered
from margo_gitops.state_repo.remote import RemoteState

LOST = "the server was lost"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A fleet with a root; its state was rendered, and all of it was verified."""
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.application()
    fleet.device("press-07")
    fleet.deployment("app")
    fleet.commit("Make the fleet")
    made = Plant(fleet, tmp_path / "keys")
    made.rooted()
    made.render()
    assert verified(made) == []
    Reporter(made.state.path).report("press-07")
    assert follows(made)
    return made


def verified(plant: Plant) -> list[str]:
    done = plant.run("audit", "verify", "--output", "json", code=None)
    findings = json.loads(done.stdout)["findings"]
    assert (done.code == 4) is any(each["severity"] == "error" for each in findings), done
    return [f"{each['severity']}: {each['what']}" for each in findings]


def message(plant: Plant) -> str:
    return plant.state.run("log", "-1", "--format=%B", FLEET_REF) + "\n"


def lose(plant: Plant) -> None:
    shutil.rmtree(plant.state.path)
    Git(plant.state.path).init(bare=True)


def say(plant: Plant, *more: str, signed: bool = True) -> None:
    plant.run("keys", "floor", "--next", "1000", "--reason", LOST, *more)
    if signed:
        plant.sign("anna", "bert")
    plant.fleet.commit("Say what was lost")


def change(plant: Plant, name: str) -> None:
    plant.fleet.deployment(name)
    plant.fleet.commit(f"Add {name}")


def follows(plant: Plant) -> bool:
    """Return whether a mirror of the state repo, as each machine has one, takes what is there (MIRROR-4)."""
    remote = RemoteState(plant.state.path.as_uri(), plant.keys / "mirrors", reports=True)
    try:
        return remote.fetch().refs.read()[FLEET_REF] == plant.state.run("rev-parse", FLEET_REF)
    except StateTampered:
        return False
    finally:
        remote.release()


def moved_back(plant: Plant) -> bool:
    assert not follows(plant)
    return any(each.startswith("error: the branch was moved back or rewritten") for each in verified(plant))


def test_only_what_the_root_says_of_this_loss_is_an_excuse(plant: Plant) -> None:
    lose(plant)
    change(plant, "db")  # the same render has the same commit
    plant.render()
    assert moved_back(plant)
    say(plant, "--device", "press-07")
    plant.render()
    assert moved_back(plant), "said for one device"
    say(plant, signed=False)
    plant.render()
    assert moved_back(plant), "not signed"
    plant.sign("anna", "bert")
    plant.fleet.commit("Sign it")
    assert moved_back(plant), "not rendered"
    change(plant, "broker")
    plant.render()
    forged = plant.state.run("commit-tree", "fleet^{tree}", "-p", "fleet", "-F", "-", content=message(plant))
    right = plant.state.run("rev-parse", FLEET_REF)
    plant.state.run("update-ref", FLEET_REF, forged)
    assert not follows(plant), "no render key signed it"
    plant.state.run("update-ref", FLEET_REF, right)
    assert follows(plant)
    (mirror,) = (each for each in (plant.keys / "mirrors").iterdir() if each.is_dir())
    kept = Git(mirror).run("for-each-ref", "--format=%(refname:lstrip=3)", "refs/lost").split()
    assert kept == ["fleet", "reports"]
    (found,) = verified(plant)
    assert found == f"warning: what was verified before was lost, and the branch continues: {LOST}"
    assert verified(plant) == []
    listed = plant.state.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    change(plant, "web")
    plant.render()
    assert verified(plant) == []
    assert follows(plant)
    for ref, commit in map(str.split, listed):
        plant.state.run("update-ref", ref, commit)
    assert moved_back(plant), "moved back after that"
