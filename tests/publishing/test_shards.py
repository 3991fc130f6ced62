"""Shards: one state repo is written, and each device finds its branch in the repository of its site."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder, parameter
from support.git_cli import Git
from support.trust_documents import key

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.documents.state_layout import DEVICE_REFS, FLEET_REF, FRESHNESS_REFS, device_ref
from margo_gitops.errors import PublishDiffers, PublishGoesBack, RenderingRefused, StateTampered
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.publishing.shards import PublishedShard, publish_shard
from margo_gitops.rendering.desired_state import rendered_version
from margo_gitops.state_repo.state_repo import StateRepo

SHARDS = {"east": {"url": "../east.git", "sites": ["linz", "graz"]}, "rest": {"url": "../rest.git"}}
SHARD_OF = {"linz": "east", "graz": "east", "wels": "rest", None: "rest"}
DEVICES = ("a", "b", "c")


class Plant:
    """A fleet with two shards, on one disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = FleetFolder.empty(folder / "fleet", shards=SHARDS, freshness={"validFor": "7d"})
        for site in ("linz", "graz", "wels"):
            self.fleet.site(site)
        for device in DEVICES:
            self.fleet.device(device, site="linz")
        self.fleet.application(parameters={"greeting": parameter(value="hello")})
        self.fleet.deployment("web")
        self.key = key(1)

    def render(self) -> None:
        """Commit, and render into the one state repo."""
        self.fleet.commit("Change something")
        request = RenderRequest(
            self.fleet.root, "HEAD", None, self.folder / "cache", key=self.key, now=datetime.now(UTC)
        )
        render_fleet(request)

    def publish(self, shard: str, *, check: bool = False) -> PublishedShard:
        """Publish one shard."""
        shards = read_fleet(DiskTree(self.fleet.root)).fleet.value.spec.shards
        return publish_shard(self.repo("state"), shards, shard, self.fleet.root, self.folder / "cache", check=check)

    def repo(self, name: str) -> StateRepo:
        return StateRepo.open(self.folder / f"{name}.git")

    def version(self, name: str, device: str) -> int:
        """Return the version of a device in a repository; 0 where it has none there."""
        repo = self.repo(name)
        held = repo.held(device, repo.refs.read())
        return rendered_version(device, held.manifest) if held else 0


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_a_device_that_moves_between_shards_never_finds_a_lower_version(plant: Plant):
    chance = random.Random(11)
    sites = dict.fromkeys(DEVICES, "linz")
    seen = dict.fromkeys(DEVICES, 0)
    for step in range(4):
        for device in DEVICES:
            sites[device] = chance.choice(list(SHARD_OF)) if step else sites[device]
            more = {"greeting": f"hello {step}"} if chance.random() < 0.5 else {}
            plant.fleet.device(device, site=sites[device], **more)
        plant.render()
        for shard in chance.sample(list(SHARDS), 2):
            plant.publish(shard)
        for device in DEVICES:
            newest = plant.version("state", device)
            assert plant.version(SHARD_OF[sites[device]], device) == newest >= seen[device]
            # A device that still reads the shard of its old site misses nothing either.
            assert {plant.version(shard, device) for shard in SHARDS} <= {0, newest}
            seen[device] = newest
        state = plant.repo("state").refs.read()
        for shard in SHARDS:
            refs = plant.repo(shard).refs.read()
            assert refs.items() <= state.items()
            assert state.keys() - refs.keys() <= {device_ref(device) for device in DEVICES}
    assert max(seen.values()) > 2


def test_a_change_that_leaves_a_device_without_a_shard_is_not_rendered(plant: Plant):
    plant.render()
    plant.fleet.fleet(shards={"east": {"url": "../east.git", "sites": ["wels"]}}, freshness={"validFor": "7d"})
    with pytest.raises(RenderingRefused):
        plant.render()


def test_a_second_run_moves_nothing_and_a_check_says_what_would(plant: Plant):
    plant.render()
    assert plant.publish("east") == PublishedShard("east", f"file://{plant.folder}/east.git", 3, 5)
    assert plant.publish("east").moved == 0
    plant.publish("east", check=True)
    plant.fleet.device("b", site="linz", greeting="good morning")
    plant.render()
    with pytest.raises(PublishDiffers) as caught:
        plant.publish("east", check=True)
    assert list(caught.value.why) == ["devices/b", "fleet", "freshness/all"]


def test_a_shard_with_commits_of_another_program_is_refused(plant: Plant):
    plant.render()
    plant.publish("east")
    refs = plant.repo("east").refs
    east = Git(plant.folder / "east.git")
    tip = refs.read()[device_ref("a")]
    foreign = east.run("commit-tree", "-p", tip, "-m", "Foreign", f"{tip}^{{tree}}").strip()
    east.run("update-ref", device_ref("a"), foreign)
    with pytest.raises(PublishGoesBack) as caught:
        plant.publish("east")
    assert list(caught.value.why) == [device_ref("a")]


def test_the_state_repo_of_another_fleet_is_refused_as_a_shard(plant: Plant, tmp_path: Path):
    other = Plant(tmp_path / "other")
    other.fleet.device("d")
    other.render()
    (tmp_path / "other/state.git").rename(tmp_path / "east.git")
    plant.render()
    with pytest.raises(PublishGoesBack):
        plant.publish("east")


def test_a_state_repo_that_was_tampered_with_is_not_published(plant: Plant):
    plant.render()
    refs = plant.repo("state").refs
    refs.move({device_ref("a"): refs.read()[FLEET_REF]}, refs.read())
    with pytest.raises(StateTampered):
        plant.publish("east")
    assert not (plant.folder / "east.git").exists()


def test_one_shard_that_is_away_does_not_keep_the_others_from_their_state(plant: Plant):
    plant.fleet.fleet(shards={**SHARDS, "east": {"url": "file:///nowhere/east.git", "sites": ["linz"]}})
    plant.fleet.device("b", site="wels")
    plant.render()
    outcome = margo_gitops("publish", "--shards", "--output", "json", cwd=plant.fleet.root)
    assert outcome.code == 3, outcome
    assert [(each["name"], each["devices"]) for each in json.loads(outcome.stdout)["shards"]] == [("rest", 1)]
    assert "file:///nowhere/east.git cannot be fetched" in outcome.stderr


def test_a_device_that_left_the_fleet_stays_in_its_shard(plant: Plant):
    plant.render()
    plant.publish("east")
    plant.fleet.remove("devices/a.yaml")
    plant.render()
    assert plant.publish("east").devices == 2
    assert device_ref("a") in plant.repo("east").refs.read()
    assert any(ref.startswith(FRESHNESS_REFS) for ref in plant.repo("east").refs.read())
    assert sum(ref.startswith(DEVICE_REFS) for ref in plant.repo("east").refs.read()) == 3


def test_a_target_is_needed_without_shards(plant: Plant):
    plant.fleet.commit("Make the fleet")
    outcome = margo_gitops("publish", cwd=plant.fleet.root)
    assert outcome.code == 2
    assert "--shards" in outcome.stderr
