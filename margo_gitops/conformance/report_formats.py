"""A conformance report as people and pipelines read it: a text table, JSON, JUnit XML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final
from xml.etree import ElementTree as ET

from margo_gitops.conformance.report import CheckResult, ConformanceReport
from margo_gitops.conformance.report_page import as_html
from margo_gitops.documents.records import write

_NOT_IN_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_text(report: ConformanceReport) -> str:
    """Return a table: verdict, requirement, check; below a failure why, and what was seen."""
    return "".join(f"{line}\n" for line in _text_lines(report))


def _text_lines(report: ConformanceReport) -> Iterator[str]:
    yield f"{report.subject} ({report.profile}), checked by {report.tool}"
    yield ""
    wide = max((len(each.requirement) for each in report.results), default=0)
    for each in report.results:
        yield f"{_word(each):<8} {each.requirement:<{wide}}  {each.level:<6}  {each.check}"
        if each.verdict != "pass":
            if each.reason:
                yield f"         {each.reason}"
            if each.verdict == "fail":
                yield from (f"           {line}" for line in each.evidence)
    yield ""
    yield f"{report.passed} passed, {report.failed} failed, {report.warned} warnings, {report.skipped} skipped"


def _word(each: CheckResult) -> str:
    if each.verdict == "fail":
        return "FAIL" if each.level == "MUST" else "warn"
    return {"pass": "pass", "skipped": "skip", "not-applicable": "n/a"}[each.verdict]


def as_json(report: ConformanceReport) -> str:
    """Return the report as JSON (schemas/conformance-report.schema.json)."""
    return json.dumps(write(report), indent=2, ensure_ascii=False) + "\n"


def as_junit(report: ConformanceReport) -> str:
    """Return the report as JUnit XML: a test case for each check; only a MUST fails it."""
    skipped = sum(each.verdict in ("skipped", "not-applicable") for each in report.results)
    counts = {"tests": str(len(report.results)), "failures": str(report.failed), "errors": "0"}
    name = f"margo-gitops conformance {report.profile}"
    root = ET.Element("testsuites", {"name": name, **counts})
    suite = ET.SubElement(
        root,
        "testsuite",
        {"name": name, **counts, "skipped": str(skipped), "timestamp": report.checked_at},
    )
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", {"name": "subject", "value": _xml(report.subject)})
    for each in report.results:
        case = ET.SubElement(
            suite, "testcase", {"name": _xml(f"{each.requirement} {each.check}"), "classname": report.profile}
        )
        seen = _xml("\n".join([each.reason, *each.evidence]).strip())
        if each.verdict == "fail" and each.level == "MUST":
            failure = ET.SubElement(case, "failure", {"type": each.requirement, "message": _xml(each.reason)})
            failure.text = seen
        elif each.verdict in ("skipped", "not-applicable"):
            ET.SubElement(case, "skipped", {"message": _xml(each.reason)})
        elif seen:
            ET.SubElement(case, "system-out").text = seen
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("?", text)


FORMATS: Final[dict[str, Callable[[ConformanceReport], str]]] = {
    "html": as_html,
    "json": as_json,
    "junit": as_junit,
    "text": as_text,
}
"""Every format, by its name on the command line."""
