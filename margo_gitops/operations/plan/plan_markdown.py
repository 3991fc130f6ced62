"""A plan as a merge request's comment: Markdown of bounded length for a fleet of any size and any values."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from margo_gitops.operations.plan.plan_text import (
    TABLE_HEADING,
    Cause,
    causes,
    deployment_details,
    device_summary,
    download_line,
    headline,
    site_refusal,
    table_rows,
)
from margo_gitops.rendering.changes import DeviceChange, Plan, Refusal
from margo_gitops.wording import printable

MAX_LENGTH = 60_000
"""Characters; the least that a common git host takes for a comment is 65,536."""

MARKER = "<!-- margo-gitops plan -->"
"""First line, so that a pipeline finds its earlier comment and replaces it."""

_ROWS = 40


def as_markdown(plan: Plan, most: int = MAX_LENGTH) -> str:
    """Return a plan as Markdown.

    Args:
        most: characters; at least 2,000.
    """
    cut = "\n\nThe rest does not fit: run `margo-gitops plan --details`.\n"
    budget = most - len(cut)
    text = "\n".join(_head(plan))
    for section in _sections(plan):
        if len(text) + len(section) + 2 > budget:
            return f"{text[:budget].rstrip()}{cut}"
        text = f"{text}\n\n{section}"
    return f"{text}\n"


def _head(plan: Plan) -> Iterator[str]:
    yield MARKER
    yield f"### Plan: {headline(plan)}"
    yield ""
    yield f"{code(plan.subject[:12])} against {_plain(plan.base)}."
    if loaded := download_line(plan.counts.download):
        yield ""
        yield f"To download: {_plain(loaded)}."
    for note in plan.notes:
        yield ""
        yield f"**Note:** {_plain(note)}"


def _sections(plan: Plan) -> Iterator[str]:
    """Yield parts that are shown whole or not at all, so that a cut leaves valid Markdown."""
    if plan.refusals:
        yield "\n".join(_refusal(each) for each in plan.refusals[:_ROWS])
        if len(plan.refusals) > _ROWS:
            yield f"and {len(plan.refusals) - _ROWS} more reasons."
    if plan.cannot_take:
        sites = [f"- {_plain(site_refusal(each))}" for each in plan.cannot_take[:_ROWS]]
        more = [f"- and {len(plan.cannot_take) - _ROWS} more sites"] if len(plan.cannot_take) > _ROWS else []
        yield "\n".join(["Cannot take it:", "", *sites, *more])
    if plan.policy:
        yield "\n".join(_policy(plan))
    if plan.sites:
        rows = table_rows(plan)
        yield "\n".join(_table(TABLE_HEADING, [rows[-1], *rows[: _ROWS - 1]] if len(rows) > _ROWS else rows))
    if told := causes(plan):
        yield "\n".join(_causes(told))
    for device in plan.devices:
        yield "\n".join(_device(device))


def _refusal(refusal: Refusal) -> str:
    place = ":".join(str(part) for part in (refusal.file, refusal.line) if part is not None)
    reasons = f": {'; '.join(refusal.why)}" if refusal.why else ""
    remedy = f" Remedy: {_plain(refusal.remedy)}." if refusal.remedy else ""
    device = f" on {code(refusal.device)}" if refusal.device else ""
    return (
        f"- {f'{code(place)} ' if place else ''}{_plain(refusal.message + reasons)}{device} [{refusal.rule}].{remedy}"
    )


def _policy(plan: Plan) -> Iterator[str]:
    yield "| policy | | |"
    yield "| --- | --- | --- |"
    yield from (_line((each.part, f"**{each.outcome}**", _cell(each.message))) for each in plan.policy)
    reasons = [reason for each in plan.policy for reason in each.reasons]
    if reasons:
        yield ""
        yield from map(_refusal, reasons[:_ROWS])
    if len(reasons) > _ROWS:
        yield ""
        yield f"and {len(reasons) - _ROWS} more reasons."


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _line(heading)
    yield _line(["---"] * len(heading))
    yield from (_line([_cell(cell) for cell in row]) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _causes(told: Sequence[Cause]) -> Iterator[str]:
    rows = [(_cell(each.deployment), code(each.what), code(each.origin), str(each.devices)) for each in told[:_ROWS]]
    yield _line(("deployment", "change", "from", "devices"))
    yield _line(["---"] * 4)
    yield from map(_line, rows)
    if len(told) > _ROWS:
        yield ""
        yield f"and {len(told) - _ROWS} more changes."


def _device(device: DeviceChange) -> Iterator[str]:
    site = f"{device.site}/" if device.site else ""
    told = f"{site}{device.device}: {device_summary(device)}"
    if not device.deployments:
        yield f"- {_plain(told)}"
        return
    yield f"<details><summary>{html.escape(printable(told))}</summary>"
    yield ""
    for deployment in device.deployments:
        child = f" on {code(deployment.device)}" if deployment.device != device.device else ""
        yield f"- {code(deployment.deployment)}{child} {deployment.change}"
        yield from (f"  - {code(line)}" for line in deployment_details(deployment))
    yield ""
    yield "</details>"


def _plain(text: str) -> str:
    """Return text in which nothing is Markdown or HTML, and no one is mentioned."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~@!])", r"\\\1", printable(" ".join(text.split())))
    return escaped.replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\@", "&#64;")


def _cell(text: str) -> str:
    return _plain(text)


def code(text: str) -> str:
    """Return text as a code span that nothing in it ends, inside a table too; "" for none."""
    text = printable(" ".join(text.split()))
    if not text:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text.replace('|', chr(92) + '|')}{space}{fence}"
