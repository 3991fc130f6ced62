"""Rendering into a state repo on a git server: fetched, rendered, pushed whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git
from testbed.git_server import GitServer
from testbed.ssh_server import SshServer

from margo_gitops.documents.state_layout import is_remote
from margo_gitops.errors import StateMoved, StateTampered
from margo_gitops.state_repo.remote import RemoteState


@dataclass
class Served:
    """A state repo behind a URL, and the same repository on this disk."""

    url: str
    git: Git
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rendering:
    """A fleet that is rendered into a served state repo."""

    fleet: FleetFolder
    served: Served

    def __call__(self, *options: str, **environment: str) -> Outcome:
        everything = {**self.served.environment, **environment}
        arguments = ("render", "--state-repo", self.served.url, *options)
        return margo_gitops(*arguments, cwd=self.fleet.root, environment=everything)

    def change(self, value: int) -> None:
        self.fleet.change("margo-gitops.yaml", '"namespace": "n', f'"namespace": "n{value}')
        self.fleet.commit(f"Change to {value}")

    def refs(self) -> dict[str, str]:
        lines = self.served.git.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)


@pytest.fixture
def committed(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet", namespace="n")
    fleet.put(".gitignore", ".cache\n")
    for name in ("a", "b"):
        fleet.device(name)
    fleet.application()
    fleet.deployment("web")
    fleet.commit("First")
    return fleet


def on_disk(tmp_path: Path) -> Served:
    path = tmp_path / "state.git"
    return Served(f"file://{path}", Git(path).init(bare=True))


@pytest.fixture
def rendering(committed: FleetFolder, tmp_path: Path) -> Rendering:
    return Rendering(committed, on_disk(tmp_path))


def whole_life(rendering: Rendering) -> None:
    """First push, nothing new, an update, somebody else's move, all seen by git."""
    first = rendering()
    assert first.code == 0, first
    refs = rendering.refs()
    assert sorted(refs) == ["refs/heads/devices/a", "refs/heads/devices/b", "refs/heads/fleet"]
    rendering.served.git.run("fsck", "--strict")
    again = rendering()
    assert (again.code, rendering.refs()) == (0, refs), again
    assert "nothing changed" in again.stdout
    assert rendering("--check").code == 0

    rendering.change(1)
    assert rendering("--check").code == 1
    assert rendering.refs() == refs
    assert rendering().code == 0
    after = rendering.refs()
    assert all(after[name] != refs[name] for name in refs)
    assert rendering.served.git.run("rev-parse", "fleet^") == refs["refs/heads/fleet"]

    other = rendering.served.git.run("commit-tree", "devices/b^{tree}", "-p", "devices/a", "-m", "theirs")
    rendering.served.git.run("update-ref", "refs/heads/devices/a", other)
    refused = rendering()
    assert refused.code == 4, refused
    assert "refs/heads/devices/a is not what the fleet branch holds" in refused.stderr
    assert rendering.refs() == after | {"refs/heads/devices/a": other}


def test_a_state_repo_at_a_file_url(rendering: Rendering):
    whole_life(rendering)


@pytest.mark.real
def test_a_state_repo_on_a_web_server(committed: FleetFolder, git_server: GitServer):
    repository = git_server.add_repository()
    header = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "http.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Bearer {git_server.token}",
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
    }
    whole_life(Rendering(committed, Served(repository.http("push/token"), Git(repository.path), header)))


class Renamed(SimpleHTTPRequestHandler):
    """Files of the repository `new.git`, which was `old.git`."""

    def do_GET(self) -> None:
        if not self.path.startswith("/old.git/"):
            super().do_GET()
            return
        self.send_response(301)
        self.send_header("Location", f"http://{self.headers['Host']}{self.path.replace('old', 'new', 1)}")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_new_url_of_a_renamed_state_repo_is_told(committed: FleetFolder, tmp_path: Path):
    served = on_disk(tmp_path)
    assert Rendering(committed, served)().code == 0
    served.git.run("update-server-info")
    served.git.path.rename(tmp_path / "new.git")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Renamed, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            host = f"http://127.0.0.1:{server.server_port}"
            old, new = (Rendering(committed, Served(f"{host}/{name}.git", served.git))() for name in ("old", "new"))
        finally:
            server.shutdown()
            thread.join()
    assert (old.code, new.code) == (0, 0), old
    assert f"note: {host}/old.git redirects to {host}/new.git; git follows, but devices stop with MG1403" in old.stderr
    assert "redirects" not in new.stderr


