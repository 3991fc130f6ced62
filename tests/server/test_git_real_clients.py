"""Real git clients clone from the server and pull from it: each sees one device's branch, whatever it speaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dulwich.client
import dulwich.porcelain
import pygit2
import pytest
from server.serving import FLEET, HMI, ServedFleet, served_fleet
from support.fleet import write_signing_key
from support.foreign_git import isomorphic_git, jgit
from support.git_cli import Git

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.state_repo.compaction import Compaction, choose_boundary
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust.freshness_tree import possible_shards
from margo_gitops.trust.snapshot import Snapshot

REF = device_ref("press-01")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A server over a fleet that grows."""
    with served_fleet(tmp_path_factory.mktemp("git")) as fleet:
        fleet.render(FLEET)
        for device in FLEET:
            fleet.token(device)
        yield fleet.start(limits={"requestsPerMinute": 1_000_000, "burst": 1_000_000})


def url(served: ServedFleet, device: str = "press-01") -> str:
    return f"http://{device}:{served.tokens[device]}@{served.host}:{served.port}/git/state.git"


def change(served: ServedFleet, content: bytes) -> str:
    """Render another state of every device, and return the commit of press-01."""
    served.render({**FLEET, "press-01": {"hmi": HMI + content}, "press-02": {"hmi": HMI + content}})
    return tip(served)


def tip(served: ServedFleet) -> str:
    return served.renderer.git.run("rev-parse", REF)


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_git_clones_and_pulls_in_every_protocol_version(served: ServedFleet, tmp_path: Path, version: str) -> None:
    options = ("-c", f"protocol.version={version}")
    Git(tmp_path).run(*options, "clone", "--quiet", url(served), "clone")
    clone = Git(tmp_path / "clone")
    assert clone.run("rev-parse", "HEAD") == tip(served)
    assert clone.run("for-each-ref", "--format=%(refname)", "refs/remotes").split() == [
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/devices/press-01",
    ]
    for number in range(3):
        new = change(served, f"# {version} {number}\n".encode())
        clone.run(*options, "pull", "--quiet")
        assert clone.run("rev-parse", "HEAD") == new
    clone.run("fsck", "--strict")
    assert clone.run("rev-list", "--count", "HEAD") == served.renderer.git.run("rev-list", "--count", REF)


@pytest.mark.parametrize("version", ["0", "2"])
def test_git_clones_shallow_deepens_and_gets_the_whole_history(
    served: ServedFleet, tmp_path: Path, version: str
) -> None:
    for number in range(4):
        change(served, f"# deep {version} {number}\n".encode())
    options = ("-c", f"protocol.version={version}")
    Git(tmp_path).run(*options, "clone", "--quiet", "--depth=1", url(served), "clone")
    clone = Git(tmp_path / "clone")
    counts = [clone.run("rev-list", "--count", "HEAD")]
    new = change(served, f"# deep {version} again\n".encode())
    clone.run(*options, "pull", "--quiet")
    assert clone.run("rev-parse", "HEAD") == new
    counts.append(clone.run("rev-list", "--count", "HEAD"))
    clone.run(*options, "fetch", "--quiet", "--deepen=1")
    counts.append(clone.run("rev-list", "--count", "HEAD"))
    clone.run(*options, "fetch", "--quiet", "--depth=2")
    counts.append(clone.run("rev-list", "--count", "HEAD"))
    clone.run(*options, "fetch", "--quiet", "--unshallow")
    clone.run("fsck", "--strict")
    assert counts == ["1", "2", "3", "2"]
    assert clone.run("rev-list", "HEAD") == served.renderer.git.run("rev-list", REF)


def test_git_asks_for_the_one_ref_as_devices_do(served: ServedFleet, tmp_path: Path) -> None:
    clone = Git(tmp_path / "bare").init(bare=True)
    clone.run("fetch", "--quiet", "--depth=1", url(served), f"{REF}:refs/heads/state")
    assert clone.run("rev-parse", "state") == tip(served)
    assert clone.run("ls-remote", url(served), "refs/heads/devices/press-02") == ""


