"""Receipts at the server (JOURNAL-5, H-S-26): none is lost, none is written twice, each stays to the byte."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from server.serving import ServedFleet, until
from server.test_report_journal import Opened, opened
from support.receipts import altered, chain, longer

from margo_gitops.documents.receipt import SignedReceipt, write_receipts
from margo_gitops.server.problems import RequestRefused
from margo_gitops.server.reports.journal import JournalBounds, Report, ReportJournal
from margo_gitops.server.reports.reading import read_receipts
from margo_gitops.state_repo.report_branch import Committed, ReportKey
from margo_gitops.trust.receipts import ReceiptChain
from margo_gitops.trust.receipts import read_receipts as read_file

__all__ = ["opened"]

KEY = ReportKey("press-01", "receipts", "latest")
MADE = chain(9, device="press-01")


def sent(*receipts: SignedReceipt) -> Report:
    return Report(KEY, write_receipts(receipts), "token", 1)


def waiting(journal: ReportJournal) -> list[SignedReceipt]:
    return [each for change in asyncio.run(journal.uncommitted(10)) for each in read_file(change.content or b"", "f")]


def commit(journal: ReportJournal) -> list[SignedReceipt]:
    changes = asyncio.run(journal.uncommitted(10))
    asyncio.run(journal.committed(changes, Committed("a" * 40, follows=True)))
    return [each for change in changes for each in read_file(change.content or b"", "f")]


def test_receipts_come_after_those_that_wait_and_begin_anew_after_a_commit(opened: Opened) -> None:
    journal = opened(JournalBounds())
    assert asyncio.run(journal.keep(sent(*MADE[:2]))) == "created"
    assert asyncio.run(journal.keep(sent(*MADE[:2]))) == "unchanged"
    assert asyncio.run(journal.keep(sent(MADE[2]))) == "updated"
    assert commit(journal) == MADE[:3]
    assert asyncio.run(journal.keep(sent(*MADE[1:3]))) == "unchanged", "the answer was lost"
    assert waiting(journal) == []
    journal.close()
    journal = opened(JournalBounds())
    assert asyncio.run(journal.keep(sent(*MADE[2:5]))) == "updated"
    assert waiting(journal) == MADE[3:5]
    journal.close()


def test_what_comes_while_it_is_committed_is_not_lost(opened: Opened) -> None:
    journal = opened(JournalBounds())
    asyncio.run(journal.keep(sent(MADE[0])))
    changes = asyncio.run(journal.uncommitted(10))
    asyncio.run(journal.keep(sent(MADE[1])))
    asyncio.run(journal.committed(changes, Committed("a" * 40, follows=True)))
    assert waiting(journal) == MADE[:2]
    journal.close()


def test_two_devices_with_one_key_are_both_kept(opened: Opened) -> None:
    journal = opened(JournalBounds())
    copy = longer(MADE[:1], 2, device="press-01", version=2)
    for receipt in (*MADE[:2], copy[1], MADE[2], copy[2]):
        asyncio.run(journal.keep(sent(receipt)))
    assert waiting(journal) == [*MADE[:2], copy[1], MADE[2], copy[2]]
    journal.close()


def test_a_forged_receipt_is_kept_for_the_auditor() -> None:
    body = write_receipts((altered(MADE[0]), replace(MADE[1], signature="nothing")))
    assert read_receipts(body, {"press-01"}) == body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{no json", 400),
        (b"[]", 422),
        (b'{"receipts":[]}', 422),
        (b'{"receipts":[{"receipt":"{}","signature":""}]}', 422),
        (write_receipts(tuple(chain(1, device="press-02"))), 422),
        (write_receipts((MADE[0],) * 65), 422),
    ],
)
def test_what_is_not_receipts_of_this_device_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_receipts(body, {"press-01"})
    assert refused.value.problem.status == status


def test_a_device_may_sign_under_its_alias() -> None:
    body = write_receipts(tuple(chain(1, device="SN-1")))
    assert read_receipts(body, {"press-01", "SN-1"}) == body


def test_the_branch_has_every_receipt_in_its_history(fleet: ServedFleet) -> None:
    fleet.start()

    def held() -> list[SignedReceipt]:
        names = fleet.renderer.git.run("rev-list", "--reverse", "--first-parent", "refs/heads/reports").split()
        found: list[SignedReceipt] = []
        for name in names:
            (path,) = fleet.renderer.git.run("ls-tree", "-r", "--name-only", name).split()
            content = fleet.renderer.git.run("show", f"{name}:{path}")
            assert path.endswith("/press-01/receipts/latest.json")
            found += [SignedReceipt(**each) for each in json.loads(content)["receipts"]]
        return found

    with fleet.client("press-01") as client:
        for count, batch in enumerate((MADE[:2], MADE[2:3], MADE[3:])):
            headers = {"Content-Type": "application/json"}
            for status in (200 if count else 201, 200):
                answer = client.post("/api/v1/receipts", content=write_receipts(tuple(batch)), headers=headers)
                assert answer.status_code == status, answer.text
            until(lambda batch=batch: fleet.reports() and held()[-1] == batch[-1])
    judge = ReceiptChain("press-01")
    assert [*(fault for each in dict.fromkeys(held()) for fault in judge.follow(each)), *judge.end()] == []