@pytest.mark.real
def test_a_state_repo_behind_ssh(committed: FleetFolder, ssh_server: SshServer, tmp_path: Path):
    served = on_disk(tmp_path)
    url = ssh_server.url(served.git.path)
    whole_life(Rendering(committed, Served(url, served.git, {"GIT_SSH_COMMAND": ssh_server.command})))


@pytest.mark.real
@pytest.mark.parametrize(("way", "code"), [("push/token", 2), ("open", 2), ("forbidden", 2), ("broken", 3)])
def test_only_a_server_that_does_not_work_is_worth_another_try_and_nothing_is_pushed(
    committed: FleetFolder, git_server: GitServer, way: str, code: int
):
    repository = git_server.add_repository()
    rendering = Rendering(committed, Served(repository.http(way), Git(repository.path)))
    outcome = rendering()
    assert outcome.code == code, outcome
    assert "remedy:" in outcome.stderr
    assert rendering.refs() == {}


def test_a_declined_push_is_told_in_the_hosts_own_words(rendering: Rendering):
    hook = rendering.served.git.path / "hooks" / "pre-receive"
    hook.write_text('#!/bin/sh\nfor n in 1 2 3 4; do echo; done\necho "commits must be signed"\necho; exit 1\n')
    hook.chmod(0o755)
    outcome = rendering()
    assert (outcome.code, rendering.refs()) == (2, {}), outcome
    told = outcome.stderr.split("declined the push: nothing was pushed [MG1312]\n")[1].splitlines()
    assert told[:2] == ["  remote: commits must be signed", "  refs/heads/fleet: pre-receive hook declined"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/state.git", "file:///nowhere/state.git", "ssh://127.0.0.1:1/x"])
def test_a_server_that_cannot_be_reached_is_exit_code_3(committed: FleetFolder, url: str):
    outcome = margo_gitops("render", "--state-repo", url, cwd=committed.root)
    assert outcome.code == 3, outcome
    assert "[MG1306]" in outcome.stderr
    assert url in outcome.stderr


# Somebody else writes between our fetch and our push.


@pytest.fixture
def fetched(rendering: Rendering, tmp_path: Path) -> Callable[[], RemoteState]:
    """A render that has fetched, rendered, and not pushed yet."""
    assert rendering().code == 0

    def run() -> RemoteState:
        remote = RemoteState(rendering.served.url, tmp_path / "mirror")
        repo = remote.fetch()
        rendering.change(2)
        local = margo_gitops("render", "--state-repo", repo.folder, cwd=rendering.fleet.root)
        assert local.code == 0, local
        return remote

    return run


@pytest.mark.parametrize("ref", ["refs/heads/fleet", "refs/heads/devices/b"])
@pytest.mark.parametrize("what", ["moved on", "set back", "deleted"])
def test_a_ref_that_moved_since_the_fetch_stops_the_whole_push(
    rendering: Rendering, fetched: Callable[[], RemoteState], ref: str, what: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in rendering.served.git.environment.items():
        monkeypatch.setenv(name, value)
    rendering.change(1)
    assert rendering().code == 0
    remote = fetched()
    git = rendering.served.git
    if what == "moved on":
        git.run("update-ref", ref, git.run("commit-tree", f"{ref}^{{tree}}", "-p", ref, "-m", "theirs"))
    elif what == "set back":
        git.run("update-ref", ref, f"{ref}^")
    else:
        git.run("update-ref", "-d", ref)
    before = rendering.refs()
    with pytest.raises(StateMoved) as caught:
        remote.push()
    assert "nothing was pushed" in str(caught.value)
    assert rendering.refs() == before


def test_a_push_without_interference_moves_all_refs(
    rendering: Rendering, fetched: Callable[[], RemoteState], monkeypatch: pytest.MonkeyPatch
):
    for name, value in rendering.served.git.environment.items():
        monkeypatch.setenv(name, value)
    remote = fetched()
    before = rendering.refs()
    remote.push()
    assert all(value != before[name] for name, value in rendering.refs().items())


# F27: the history of the remote was rewritten since this machine saw it last.


@pytest.mark.parametrize("what", ["set back", "another root", "deleted", "all deleted"])
def test_a_fleet_branch_whose_history_was_rewritten_is_refused(rendering: Rendering, what: str):
    assert rendering().code == 0
    rendering.change(1)
    assert rendering().code == 0
    git = rendering.served.git
    if what == "set back":
        for name in rendering.refs():
            git.run("update-ref", name, f"{name}^")
    elif what == "another root":
        git.run("update-ref", "refs/heads/fleet", git.run("commit-tree", "fleet^{tree}", "-m", "theirs"))
    else:
        for name in rendering.refs() if what == "all deleted" else ["refs/heads/fleet"]:
            git.run("update-ref", "-d", name)
    before = rendering.refs()
    for _ in range(2):  # it stays refused
        outcome = rendering()
        assert outcome.code == 4, outcome
        assert StateTampered.code in outcome.stderr
        assert "remedy:" in outcome.stderr
        assert rendering.refs() == before


# MIRROR-4: the way back after a loss.


def restore(rendering: Rendering) -> Outcome:
    return margo_gitops("state", "restore", "--state-repo", rendering.served.url, cwd=rendering.fleet.root)


@pytest.mark.parametrize("what", ["set back", "one device deleted", "all deleted", "all deleted, rendered since"])
def test_what_the_server_lost_is_given_back_and_the_next_render_goes_on(rendering: Rendering, what: str):
    for value in (1, 2):
        assert rendering().code == 0
        rendering.change(value)
    assert rendering().code == 0
    kept, git = rendering.refs(), rendering.served.git
    for name in kept:
        if what == "set back":
            git.run("update-ref", name, f"{name}^")
        elif what.startswith("all") or name.endswith("/a"):
            git.run("update-ref", "-d", name)
    if what == "all deleted, rendered since":
        refused = rendering()
        assert refused.code == 4, refused
        assert "margo-gitops state restore" in refused.stderr
    outcome = restore(rendering)
    assert outcome.code == 0, outcome
    assert rendering.refs() == kept
    assert "nothing is lost" in restore(rendering).stdout
    rendering.change(3)
    assert rendering().code == 0
    assert all(git.run("rev-parse", f"{name}^") == value for name, value in kept.items())


def test_commits_that_this_machine_does_not_know_are_not_overwritten(rendering: Rendering):
    assert rendering().code == 0
    git = rendering.served.git
    git.run("update-ref", "refs/heads/fleet", git.run("commit-tree", "fleet^{tree}", "-m", "theirs"))
    before = rendering.refs()
    outcome = restore(rendering)
    assert (outcome.code, rendering.refs()) == (4, before), outcome
    assert "has commits that this machine does not know" in outcome.stderr


def test_a_machine_without_a_mirror_says_where_to_restore(rendering: Rendering, tmp_path: Path):
    outcome = restore(rendering)
    assert (outcome.code, rendering.refs()) == (2, {}), outcome
    assert "the machine that rendered last" in outcome.stderr
    path = margo_gitops("state", "restore", "--state-repo", tmp_path / "state.git", cwd=rendering.fleet.root)
    assert path.code == 2, path


# MIRROR-1 and MIRROR-2: the mirror is a cache.


def mirror_of(rendering: Rendering) -> Path:
    (lock,) = (rendering.fleet.root / ".cache").glob("*.lock")
    return lock.with_suffix("")


def damage(mirror: Path, how: str) -> None:
    if how == "no objects":
        for pack in (mirror / "objects" / "pack").iterdir():
            pack.unlink()
    elif how == "no HEAD":
        (mirror / "HEAD").unlink()
    elif how.endswith(".lock"):
        (mirror / how).parent.mkdir(parents=True, exist_ok=True)
        (mirror / how).touch()
    else:
        (mirror / how).parent.mkdir(parents=True, exist_ok=True)
        (mirror / how).write_bytes(b"")


@pytest.mark.parametrize(
    "how",
    [
        "no objects", "no HEAD", "HEAD", "config", "refs/remotes/state/fleet", "refs/heads/devices/a",
        "packed-refs.lock", "refs/remotes/state/fleet.lock", "config.lock",
    ],
)  # fmt: skip
def test_a_damaged_mirror_is_made_again(rendering: Rendering, how: str):
    assert rendering().code == 0
    mirror = mirror_of(rendering)
    damage(mirror, how)
    rendering.change(1)
    outcome = rendering()
    assert outcome.code == 0, outcome
    assert rendering.served.git.run("rev-list", "--count", "fleet") == "2"
    assert not mirror.with_suffix(".aside").exists()


def test_a_new_mirror_remembers_what_the_damaged_one_had_seen(rendering: Rendering):
    assert rendering().code == 0
    rendering.change(1)
    assert rendering().code == 0
    assert rendering().code == 0  # what was pushed is seen at the next fetch
    for name in rendering.refs():
        rendering.served.git.run("update-ref", name, f"{name}^")
    before = rendering.refs()
    for _ in range(2):
        damage(mirror_of(rendering), "refs/remotes/state/fleet")
        outcome = rendering()
        assert (outcome.code, rendering.refs()) == (4, before), outcome


def test_a_mirror_that_was_set_aside_by_a_killed_process_comes_back(rendering: Rendering):
    assert rendering().code == 0
    mirror = mirror_of(rendering)
    mirror.rename(mirror.with_suffix(".aside"))
    mirror.mkdir()
    outcome = rendering()
    assert (outcome.code, "nothing changed" in outcome.stdout) == (0, True), outcome


# MIRROR-3: settings of the person.


@pytest.mark.parametrize(
    "setting",
    [
        "safe.bareRepository=explicit", "push.gpgSign=true", "push.useForceIfIncludes=true", "push.followTags=true",
        "push.pushOption=ci.skip", "push.recurseSubmodules=only", "remote.state.mirror=true", "color.ui=always",
        "fetch.pruneTags=true", "fetch.fsckObjects=true", "push.default=nothing",
    ],
)  # fmt: skip
def test_a_setting_of_the_person_does_not_change_what_is_pushed(rendering: Rendering, setting: str, tmp_path: Path):
    name, _, value = setting.partition("=")
    hook = tmp_path / "hooks" / "pre-push"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    configuration = tmp_path / "gitconfig"
    git = Git(rendering.fleet.root)
    for key, given in {name: value, "core.hooksPath": str(hook.parent), "safe.directory": "*"}.items():
        git.run("config", "--file", str(configuration), "--add", key, given)
    for number in (1, 2):
        rendering.change(number)
        outcome = rendering(GIT_CONFIG_GLOBAL=str(configuration))
        assert outcome.code == 0, outcome
    assert sorted(rendering.refs()) == ["refs/heads/devices/a", "refs/heads/devices/b", "refs/heads/fleet"]


def test_an_environment_that_points_git_elsewhere_does_no_harm(rendering: Rendering):
    """A hook of the fleet repo runs with GIT_DIR set: git must still work in the mirror."""
    before = rendering.fleet.git.run("for-each-ref")
    outcome = rendering(GIT_DIR=str(rendering.fleet.root / ".git"), GIT_INDEX_FILE="/nonexistent", GIT_PREFIX="x/")
    assert outcome.code == 0, outcome
    assert sorted(rendering.refs()) == ["refs/heads/devices/a", "refs/heads/devices/b", "refs/heads/fleet"]
    assert rendering.fleet.git.run("for-each-ref") == before


def test_a_missing_git_program_is_named(rendering: Rendering):
    outcome = rendering(PATH="/nonexistent")
    assert outcome.code == 3, outcome
    assert "the git program is missing" in outcome.stderr


@pytest.mark.parametrize("refused", ["pending", "devices/b", "fleet"])
def test_a_server_without_atomic_pushes_gets_the_refs_in_steps(rendering: Rendering, refused: str, tmp_path: Path):
    served, arguments = rendering.served.git, ("--state-repo", rendering.served.url)
    for name, value in (("advertiseAtomic", "false"), ("denyNonFastForwards", "true"), ("denyDeletes", "true")):
        served.run("config", f"receive.{name}", value)
    assert rendering().code == 0
    before = rendering.refs()
    hook = served.path / "hooks" / "update"
    hook.write_text(f'#!/bin/sh\n[ "$1" != refs/heads/{refused} ]\n')
    hook.chmod(0o755)
    rendering.change(1)
    stopped = rendering()
    assert (stopped.code, "the next render finishes the push" in stopped.stderr) == (2, refused != "pending"), stopped
    between = rendering.refs()
    assert between["refs/heads/fleet"] == before["refs/heads/fleet"]
    assert (between["refs/heads/devices/a"] == before["refs/heads/devices/a"]) == (refused == "pending")
    hook.unlink()

    elsewhere = str(tmp_path / "another machine")
    planned = margo_gitops("plan", *arguments, cwd=rendering.fleet.root, environment={"MARGO_GITOPS_CACHE": elsewhere})
    assert planned.code == (1 if refused == "pending" else 0), planned
    # Some servers do not take a push that moves no ref.
    program = tmp_path / "receive-pack"
    program.write_text(f'#!/bin/sh\necho >> {tmp_path}/pushes\nexec git-receive-pack "$@"\n')
    program.chmod(0o755)
    counted = {"COUNT": "1", "KEY_0": "remote.state.receivepack", "VALUE_0": str(program)}
    environment = {f"GIT_CONFIG_{name}": value for name, value in counted.items()}
    assert rendering(MARGO_GITOPS_CACHE=elsewhere, **environment).code == 0
    asked_for_atomic = 1
    assert (tmp_path / "pushes").read_text().count("\n") - asked_for_atomic == (2 if refused == "fleet" else 3)
    after = rendering.refs()
    assert all(after[name] != before[name] for name in before)
    assert margo_gitops("audit", "verify", *arguments, cwd=rendering.fleet.root).code == 0
    served.run("fsck", "--strict")
    assert (rendering().code, rendering.refs()) == (0, after)


@pytest.mark.parametrize(
    ("extension", "words"), [("objectFormat=sha256", "sha256 objects"), ("refStorage=reftable", "reftable")]
)
def test_a_repository_of_another_format_is_not_called_damaged(
    committed: FleetFolder, tmp_path: Path, extension: str, words: str
):
    state = Git(tmp_path / "state.git").init(bare=True)
    for repository in (state.path / "config", committed.root / ".git" / "config"):
        name, _, value = extension.partition("=")
        state.run("config", "--file", str(repository), "core.repositoryFormatVersion", "1")
        state.run("config", "--file", str(repository), f"extensions.{name}", value)
        if repository.parent == state.path:
            outcome = margo_gitops("render", "--state-repo", state.path, cwd=committed.root)
        else:
            outcome = margo_gitops("validate", cwd=committed.root)
        assert outcome.code == 2, outcome
        assert f"{words} " in outcome.stderr
        assert "damaged" not in outcome.stderr


def test_tags_and_other_branches_of_the_remote_are_left_alone(rendering: Rendering):
    assert rendering().code == 0
    git = rendering.served.git
    git.run("tag", "audited", "fleet")
    git.run("branch", "other", "fleet")
    before = rendering.refs()
    rendering.change(1)
    assert rendering().code == 0
    after = rendering.refs()
    assert {name for name in before if before[name] == after[name]} == {"refs/heads/other", "refs/tags/audited"}


@pytest.mark.parametrize(
    ("location", "remote"),
    [
        ("https://git.example.com/state.git", True),
        ("ssh://git@git.example.com/state.git", True),
        ("file:///srv/state.git", True),
        ("git@git.example.com:state.git", True),
        ("git.example.com:state.git", True),
        ("/srv/state.git", False),
        ("../state.git", False),
        ("state.git", False),
        ("./odd:name", False),
        ("/srv/odd:name", False),
    ],
)
def test_a_location_is_a_url_or_a_path(location: str, remote: bool):
    assert is_remote(location) is remote


def test_the_mirror_can_be_cloned_by_git(rendering: Rendering, tmp_path: Path):
    assert rendering().code == 0
    (mirror,) = (path for path in (rendering.fleet.root / ".cache").rglob("HEAD") if path.parent.name != "logs")
    Git(mirror.parent).run("fsck", "--strict")
