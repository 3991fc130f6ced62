"""Statements of freshness in a state repo: rules STATEMENT-1 to STATEMENT-5, read back as a device reads them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.fleet import write_signing_key
from support.git_cli import Git
from support.state_publishing import Renderer

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.errors import (
    FreshnessMissing,
    SignatureMissing,
    SignerUnknown,
    StateMoved,
    StateRepoUnusable,
    StateTampered,
)
from margo_gitops.state_repo.freshness_refs import Renewal, current_statement, device_proof, is_due, renew
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers
from margo_gitops.trust.freshness import FreshnessPolicy, HeldVersion, assess, read_freshness
from margo_gitops.trust.ssh_key import parse_signing_key

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
DEVICES = {"a": {"web": b"1"}, "b": {"web": b"2", "db": b"3"}, "c": {}}


@pytest.fixture
def renewal(tmp_path: Path) -> Renewal:
    key = parse_signing_key(write_signing_key(tmp_path / "freshness").read_bytes())
    return Renewal(key, NOW)


@pytest.fixture
def signers(renewal: Renewal) -> AllowedSigners:
    return parse_allowed_signers(f"ci {renewal.key.public}\n".encode(), "allowed_signers")


def repo_of(renderer: Renderer) -> StateRepo:
    return StateRepo.open(renderer.git.path)


def refs(renderer: Renderer) -> dict[str, str]:
    lines = renderer.git.run("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in lines)


def test_every_device_finds_its_state_proven(renderer: Renderer, renewal: Renewal, signers: AllowedSigners):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    renew(repo, repo.refs.read(), renewal)
    values = repo.refs.read()
    for device in DEVICES:
        manifest = renderer.git.run_bytes("cat-file", "blob", f"devices/{device}:manifest.json")
        proof = read_freshness(device_proof(repo, values, device), FreshnessPolicy(device, signers, "plant"))
        held = HeldVersion(1, sha256(manifest), signed=True)
        assert assess(proof, held, NOW).verdict == "fresh"
        assert assess(proof, held, NOW + timedelta(days=7)).verdict == "expired"


def test_git_finds_nothing_wrong_and_the_ref_holds_one_file_and_no_history(renderer: Renderer, renewal: Renewal):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    renew(repo, repo.refs.read(), renewal)
    renew(repo, repo.refs.read(), replace(renewal, issued=NOW + timedelta(days=1)))
    renderer.git.run("fsck", "--strict", "--full")
    assert renderer.git.run("ls-tree", "--name-only", f"{FRESHNESS_REFS}all") == "freshness.json"
    assert renderer.git.run("rev-list", "--count", f"{FRESHNESS_REFS}all") == "1"


def test_a_renewal_moves_no_other_ref(renderer: Renderer, renewal: Renewal):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    before = refs(renderer)
    renew(repo, repo.refs.read(), renewal)
    after = refs(renderer)
    assert {name for name in after if name not in before} == {f"{FRESHNESS_REFS}all"}
    assert {name: after[name] for name in before} == before


def test_the_same_moment_and_key_give_the_same_commits(renderer: Renderer, renewal: Renewal):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    first = renew(repo, repo.refs.read(), renewal)
    assert renew(repo, repo.refs.read(), renewal).moves == first.moves


def test_a_fleet_that_grows_changes_its_shards_in_one_move(renderer: Renderer, renewal: Renewal, signers):
    repo = repo_of(renderer)
    renderer.publish({f"d{number}": {} for number in range(3)})
    renew(repo, repo.refs.read(), renewal)
    renderer.publish({f"d{number}": {} for number in range(70)})
    renewed = renew(repo, repo.refs.read(), renewal)
    shards = sorted(name.removeprefix(FRESHNESS_REFS) for name in refs(renderer) if name.startswith(FRESHNESS_REFS))
    assert shards == [f"1-{digit:x}" for digit in range(16)]
    assert renewed.devices == 70
    values = repo.refs.read()
    for number in range(70):
        proof = read_freshness(
            device_proof(repo, values, f"d{number}"), FreshnessPolicy(f"d{number}", signers, "plant")
        )
        assert proof.leaf is not None


def test_a_device_that_left_is_still_spoken_for(renderer: Renderer, renewal: Renewal, signers: AllowedSigners):
    renderer.publish(DEVICES)
    renderer.publish({name: files for name, files in DEVICES.items() if name != "a"})
    repo = repo_of(renderer)
    renew(repo, repo.refs.read(), renewal)
    proof = read_freshness(device_proof(repo, repo.refs.read(), "a"), FreshnessPolicy("a", signers, None))
    assert proof.leaf is not None
    assert proof.leaf.version == 1


def test_a_render_that_came_between_keeps_the_statement_out(renderer: Renderer, renewal: Renewal):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    values = repo.refs.read()
    renderer.publish({**DEVICES, "a": {"web": b"9"}})
    before = refs(renderer)
    with pytest.raises(StateMoved):
        renew(repo, values, renewal)
    assert refs(renderer) == before


def test_state_that_no_render_wrote_is_never_said_to_be_fresh(renderer: Renderer, renewal: Renewal):
    renderer.publish(DEVICES)
    renderer.git.run("update-ref", "refs/heads/devices/a", "refs/heads/devices/b")
    repo = repo_of(renderer)
    with pytest.raises(StateTampered, match="is not what the fleet branch holds"):
        renew(repo, repo.refs.read(), renewal)
    assert current_statement(repo, repo.refs.read()) is None


def test_a_state_that_no_signer_signed_is_not_spoken_for(
    renderer: Renderer, renewal: Renewal, signers: AllowedSigners, tmp_path: Path
):
    demanding = replace(renewal, signers=signers)
    stranger = parse_signing_key(write_signing_key(tmp_path / "stranger", 9).read_bytes())
    repo = repo_of(renderer)
    renderer.publish(DEVICES)
    with pytest.raises(SignatureMissing):
        renew(repo, repo.refs.read(), demanding)
    renderer.publish({**DEVICES, "a": {"web": b"5"}}, key=stranger)
    with pytest.raises(SignerUnknown):
        renew(repo, repo.refs.read(), demanding)
    assert current_statement(repo, repo.refs.read()) is None
    renderer.publish({**DEVICES, "a": {"web": b"6"}}, key=renewal.key)
    assert renew(repo, repo.refs.read(), demanding).devices == 3


def test_an_empty_state_repo_has_nothing_to_make_a_statement_of(renderer: Renderer, renewal: Renewal):
    repo = StateRepo.open_or_create(renderer.git.path)
    with pytest.raises(StateRepoUnusable, match="nothing to make a statement of"):
        renew(repo, repo.refs.read(), renewal)
    with pytest.raises(FreshnessMissing):
        device_proof(repo, repo.refs.read(), "a")


@pytest.mark.parametrize(
    ("days", "due"), [(-1, True), (0, False), (3, False), (4, True), (9, True)], ids=lambda value: str(value)
)
def test_a_statement_is_due_after_half_of_its_life(renderer: Renderer, renewal: Renewal, days: int, due: bool):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    assert is_due(repo, repo.refs.read(), NOW)
    renew(repo, repo.refs.read(), renewal)
    assert is_due(repo, repo.refs.read(), NOW + timedelta(days=days)) is due


def test_a_statement_of_an_older_state_is_due(renderer: Renderer, renewal: Renewal):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    renew(repo, repo.refs.read(), renewal)
    renderer.publish({**DEVICES, "a": {"web": b"9"}})
    assert is_due(repo, repo.refs.read(), NOW)


def test_a_clone_of_the_state_repo_works_as_before(renderer: Renderer, renewal: Renewal, tmp_path: Path):
    renderer.publish(DEVICES)
    repo = repo_of(renderer)
    renew(repo, repo.refs.read(), renewal)
    Git(tmp_path).run("clone", "--quiet", renderer.git.path, tmp_path / "clone")
    assert (tmp_path / "clone" / "devices" / "north" / "b" / "manifest.json").exists()
