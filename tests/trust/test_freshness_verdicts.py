"""Judging a proof of freshness: rules FRESH-1 to FRESH-7 of margo_gitops.trust.freshness, and the verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from device_states import RENDERER, STRANGER, allowed
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FreshnessLeaf, FreshnessProof, parse_valid_for, write_statement
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.errors import (
    FreshnessContradicted,
    FreshnessForeign,
    FreshnessInvalid,
    FreshnessRollback,
    SignatureInvalid,
    SignerUnknown,
    TrustRefused,
)
from margo_gitops.trust.freshness import (
    CLOCK_TOLERANCE,
    Freshness,
    FreshnessPolicy,
    HeldVersion,
    assess,
    read_freshness,
    refuse_older,
)
from margo_gitops.trust.freshness_tree import FRESHNESS_NAMESPACE, build_tree, device_key, possible_shards
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import sign

DEVICE = "press-07"
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
WEEK = timedelta(days=7)
SIGNERS = allowed(RENDERER, f'namespaces="{FRESHNESS_NAMESPACE}"')
POLICY = FreshnessPolicy(DEVICE, SIGNERS, "plant")
HELD = HeldVersion(5, sha256(b"manifest 5"), signed=True)


@dataclass(frozen=True)
class Statement:
    """A statement about `press-07` and some other devices, and how it is signed."""

    version: int | None = 5
    manifest: bytes = b"manifest 5"
    others: int = 3
    fleet: str = "plant"
    issued: datetime = NOW
    valid_for: timedelta = WEEK
    key: SigningKey = RENDERER
    namespace: str = FRESHNESS_NAMESPACE
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def proof(self) -> bytes:
        leaves = [FreshnessLeaf(device_key(f"other-{n}"), 1, sha256(b"")) for n in range(self.others)]
        if self.version is not None:
            leaves.append(FreshnessLeaf(device_key(DEVICE), self.version, sha256(self.manifest)))
        tree = build_tree(leaves)
        content = write_statement(
            self.fleet, self.issued, self.issued + self.valid_for, "c" * 40, tree.count, tree.root
        )
        shard = next(name for name in possible_shards(DEVICE) if name in tree.shards)
        proof = FreshnessProof(
            content.decode(),
            sign(content, self.key, self.namespace),
            shard,
            tree.path(shard),
            tree.shards[shard],
        )
        return write_json(write(replace(proof, **self.changes)))

    def read(self, policy: FreshnessPolicy = POLICY) -> Freshness:
        return read_freshness(self.proof, policy)


def verdict(statement: Statement, held: HeldVersion | None = HELD, now: datetime = NOW) -> str:
    return assess(statement.read(), held, now).verdict


@pytest.mark.parametrize("others", [0, 1, 100, 1500])
def test_the_state_that_is_listed_is_fresh(others: int) -> None:
    assert verdict(Statement(others=others)) == "fresh"


def test_the_signer_is_named() -> None:
    assert Statement().read().signer == f"renderer@example.com {RENDERER.public.fingerprint}"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (-CLOCK_TOLERANCE - timedelta(seconds=1), "clock-suspect"),
        (-CLOCK_TOLERANCE, "fresh"),
        (WEEK * 7 / 8 - timedelta(seconds=1), "fresh"),
        (WEEK * 7 / 8, "expiring"),
        (WEEK - timedelta(seconds=1), "expiring"),
        (WEEK, "expired"),
        (timedelta(days=4000), "expired"),
        (timedelta(days=-20_000), "clock-suspect"),
    ],
    ids=str,
)
def test_a_statement_ages(after: timedelta, expected: str) -> None:
    assert verdict(Statement(), now=NOW + after) == expected


def test_a_newer_state_than_the_device_is_given_shows() -> None:
    found = assess(Statement(version=6, manifest=b"manifest 6").read(), HELD, NOW)
    assert found.verdict == "behind"
    assert "lists version 6, this device is given version 5" in found.text


def test_a_signed_state_that_is_newer_than_the_statement_is_fresh_and_an_unsigned_one_is_not_known() -> None:
    older = Statement(version=4, manifest=b"manifest 4")
    assert verdict(older) == "fresh"
    assert verdict(older, replace(HELD, signed=False)) == "not-yet-known"
    assert verdict(Statement(), replace(HELD, signed=False)) == "fresh"


def test_no_statement_and_one_that_does_not_list_the_device_say_nothing() -> None:
    assert assess(None, HELD, NOW).verdict == "not-yet-known"
    assert verdict(Statement(version=None)) == "not-yet-known"


def test_who_holds_nothing_though_something_is_listed_is_behind() -> None:
    assert verdict(Statement(), None) == "behind"


@pytest.mark.parametrize("after", [timedelta(), WEEK * 2, -WEEK], ids=["fresh", "expired", "clock"])
def test_the_version_with_other_content_is_a_contradiction(after: timedelta) -> None:
    with pytest.raises(FreshnessContradicted, match="is not the fleet's version 5"):
        assess(Statement(manifest=b"forged").read(), HELD, NOW + after)


def test_a_key_of_another_use_cannot_renew() -> None:
    policy = replace(POLICY, signers=allowed(RENDERER, 'namespaces="git"'))
    with pytest.raises(SignerUnknown, match="may not sign statements of freshness") as refusal:
        Statement().read(policy)
    assert refusal.value.device == DEVICE


def test_a_freshness_key_cannot_sign_state() -> None:
    at = NOW
    assert SIGNERS.find(RENDERER.public, "git", at) is None
    assert SIGNERS.find(RENDERER.public, FRESHNESS_NAMESPACE, at) is not None


def test_a_strangers_key_is_refused() -> None:
    with pytest.raises(SignerUnknown):
        Statement(key=STRANGER).read()


def test_g_f_5_a_signature_for_another_use_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        Statement(namespace="git").read()


def test_a_key_that_was_valid_then_and_is_not_now_still_proves() -> None:
    options = f'namespaces="{FRESHNESS_NAMESPACE}",valid-before="20261122Z"'
    policy = replace(POLICY, signers=allowed(RENDERER, options))
    assert Statement().read(policy).leaf is not None
    with pytest.raises(SignerUnknown):
        Statement(issued=NOW + timedelta(days=2)).read(policy)


def test_the_statement_of_another_fleet_is_refused_where_the_fleet_is_known() -> None:
    with pytest.raises(FreshnessForeign, match="is the fleet other's"):
        Statement(fleet="other").read()
    assert Statement(fleet="other").read(replace(POLICY, fleet=None)).statement.fleet == "other"


def test_the_proof_of_another_shard_is_refused() -> None:
    statement = Statement(others=100)
    shards = {name: read for name in ("press-01", "press-02", "press-03") if (read := possible_shards(name)[1])}
    stranger = next(name for name, shard in shards.items() if shard != possible_shards(DEVICE)[1])
    with pytest.raises(FreshnessForeign, match="in which this device is not"):
        statement.read(replace(POLICY, device=stranger))


def changed_proofs() -> dict[str, Callable[[dict[str, Any]], None]]:
    def drop_leaf(proof: dict[str, Any]) -> None:
        proof["leaves"].pop()

    def swap(proof: dict[str, Any]) -> None:
        proof["leaves"].reverse()

    def double(proof: dict[str, Any]) -> None:
        proof["leaves"].insert(0, proof["leaves"][0])

    def raise_version(proof: dict[str, Any]) -> None:
        proof["leaves"][0]["version"] += 1

    def cut_path(proof: dict[str, Any]) -> None:
        proof["path"].pop()

    def other_path(proof: dict[str, Any]) -> None:
        proof["path"][0] = "0" * 64

    def unknown_key(proof: dict[str, Any]) -> None:
        proof["more"] = 1

    def no_statement(proof: dict[str, Any]) -> None:
        proof["statement"] = "{}"

    def no_shard(proof: dict[str, Any]) -> None:
        proof["shard"] = "4-0000"

    def huge_version(proof: dict[str, Any]) -> None:
        proof["leaves"][0]["version"] = 2**64

    found = [drop_leaf, swap, double, raise_version, cut_path, other_path, unknown_key, no_statement, no_shard]
    return {change.__name__: change for change in [*found, huge_version]}


@pytest.mark.parametrize("change", changed_proofs().values(), ids=changed_proofs().keys())
def test_a_proof_that_was_changed_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    proof = json.loads(Statement(others=100).proof)
    change(proof)
    with pytest.raises(FreshnessInvalid):
        read_freshness(json.dumps(proof).encode(), POLICY)


def test_a_statement_that_was_changed_by_one_character_is_refused() -> None:
    proof = json.loads(Statement().proof)
    proof["statement"] = proof["statement"].replace("2026-11-28", "2027-11-21")
    with pytest.raises(SignatureInvalid):
        read_freshness(json.dumps(proof).encode(), POLICY)


@pytest.mark.parametrize("field", ["issued", "expires"])
def test_a_time_that_does_not_exist_is_refused(field: str) -> None:
    statement = json.loads(json.loads(Statement().proof)["statement"])
    statement[field] = "2026-02-31T00:00:00Z"
    with pytest.raises(FreshnessInvalid, match="no such time"):
        Statement(changes={"statement": json.dumps(statement)}).read()


def test_a_statement_that_never_was_valid_is_refused() -> None:
    with pytest.raises(FreshnessInvalid, match="must be later than issued"):
        Statement(valid_for=timedelta()).read()


def test_a_statement_that_is_valid_for_more_than_a_year_is_refused() -> None:
    assert Statement(valid_for=timedelta(days=366)).read()
    with pytest.raises(FreshnessInvalid, match="must be at most 366 days after issued"):
        Statement(valid_for=timedelta(days=366, seconds=1)).read()


@given(st.binary(max_size=300))
def test_bytes_of_strangers_are_refused_and_nothing_else(content: bytes) -> None:
    with pytest.raises(TrustRefused):
        read_freshness(content, POLICY)


@given(st.data())
def test_no_flipped_byte_changes_what_a_proof_says(data: st.DataObject) -> None:
    statement = Statement(others=3)
    whole, truth = statement.proof, statement.read()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read_freshness(bytes(flipped), POLICY)
    except TrustRefused:
        return
    assert (found.statement, found.leaf, found.issued, found.expires) == (
        truth.statement,
        truth.leaf,
        truth.issued,
        truth.expires,
    )


def test_an_oversized_proof_is_refused_before_it_is_read() -> None:
    with pytest.raises(FreshnessInvalid, match="more than the 1048576"):
        read_freshness(b" " * (1024 * 1024 + 1), POLICY)


def test_g_f_9_an_older_proof_is_refused_and_the_same_moment_is_not() -> None:
    held = Statement().read()
    with pytest.raises(FreshnessRollback, match="was issued 2026-11-20"):
        refuse_older(Statement(issued=NOW - timedelta(days=1)).read(), held, NOW)
    refuse_older(Statement(valid_for=WEEK * 2).read(), held, NOW)
    refuse_older(held, None, NOW)


def test_a_statement_made_with_a_clock_in_the_future_does_not_keep_out_the_right_ones() -> None:
    mistaken, right = Statement(issued=NOW + timedelta(days=365)).read(), Statement().read()
    refuse_older(right, mistaken, NOW)
    with pytest.raises(FreshnessRollback):
        refuse_older(right, mistaken, NOW + timedelta(days=366))
    # A device whose clock stands at 1970 takes neither of two for the future of the other.
    with pytest.raises(FreshnessRollback):
        refuse_older(right, mistaken, datetime(1970, 1, 1, tzinfo=UTC))


@given(st.text("abcdef0123456789-", min_size=1, max_size=20))
def test_renewals_lie_between_half_and_three_quarters(device: str) -> None:
    moment = Statement().read().renewal(device)
    assert NOW + WEEK / 2 <= moment < NOW + WEEK * 3 / 4


def test_g_f_7_renewals_of_a_fleet_are_spread() -> None:
    held = Statement().read()
    moments = sorted(held.renewal(f"press-{number}") for number in range(1000))
    hours = [sum(1 for each in moments if (each - NOW) // timedelta(hours=6) == slot) for slot in range(14, 21)]
    assert min(hours) > 100


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "1.5h", "7 d", "400d", "99999m", "7w", "٣d"])
def test_no_time_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the message differs with what is wrong
        parse_valid_for(text)


def test_times_are_read() -> None:
    read = [parse_valid_for(text) for text in ("90m", "36h", "7d")]
    assert read == [timedelta(minutes=90), timedelta(hours=36), WEEK]
