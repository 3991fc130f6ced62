"""The proof of freshness by git from real servers: what is asked, what it costs, and what a bad source can do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.fleet import write_signing_key
from support.state_publishing import Renderer
from testbed.git_server import GitServer

from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.errors import SourceMisbehaved
from margo_gitops.state_repo.freshness_refs import Renewal, device_proof, renew
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import parse_signing_key

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
DEVICES = {f"press-{number}": {"web": b"%d" % number} for number in range(80)}


class State:
    """A state repo of 80 devices with statements."""

    def __init__(self, folder: Path) -> None:
        self.renderer = Renderer(folder / "state.git")
        self.key = parse_signing_key(write_signing_key(folder / "key").read_bytes())

    def renew(self, days: int = 0) -> bytes:
        repo = self.renderer.repo
        renew(repo, repo.refs.read(), Renewal(self.key, NOW + timedelta(days=days)))
        return device_proof(repo, repo.refs.read(), "press-7")

    @property
    def ref(self) -> str:
        return next(f"{FRESHNESS_REFS}{shard}" for shard in possible_shards("press-7") if shard.startswith("1-"))


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path)
    state.renderer.publish(DEVICES)
    return state


@pytest.fixture
def local(state: State) -> GitTransport:
    return GitTransport(GitSource(url=f"file://{state.renderer.git.path}", device="press-7"))


@pytest.mark.real
def test_an_idle_poll_costs_the_same_whatever_is_renewed(state: State, git_server: GitServer) -> None:
    served = git_server.add_repository(state.renderer.git.path)  # where it is: a renewal is served at once
    transport = GitTransport(GitSource(url=served.http(), device="press-7"))
    try:
        held = transport.pull(None).snapshot
        assert isinstance(held, Snapshot)

        def idle() -> tuple[int, int, int]:
            before = transport.cost
            assert transport.pull(held).snapshot is None
            spent = transport.cost - before
            return spent.requests, spent.bytes_up, spent.bytes_down

        without = idle()
        proof = state.renew()
        assert idle() == without
        before = transport.cost
        assert transport.freshness("press-7", None) == proof
        spent = transport.cost - before
        assert (spent.requests, spent.bytes_down < 8_000) == (2, True)
        before = transport.cost
        assert transport.freshness("press-7", proof) is None
        assert (transport.cost - before).requests == 1
        assert idle() == without
        newer = state.renew(days=1)
        assert transport.freshness("press-7", proof) == newer
    finally:
        transport.close()


def test_a_source_without_statements_has_none(local: GitTransport) -> None:
    assert local.freshness("press-7", None) is None


def test_a_renewal_is_seen_though_nothing_else_changed(state: State, local: GitTransport) -> None:
    first = state.renew()
    assert local.freshness("press-7", None) == first
    assert local.freshness("press-7", first) is None
    second = state.renew(days=1)
    assert second != first
    assert local.freshness("press-7", first) == second


@pytest.mark.parametrize("what", ["a device branch", "two files", "a folder", "a link"])
def test_a_ref_that_holds_something_else_is_refused(state: State, local: GitTransport, what: str) -> None:
    state.renew()
    git = state.renderer.git
    blob = git.run("rev-parse", f"{state.ref}:freshness.json")
    trees = {
        "two files": f"100644 blob {blob}\tfreshness.json\n100644 blob {blob}\tmore\n",
        "a folder": f"040000 tree {git.run('rev-parse', 'fleet^{tree}')}\tfreshness.json\n",
        "a link": f"120000 blob {blob}\tfreshness.json\n",
    }
    if what in trees:
        tree = git.run("mktree", content=trees[what])
        tip = git.run("commit-tree", "-m", "Forge", tree)
    else:
        tip = git.run("rev-parse", "devices/press-7")
    git.run("update-ref", state.ref, tip)
    with pytest.raises(SourceMisbehaved, match=r"does not hold the file freshness\.json alone"):
        local.freshness("press-7", None)
