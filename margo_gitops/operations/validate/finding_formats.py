"""Findings as people and pipelines read them: text, JSON, JUnit XML, SARIF 2.1.0, GitHub commands, GitLab reports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from urllib.parse import quote
from xml.etree import ElementTree as ET

from margo_gitops import __version__
from margo_gitops.documents.json_text import pretty_json
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.records import write
from margo_gitops.errors.base import on_devices
from margo_gitops.operations.validate.rule_findings import RuleFinding, Validation
from margo_gitops.operations.validate.rules import RULES
from margo_gitops.values import replace
from margo_gitops.wording import counted, printable

_FLEET_FILE = "margo-gitops.yaml"
"""Where a finding is shown that is in no file; every one of these formats wants a place."""


def in_repository(validation: Validation, folder: str) -> Validation:
    """Return findings with files named as pipelines name them: relative to the whole repository.

    Args:
        folder: the fleet's; "" for the root.
    """
    if not folder:
        return validation
    named = [replace(each, file=f"{folder}/{each.file or _FLEET_FILE}") for each in validation.findings]
    return replace(validation, findings=tuple(named))


def as_text(validation: Validation) -> str:
    """Return findings for a terminal."""
    return "".join(f"{printable(line)}\n" for line in _text_lines(validation))


def _text_lines(validation: Validation) -> Iterator[str]:
    for each in validation.findings:
        place = f"{each.place}: " if each.place else ""
        yield f"{place}{each.severity}: {on_devices(each.message, each.device, each.devices)} [{each.rule}]"
        for reason in each.why:
            yield f"  {reason}"
        if each.remedy:
            yield f"  remedy: {each.remedy}"
    told = [
        counted(count, noun)
        for count, noun in ((validation.errors, "error"), (validation.warnings, "warning"), (validation.notes, "note"))
        if count
    ]
    if validation.silenced:
        told.append(f"{counted(validation.silenced, 'warning')} silenced by the policy")
    since = f" since {validation.since[:12]}" if validation.since else ""
    yield f"{validation.subject[:12]}{since}: {', '.join(told) or 'nothing found'}"
    if validation.findings:
        worst = min(validation.findings, key=lambda each: ("error", "warning", "note").index(each.severity))
        rule = worst.rule
        yield f"what a rule is about: margo-gitops validate --explain {rule}"


def as_json(validation: Validation) -> str:
    """Return findings as JSON (schemas/validation.schema.json)."""
    return pretty_json(write(validation))


def as_junit(validation: Validation) -> str:
    """Return findings as JUnit XML: a test case for every file with findings; warnings and notes do not fail it."""
    by_file: dict[str, list[RuleFinding]] = {}
    for each in validation.findings:
        by_file.setdefault(each.file or _FLEET_FILE, []).append(each)
    if not by_file:
        by_file[_FLEET_FILE] = []
    failed = sum(any(each.severity == "error" for each in found) for found in by_file.values())
    counts = {"tests": str(len(by_file)), "failures": str(failed), "errors": "0"}
    root = ET.Element("testsuites", {"name": "margo-gitops validate", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "margo-gitops validate", **counts, "skipped": "0"})
    for file, found in by_file.items():
        case = ET.SubElement(
            suite, "testcase", {"name": printable(file), "classname": "margo-gitops.validate", "file": printable(file)}
        )
        errors = [each for each in found if each.severity == "error"]
        others = [each for each in found if each.severity != "error"]
        if errors:
            message = errors[0].message if len(errors) == 1 else counted(len(errors), "error")
            failure = ET.SubElement(case, "failure", {"type": errors[0].rule, "message": printable(message)})
            failure.text = "\n".join(map(_line, errors))
        if others:
            ET.SubElement(case, "system-out").text = "\n".join(map(_line, others))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _line(each: RuleFinding) -> str:
    return printable(f"{each.place}: {each.severity}: {each.sentence} [{each.rule}]")


def as_sarif(validation: Validation) -> str:
    """Return findings as SARIF 2.1.0 (OASIS static analysis results interchange format)."""
    used = sorted({each.rule for each in validation.findings})
    rules: list[Json] = [
        {
            "id": name,
            "shortDescription": {"text": RULES[name].title},
            "fullDescription": {"text": RULES[name].text},
            "help": {"text": RULES[name].text.replace("`", ""), "markdown": RULES[name].text},
            "defaultConfiguration": {"level": RULES[name].severity},
        }
        for name in used
    ]
    results: list[Json] = [
        {
            "ruleId": each.rule,
            "ruleIndex": used.index(each.rule),
            "level": each.severity,
            "message": {"text": each.sentence},
            "locations": [{"physicalLocation": _sarif_place(each)}],
            "partialFingerprints": {"finding/v1": _fingerprint(each)},
        }
        for each in validation.findings
    ]
    driver: Json = {"name": "margo-gitops", "semanticVersion": __version__, "rules": rules}
    run: Json = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return pretty_json(
        {
            "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
            "version": "2.1.0",
            "runs": [run],
        }
    )


def _sarif_place(each: RuleFinding) -> Json:
    region: dict[str, Json] = {"startLine": each.line or 1}
    if each.column:
        region["startColumn"] = each.column
    return {"artifactLocation": {"uri": quote(each.file or _FLEET_FILE)}, "region": region}


def _fingerprint(each: RuleFinding) -> str:
    """Return what stays the same when lines move, so that a host tells old findings from new ones."""
    return hashlib.sha256("\n".join(str(part) for part in each.identity).encode()).hexdigest()


def as_github(validation: Validation) -> str:
    """Return findings as GitHub workflow commands: annotations at their lines."""
    commands = {"error": "error", "warning": "warning", "note": "notice"}
    lines = []
    for each in validation.findings:
        properties = [f"file={_github_property(each.file or _FLEET_FILE)}"]
        if each.line:
            properties.append(f"line={each.line}")
        if each.line and each.column:
            properties.append(f"col={each.column}")
        properties.append(f"title={_github_property(f'{each.rule}: {RULES[each.rule].title}')}")
        lines.append(f"::{commands[each.severity]} {','.join(properties)}::{_github_message(each.sentence)}\n")
    return "".join(lines)


def _github_message(text: str) -> str:
    return printable(text).replace("%", "%25")


def _github_property(text: str) -> str:
    return _github_message(text).replace(":", "%3A").replace(",", "%2C")


def as_gitlab(validation: Validation) -> str:
    """Return findings as a GitLab code quality report."""
    severities = {"error": "critical", "warning": "minor", "note": "info"}
    seen: dict[str, int] = {}
    report: list[Json] = []
    for each in validation.findings:
        fingerprint = _fingerprint(each)
        # GitLab drops all but one of equal fingerprints.
        seen[fingerprint] = seen.get(fingerprint, 0) + 1
        number = seen[fingerprint]
        report.append(
            {
                "description": each.sentence,
                "check_name": each.rule,
                "fingerprint": fingerprint if number == 1 else f"{fingerprint}-{number}",
                "severity": severities[each.severity],
                "location": {"path": each.file or _FLEET_FILE, "lines": {"begin": each.line or 1}},
            }
        )
    return pretty_json(report)


FORMATS: dict[str, Callable[[Validation], str]] = {
    "github": as_github,
    "gitlab": as_gitlab,
    "json": as_json,
    "junit": as_junit,
    "sarif": as_sarif,
    "text": as_text,
}
"""Every format, by its name on the command line."""
