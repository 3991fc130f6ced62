"""What a run found, for each check a verdict with its reason and evidence, and how people and pipelines read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from typing import Annotated, Final, Literal, TypeAlias
from xml.etree import ElementTree as ET

from margo_gitops import __version__
from margo_gitops.conformance.requirement import Level, Requirement
from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.documents.json_text import pretty_json
from margo_gitops.documents.records import write
from margo_gitops.values import dataclass
from margo_gitops.wording import printable, printable_lines

LONGEST_LINE: Final = 400
MOST_LINES: Final = 12

_CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+|://[^/\s@]+@")


def shown(text: str | bytes, secrets: Iterable[str] = ()) -> str:
    """Return text that a server or a program wrote as one line for a report, without credentials and `secrets`."""
    readable = text.decode(errors="replace") if isinstance(text, bytes) else text
    for secret in secrets:
        if secret:
            readable = readable.replace(secret, "***")
    readable = _CREDENTIALS.sub(lambda match: f"{match[1]} ***" if match[1] else "://***@", readable)
    line = "".join(each if each.isprintable() else " " if each in "\n\t\r" else "?" for each in readable.strip())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 2]} …"


def bounded(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the first lines, and how many more there were."""
    every = list(lines)
    more = (f"and {len(every) - MOST_LINES} more",) if len(every) > MOST_LINES else ()
    return (*every[:MOST_LINES], *more)


Profile: TypeAlias = Literal["git", "http", "agent-git", "agent-http"]
Verdict: TypeAlias = Literal["pass", "fail", "skipped", "not-applicable"]

WORST_FIRST: Final[tuple[Verdict, ...]] = ("fail", "skipped", "pass", "not-applicable")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found, before it is written down.

    Attributes:
        verdict: pass, fail, skipped or not-applicable.
        reason: why, in one sentence; for a failure also what to do, where that is known.
        evidence: what was sent and what came, bounded, without credentials.
    """

    verdict: Verdict
    reason: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of one requirement."""

    check: Annotated[str, About("Name of the check; with the requirement, it is unique in a report.")]
    requirement: Annotated[str, About("Id of the requirement.", ("G-S-1",))]
    level: Annotated[Level, About("How strongly it is required (RFC 2119).")]
    verdict: Annotated[Verdict, About("What was found.")]
    reason: Annotated[str, About("Why; may be empty for a pass.")]
    evidence: Annotated[tuple[str, ...], About("What was sent and what came; bounded, without credentials.")]


@dataclass(frozen=True, slots=True)
class RequirementText:
    """A requirement that the report is about."""

    id: Annotated[str, About("Its id.", ("G-S-1",))]
    level: Annotated[Level, About("How strongly it is required (RFC 2119).")]
    section: Annotated[str, About("Heading above it.")]
    page: Annotated[str, About("Page of the documentation.")]
    text: Annotated[str, About("Its text.")]


@dataclass(frozen=True, slots=True)
class ConformanceReport(OwnKind):
    """Everything that one run checked."""

    tool: Annotated[str, About("Who checked, and in which version.")]
    profile: Annotated[Profile, About("What was checked for.")]
    subject: Annotated[str, About("What was checked: a URL, or a command; without credentials.")]
    checked_at: Annotated[str, About("When, RFC 3339 in UTC.")]
    passed: Annotated[int, About("Checks that passed.")]
    failed: Annotated[int, About("Checks of a MUST that failed.")]
    warned: Annotated[int, About("Checks of a SHOULD or MAY that failed.")]
    skipped: Annotated[int, About("Checks that were skipped.")]
    requirements: Annotated[tuple[RequirementText, ...], About("What was checked against.")]
    results: Annotated[tuple[CheckResult, ...], About("In the order of the requirements.")]

    @property
    def conforms(self) -> bool:
        """Whether every MUST that was checked holds, and something was checked."""
        return not self.failed and self.passed > 0

    def verdicts(self) -> dict[str, Verdict]:
        """Return the worst verdict of each requirement, by id."""
        worst: dict[str, Verdict] = {}
        for each in self.results:
            before = worst.get(each.requirement, "not-applicable")
            worst[each.requirement] = min(before, each.verdict, key=WORST_FIRST.index)
        return worst


