"""A report is a table, JSON that follows its schema, JUnit XML, and a page; whatever strangers sent."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.conformance.report import (
    FORMATS,
    LONGEST_LINE,
    MOST_LINES,
    ConformanceReport,
    Outcome,
    bounded,
    make_report,
    shown,
)
from margo_gitops.conformance.requirement import parse_requirements

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "conformance-report.schema.json").read_bytes())
KNOWN = parse_requirements(
    "## Requests\n- **G-S-1** (server) It MUST.\n- **G-S-2** (server) It SHOULD.\n- **G-S-3** (server) It MAY.\n",
    "page.md",
)
EVIL = '<script>alert("x")</script>&amp;\x00\x1b[31m'


def report(*outcomes: tuple[str, str, Outcome], subject: str = "https://example.com") -> ConformanceReport:
    return make_report("git", subject, "2026-11-21T10:00:00Z", KNOWN, outcomes)


FOUND = report(
    ("G-S-2", "second", Outcome("fail", "it does not", ("GET / -> 500",))),
    ("G-S-1", "first", Outcome("pass", "", ("GET / -> 200",))),
    ("G-S-1", "worse", Outcome("fail", EVIL, (EVIL,))),
    ("G-S-3", "third", Outcome("not-applicable", "no such thing")),
    ("G-S-3", "fourth", Outcome("skipped", "name another device")),
)


def test_checks_stand_in_the_order_of_the_requirements_and_are_counted() -> None:
    assert [each.check for each in FOUND.results] == ["first", "worse", "second", "third", "fourth"]
    assert (FOUND.passed, FOUND.failed, FOUND.warned, FOUND.skipped) == (1, 1, 1, 1)
    assert FOUND.verdicts() == {"G-S-1": "fail", "G-S-2": "fail", "G-S-3": "skipped"}


@pytest.mark.parametrize(
    ("outcomes", "conforms"),
    [
        pytest.param([("G-S-1", "a", Outcome("pass"))], True, id="pass"),
        pytest.param([("G-S-1", "a", Outcome("pass")), ("G-S-2", "b", Outcome("fail"))], True, id="should"),
        pytest.param([("G-S-1", "a", Outcome("pass")), ("G-S-1", "b", Outcome("fail"))], False, id="must"),
        pytest.param([("G-S-1", "a", Outcome("skipped"))], False, id="nothing-checked"),
    ],
)
def test_what_conforms(outcomes: list[tuple[str, str, Outcome]], conforms: bool) -> None:
    assert report(*outcomes).conforms is conforms


def test_the_table_tells_a_broken_must_from_a_broken_should() -> None:
    lines = FORMATS["text"](FOUND).splitlines()
    assert [line.split()[0] for line in lines if re.match(r"\S+ +G-S-", line)] == [
        "pass",
        "FAIL",
        "warn",
        "n/a",
        "skip",
    ]
    assert lines[-1] == "1 passed, 1 failed, 1 warnings, 1 skipped"


def test_json_follows_its_schema() -> None:
    document = json.loads(FORMATS["json"](FOUND))
    jsonschema.validate(document, SCHEMA)
    assert document["results"][0]["evidence"] == ["GET / -> 200"]


def test_junit_fails_for_a_must_only() -> None:
    suite = ET.fromstring(FORMATS["junit"](FOUND)).find("testsuite")
    assert suite is not None
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["G-S-1 worse"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "2")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(), st.text())
def test_the_page_loads_nothing_and_runs_nothing_whatever_was_sent(subject: str, said: str) -> None:
    page = _Page()
    found = report(("G-S-1", "a", Outcome("fail", EVIL + said, (said + EVIL,))), subject=EVIL + subject)
    page.feed(FORMATS["html"](found))
    assert "script" not in page.tags
    assert '<script>alert("x")</script>' in page.text


@given(st.text() | st.binary())
def test_what_is_shown_is_one_short_printable_line(said: str | bytes) -> None:
    line = shown(said)
    assert len(line) <= LONGEST_LINE
    assert all(each.isprintable() for each in line)


@given(st.text(), st.text(alphabet="abcdefghijkLMNOP0123456789-_", min_size=20, max_size=60), st.text())
def test_no_credential_is_shown(before: str, token: str, after: str) -> None:
    assert token not in shown(f"{before}{token}{after}", (token,))
    assert token not in shown(f"Authorization: Bearer {token}")
    assert token not in shown(f"https://user:{token}@example.com/")


def test_long_lists_are_cut_and_say_so() -> None:
    lines = bounded(str(number) for number in range(100))
    assert lines[-1] == f"and {100 - MOST_LINES} more"
