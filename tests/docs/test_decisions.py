"""Each decision is one file of one form, and the index lists all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
DECISIONS = sorted(FOLDER.glob("[0-9]*.md"))


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(decision.name[:4]) for decision in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.stem)
def test_a_decision_has_one_form_and_is_in_the_index(decision: Path) -> None:
    text = decision.read_text(encoding="utf-8")
    head = re.match(r"# (D-\d+): (.+)\n\nStatus: ((?:accepted|proposed|replaced by D-\d+), \d{4}-\d\d-\d\d)\n", text)
    assert head, f"{decision.name}: title and status are missing"
    number, title, status = head.groups()
    assert number == f"D-{int(decision.name[:4])}"
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Choice", "Consequence"]
    row = f"| [{number}]({decision.name}) | {title} | {status.split(',')[0]} |"
    assert row in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
