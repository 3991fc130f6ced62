"""`audit verify` names what is wrong with the receipts in a branch of reports (VERIFY-13)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import yaml
from audited_world import World
from support.command_line import margo_gitops
from support.fleet import FleetFolder
from support.receipts import DEVICE_KEY, OTHER_KEY, altered, chain, longer

from margo_gitops.audit.verify.verification import Verification
from margo_gitops.documents.receipt import SignedReceipt, write_receipts
from margo_gitops.documents.state_layout import REPORTS_REF, device_reports_ref
from margo_gitops.state_repo.report_branch import ReportBranch, ReportKey

MADE = chain(8, device="a")


@dataclass
class Plant:
    """A server that keeps what devices send, as it comes."""

    world: World
    held: dict[str, list[SignedReceipt]] = field(default_factory=dict)
    now: int = 1_800_000_000

    def keep(self, *receipts: SignedReceipt, client: str = "a") -> None:
        self.now += 60
        content = write_receipts(receipts)
        branch = ReportBranch(self.world.folder / "state.git")
        key = ReportKey(client, "receipts", "latest")
        branch.commit({key: content}, "Reports", [("Reported-By", f"{client} (token)")], self.now)

    def verify(self, *, resume: bool = False) -> Verification:
        return self.world.verify(resume=resume)

    def codes(self, *, resume: bool = False) -> list[tuple[str, str]]:
        return [(each.severity, each.code or each.what) for each in self.verify(resume=resume).findings]


@pytest.fixture
def plant(world: World) -> Plant:
    """A fleet that names the key of its device a."""
    name_keys(world.fleet, "a", str(DEVICE_KEY.public))
    world.commit("Name the key of a")
    return Plant(world)


def name_keys(fleet: FleetFolder, device: str, *keys: str) -> None:
    path = fleet.root / "devices" / f"{device}.yaml"
    document = yaml.safe_load(path.read_text())
    document["spec"]["receiptKeys"] = list(keys)
    path.write_text(yaml.safe_dump(document))


def one_by_one(plant: Plant, receipts: Sequence[SignedReceipt]) -> None:
    for each in receipts:
        plant.keep(each)


def test_a_chain_that_came_in_several_commits_is_good(plant: Plant) -> None:
    plant.keep(*MADE[:2])
    plant.keep(*MADE[:4])  # what came while the server committed
    plant.keep(*MADE[4:])
    found = plant.verify()
    assert (found.findings, found.receipts) == ((), 8)
    outcome = margo_gitops("audit", "verify", "--fleet", plant.world.fleet.root, cwd=plant.world.folder)
    assert "8 receipts of what ran verified" in outcome.stdout.splitlines()


@pytest.mark.parametrize(
    ("receipts", "code"),
    [
        ([*MADE[:3], *MADE[4:]], "dropped"),
        ([*MADE[:3], MADE[4], MADE[3], *MADE[5:]], "reordered"),
        ([*MADE[:3], altered(MADE[3]), *MADE[4:]], "forged"),
        ([*MADE[:5], MADE[2], *MADE[5:]], "replayed"),
        ([*MADE[:4], longer(MADE[:3], 1, device="a", version=2)[3], *MADE[4:]], "forked"),
        ([*MADE[:4], chain(5, device="b")[4], *MADE[4:]], "foreign"),
        ([*MADE, *chain(2, OTHER_KEY, device="a")], "unknown-key"),
    ],
)
def test_each_fault_is_named_with_device_number_code_and_remedy(
    plant: Plant, receipts: list[SignedReceipt], code: str
) -> None:
    one_by_one(plant, receipts)
    (found,) = plant.verify().findings
    assert (found.severity, found.code) == ("error", f"receipt-{code}")
    assert re.search(rf"refs/heads/reports.*: a: receipt \d+: .* \(.*\) \[receipt-{code}\]$", found.sentence)


def test_a_fault_ends_the_command_with_4_and_a_resumed_one_names_it_again(plant: Plant) -> None:
    one_by_one(plant, [*MADE[:3], *MADE[4:]])
    for more in ([], ["--resume"]):
        outcome = margo_gitops("audit", "verify", *more, "--fleet", plant.world.fleet.root, cwd=plant.world.folder)
        assert outcome.code == 4
        assert ": a: receipt 4: it is missing" in outcome.stderr


def test_what_was_verified_is_not_looked_at_again(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one(plant, MADE[:5])
    assert plant.verify().receipts == 5
    one_by_one(plant, MADE[5:7])
    found = plant.verify(resume=True)
    assert (found.findings, found.receipts) == ((), 2)
    plant.keep(MADE[1])
    assert plant.codes(resume=True) == [("error", "receipt-replayed")]


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"commit":"%s"}', None])
def test_a_memory_that_is_damaged_begins_again(plant: Plant, damage: bytes | None) -> None:
    one_by_one(plant, MADE[:3])
    plant.verify()
    (file,) = (plant.world.folder / "cache" / "audit").glob("*.receipts.json")
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage.replace(b"%s", json.loads(file.read_text())["commit"].encode()))
    plant.keep(*MADE[3:])
    found = plant.verify(resume=True)
    assert (found.findings, found.receipts) == ((), 8)


def test_a_key_that_the_fleet_repo_does_not_name_is_a_warning(plant: Plant) -> None:
    plant.keep(*chain(2, OTHER_KEY, device="b"), client="b")
    assert plant.codes() == [("warning", "receipt-not-vouched")]
    plant.keep(*longer(chain(2, OTHER_KEY, device="b"), 1, device="b")[2:], client="b")
    assert ("error", "receipt-unknown-key") in plant.codes()


def test_a_new_key_that_the_fleet_repo_names_too_begins_a_chain(plant: Plant) -> None:
    one_by_one(plant, [*MADE, *chain(2, OTHER_KEY, device="a")])
    name_keys(plant.world.fleet, "a", str(DEVICE_KEY.public), str(OTHER_KEY.public))
    plant.world.fleet.commit("Name the new key of a")
    assert plant.codes() == []


def test_what_a_device_pushed_itself_is_verified(plant: Plant) -> None:
    git = plant.world.state

    def push(*receipts: SignedReceipt) -> None:
        blob = git.run("hash-object", "-w", "--stdin", content=write_receipts(receipts))
        folder = git.run("mktree", content=f"100644 blob {blob}\tlatest.json\n")
        tree = git.run("mktree", content=f"040000 tree {folder}\treceipts\n")
        git.run("update-ref", device_reports_ref("a"), git.run("commit-tree", "-m", "Reports of a", tree))

    push(*MADE[3:7])
    found = plant.verify()
    assert (found.findings, found.receipts) == ((), 4)
    plant.keep(*MADE[:5])
    found = plant.verify()
    assert (found.findings, found.receipts) == ((), 7)
    push(*MADE[3:5], MADE[7])
    assert plant.codes() == [("error", "receipt-dropped")]


def test_what_is_no_file_of_receipts_is_named(plant: Plant) -> None:
    branch = ReportBranch(plant.world.folder / "state.git")
    key = ReportKey("a", "receipts", "latest")
    branch.commit({key: b"nothing\n"}, "Reports", [("Reported-By", "a (token)")], plant.now)
    ((severity, what),) = plant.codes()
    assert (severity, what.startswith("no file of receipts: ")) == ("error", True)


def say_lost(plant: Plant, before: str) -> None:
    path = plant.world.fleet.root / "margo-gitops.yaml"
    document = yaml.safe_load(path.read_text())
    document["spec"].setdefault("lostReports", []).append({"before": before, "reason": "the disk broke"})
    path.write_text(yaml.safe_dump(document))
    plant.world.fleet.commit("Say what is lost")


@pytest.mark.parametrize("backup", [0, 2])
def test_what_the_fleet_repo_says_is_lost_is_a_warning_and_a_later_drop_is_found(plant: Plant, backup: int) -> None:
    """The branch begins anew, or goes on from a backup; the commit to name is in the finding (RECEIPT-7)."""
    one_by_one(plant, [*MADE[:backup], *MADE[3:5]])
    found = plant.verify().findings[0]
    assert found.code == "receipt-dropped"
    named = re.search(r"before: ([0-9a-f]{40})", found.what)
    assert named is not None
    say_lost(plant, named[1])
    assert plant.codes(resume=True) == [("warning", "receipt-not-kept")], "what was verified before counts anew"
    assert plant.codes() == [("warning", "receipt-not-kept")]
    assert plant.codes(resume=True) == []
    plant.keep(MADE[6])
    for resume in (True, False):
        assert ("error", "receipt-dropped") in plant.codes(resume=resume)


@pytest.mark.parametrize("backup", [0, 2])
def test_a_machine_that_verified_what_was_lost_names_the_same_commit(plant: Plant, backup: int) -> None:
    one_by_one(plant, MADE[:3])
    assert plant.codes() == []
    old = [f"{REPORTS_REF}~{len(MADE[:3]) - backup}"] if backup else []
    plant.world.state.run("update-ref", *([] if backup else ["-d"]), REPORTS_REF, *old)
    one_by_one(plant, MADE[4:6])
    (found,) = plant.verify().findings
    say_lost(plant, plant.world.state.run("rev-parse", f"{REPORTS_REF}~1"))
    assert f"spec.lostReports, before: {plant.world.state.run('rev-parse', f'{REPORTS_REF}~1')} (" in found.what
    assert {severity for severity, _ in plant.codes()} == {"warning"}
