"""Moving many refs at once: all or none, whatever crashes and whoever else writes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.git_cli import Git

from margo_gitops.errors import StateMoved, StateRepoUnusable
from margo_gitops.state_repo.refs import Refs


@pytest.fixture
def repository(tmp_path: Path) -> Git:
    return Git(tmp_path / "repo.git").init(bare=True)


@pytest.fixture
def commits(repository: Git) -> list[str]:
    tree = repository.run("mktree")
    return [repository.run("commit-tree", tree, "-m", str(number)) for number in range(3)]


def by_git(repository: Git) -> dict[str, str]:
    lines = repository.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def test_git_reads_what_was_moved(repository: Git, commits: list[str]):
    refs = Refs(repository.path)
    assert refs.read() == {}
    wanted = {f"refs/heads/devices/d{number}": commits[0] for number in range(50)} | {"refs/heads/fleet": commits[1]}
    refs.move(wanted, {})
    assert refs.read() == by_git(repository) == wanted
    refs.move({"refs/heads/fleet": commits[2]}, wanted)
    assert by_git(repository) == wanted | {"refs/heads/fleet": commits[2]}


def test_one_ref_that_was_moved_meanwhile_stops_all(repository: Git, commits: list[str]):
    refs = Refs(repository.path)
    refs.move({"refs/heads/a": commits[0], "refs/heads/b": commits[0]}, {})
    before = refs.read()
    repository.run("update-ref", "refs/heads/b", commits[1])
    with pytest.raises(StateMoved) as caught:
        refs.move({"refs/heads/a": commits[2], "refs/heads/b": commits[2]}, before)
    assert "refs/heads/b was moved" in str(caught.value)
    assert by_git(repository) == {"refs/heads/a": commits[0], "refs/heads/b": commits[1]}


@pytest.mark.parametrize("expected", [{}, {"refs/heads/a": "f" * 40}])
def test_a_ref_must_be_where_it_is_expected(repository: Git, commits: list[str], expected: dict[str, str]):
    refs = Refs(repository.path)
    refs.move({"refs/heads/a": commits[0]}, {})
    with pytest.raises(StateMoved):
        refs.move({"refs/heads/a": commits[1]}, expected)
    assert by_git(repository) == {"refs/heads/a": commits[0]}


def test_a_ref_that_was_deleted_meanwhile_is_not_made_again(repository: Git, commits: list[str]):
    refs = Refs(repository.path)
    refs.move({"refs/heads/a": commits[0]}, {})
    before = refs.read()
    repository.run("update-ref", "-d", "refs/heads/a")
    with pytest.raises(StateMoved, match="refs/heads/a was moved"):
        refs.move({"refs/heads/a": commits[1]}, before)
    assert by_git(repository) == {}


def test_loose_refs_of_git_are_read_and_folded_in(repository: Git, commits: list[str]):
    for name in ("a", "devices/x", "devices/y"):
        repository.run("update-ref", f"refs/heads/{name}", commits[0])
    repository.run("tag", "-a", "-m", "annotated", "v1", commits[0])
    refs = Refs(repository.path)
    before = by_git(repository)
    assert refs.read() == before
    refs.move({"refs/heads/a": commits[1]}, before)
    assert by_git(repository) == before | {"refs/heads/a": commits[1]}
    # An annotated tag stays loose: folded in, the file would have to say what the tag leads to.
    assert [path.name for path in (repository.path / "refs").rglob("*") if path.is_file()] == ["v1"]
    assert repository.run("rev-parse", "v1^{commit}") == commits[0]
    # git can write loose refs and pack them again.
    repository.run("update-ref", "refs/heads/devices/x", commits[2])
    repository.run("pack-refs", "--all")
    assert refs.read() == by_git(repository)


def test_a_lock_that_somebody_holds_moves_nothing_and_is_left_to_them(repository: Git, commits: list[str]):
    refs = Refs(repository.path)
    refs.move({"refs/heads/a": commits[0]}, {})
    lock = repository.path / "packed-refs.lock"
    lock.write_text("theirs")
    with pytest.raises(StateMoved) as caught:
        refs.move({"refs/heads/a": commits[1]}, refs.read())
    assert str(lock) in caught.value.remedy
    assert lock.read_text() == "theirs"
    assert by_git(repository) == {"refs/heads/a": commits[0]}


def test_git_respects_the_lock(repository: Git, commits: list[str]):
    """The same file name: git's own packing waits for us, as we do for it."""
    (repository.path / "packed-refs.lock").touch()
    repository.run("update-ref", "refs/heads/a", commits[0])
    impatient = ("-c", "core.packedRefsTimeout=0")
    with pytest.raises(AssertionError, match=r"packed-refs\.lock"):
        repository.run(*impatient, "pack-refs", "--all")


KILLED = """
import os, pathlib, signal, sys
from margo_gitops.state_repo import refs as module
from margo_gitops.state_repo.refs import Refs
step = int(sys.argv[2])
seen = 0
def counting(event, arguments):
    global seen
    # Every change of the file system that Refs makes: opening to write, renaming, removing.
    writes = event == "open" and isinstance(arguments[1], str) and arguments[1] in ("wb", "w", "x")
    creates = event == "open" and arguments[1] is None and arguments[2] & os.O_CREAT
    if writes or creates or event in ("os.rename", "os.remove"):
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
refs = Refs(pathlib.Path(sys.argv[1]))
before = refs.read()
commit = sys.argv[3]
sys.addaudithook(counting)
refs.move({name: commit for name in before}, before)
print(seen)
"""


