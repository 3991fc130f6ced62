"""A push to a slow or unsure git host: in groups, resumed, asked about, never half a device (PUSH-1 to PUSH-6)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git

from margo_gitops.documents.fleet_kinds import PushPolicy
from margo_gitops.errors import StateMoved, StateUnreachable
from margo_gitops.progress import heard_by
from margo_gitops.state_repo import pushing
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.state_repo.pushing import Push
from margo_gitops.state_repo.remote import RemoteState

NAMES = "abcdefg"


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet", namespace="n")
    fleet.put(".gitignore", ".cache\n")
    for name in NAMES:
        fleet.device(name)
    fleet.application()
    fleet.deployment("web")
    fleet.commit("First")
    return fleet


@pytest.fixture
def state(tmp_path: Path) -> Git:
    return Git(tmp_path / "state.git").init(bare=True)


def render(fleet: FleetFolder, state: Git, cache: str = ".cache") -> Outcome:
    environment = {"MARGO_GITOPS_CACHE": str(fleet.root.parent / cache)}
    return margo_gitops("render", "--state-repo", f"file://{state.path}", cwd=fleet.root, environment=environment)


def refs(state: Git) -> dict[str, str]:
    lines = state.run("for-each-ref", "--format=%(refname:short) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def change(fleet: FleetFolder, push: str = "") -> None:
    fleet.change("margo-gitops.yaml", '"namespace": "n', f'{push}"namespace": "nn')
    fleet.commit("Change")


def hook(state: Git, script: str) -> Path:
    path = state.path / "hooks" / "update"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_groups_move_one_after_the_other_and_another_machine_resumes_them(fleet: FleetFolder, state: Git):
    assert render(fleet, state).code == 0
    before = refs(state)
    log = state.path.parent / "log"
    stop = hook(state, f'echo "$1 $PPID" >> {log}; [ "$1" != refs/heads/devices/d ]')
    change(fleet, '"push": {"batch": 2}, ')
    stopped = render(fleet, state)
    assert (stopped.code, "the next render finishes the push" in stopped.stderr) == (2, True), stopped
    between = refs(state)
    moved = {name for name in before if between[name] != before[name]}
    assert moved == {"devices/a", "devices/b", "devices/c"}, "the group of d, and all after it, wait"
    stop.unlink()
    log.unlink()
    hook(state, f'echo "$1 $PPID" >> {log}')
    assert render(fleet, state, "another machine").code == 0
    after = refs(state)
    assert all(after[name] != before[name] for name in before)
    assert {name for name in between if after[name] == between[name]} == moved
    pushes: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        name, push = line.split(" ")
        pushes.setdefault(push, []).append(name.removeprefix("refs/heads/").removeprefix("devices/"))
    assert list(pushes.values()) == [["pending"], ["d", "e"], ["f", "g"], ["fleet"]]
    for name in NAMES:  # what a device reads is whole at any moment
        for commit in {before[f"devices/{name}"], between[f"devices/{name}"], after[f"devices/{name}"]}:
            held = state.run("rev-parse", f"{commit}^{{tree}}")
            assert held in {state.run("rev-parse", f"{each}:devices/_/{name}") for each in ("fleet", "fleet^")}


def test_a_push_that_was_interrupted_twice_is_finished_also_in_a_large_fleet(
    fleet: FleetFolder, state: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A pending commit has a parent for each device: with 1,400 of them it is larger than commits of renders may be."""
    assert render(fleet, state).code == 0
    hook(state, '[ "$1" != refs/heads/devices/d ]')
    change(fleet, '"push": {"batch": 2}, ')
    for _ in range(2):
        assert render(fleet, state).code == 2
    steps = state.run("rev-list", "--grep=Push in steps", "pending").split()
    assert len(steps) == 2
    read, commit = list[str](), StateObjects.commit
    monkeypatch.setattr(StateObjects, "commit", lambda self, name: (read.append(name), commit(self, name))[1])
    remote = RemoteState(f"file://{state.path}", tmp_path / "mirror")
    remote.fetch()
    assert remote.is_unfinished
    assert read
    assert not {*read} & {*steps}


@pytest.fixture
def remote(fleet: FleetFolder, state: Git, tmp_path: Path) -> RemoteState:
    """A mirror that has a render which was not pushed yet."""
    assert render(fleet, state).code == 0
    remote = RemoteState(f"file://{state.path}", tmp_path / "mirror")
    repo = remote.fetch()
    change(fleet)
    assert margo_gitops("render", "--state-repo", repo.folder, cwd=fleet.root).code == 0
    return remote


