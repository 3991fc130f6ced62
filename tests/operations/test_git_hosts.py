"""A fleet on real git hosts: JGit's HTTP server, the library inside Gerrit, and gitolite over ssh."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import Outcome, margo_gitops
from support.fleet import FleetFolder
from support.git_cli import Git
from testbed.gitolite import Gitolite
from testbed.jgit_server import JgitServer

BRANCHES = ["refs/heads/devices/a", "refs/heads/devices/b", "refs/heads/fleet"]


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = FleetFolder.empty(tmp_path / "fleet", namespace="n")
    fleet.put(".gitignore", ".cache\n")
    for name in ("a", "b"):
        fleet.device(name)
    fleet.application()
    fleet.deployment("web")
    fleet.commit("First")
    return fleet


def render(fleet: FleetFolder, url: str, ssh: str = "") -> Outcome:
    return margo_gitops("render", "--state-repo", url, cwd=fleet.root, environment={"GIT_SSH_COMMAND": ssh})


def refs(path: Path) -> dict[str, str]:
    lines = Git(path).run("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads").splitlines()
    return dict(line.split(" ") for line in lines)


def change(fleet: FleetFolder) -> None:
    fleet.change("margo-gitops.yaml", '"namespace": "n', '"namespace": "nn')
    fleet.commit("Change")


def test_jgit_takes_all_branches_at_once_or_declines_in_its_own_words(fleet: FleetFolder, jgit_server: JgitServer):
    url, path = jgit_server.add_repository()
    assert render(fleet, url).code == 0
    before = refs(path)
    assert sorted(before) == BRANCHES
    change(fleet)
    git = Git(path)
    git.run("config", "testbed.protected", "refs/heads/fleet")
    declined = render(fleet, url)
    assert (declined.code, refs(path)) == (2, before), declined
    assert "remote: plant: refs/heads/fleet is protected\n" in declined.stderr
    assert "refs/heads/fleet: prohibited by the plant: not permitted: update\n" in declined.stderr
    git.run("config", "--unset", "testbed.protected")
    assert render(fleet, url).code == 0
    assert all(value != before[name] for name, value in refs(path).items())
    git.run("fsck", "--strict")


def test_gitolite_takes_all_branches_at_once_or_declines_in_its_own_words(fleet: FleetFolder, gitolite: Gitolite):
    url, writer = gitolite.url("open"), gitolite.command("writer")
    assert render(fleet, url, writer).code == 0
    before = refs(gitolite.path(url))
    assert sorted(before) == BRANCHES
    change(fleet)
    read_only = render(fleet, url, gitolite.command("reader"))
    assert (read_only.code, refs(gitolite.path(url))) == (2, before), read_only
    assert "FATAL: W any open/" in read_only.stderr
    assert render(fleet, url, writer).code == 0

    guarded = gitolite.url("guarded")
    declined = render(fleet, guarded, writer)
    assert (declined.code, refs(gitolite.path(guarded))) == (2, {}), declined
    assert "remote: FATAL: W refs/heads/fleet guarded/" in declined.stderr