def make_report(
    profile: Profile,
    subject: str,
    checked_at: str,
    known: Mapping[str, Requirement],
    outcomes: Iterable[tuple[str, str, Outcome]],
) -> ConformanceReport:
    """Return the report of a run.

    Args:
        subject: what was checked; without credentials.
        checked_at: when, RFC 3339 in UTC.
        known: every requirement that a check can name, by id.
        outcomes: id of the requirement, name of the check, and what it found.

    Raises:
        KeyError: a check names a requirement that does not exist.
    """
    order = {requirement: number for number, requirement in enumerate(known)}
    found = sorted(outcomes, key=lambda each: order[each[0]])
    results = tuple(
        CheckResult(check, name, known[name].level, outcome.verdict, outcome.reason, outcome.evidence)
        for name, check, outcome in found
    )
    used = {each.requirement for each in results}
    failures = [each for each in results if each.verdict == "fail"]
    musts = sum(each.level == "MUST" for each in failures)
    return ConformanceReport(
        tool=f"margo-gitops {__version__}",
        profile=profile,
        subject=subject,
        checked_at=checked_at,
        passed=sum(each.verdict == "pass" for each in results),
        failed=musts,
        warned=len(failures) - musts,
        skipped=sum(each.verdict == "skipped" for each in results),
        requirements=tuple(
            RequirementText(each.id, each.level, each.section, each.page, each.text)
            for each in known.values()
            if each.id in used
        ),
        results=results,
    )


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
    return pretty_json(write(report))


def as_junit(report: ConformanceReport) -> str:
    """Return the report as JUnit XML: a test case for each check; only a MUST fails it."""
    skipped = sum(each.verdict in ("skipped", "not-applicable") for each in report.results)
    counts = {"tests": str(len(report.results)), "failures": str(report.failed), "errors": "0"}
    name = f"margo-gitops conformance {report.profile}"
    root = ET.Element("testsuites", {"name": name, **counts})
    suite = ET.SubElement(
        root, "testsuite", {"name": name, **counts, "skipped": str(skipped), "timestamp": report.checked_at}
    )
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", {"name": "subject", "value": printable(report.subject)})
    for each in report.results:
        case = ET.SubElement(
            suite,
            "testcase",
            {"name": printable(f"{each.requirement} {each.check}"), "classname": report.profile},
        )
        seen = printable_lines("\n".join([each.reason, *each.evidence]).strip())
        if each.verdict == "fail" and each.level == "MUST":
            failure = ET.SubElement(case, "failure", {"type": each.requirement, "message": printable(each.reason)})
            failure.text = seen
        elif each.verdict in ("skipped", "not-applicable"):
            ET.SubElement(case, "skipped", {"message": printable(each.reason)})
        elif seen:
            ET.SubElement(case, "system-out").text = seen
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .4rem .6rem }
tr { border-bottom: 1px solid #ddd } code, pre { font: 13px/1.4 ui-monospace, monospace } pre { white-space: pre-wrap }
.pass { color: #17692b } .fail { color: #b3140c; font-weight: 600 } .warn { color: #8a5a00 } .muted { color: #666 }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #e6e6e6 } tr { border-color: #333 }
.pass { color: #6fce85 } .fail { color: #ff8b84 } .warn { color: #e8b860 } .muted { color: #999 } }
"""


def as_html(report: ConformanceReport) -> str:
    """Return the report as a page; everything that came from elsewhere is escaped."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ConformanceReport) -> Iterator[str]:
    subject = escape(report.subject)
    conforms = "conforms" if report.conforms else "does not conform"
    texts = {each.id: each for each in report.requirements}
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # A report shows what strangers sent: a browser must not run any of it, even where this code overlooks something.
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{subject}: conformance</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{subject}</h1>"
    yield f'<p class="{"pass" if report.conforms else "fail"}">It {conforms} ({escape(report.profile)}).</p>'
    yield f"<p>{report.passed} passed, {report.failed} failed, {report.warned} warnings, {report.skipped} skipped.</p>"
    yield f'<p class="muted">Checked by {escape(report.tool)} at {escape(report.checked_at)}.</p>'
    yield "<table><thead><tr><th>Verdict</th><th>Requirement</th><th>Check</th></tr></thead><tbody>"
    for each in report.results:
        yield from _row(each, texts[each.requirement])
    yield "</tbody></table></body></html>"


def _row(each: CheckResult, requirement: RequirementText) -> Iterator[str]:
    style, word = {
        "pass": ("pass", "pass"),
        "skipped": ("muted", "skipped"),
        "not-applicable": ("muted", "not applicable"),
        "fail": ("fail", "fail") if each.level == "MUST" else ("warn", "warning"),
    }[each.verdict]
    yield f'<tr><td class="{style}">{word}</td>'
    yield f"<td><code>{escape(each.requirement)}</code><br>{each.level}</td>"
    yield f"<td><strong>{escape(each.check)}</strong>"
    if each.reason:
        yield f"<br>{escape(each.reason)}"
    yield f'<br><span class="muted">{escape(requirement.text)}</span>'
    if each.evidence:
        seen = escape("\n".join(each.evidence))
        yield f"<details><summary>evidence</summary><pre>{seen}</pre></details>"
    yield "</td></tr>"


FORMATS: Final[dict[str, Callable[[ConformanceReport], str]]] = {
    "html": as_html,
    "json": as_json,
    "junit": as_junit,
    "text": as_text,
}
"""Every format, by its name on the command line."""
