"""Checked evidence for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from margo_gitops.audit.evidence.check import CheckedEvidence
from margo_gitops.wording import counted

_SHOWN = 50


def evidence_lines(checked: CheckedEvidence) -> Iterator[str]:
    """Yield what an evidence file proves."""
    evidence = checked.evidence
    yield f"fleet {evidence.fleet}: {counted(len(evidence.states), 'state')} proven"
    yield f"  exported   {evidence.exported_at.replace('+00:00', 'Z')} by {checked.exporter}"
    yield f"  signed by  {', '.join(checked.signed_by) or 'nobody'}"
    if checked.unsigned:
        yield f"  warning: {counted(checked.unsigned, 'commit')} unsigned: only the exporter vouches for that"
    for state in evidence.states[:_SHOWN]:
        commit = state.fleet_commit
        yield f"{state.device}  manifest {state.manifest_version}"
        yield f"  device commit  {state.device_commit}"
        yield f"  fleet commit   {commit.id[:12]}  {commit.date}  {commit.author}"
        yield f"                 {commit.subject}"
        for each in commit.trailers:
            yield f"                 {each.name}: {each.value}"
    if len(evidence.states) > _SHOWN:
        yield f"and {counted(len(evidence.states) - _SHOWN, 'more state')}"