BROKEN = "client_loop: send disconnect: Broken pipe\nfatal: the remote end hung up unexpectedly"


@pytest.mark.parametrize("end", [BROKEN, subprocess.TimeoutExpired("git", 1)], ids=["connection", "limit"])
def test_a_push_that_broke_after_the_host_took_it_is_done(remote: RemoteState, state: Git, end: object):
    def git(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        done = remote._git(*arguments, seconds=seconds)
        if arguments[0] != "push":
            return done
        if isinstance(end, Exception):
            raise end
        return subprocess.CompletedProcess([], 128, "", str(end))

    before = refs(state)
    Push(git, remote.url, remote.mirror, PushPolicy()).all()
    assert all(value != before[name] for name, value in refs(state).items())


def test_a_push_that_is_still_at_work_is_waited_for_and_told(remote: RemoteState, state: Git):
    before, told = refs(state), list[tuple[str, int, int]]()
    after = {f"refs/heads/{name}": Git(remote.mirror).run("rev-parse", f"refs/heads/{name}") for name in before}
    state.run("fetch", "--quiet", f"file://{remote.mirror}", *after)

    def finishes(_: float) -> None:
        for name in [*after][: len(waited) + 3]:
            state.run("update-ref", name, after[name])
        waited.append(name)

    waited: list[str] = []

    def git(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "push":
            return subprocess.CompletedProcess([], 128, "", BROKEN)
        return remote._git(*arguments, seconds=seconds)

    push = Push(git, remote.url, remote.mirror, PushPolicy())
    push.pause = finishes
    with heard_by(lambda *each: told.append(each)):
        push.all()
    assert ("waiting for the git host", 0, 8) in told
    assert ("waiting for the git host", 4, 8) in told


def test_a_host_that_was_not_reached_is_asked_once(remote: RemoteState):
    def git(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "push":
            return subprocess.CompletedProcess([], 128, "", "fatal: unable to access 'x': Failed to connect")
        return remote._git(*arguments, seconds=seconds)

    push = Push(git, remote.url, remote.mirror, PushPolicy())
    push.pause = lambda _: pytest.fail("nothing can be at work there")
    with pytest.raises(StateUnreachable, match="no ref moved there"):
        push.all()


@pytest.mark.parametrize("what", ["moved on", "set back", "deleted"])
@pytest.mark.parametrize("ref", ["refs/heads/devices/b", "refs/heads/fleet"])
def test_of_many_refs_each_is_still_what_was_fetched(
    remote: RemoteState, state: Git, ref: str, what: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pushing, "MANY", 3)
    if what == "deleted":
        state.run("update-ref", "-d", ref)
    else:
        parent = ["-p", ref] if what == "moved on" else []
        state.run("update-ref", ref, state.run("commit-tree", f"{ref}^{{tree}}", *parent, "-m", "theirs"))
    before = refs(state)
    with pytest.raises(StateMoved, match="somebody moved 1 ref"):
        remote.push()
    assert refs(state) == before


def test_many_refs_have_no_lease_each_and_all_move(remote: RemoteState, state: Git, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pushing, "MANY", 3)
    seen: list[str] = []

    def git(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        seen.extend(each for each in arguments if each.startswith("--force-with-lease"))
        return remote._git(*arguments, seconds=seconds)

    before = refs(state)
    Push(git, remote.url, remote.mirror, PushPolicy()).all()
    assert seen == [f"--force-with-lease=refs/heads/fleet:{before['fleet']}"]
    assert all(value != before[name] for name, value in refs(state).items())


@pytest.mark.parametrize(
    ("policy", "refs_moved", "seconds"),
    [(PushPolicy(), 2, 901), (PushPolicy(), 10_000, 5900), (PushPolicy(limit="2h"), 10_000, 7200)],
)
def test_the_limit_grows_with_the_refs_unless_the_fleet_says_one(
    remote: RemoteState, policy: PushPolicy, refs_moved: int, seconds: float
):
    limits: list[float] = []

    def git(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        limits.append(seconds)
        return subprocess.CompletedProcess([], 0, "", "")

    moved = {f"refs/heads/devices/{number}": "0" * 40 for number in range(refs_moved)}
    Push(git, remote.url, remote.mirror, policy).pushed(refspecs=[], moved=moved)
    assert limits == [seconds]
