"""Chains of receipts: rules RECEIPT-1 to RECEIPT-6 of margo_gitops.trust.receipts."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.real import require_program
from support.receipts import DEVICE_KEY, OTHER_KEY, altered, chain, longer, receipt, signed

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.receipt import (
    LostReceipts,
    RanComponent,
    RanDeployment,
    SignedReceipt,
    write_receipt,
    write_receipts,
)
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.trust.receipts import (
    Line,
    ReceiptChain,
    ReceiptFault,
    not_yet_held,
    read_link,
    read_receipt,
    read_receipts,
)
from margo_gitops.trust.ssh_key import SshPublicKey

LENGTH = 7
GOOD = chain(LENGTH)


def faults(receipts: Sequence[SignedReceipt], *keys: SshPublicKey) -> list[ReceiptFault]:
    judge = ReceiptChain("press-07", keys)
    return [*(fault for each in receipts for fault in judge.follow(each)), *judge.end()]


def named(receipts: Sequence[SignedReceipt], *keys: SshPublicKey) -> list[tuple[str, int | None, int | None]]:
    return [(each.code, each.first, each.last) for each in faults(receipts, *keys)]


def test_a_chain_as_a_device_makes_it_has_no_fault() -> None:
    assert named(GOOD, DEVICE_KEY.public) == named(GOOD) == []


@given(st.integers(1, LENGTH - 1))
def test_one_that_was_dropped_is_named(number: int) -> None:
    assert named([*GOOD[: number - 1], *GOOD[number:]]) == [("dropped", number, number)]


@given(st.integers(1, LENGTH - 2), st.integers(2, 4))
def test_several_that_were_dropped_are_named_once(first: int, count: int) -> None:
    last = min(first + count - 1, LENGTH - 1)
    assert named([*GOOD[: first - 1], *GOOD[last:]]) == [("dropped", first, last)]


@given(st.integers(1, LENGTH - 1))
def test_two_in_the_wrong_order_are_named(number: int) -> None:
    swapped = [*GOOD[: number - 1], GOOD[number], GOOD[number - 1], *GOOD[number + 1 :]]
    assert named(swapped) == [("reordered", number, None)]


@given(st.integers(1, LENGTH))
def test_one_that_was_changed_is_named(number: int) -> None:
    forged = [*GOOD[: number - 1], altered(GOOD[number - 1]), *GOOD[number:]]
    assert named(forged) == [("forged", number, None)]


@given(st.integers(1, LENGTH))
def test_one_that_another_key_signed_is_named(number: int) -> None:
    foreign = signed(read_receipt(GOOD[number - 1].receipt), OTHER_KEY)
    assert named([*GOOD[: number - 1], foreign, *GOOD[number:]], DEVICE_KEY.public) == [("unknown-key", number, None)]


@given(st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_one_that_comes_again_is_named(number: int, later: int) -> None:
    at = max(number, later)
    assert named([*GOOD[:at], GOOD[number - 1], *GOOD[at:]]) == [("replayed", number, None)]


@given(st.integers(0, LENGTH))
def test_one_of_another_device_is_named(at: int) -> None:
    foreign = chain(at + 1, OTHER_KEY, device="press-08")[-1]
    assert named([*GOOD[:at], foreign, *GOOD[at:]]) == [("foreign", at + 1, None)]


@given(st.integers(0, LENGTH), st.integers(1, 4), st.booleans())
def test_a_copy_of_a_device_forks_the_chain(at: int, count: int, mixed: bool) -> None:
    copy = longer(GOOD[:at], count, version=2)[at:]
    both = [each for pair in zip(GOOD[at:], copy, strict=False) for each in pair] if mixed else [*GOOD[at:], *copy]
    found = named([*GOOD[:at], *both])
    assert {code for code, _, _ in found} == ({"forked"} if at < LENGTH else set())


def test_a_disk_that_was_restored_is_a_fork() -> None:
    again = longer(GOOD[:4], 2, version=2)[4:]
    assert named([*GOOD, *again]) == [("forked", 5, None), ("forked", 6, None)]


def test_one_that_follows_another_one_is_a_fork() -> None:
    other = chain(3, version=2)
    assert named([*GOOD[:3], *longer(other, 1)[3:]]) == [("forked", 4, None)]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"kind":"Receipt"}', "{" * 100])
def test_what_is_no_receipt_is_named(text: str) -> None:
    assert named([*GOOD, SignedReceipt(text, "")]) == [("unreadable", None, None)]


def test_a_receipt_has_one_spelling() -> None:
    spaced = replace(GOOD[0], receipt=GOOD[0].receipt.replace(":", ": ", 1))
    assert named([spaced, *GOOD]) == [("unreadable", None, None)]


def test_the_same_deployments_are_read_once_and_others_are_not_believed() -> None:
    ran = RanDeployment("0001", "app", "installed", 1, (RanComponent("web", "compose", "running"),))
    first = replace(receipt(1), deployments=(ran,))
    known: set[Digest] = set()
    assert read_link(write_receipt(first), known) == first
    assert read_link(write_receipt(replace(first, sequence=2)), known) == replace(first, sequence=2, deployments=())
    for wrong in ('"running"', "running"), ('"installed"', '"sunk"'), ('"sequence":1', '"sequence":0'):
        with pytest.raises((InvalidDocument, UnreadableDocument)):
            read_link(write_receipt(first).replace(*wrong), known)
    assert len(known) == 1


def test_what_a_device_says_it_lost_is_a_warning() -> None:
    lost = (LostReceipts(3, 5, sha256(GOOD[4].receipt.encode())),)
    told = signed(receipt(LENGTH + 1, GOOD[-1], lost=lost))
    found = faults([*GOOD[:2], *GOOD[5:], told])
    assert [(each.code, each.first, each.last, each.is_error) for each in found] == [("lost", 3, 5, False)]
    assert named([*GOOD, told]) == []  # it was delivered after all
    other = (LostReceipts(3, 5, sha256(b"another")),)
    lied = signed(receipt(LENGTH + 1, GOOD[-1], lost=other))
    assert ("forked", 5, None) in named([*GOOD[:2], *GOOD[5:], lied])


def test_a_device_that_lost_its_newest_receipt_goes_on() -> None:
    told = signed(receipt(LENGTH + 1, None, lost=(LostReceipts(LENGTH, LENGTH),)))
    assert named([*GOOD, told]) == []
    assert named([*GOOD[:-1], told]) == [("lost", LENGTH, LENGTH)]


def test_a_new_key_begins_a_chain_where_the_fleet_repo_names_both() -> None:
    again = chain(2, OTHER_KEY)
    assert named([*GOOD, *again], DEVICE_KEY.public, OTHER_KEY.public) == []
    assert named([*GOOD, *again]) == [("unknown-key", 1, None)]
    assert named(again, DEVICE_KEY.public) == [("unknown-key", 1, None)]


def test_history_may_begin_later() -> None:
    judge = ReceiptChain("press-07")
    judge.begin(4, DEVICE_KEY.public)
    assert not [fault for each in GOOD[3:] for fault in judge.follow(each)]
    assert not list(judge.end())


def test_an_old_number_that_comes_again_counts_as_replayed() -> None:
    long = chain(120)
    assert named([*long, long[3]]) == [("replayed", 4, None)]


def test_only_what_is_new_is_taken() -> None:
    made = tuple(GOOD)
    assert not_yet_held((), made) == made
    assert not_yet_held(made[:3], made[1:5]) == made[3:5]
    assert not_yet_held(made, made[2:]) == ()
    assert not_yet_held(made, (copy := longer(GOOD[:2], 1, version=2)[2],)) == (copy,)


def test_a_file_holds_what_was_signed() -> None:
    assert read_receipts(write_receipts(tuple(GOOD)), "receipts") == tuple(GOOD)


def test_ssh_keygen_verifies_a_receipt(tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(f'press-07 namespaces="margo-gitops-receipt" {DEVICE_KEY.public}\n')
    (tmp_path / "receipt.sig").write_text(GOOD[2].signature)
    keygen = require_program("ssh-keygen", "openssh-client")
    command = [keygen, "-Y", "verify", "-f", "allowed", "-I", "press-07", "-n", "margo-gitops-receipt"]
    done = subprocess.run(
        [*command, "-s", "receipt.sig"], cwd=tmp_path, input=GOOD[2].receipt.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), max_size=12), st.lists(st.integers(1, 5), max_size=12)
)
def test_holes_are_filled_as_numbers_are(fills: list[tuple[int, int]], steps: list[int]) -> None:
    line, missing, number = Line(), set(), 0
    for step in steps:
        missing |= set(range(number + 1, number + step))
        number += step
        line.put(number, sha256(b""), None)
    for first, more in fills:
        found = set(range(first, first + more + 1))
        assert line.fill(first, first + more) == bool(missing & found)
        missing -= found
        assert [each for hole in line.holes for each in range(hole[0], hole[1] + 1)] == sorted(missing)
