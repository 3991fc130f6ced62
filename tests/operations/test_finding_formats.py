"""The reports that pipelines read have the shape that their makers publish, whatever a finding says."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.operations.validate.finding_formats import FORMATS
from margo_gitops.operations.validate.rule_findings import RuleFinding, Validation, make_validation
from margo_gitops.operations.validate.rules import RULES
from margo_gitops.wording import printable

TEXT = st.text(max_size=30)
FINDINGS = st.lists(
    st.builds(
        RuleFinding,
        rule=st.sampled_from(sorted(RULES)),
        severity=st.sampled_from(["error", "warning", "note"]),
        message=st.text(min_size=1, max_size=30),
        file=st.none() | st.text("ab/ %:,#é\n", min_size=1, max_size=10),
        line=st.none() | st.integers(1, 99),
        column=st.none() | st.integers(1, 99),
        device=st.none() | st.just("press-01"),
        devices=st.integers(0, 3),
        why=st.lists(TEXT, max_size=2).map(tuple),
        remedy=TEXT,
    ),
    max_size=6,
)
VALIDATIONS = FINDINGS.map(lambda findings: make_validation("working tree", None, findings))


@given(VALIDATIONS)
def test_sarif_has_the_required_fields_of_2_1_0(validation: Validation):
    log = json.loads(FORMATS["sarif"](validation))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    names = [rule["id"] for rule in driver["rules"]]
    assert len(names) == len(set(names))
    assert len(run["results"]) == len(validation.findings)
    for result in run["results"]:
        assert names[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        # RFC 3986: what a relative path may hold.
        assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+", place["artifactLocation"]["uri"])
        assert place["region"]["startLine"] >= 1
        assert place["region"].get("startColumn", 1) >= 1


@given(VALIDATIONS)
def test_gitlab_reports_have_unique_fingerprints_and_known_severities(validation: Validation):
    report = json.loads(FORMATS["gitlab"](validation))
    assert len({each["fingerprint"] for each in report}) == len(report) == len(validation.findings)
    for each in report:
        assert set(each) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert each["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert each["location"]["path"]
        assert each["location"]["lines"]["begin"] >= 1


@given(VALIDATIONS)
def test_github_commands_are_one_line_each_and_say_what_was_meant(validation: Validation):
    lines = FORMATS["github"](validation).split("\n")[:-1]
    assert len(lines) == len(validation.findings)
    for line, finding in zip(lines, validation.findings, strict=True):
        match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line, re.DOTALL)
        assert match, line
        properties = dict(each.split("=", 1) for each in match[2].split(","))
        assert unescaped(properties["file"]) == printable(finding.file or "margo-gitops.yaml")
        assert unescaped(match[3]) == finding.sentence
        assert properties.get("line") == (str(finding.line) if finding.line else None)


def unescaped(text: str) -> str:
    for code, character in (("%2C", ","), ("%3A", ":"), ("%25", "%")):
        text = text.replace(code, character)
    return text


@given(VALIDATIONS)
def test_junit_is_well_formed_and_counts_its_failures(validation: Validation):
    root = ET.fromstring(FORMATS["junit"](validation))
    assert root.tag == "testsuites"
    (suite,) = root
    cases = suite.findall("testcase")
    assert int(suite.get("tests", "")) == len(cases) >= 1
    assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
    files = {each.file for each in validation.findings if each.severity == "error"}
    assert len(suite.findall("testcase/failure")) == len({file or "margo-gitops.yaml" for file in files})


@given(VALIDATIONS)
def test_no_text_moves_the_cursor_of_a_terminal(validation: Validation):
    text = FORMATS["text"](validation)
    assert all(each.isprintable() or each == "\n" for each in text)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_nothing_found_is_a_report_too(name: str):
    report = FORMATS[name](make_validation("working tree", None, []))
    if name == "github":
        assert report == ""
    elif name in ("gitlab", "json", "sarif"):
        json.loads(report)
    else:
        assert report.endswith("\n")


def test_the_fingerprint_of_a_finding_stays_when_lines_move():
    def report(line: int) -> object:
        finding = RuleFinding("R201", "warning", "the image", "a.yaml", line, 1, None, 0, (), "")
        return json.loads(FORMATS["gitlab"](make_validation("working tree", None, [finding])))[0]["fingerprint"]

    assert report(1) == report(9)