def test_dulwich_clones_and_pulls(served: ServedFleet, tmp_path: Path) -> None:
    with dulwich.porcelain.clone(url(served), tmp_path / "clone", checkout=False) as repo:
        new = change(served, b"# dulwich\n")
        found = dulwich.porcelain.fetch(repo, url(served))
        assert found.refs[dulwich.porcelain.Ref(REF.encode())] == new.encode()
        assert repo[new.encode()].id == new.encode()
    Git(tmp_path / "clone").run("fsck", "--strict", new)


def test_libgit2_clones_and_pulls(served: ServedFleet, tmp_path: Path) -> None:
    repository = pygit2.clone_repository(url(served), str(tmp_path / "clone"), bare=True)
    assert str(repository.revparse_single("HEAD").id) == tip(served)
    new = change(served, b"# libgit2\n")
    repository.remotes["origin"].fetch([f"{REF}:{REF}"])
    assert str(repository.references[REF].target) == new
    Git(tmp_path / "clone").run("fsck", "--strict", new)


@pytest.mark.real
@pytest.mark.parametrize("how", ["clone", "clone at depth 1"])
def test_isomorphic_git_clones_and_pulls(served: ServedFleet, tmp_path: Path, how: str) -> None:
    credentials = ("press-01", served.tokens["press-01"])
    plain = f"{served.url}/git/state.git"
    assert isomorphic_git(tmp_path / "clone", plain, credentials, how) == tip(served)
    new = change(served, f"# isomorphic-git {how}\n".encode())
    assert isomorphic_git(tmp_path / "clone", plain, credentials, "pull") == new
    Git(tmp_path / "clone").run("fsck", "--strict")


@pytest.mark.real
def test_jgit_clones_and_pulls(served: ServedFleet, tmp_path: Path) -> None:
    credentials = ("press-01", served.tokens["press-01"])
    jgit(tmp_path, credentials, "clone", "--bare", f"{served.url}/git/state.git", str(tmp_path / "clone"))
    clone = Git(tmp_path / "clone")
    assert clone.run("rev-parse", REF) == tip(served)
    new = change(served, b"# jgit\n")
    jgit(tmp_path, credentials, "--git-dir", str(tmp_path / "clone"), "fetch", "origin", f"+{REF}:{REF}")
    assert clone.run("rev-parse", REF) == new
    clone.run("fsck", "--strict")


