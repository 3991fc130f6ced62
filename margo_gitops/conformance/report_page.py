"""A conformance report as one HTML file that can be published: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from margo_gitops.conformance.report import CheckResult, ConformanceReport, RequirementText

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
    # A report shows what strangers sent: a browser shall run none of it, whatever was overlooked here.
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
