"""`audit verify` and the statement of freshness: it says of the state repo what the state repo holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from audited_world import World
from support.fleet import write_signing_key

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FreshnessLeaf
from margo_gitops.documents.state_layout import FLEET_REF, FRESHNESS_REFS
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.state_repo.freshness_refs import Renewal, add_statement, held_leaves, renew
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.trust.freshness_tree import device_key

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
REF = f"{FRESHNESS_REFS}all"


def renewal_of(world: World, seed: int = 7) -> Renewal:
    return Renewal(read_signing_key(write_signing_key(world.folder / f"key-{seed}", seed)), NOW)


def renewed(world: World, seed: int = 7) -> None:
    repo = StateRepo.open(world.state.path)
    renew(repo, repo.refs.read(), renewal_of(world, seed))


def forged(world: World, leaves: Callable[[list[FreshnessLeaf]], list[FreshnessLeaf]], **more: str) -> None:
    """Sign a statement that says something else than the state repo holds."""
    repo, pack = StateRepo.open(world.state.path), ObjectPack()
    values = repo.refs.read()
    about = leaves(held_leaves(repo, repo.places(values), values))
    commit = more.get("state_commit", values[FLEET_REF])
    made = add_statement(pack, about, more.get("fleet", "plant"), commit, renewal_of(world), values)
    repo.publish(pack, made.moves, values)


def changed(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the proof that the ref holds."""
    proof = json.loads(world.state.run_bytes("cat-file", "blob", f"{REF}:freshness.json"))
    change(proof)
    blob = world.state.run("hash-object", "-w", "--stdin", content=json.dumps(proof).encode())
    tree = world.state.run("mktree", content=f"100644 blob {blob}\tfreshness.json\n")
    world.state.run("update-ref", REF, world.state.run("commit-tree", "-m", "Forge", tree))


def errors(world: World, **options: object) -> list[str]:
    return [each.sentence for each in world.verify(**options).errors]


def test_a_good_statement_is_good(world: World) -> None:
    renewed(world)
    assert errors(world) == []


def test_a_statement_of_an_earlier_state_is_good(world: World) -> None:
    renewed(world)
    world.fleet.site("north", p="later")
    world.commit("Later")
    assert errors(world) == []


def test_who_may_sign_statements_is_looked_at(signed: World) -> None:
    renewed(signed)
    found = signed.verify(signers=signed.signers(1))
    assert found.errors == ()
    assert "may not sign statements of freshness" in found.warnings[-1].what
    assert signed.verify(signers=signed.signers(1, 7)).findings == ()


def one_more(leaves: list[FreshnessLeaf]) -> list[FreshnessLeaf]:
    return [*leaves, FreshnessLeaf(device_key("stranger"), 1, sha256(b""))]


def one_less(leaves: list[FreshnessLeaf]) -> list[FreshnessLeaf]:
    return leaves[1:]


def another_version(leaves: list[FreshnessLeaf]) -> list[FreshnessLeaf]:
    return [replace(leaves[0], version=leaves[0].version + 1), *leaves[1:]]


def another_manifest(leaves: list[FreshnessLeaf]) -> list[FreshnessLeaf]:
    return [replace(leaves[0], manifest=sha256(b"forged")), *leaves[1:]]


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        (one_more, "does not list what"),
        (one_less, "leaves out the device"),
        (another_version, "does not list what"),
        (another_manifest, "does not list what"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_statement_that_says_something_else_is_an_error(
    world: World, leaves: Callable[[list[FreshnessLeaf]], list[FreshnessLeaf]], words: str
) -> None:
    forged(world, leaves)
    found = errors(world)
    assert len(found) == 1
    assert words in found[0]


def test_a_statement_about_no_commit_of_the_fleet_or_another_fleet_is_an_error(world: World) -> None:
    forged(world, lambda leaves: leaves, state_commit="d" * 40)
    assert "not in the branch fleet" in errors(world)[0]
    forged(world, lambda leaves: leaves, fleet="other")
    assert "another fleet" in errors(world)[0]


def test_a_proof_that_was_changed_is_an_error(world: World) -> None:
    renewed(world)
    changed(world, lambda proof: proof["leaves"].pop())
    assert "not the ones that the statement was signed over" in errors(world)[0]


def test_a_signature_over_other_bytes_is_an_error(signed: World) -> None:
    renewed(signed)
    changed(signed, lambda proof: proof.update(statement=proof["statement"].replace("2026-11-28", "2026-12-28")))
    assert "does not belong to these bytes" in errors(signed, signers=signed.signers(1, 7))[0]


def test_a_ref_with_a_history_or_too_many_refs_is_an_error(world: World) -> None:
    renewed(world)
    world.state.run("update-ref", f"{FRESHNESS_REFS}1-3", REF)
    assert "it is the proof of the shard all" in errors(world)[0]
    world.state.run("update-ref", "-d", f"{FRESHNESS_REFS}1-3")
    tree = world.state.run("rev-parse", f"{REF}^{{tree}}")
    world.state.run("update-ref", REF, world.state.run("commit-tree", "-p", REF, "-m", "Next", tree))
    assert "it has parents" in errors(world)[0]