def test_the_agents_client_gets_the_bytes_that_http_serves(served: ServedFleet, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(served.tokens["press-01"])
    source = GitSource(f"{served.url}/git/state.git", device="press-01", token_file=tmp_path / "token")
    agent = GitTransport(source)
    held = agent.pull(None).snapshot
    assert isinstance(held, Snapshot)
    new = change(served, b"# the agent\n")
    snapshot = agent.pull(held).snapshot
    agent.close()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.revision == new
    with served.client("press-01") as client:
        assert client.get("/api/v1/deployments").content == snapshot.manifest
        for reference in served.manifest("press-01")["deployments"]:
            assert client.get(reference["url"]).content == snapshot.deployments[reference["deploymentId"]]


def test_g_f_8_the_agents_client_gets_the_proof_of_its_shard_and_no_other(fleet: ServedFleet, tmp_path: Path) -> None:
    proofs = {shard: f"proof of {shard}\n".encode() for shard in ("2-ff", possible_shards("press-01")[2])}
    for shard, content in proofs.items():
        git = fleet.renderer.git
        blob = git.run("hash-object", "-w", "--stdin", content=content)
        tree = git.run("mktree", content=f"100644 blob {blob}\tfreshness.json\n")
        git.run("update-ref", f"refs/heads/freshness/{shard}", git.run("commit-tree", "-m", "Renew", tree))
    fleet.start()
    (tmp_path / "token").write_text(fleet.tokens["press-01"])
    agent = GitTransport(GitSource(f"{fleet.url}/git/state.git", device="press-01", token_file=tmp_path / "token"))
    assert agent.freshness("press-01", None) == proofs[possible_shards("press-01")[2]]
    assert agent.freshness("press-02", None) is None
    agent.close()


def test_on_one_machine_without_identities_git_says_who_it_is_in_a_header(fleet: ServedFleet, tmp_path: Path) -> None:
    fleet.start(identity={"none": {"device": "press-02"}})
    plain = f"{fleet.url}/git/state.git"
    git = Git(tmp_path)
    assert git.run("ls-remote", plain, "refs/heads/*").endswith(device_ref("press-02"))
    named = ("-c", "http.extraHeader=Margo-Device: press-01")
    assert git.run(*named, "ls-remote", plain, "refs/heads/*").endswith(REF)


def test_git_is_told_to_send_its_credentials_and_a_wrong_token_reads_nothing(
    served: ServedFleet, tmp_path: Path
) -> None:
    with served.client() as client:
        refused = client.get("/git/state.git/info/refs?service=git-upload-pack")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic ")
    wrong = f"http://press-01:{'x' * 43}@{served.host}:{served.port}/git/state.git"
    with pytest.raises(Exception, match="Authentication failed"):
        Git(tmp_path).run("ls-remote", wrong)


def test_nobody_pushes(served: ServedFleet, tmp_path: Path) -> None:
    Git(tmp_path).run("clone", "--quiet", url(served), "clone")
    clone = Git(tmp_path / "clone")
    clone.commit({"manifest.json": b"{}\n"})
    with pytest.raises(Exception, match="403"):
        clone.run("push", "--quiet", "origin", f"HEAD:{REF}")


def test_a_history_that_ends_at_a_checkpoint_is_cloned_and_pulled(fleet: ServedFleet, tmp_path: Path) -> None:
    contents = iter(range(100))

    def edit(times: int) -> None:
        for _ in range(times):
            fleet.renderer.time += 60
            change(fleet, f"# {next(contents)}\n".encode())

    edit(6)
    fleet.start()
    Git(tmp_path).run("clone", "--quiet", url(fleet), "before")
    (tmp_path / "token").write_text(fleet.tokens["press-01"])
    source = GitSource(f"{fleet.url}/git/state.git", device="press-01", token_file=tmp_path / "token")
    agent = GitTransport(source)
    held = agent.pull(None).snapshot
    assert isinstance(held, Snapshot)
    edit(4)
    Git(tmp_path).run("clone", "--quiet", url(fleet), "late")
    work = Compaction(fleet.renderer.repo)
    key = read_signing_key(write_signing_key(tmp_path / "key"))
    boundary = choose_boundary(work.repo.objects, fleet.renderer.refs(), fleet.renderer.time - 120)
    digest = work.archive(boundary, tmp_path / "archive")
    work.checkpoint(boundary, digest, key, fleet.renderer.time, fleet.renderer.refs())
    work.cut(key, None)
    work.release()
    with pytest.raises(Exception, match="Not a valid object name"):
        fleet.renderer.git.run("cat-file", "-p", held.revision or "")
    snapshot = agent.pull(held).snapshot
    agent.close()
    assert isinstance(snapshot, Snapshot)
    assert snapshot.revision == tip(fleet)
    for version in ("0", "2"):
        for depth, count in ((), "3"), (("--depth=1",), "1"), (("--depth=50",), "3"):
            folder = tmp_path / f"clone{version}{''.join(depth)}"
            Git(tmp_path).run("-c", f"protocol.version={version}", "clone", "--quiet", *depth, url(fleet), str(folder))
            assert (version, depth, Git(folder).run("rev-list", "--count", "HEAD")) == (version, depth, count)
            Git(folder).run("fsck", "--strict")
    edit(1)
    late = Git(tmp_path / "late")
    late.run("pull", "--quiet")
    assert late.run("rev-list", "--count", "HEAD") == "12"
    before = Git(tmp_path / "before")  # its newest commit was cut: git must be allowed to end the history here
    before.run("fetch", "--quiet", "--update-shallow")
    assert before.run("rev-parse", "FETCH_HEAD") == tip(fleet)
    before.run("fsck")
    Git(tmp_path / "clone2").run("pull", "--quiet")
    Git(tmp_path / "clone0--depth=1").run("-c", "protocol.version=0", "fetch", "--quiet", "--unshallow")
    assert Git(tmp_path / "clone2").run("rev-list", "--count", "HEAD") == "4"
    assert Git(tmp_path / "clone0--depth=1").run("rev-list", "--count", "FETCH_HEAD") == "4"
