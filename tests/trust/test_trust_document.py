"""The chain of trust documents: rules ROOT-1 to ROOT-11 of margo_gitops.trust.trust_document."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trust_documents import (
    EXPIRES,
    FRESHNESS,
    ISSUED,
    PERSON,
    RENDERER,
    ROOTS,
    STRANGER,
    document,
    key,
    listed,
    signed,
)

from margo_gitops.digests import sha256
from margo_gitops.documents.trust_document import FloorChange, KeyRole, RevokedKey, TrustDocument, write_envelope
from margo_gitops.errors import (
    TrustDocumentExpired,
    TrustDocumentForeign,
    TrustDocumentGap,
    TrustDocumentInvalid,
    TrustDocumentRollback,
    TrustDocumentUnsigned,
    TrustRefused,
)
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.trust_document import change_floor, first, follow, read_envelope

IN_TIME = datetime(2026, 6, 1, tzinfo=UTC)
RETIRED_AT = "2026-05-01T00:00:00Z"
FIRST = first(signed(document(), *ROOTS[:2]))
NEXT_ROOTS = (ROOTS[0], key(111), key(112))
HELD_FLOOR = Floor(2**64 - 1, sha256(b"forged"), "1" * 40)


def revoked(each: SigningKey, reason: str) -> tuple[RevokedKey, ...]:
    return (RevokedKey(str(each.public), reason, RETIRED_AT),)  # type: ignore[arg-type]


def test_a_first_document_counts_with_its_own_threshold_and_keeps_its_bytes():
    content = signed(document(7), ROOTS[0], ROOTS[2])
    assert first(content, "plant").content == content
    assert first(content).version == 7


@pytest.mark.parametrize(
    ("content", "refusal", "says"),
    [
        (b"", TrustDocumentInvalid, "cannot be read"),
        (b" " * 70_000, TrustDocumentInvalid, "bytes"),
        (write_envelope("{}", ()), TrustDocumentInvalid, "fleet is missing"),
        (write_envelope(json.dumps({"more": 1}), ()), TrustDocumentInvalid, "unknown key 'more'"),
        (json.dumps({"document": "{}", "signatures": [], "more": 1}).encode(), TrustDocumentInvalid, "more"),
        (write_envelope("{}", ("-----BEGIN SSH SIGNATURE-----",)), TrustDocumentInvalid, "cannot be read"),
        (signed(document(threshold=4), *ROOTS), TrustDocumentInvalid, "threshold"),
        (signed(document(render=(RENDERER, RENDERER)), *ROOTS), TrustDocumentInvalid, "appears 2 times"),
        (signed(document(expires=ISSUED), *ROOTS), TrustDocumentInvalid, "later than issued"),
        (signed(document(revoked=revoked(RENDERER, "compromised")), *ROOTS), TrustDocumentInvalid, "compromised"),
        (signed(document(revoked=revoked(ROOTS[0], "retired"), threshold=3), *ROOTS), TrustDocumentInvalid, "2 are"),
        (signed(document(floors=(FloorChange("a", "why"),)), *ROOTS), TrustDocumentInvalid, "neither"),
        (signed(document(fleet="other"), *ROOTS), TrustDocumentForeign, "other"),
        (signed(document()), TrustDocumentUnsigned, "signed by 0 root keys of version 1, it needs 2"),
        (signed(document(), ROOTS[0]), TrustDocumentUnsigned, "not by root-2, root-3"),
        (signed(document(), ROOTS[0], ROOTS[0]), TrustDocumentUnsigned, "signed by 1"),
        (signed(document(), ROOTS[0], STRANGER), TrustDocumentUnsigned, "signed by 1"),
        (signed(document(), *ROOTS, namespace="git"), TrustDocumentUnsigned, "signed by 0"),
        (signed(document(revoked=revoked(ROOTS[0], "retired")), *ROOTS[:2]), TrustDocumentUnsigned, "signed by 1"),
    ],
)
def test_a_first_document_that_does_not_count_says_why(content, refusal, says):
    with pytest.raises(refusal) as caught:
        first(content, "plant")
    assert says in str(caught.value)


def test_a_key_that_is_no_key_is_named():
    said = document()
    bad = replace(said.roles, render=KeyRole((replace(listed(RENDERER)[0], key="ssh-rsa AAAA"),)))
    with pytest.raises(TrustDocumentInvalid, match="a key cannot be used"):
        first(signed(replace(said, roles=bad), *ROOTS))


def test_the_next_version_needs_the_keys_of_the_one_before_and_its_own():
    said = document(2, roots=NEXT_ROOTS, threshold=2)
    assert follow(FIRST, signed(said, *ROOTS[:2], NEXT_ROOTS[1])).version == 2
    for too_few in (ROOTS[:2], NEXT_ROOTS[:2], NEXT_ROOTS[1:]):
        with pytest.raises(TrustDocumentUnsigned):
            follow(FIRST, signed(said, *too_few))


def test_a_root_key_that_is_revoked_signs_the_version_that_revokes_it_for_the_last_time():
    without = document(2, revoked=revoked(ROOTS[0], "retired"))
    second = follow(FIRST, signed(without, *ROOTS))
    with pytest.raises(TrustDocumentUnsigned):
        follow(second, signed(replace(without, version=3), *ROOTS[:2]))


@given(st.lists(st.tuples(st.integers(1, 3), st.sets(st.integers(101, 106), min_size=3)), min_size=1, max_size=6))
def test_a_chain_is_followed_in_order_and_never_otherwise(changes):
    held, roots, chain = FIRST, ROOTS, []
    for version, (threshold, seeds) in enumerate(changes, start=2):
        named = tuple(key(seed) for seed in sorted(seeds))
        chain.append(signed(document(version, roots=named, threshold=threshold), *dict.fromkeys((*roots, *named))))
        roots = named
    for at, content in enumerate(chain):
        for skipped in chain[at + 1 :]:
            with pytest.raises(TrustDocumentGap):
                follow(held, skipped)
        before, held = held, follow(held, content)
        assert (held.version, follow(held, content)) == (before.version + 1, held)
        with pytest.raises(TrustDocumentRollback):
            follow(held, before.content)
    assert held.content == chain[-1]


@given(st.integers(0), st.integers(1, 255))
def test_one_other_byte_never_changes_what_is_trusted(at, change):
    content = bytearray(signed(document(2, render=(STRANGER,)), *ROOTS[:2]))
    content[at % len(content)] ^= change
    try:
        taken = follow(FIRST, bytes(content))
    except TrustRefused:
        return
    assert taken.document == document(2, render=(STRANGER,))


def test_another_document_of_the_held_version_is_refused():
    with pytest.raises(TrustDocumentRollback, match="with other content"):
        follow(FIRST, signed(document(render=(STRANGER,)), *ROOTS))


def test_a_device_that_was_off_for_years_follows_an_expired_document():
    assert FIRST.expired(datetime(2028, 1, 1, tzinfo=UTC))
    assert follow(FIRST, signed(document(2, expires="2030-01-01T00:00:00Z"), *ROOTS)).version == 2


def test_an_expired_document_takes_no_new_state():
    assert FIRST.required(IN_TIME) is FIRST
    with pytest.raises(TrustDocumentExpired, match=EXPIRES):
        FIRST.required(datetime(2027, 1, 1, tzinfo=UTC))


def test_a_key_counts_for_its_role_only():
    every = FIRST.signers()
    assert every.find(RENDERER.public, "git", IN_TIME) == "renderer-1"
    assert every.find(FRESHNESS.public, "margo-gitops-freshness", IN_TIME) == "freshness-1"
    for each, namespace in (
        (RENDERER, "margo-gitops-freshness"),
        (FRESHNESS, "git"),
        (PERSON, "git"),
        (ROOTS[0], "git"),
        (STRANGER, "git"),
    ):
        assert every.find(each.public, namespace, IN_TIME) is None
        assert every.objections(each.public, namespace, IN_TIME)


def test_a_retired_key_counts_for_what_it_signed_before_a_compromised_key_for_nothing():
    retired = read_envelope(signed(document(2, revoked=revoked(RENDERER, "retired")))).signers("render")
    stolen = read_envelope(signed(document(2, render=(key(9),), revoked=revoked(RENDERER, "compromised"))))
    before, after = datetime(2026, 4, 30, tzinfo=UTC), datetime(2026, 5, 2, tzinfo=UTC)
    assert retired.find(RENDERER.public, "git", before) == "renderer-1"
    assert retired.find(RENDERER.public, "git", after) is None
    assert stolen.signers().find(RENDERER.public, "git", before) is None
    assert "revoked as compromised, since 2026-05-01" in str(
        stolen.signers().objections(RENDERER.public, "git", before)
    )
    assert stolen.revocation(RENDERER.public.fingerprint).reason == "compromised"
    assert stolen.revocation(STRANGER.public.fingerprint) is None


@pytest.mark.parametrize(
    ("change", "floor", "after"),
    [
        (FloorChange("a", "attack", highest=41), HELD_FLOOR, (None, 41)),
        (FloorChange("a", "attack", highest=41), replace(HELD_FLOOR, version=41), (replace(HELD_FLOOR, version=41), 1)),
        (FloorChange("a", "attack", highest=41), None, (None, 1)),
        (FloorChange("a", "loss", next=60), replace(HELD_FLOOR, version=41), (None, 60)),
        (FloorChange("a", "loss", next=60), None, (None, 60)),
        (FloorChange("a", "loss", next=60), HELD_FLOOR, (HELD_FLOOR, 1)),
        (FloorChange("a", "both", highest=41, next=60), HELD_FLOOR, (None, 60)),
    ],
)
def test_a_floor_is_lowered_after_an_attack_and_raised_after_a_loss(change, floor, after):
    assert change_floor(change, floor) == after


def test_a_device_makes_each_change_of_its_own_once():
    floors = (
        FloorChange("all", "loss", next=60),
        FloorChange("one", "attack", ("press-07",), highest=41),
        FloorChange("another", "attack", ("press-08",), highest=41),
    )
    trust = read_envelope(signed(document(floors=floors)))
    assert [each.id for each in trust.floors_for("press-07/plc")] == ["all", "one"]
    assert [each.id for each in trust.floors_for("press-07", applied={"all"})] == ["one"]


def test_a_document_is_written_as_it_is_read():
    said: TrustDocument = document(3, revoked=revoked(RENDERER, "retired"), floors=(FloorChange("a", "b", next=6),))
    assert read_envelope(signed(said)).document == said