def test_a_kill_at_any_step_leaves_all_refs_old_or_all_new(repository: Git, commits: list[str]):
    names = [f"refs/heads/devices/d{number}" for number in range(4)]
    outcomes = []
    for step in range(100):
        (repository.path / "packed-refs").unlink(missing_ok=True)
        shutil.rmtree(repository.path / "refs/heads")
        (repository.path / "refs/heads").mkdir()
        for number, name in enumerate(names):
            repository.run("update-ref", name, commits[0])
            if number == 1:
                repository.run("pack-refs", "--all")
        done = subprocess.run(
            [sys.executable, "-c", KILLED, repository.path, str(step), commits[1]],
            capture_output=True,
            check=False,
            timeout=60,
        )
        after = set(by_git(repository).values())
        assert after in ({commits[0]}, {commits[1]}), f"killed at step {step}"
        refs = Refs(repository.path)
        assert set(refs.read().values()) == after
        refs.move({"refs/heads/next": commits[2]}, {})  # no lock that the killed one left is in the way
        assert not list(repository.path.rglob("refs/**/*.lock"))
        outcomes.append(after)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(outcomes) > 8
    assert outcomes[-1] == {commits[1]}


@pytest.mark.parametrize("content", ["ref: refs/heads/other\n", "nonsense\n", "", "\xff"])
def test_a_branch_that_holds_no_commit_id_is_named(repository: Git, commits: list[str], content: str):
    (repository.path / "refs/heads/odd").write_text(content, encoding="latin-1")
    with pytest.raises(StateRepoUnusable, match="refs/heads/odd"):
        Refs(repository.path).read()


def test_a_symbolic_ref_of_a_remote_is_no_obstacle(repository: Git, commits: list[str]):
    """git 2.48 and later write refs/remotes/<name>/HEAD with every fetch."""
    repository.run("update-ref", "refs/remotes/state/fleet", commits[0])
    repository.run("symbolic-ref", "refs/remotes/state/HEAD", "refs/remotes/state/fleet")
    refs = Refs(repository.path)
    assert refs.read() == {"refs/remotes/state/fleet": commits[0]}
    refs.move({"refs/heads/a": commits[0]}, refs.read())
    assert repository.run("rev-parse", "refs/remotes/state/HEAD") == commits[0]


@pytest.mark.parametrize("content", [b"garbage\n", b"\xff" * 40, b"0" * 39 + b" refs/heads/a\n"])
def test_a_broken_packed_refs_is_named_and_never_overwritten(repository: Git, content: bytes):
    (repository.path / "packed-refs").write_bytes(content)
    for attempt in (Refs(repository.path).read, lambda: Refs(repository.path).move({"refs/heads/a": "a" * 40}, {})):
        with pytest.raises(StateRepoUnusable, match="packed-refs"):
            attempt()
    assert (repository.path / "packed-refs").read_bytes() == content
    assert not (repository.path / "packed-refs.lock").exists()


def test_a_ref_that_another_program_moves_now_does_not_stop_the_others(repository: Git, commits: list[str]):
    """A server commits reports while a render ends."""
    repository.run("update-ref", "refs/heads/reports", commits[0])
    lock = repository.path / "refs/heads/reports.lock"
    lock.touch()
    refs = Refs(repository.path)
    refs.move({"refs/heads/next": commits[1]}, refs.read())
    assert lock.exists()
    lock.unlink()
    repository.run("update-ref", "refs/heads/reports", commits[2], commits[0])
    refs.move({"refs/heads/next": commits[2]}, refs.read())
    assert by_git(repository) == {"refs/heads/reports": commits[2], "refs/heads/next": commits[2]}


def test_a_writer_of_one_loose_ref_is_waited_for_and_nothing_moves(repository: Git, commits: list[str]):
    repository.run("update-ref", "refs/heads/a", commits[0])
    (repository.path / "refs/heads/a.lock").touch()
    refs = Refs(repository.path)
    with pytest.raises(StateMoved) as caught:
        refs.move({"refs/heads/a": commits[1]}, refs.read())
    assert "refs/heads/a.lock" in caught.value.remedy
    assert by_git(repository) == {"refs/heads/a": commits[0]}
    assert not (repository.path / "packed-refs.lock").exists()


def test_reset_makes_the_refs_below_a_prefix_exactly_these(repository: Git, commits: list[str]):
    refs = Refs(repository.path)
    refs.move({"refs/heads/a": commits[0], "refs/heads/b": commits[0], "refs/other/c": commits[0]}, {})
    refs.reset("refs/heads/", {"refs/heads/b": commits[1]})
    assert by_git(repository) == {"refs/heads/b": commits[1], "refs/other/c": commits[0]}


def test_permissions_of_the_refs_let_a_git_server_read_them(repository: Git, commits: list[str]):
    before = os.umask(0o022)
    try:
        Refs(repository.path).move({"refs/heads/a": commits[0]}, {})
    finally:
        os.umask(before)
    assert (repository.path / "packed-refs").stat().st_mode & 0o777 == 0o644
