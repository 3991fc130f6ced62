"""`audit trace DEVICE --at TIME`: what the device signed that it ran then, and who approved it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
import yaml
from audited_world import World
from support.command_line import margo_gitops
from support.receipts import DEVICE_KEY, altered, signed
from support.receipts import receipt as one

from margo_gitops.audit.trace.device_trace import TraceRequest
from margo_gitops.audit.trace.device_trace import trace as trace_device
from margo_gitops.audit.trace.traced import TracedRun, trace_lines
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.digests import sha256
from margo_gitops.documents.receipt import (
    HeldManifest,
    RanComponent,
    RanDeployment,
    RanImage,
    SignedReceipt,
    write_receipts,
)
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.report_branch import ReportBranch, ReportKey

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
IMAGE = RanImage("web", "registry.example.com/app:1", sha256(b"id"), sha256(b"image"))


@dataclass
class Plant:
    """A device a that signs what it runs; the history has four manifests of it."""

    world: World

    def manifest(self, version: int) -> HeldManifest:
        branch = self.world.state.run("rev-list", "--reverse", "refs/heads/devices/a").split()
        content = self.world.state.run("show", f"{branch[version - 1]}:manifest.json")
        return HeldManifest(version, sha256(content.encode()), branch[version - 1])

    def chain(self, *versions: tuple[int, str], **changes: object) -> list[SignedReceipt]:
        """Return receipts of manifests, with their times of the day."""
        made: list[SignedReceipt] = []
        for number, (version, time) in enumerate(versions, start=1):
            component = RanComponent("web", "compose", "running", sha256(b"content"), images=(IMAGE,))
            what = replace(
                one(number, made[-1] if made else None, device="a", at=f"2027-01-{time}Z"),
                manifest=self.manifest(version),
                deployments=(RanDeployment("1", "web", "installed", version, (component,)),),
                **(changes if number == len(versions) else {}),
            )
            made.append(signed(what))
        return made

    def keep(self, *receipts: SignedReceipt, at: datetime = NOW) -> None:
        key = ReportKey("a", "receipts", "latest")
        branch = ReportBranch(self.world.folder / "state.git")
        content = {key: write_receipts(receipts)}
        branch.commit(content, "Reports", [("Reported-By", "a (token)")], int(at.timestamp()))

    def ran(self, time: str) -> TracedRun | None:
        at = datetime.fromisoformat(f"2027-01-{time}+00:00")
        objects = StateObjects(self.world.folder / "state.git")
        return trace_device(FleetRepo.find(self.world.fleet.root), objects, TraceRequest("a", at)).ran


@pytest.fixture
def plant(world: World) -> Plant:
    path = world.fleet.root / "devices" / "a.yaml"
    document = yaml.safe_load(path.read_text())
    document["spec"]["receiptKeys"] = [str(DEVICE_KEY.public)]
    path.write_text(yaml.safe_dump(document))
    world.commit("Name the key of a")
    return Plant(world)


DAYS = ((1, "10T08:00:00"), (2, "11T08:00:00"), (4, "12T08:00:00"))


def test_it_says_what_ran_and_who_approved_it(plant: Plant) -> None:
    plant.keep(*plant.chain(*DAYS))
    found = plant.ran("11T14:00:00")
    assert found is not None
    assert (found.sequence, found.version, found.at, found.until) == (
        2,
        2,
        "2027-01-11T08:00:00Z",
        "2027-01-12T08:00:00Z",
    )
    assert (found.vouched, found.key, found.doubts) == (True, DEVICE_KEY.public.fingerprint, ())
    assert found.state_commit == plant.manifest(2).commit
    assert found.approved is not None
    assert found.approved.subject == "Set p"
    assert found.deployments[0].components[0].images == (IMAGE,)
    assert plant.ran("10T07:00:00") is None


def test_the_command_tells_it(plant: Plant) -> None:
    plant.keep(*plant.chain(*DAYS))
    arguments = ("audit", "trace", "a", "--at", "2027-01-11T14:00:00Z", "--fleet", plant.world.fleet.root)
    text = margo_gitops(*arguments, cwd=plant.world.folder).stdout
    assert "  ran           manifest 2, not 4 from 2027-01-11T08:00:00Z until 2027-01-12T08:00:00Z" in text
    assert f"receipt 2 signed with {DEVICE_KEY.public.fingerprint}, a key of the device, as the fleet repo says" in text
    assert f"      image registry.example.com/app:1  {IMAGE.digest}" in text
    assert "  asked for by  " in text
    ran = json.loads(margo_gitops(*arguments, "--output", "json", cwd=plant.world.folder).stdout)["ran"]
    assert (ran["sequence"], ran["version"], ran["doubts"]) == (2, 2, [])


@pytest.mark.parametrize(
    ("asked", "change", "doubt"),
    [
        ("12T09:00:00", {"not_before": "2027-01-13T00:00:00Z"}, "the device's clock was wrong"),
        ("12T09:00:00", {"manifest": HeldManifest(9, sha256(b"other"))}, "no state of this device in the state repo"),
        ("15T09:00:00", {}, "it is the newest one, 3 days older"),
    ],
)
def test_what_is_only_claimed_is_said(plant: Plant, asked: str, change: dict[str, object], doubt: str) -> None:
    made = plant.chain(*DAYS)
    changes = {"manifest": plant.manifest(4), **change}
    last = signed(replace(one(3, made[1], device="a", at="2027-01-12T08:00:00Z"), **changes))
    plant.keep(*made[:2], last)
    found = plant.ran(asked)
    assert found is not None
    assert [each for each in found.doubts if each.startswith(doubt)], found.doubts
    assert found.sequence == 3


def test_a_hole_and_a_forged_receipt_are_doubts(plant: Plant) -> None:
    made = plant.chain(*DAYS, (4, "13T08:00:00"))
    plant.keep(made[0], *made[2:])
    found = plant.ran("10T12:00:00")
    assert found is not None
    assert found.doubts == (
        "the receipts after it are missing: something else may have run",
        "not all receipts of this device are right: dropped (audit verify)",
    )
    plant.keep(altered(made[1]))
    later = plant.ran("11T12:00:00")
    assert later is not None
    assert later.sequence == 1, "a forged receipt says nothing"


def test_a_receipt_that_came_before_its_own_time_is_a_doubt(plant: Plant) -> None:
    plant.keep(*plant.chain((1, "20T08:00:00")))
    found = plant.ran("20T09:00:00")
    assert found is not None
    assert any("the device's clock was ahead" in each for each in found.doubts)


def test_a_device_without_receipts_has_none(plant: Plant) -> None:
    objects = StateObjects(plant.world.folder / "state.git")
    found = trace_device(FleetRepo.find(plant.world.fleet.root), objects, TraceRequest("a"))
    assert found.ran is None
    assert not any("receipt" in line for line in trace_lines(found))
