"""What a run found: for each check a verdict with its reason and evidence (schemas/conformance-report.schema.json)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops import __version__
from margo_gitops.conformance.requirement import Level, Requirement
from margo_gitops.documents.declarations import About

API_VERSION: Final = "margo-gitops/v1"

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
    section: Annotated[str, About("Heading that it stands below.")]
    page: Annotated[str, About("Page of the documentation.")]
    text: Annotated[str, About("Its text.")]


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """Everything that one run checked."""

    api_version: Literal["margo-gitops/v1"]
    kind: Annotated[Literal["ConformanceReport"], About("What this document is.")]
    tool: Annotated[str, About("Who checked, and in which version.")]
    profile: Annotated[Literal["git", "http", "agent-git", "agent-http"], About("What was checked for.")]
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


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands at the top of a report.

    Attributes:
        profile: what was checked for.
        subject: what was checked; without credentials.
        checked_at: when, RFC 3339 in UTC.
    """

    profile: Literal["git", "http", "agent-git", "agent-http"]
    subject: str
    checked_at: str


def make_report(
    heading: Heading, known: Mapping[str, Requirement], outcomes: Iterable[tuple[str, str, Outcome]]
) -> ConformanceReport:
    """Return the report of a run.

    Args:
        heading: what was checked, and when.
        known: every requirement that a check can name, by id.
        outcomes: id of the requirement, name of the check, and what it found.

    Raises:
        KeyError: a check names a requirement that is none.
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
        api_version=API_VERSION,
        kind="ConformanceReport",
        tool=f"margo-gitops {__version__}",
        profile=heading.profile,
        subject=heading.subject,
        checked_at=heading.checked_at,
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
