"""Old history ends at a signed checkpoint (COMPACT-1 to COMPACT-5, VERIFY-11, VERIFY-12): real git, kills, forgers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pygit2
import pytest
from audited_world import World, new_world
from support.command_line import margo_gitops
from support.fleet import write_signing_key
from support.git_cli import Git
from support.receipts import chain
from support.reporting import Reporter

from margo_gitops.audit.compact import Compacted, CompactOptions, compact
from margo_gitops.audit.verify.history_check import VerifyOptions, verify
from margo_gitops.documents.receipt import SignedReceipt, write_receipts
from margo_gitops.documents.state_layout import CHECKPOINTS_REF
from margo_gitops.errors import AuditUnusable, SignerUnknown, StateMoved, StateRepoUnusable, StateTampered
from margo_gitops.operations.fleet_input import StateRequest, read_signing_key
from margo_gitops.state_repo import compaction
from margo_gitops.state_repo.compaction import Compaction
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.remote import RemoteState
from margo_gitops.state_repo.report_branch import COMPACT_LOCK, ReportBranch, ReportKey
from margo_gitops.state_repo.state_repo import StateRepo

NOW = 1_900_000_000
DAY = 86_400


def commit(world: World, days: int) -> str:
    """Commit and render, as of some days ago."""
    date = {"GIT_AUTHOR_DATE": f"{NOW - days * DAY} +0000", "GIT_COMMITTER_DATE": f"{NOW - days * DAY} +0000"}
    world.fleet.git.run("add", "--all")
    world.fleet.git.run("commit", "--quiet", "--message", f"{days} days ago", environment=date)
    world.render()
    return world.state.run("rev-parse", "fleet")


@pytest.fixture(scope="session")
def _aged(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = new_world(tmp_path_factory.mktemp("aged"), 1)
    fleet = world.fleet
    fleet.device("still")  # never changes
    fleet.git.init()
    commit(world, 100)
    reporter = Reporter(world.folder / "state.git")
    reporter.time = NOW - 95 * DAY
    reporter.report("a", adopted=1)
    fleet.site("north", p="one")
    commit(world, 90)
    fleet.device("a", site="north", p="mine")
    commit(world, 80)
    reporter.time = NOW - 75 * DAY
    reporter.report("a", adopted=3)
    reporter.report("gw", adopted=1)
    fleet.remove("devices/b.yaml")
    commit(world, 70)
    fleet.device("b", site="south")
    commit(world, 60)
    fleet.device("a", site="south", p="mine")
    commit(world, 50)
    fleet.deployment("db", on=["a", "b"], profiles=["other"], version="2.0.0")
    commit(world, 40)
    reporter.time = NOW - 30 * DAY
    reporter.report("a")
    return world


@pytest.fixture
def aged(_aged: World, tmp_path: Path) -> World:
    """A signed history of a hundred days; b had left 70 days ago, and came back ten days later."""
    shutil.copytree(_aged.folder, tmp_path, dirs_exist_ok=True)
    return replace(_aged, folder=tmp_path)


def options(world: World, keep: int, seed: int = 1, **more: object) -> CompactOptions:
    key = read_signing_key(write_signing_key(world.folder / f"key-{seed}", seed))
    return CompactOptions(key, datetime.fromtimestamp(NOW, UTC), keep * DAY, **more)  # type: ignore[arg-type]


def cut(world: World, keep: int = 65, **more: object) -> Compacted:
    done = compact(world.request, options(world, keep, **more))  # type: ignore[arg-type]
    assert done.verification is None or not done.verification.errors, done.verification
    return done


def archives(world: World) -> tuple[Path, ...]:
    return tuple(world.folder.glob("*.bundle"))


def proves_all(world: World, commits: int) -> None:
    """Assert that tip, boundary, checkpoint and archives are one proven history."""
    found = world.verify(signers=world.signers(1), archives=archives(world))
    assert not found.findings
    assert found.commits == commits
    assert found.checkpoint is None
    assert found.report_commits == 4


def test_history_ends_at_the_state_that_was_in_force(aged: World):
    before = aged.state.run("for-each-ref")
    size = len(aged.state.run("cat-file", "--batch-all-objects", "--batch-check").splitlines())
    aged.state.run("commit-graph", "write", "--reachable", "--split")
    aged.state.run("multi-pack-index", "write")
    done = cut(aged)
    chain = aged.state.run("rev-list", "--reverse", "fleet").splitlines()
    assert len(chain) == 4
    assert done.begins == (chain[0], datetime.fromtimestamp(NOW - 70 * DAY, UTC))
    after = aged.state.run("for-each-ref").splitlines()
    assert set(before.splitlines()) == {each for each in after if not each.endswith(CHECKPOINTS_REF)}
    assert len(aged.state.run("cat-file", "--batch-all-objects", "--batch-check").splitlines()) < size
    aged.state.run("fsck", "--strict")
    found = aged.verify(signers=aged.signers(1))
    assert not found.findings
    assert (found.commits, found.since, found.checkpoint) == (3, chain[0], done.checkpoint)
    proves_all(aged, 7)
    assert not aged.verify(signers=aged.signers(1)).findings  # what the cache knows of the whole history does no harm


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_is_cut_twice_and_edited(aged: World, jobs: int):
    cut(aged)
    aged.fleet.site("south", p="two")
    commit(aged, 20)
    cut(aged, 45)
    assert len(aged.state.run("rev-list", "fleet").splitlines()) == 3
    aged.fleet.site("south", p="three")
    commit(aged, 10)
    assert aged.verify(signers=aged.signers(1), jobs=jobs).commits == 3
    proves_all(aged, 9)
    assert len(archives(aged)) == 2
    assert cut(aged, 45) == Compacted()


def test_a_device_that_left_keeps_its_state(aged: World):
    cut(aged, 65)
    assert aged.state.run("cat-file", "-p", "fleet~3:left/b/manifest.json")
    assert aged.state.run("rev-list", "--count", "devices/b") == "3"  # its first state stayed in force for all the time
    assert not aged.verify().errors


@pytest.mark.parametrize("step", ["_git bundle", "checkpoint", "_write_shallow", "_git repack", "_git prune"])
def test_a_killed_run_loses_nothing_and_the_next_one_continues(aged: World, monkeypatch: pytest.MonkeyPatch, step: str):
    name, _, which = step.partition(" ")
    target, real = (compaction, compaction._git) if which else (Compaction, getattr(Compaction, name))

    def die(*arguments: object, **named: object) -> object:
        if not which or which in arguments:
            os._exit(9)
        return real(*arguments, **named)

    child = os.fork()
    if not child:  # pragma: no cover
        monkeypatch.setattr(target, name, die)
        compact(aged.request, options(aged, 65))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not aged.verify(signers=aged.signers(1)).findings
    cut(aged)
    assert len(aged.state.run("rev-list", "fleet").splitlines()) == 4
    assert not any(aged.state.path.glob("*.lock.*"))
    assert not any(aged.folder.glob(".*"))
    aged.state.run("fsck", "--strict")
    assert not aged.verify(signers=aged.signers(1)).findings
    proves_all(aged, 7)


def test_nothing_is_cut_that_does_not_verify(aged: World):
    aged.state.run("update-ref", "refs/heads/devices/a", "refs/heads/devices/a~1")
    done = compact(aged.request, options(aged, 65))
    assert done.verification is not None
    assert done.verification.errors
    assert not archives(aged)
    assert not (aged.state.path / "shallow").exists()


def forge(world: World, seed: int | None) -> str:
    """Put a checkpoint that ends all branches at their tips in place, as someone who can write to the repository."""
    objects = StateObjects(world.state.path)
    tips = {ref: name for ref, name in objects.refs().items() if ref.startswith(("refs/heads/fleet", "refs/heads/dev"))}
    boundary = {ref: name for ref, name in tips.items() if objects.links(name).parents}
    if seed is not None:
        work = Compaction(StateRepo.open(world.state.path))
        key = read_signing_key(write_signing_key(world.folder / f"key-{seed}", seed))
        work.checkpoint(boundary, f"sha256:{'0' * 64}", key, NOW, objects.refs())
        work.release()
    (world.state.path / "shallow").write_text("".join(f"{name}\n" for name in boundary.values()))
    world.state.run("repack", "-a", "-d", "-q")
    return boundary["refs/heads/fleet"]


def test_a_forged_checkpoint_is_refused(aged: World):
    forge(aged, 2)
    found = aged.verify(signers=aged.signers(1))
    assert "the signature of a checkpoint does not count" in found.errors[0].what
    with pytest.raises(StateTampered, match="signed with another key"):
        cut(aged)
    with pytest.raises(SignerUnknown):
        cut(aged, signers=aged.signers(1))
    outcome = margo_gitops(
        "audit", "trace", "a", "--fleet", aged.fleet.root, "--allowed-signers", aged.folder / "key-1.allowed",
        cwd=aged.folder,
    )  # fmt: skip
    assert outcome.code == 4


def test_without_a_checkpoint_a_cut_history_is_a_broken_one(aged: World):
    tip = forge(aged, None)
    found = aged.verify()
    assert "it is missing or damaged" in found.errors[0].what
    with pytest.raises(StateTampered, match="missing"):
        StateObjects(aged.state.path).branch(tip)


def test_an_unsigned_checkpoint_ends_nothing(aged: World):
    cut(aged)
    tree = aged.state.run("rev-parse", f"{CHECKPOINTS_REF}^{{tree}}")
    message = aged.state.run("log", "-1", "--format=%B", CHECKPOINTS_REF)
    aged.state.run("update-ref", CHECKPOINTS_REF, aged.state.run("commit-tree", tree, content=message))
    assert aged.verify().errors


def test_a_boundary_that_was_moved_is_named(aged: World):
    cut(aged)
    shallow = aged.state.path / "shallow"
    shallow.write_text(f"{shallow.read_text()}{aged.state.run('rev-parse', 'fleet~1')}\n")
    found = aged.verify(signers=aged.signers(1))
    assert "`shallow` names a commit that no checkpoint names" in found.errors[0].what
    cut(aged)  # carries out the signed boundary again
    assert not aged.verify(signers=aged.signers(1)).findings
    oldest, moved = aged.state.run("rev-parse", "fleet~3", "fleet~1").splitlines()
    shallow.write_text(shallow.read_text().replace(oldest, moved))
    aged.state.run("repack", "-a", "-d", "-q")
    assert "missing or damaged" in aged.verify().errors[0].what


def test_a_full_disk_is_said_and_nothing_is_cut(aged: World, monkeypatch: pytest.MonkeyPatch):
    def full(*_arguments: object, **_more: object) -> None:
        raise pygit2.GitError("failed to initialize repository: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pygit2, "init_repository", full)
        with pytest.raises(StateRepoUnusable, match="No space left"):
            cut(aged)
    assert not any(aged.folder.glob(".*"))
    cut(aged)
    assert not aged.verify(signers=aged.signers(1)).findings


def test_a_damaged_shallow_is_written_again(aged: World):
    cut(aged)
    (aged.state.path / "shallow").write_text("half")
    with pytest.raises(StateRepoUnusable) as damaged:
        cut(aged)
    assert "`shallow` is damaged: remove it" in damaged.value.remedy
    (aged.state.path / "shallow").unlink()
    cut(aged)
    assert not aged.verify(signers=aged.signers(1)).findings


def test_archives_are_needed_whole_and_as_they_were(aged: World):
    cut(aged)
    cut(aged, 45)
    first, second = archives(aged)
    with pytest.raises(AuditUnusable, match="1 archive of this history is missing"):
        aged.verify(archives=(first,))
    second.write_bytes(second.read_bytes()[:-30] + b"x" * 30)
    with pytest.raises(StateTampered, match="is not an archive of this history"):
        aged.verify(archives=(first, second))
    with pytest.raises(StateRepoUnusable, match="is there already, and is needed"):
        cut(aged, 35, archive=first)


def test_the_other_audits_say_where_history_ends(aged: World):
    cut(aged)

    def audit(*arguments: str | Path) -> str:
        outcome = margo_gitops("audit", *arguments, "--fleet", aged.fleet.root, cwd=aged.folder)
        assert outcome.code == 0, outcome
        return outcome.stdout + outcome.stderr

    everything = [part for each in archives(aged) for part in ("--archive", each)]
    assert "older history is in an archive" in audit("log")
    assert "100 days ago" not in audit("log")
    assert "100 days ago" in audit("log", *everything)
    assert "history before manifest 3 is in an archive" in audit("trace", "a")
    assert "is in an archive" not in audit("trace", "a", *everything)
    evidence = ("export", "gw", "--signing-key", aged.folder / "key-1", "--out", aged.folder / "evidence")
    outcome = margo_gitops("audit", *evidence, "--fleet", aged.fleet.root, cwd=aged.folder)
    assert "is in an archive" in outcome.stderr
    audit(*evidence, *everything)
    status = margo_gitops("status", "--fleet", aged.fleet.root, cwd=aged.folder)
    assert status.code in (0, 1), status


def test_receipts_go_on_where_history_ends(aged: World):
    made = chain(6, device="a")

    def keep(days: int, *receipts: SignedReceipt) -> None:
        key = ReportKey("a", "receipts", "latest")
        branch = ReportBranch(aged.folder / "state.git")
        content = {key: write_receipts(receipts)}
        branch.commit(content, "Reports", [("Reported-By", "a (token)")], NOW - days * DAY)

    keep(28, *made[:2])
    keep(25, made[2])
    keep(10, made[3])
    cut(aged, keep=20)
    found = aged.verify()
    assert ([each.code for each in found.findings], found.receipts) == (["receipt-not-vouched"], 1)
    keep(5, made[5])
    assert [each.code for each in aged.verify().findings] == ["receipt-dropped", "receipt-not-vouched"]


def test_clones_and_mirrors_of_a_cut_repository_verify(aged: World, tmp_path: Path):
    url = f"file://{aged.state.path}"
    older = RemoteState(url, tmp_path / "older")
    older.fetch()
    older.release()
    cut(aged)
    aged.fleet.site("south", p="two")
    commit(aged, 20)
    for cache in ("older", "newer"):
        mirror = RemoteState(url, tmp_path / cache)
        assert mirror.fetch().refs.read()["refs/heads/fleet"] == aged.state.run("rev-parse", "fleet")
        mirror.release()
        found = verified(aged, url, tmp_path / cache)
        assert (cache, found) == (cache, 4)  # a mirror of before ends there too
    for depth in ((), ("--depth", "1")):
        clone = tmp_path / f"clone{len(depth)}"
        Git(tmp_path).run("clone", "--quiet", "--mirror", *depth, url, str(clone))
        Git(clone).run("fsck")
    assert verified(aged, str(tmp_path / "clone0"), tmp_path / "c") == 4


def verified(world: World, state: str, cache: Path) -> int:
    found = verify(StateRequest(world.fleet.root, state, cache), VerifyOptions(signers=world.signers(1)))
    assert not found.findings
    return found.commits


def test_a_render_through_a_whole_mirror_goes_on_and_back(aged: World):
    """What a revert brings back may lie behind the boundary: the push brings its bytes."""
    url = f"file://{aged.state.path}"

    def render() -> None:
        outcome = margo_gitops(
            "render", "--fleet", aged.fleet.root, "--state-repo", url, "--signing-key", aged.folder / "key-1",
            cwd=aged.folder,
        )  # fmt: skip
        assert outcome.code == 0, outcome

    write_signing_key(aged.folder / "key-1", 1)
    render()
    cut(aged, 45)
    aged.fleet.git.run("revert", "--no-edit", "HEAD~3..HEAD")
    render()
    aged.state.run("fsck", "--strict")
    assert not aged.verify(signers=aged.signers(1)).findings


def test_reports_wait_while_objects_are_removed(aged: World):
    cut(aged)
    reporter = Reporter(aged.state.path)
    held = compaction.take_lock(aged.state.path / COMPACT_LOCK)
    with pytest.raises(StateMoved, match="reports"):
        reporter.report("a", "failed")
    held.release()
    assert reporter.report("a", "failed")
    assert not aged.verify().findings


@pytest.mark.parametrize("hold", [compaction.REPACK_LOCK, "shallow.lock"])
def test_another_process_at_work_is_left_alone(aged: World, hold: str):
    held: Callable[[], None] = lambda: None  # noqa: E731
    if hold == "shallow.lock":
        (aged.state.path / hold).touch()
    else:
        held = compaction.take_lock(aged.state.path / hold).release
    with pytest.raises(StateMoved):
        cut(aged)
    held()
    if hold == "shallow.lock":  # a killed git left it
        os.utime(aged.state.path / hold, (0, 0))
    cut(aged)
    assert not aged.verify().findings


def test_on_the_command_line(aged: World):
    base = ("state", "compact", "--fleet", aged.fleet.root, "--keep", "1d")
    assert margo_gitops(*base, cwd=aged.folder).code == 2
    write_signing_key(aged.folder / "key-1", 1)
    outcome = margo_gitops(*base, "--signing-key", aged.folder / "key-1", cwd=aged.folder)
    assert outcome.code == 0, outcome
    assert "nothing is older than that" in outcome.stdout  # the commits are from the future
    outcome = margo_gitops(*base, "--state-repo", "https://git.example/s", "--signing-key", "key-1", cwd=aged.folder)
    assert outcome.code == 2
    assert "run this where the repository is" in outcome.stderr
