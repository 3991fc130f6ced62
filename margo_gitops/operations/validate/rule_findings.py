"""What `margo-gitops validate` finds, as a value; `schemas/validation.schema.json` is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.documents.fleet_policy import Silence
from margo_gitops.errors import Finding, InvalidDocument, Location, MargoGitopsError
from margo_gitops.errors.base import on_devices
from margo_gitops.operations.validate.rules import RULES, Severity
from margo_gitops.values import dataclass, replace
from margo_gitops.wording import printable


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """A place where a rule is broken."""

    rule: Annotated[str, About("Id of the rule (docs/rules.md).", ("MG1201", "R201"))]
    severity: Annotated[Severity, About("`error` refuses the fleet; `warning` may do harm; `note` is worth knowing.")]
    message: Annotated[str, About("What is wrong.")]
    file: Annotated[str | None, About("Relative to the fleet repo; null where it is in no file.")]
    line: Annotated[int | None, About("From 1; null where only the file is known.")]
    column: Annotated[int | None, About("From 1; null where only the file is known.")]
    device: Annotated[str | None, About("The device concerned; null for no device or all devices.")]
    devices: Annotated[int, About("How many devices share this finding; one of them is named.")]
    why: Annotated[tuple[str, ...], About("The reasons.")]
    remedy: Annotated[str, About("What to do; may be empty.")]

    @property
    def identity(self) -> tuple[str, str | None, str]:
        """What stays the same when lines move."""
        return self.rule, self.file, self.message

    @property
    def place(self) -> str:
        """`file:line:column`; empty where it is in no file."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    @property
    def sentence(self) -> str:
        """The message with its reasons, the devices and the remedy, on one line."""
        parts = [on_devices(self.message, self.device, self.devices), *self.why]
        if self.remedy:
            parts.append(f"remedy: {self.remedy}")
        return printable("; ".join(parts))


@dataclass(frozen=True, slots=True)
class Validation(OwnKind):
    """Everything that was found."""

    subject: Annotated[str, About("What was checked: a commit id, or `working tree`.")]
    since: Annotated[str | None, About("Only findings of the change since this commit are there; null: all.")]
    errors: Annotated[int, About("How many.")]
    warnings: Annotated[int, About("How many.")]
    notes: Annotated[int, About("How many.")]
    silenced: Annotated[int, About("How many warnings the fleet's policy silences; they are not among the findings.")]
    findings: Annotated[tuple[RuleFinding, ...], About("Sorted by file and place.")]


def make_validation(
    subject: str, since: str | None, findings: list[RuleFinding], silences: Sequence[Silence] = ()
) -> Validation:
    """Return findings, sorted and counted; equal ones of several devices become one.

    Args:
        silences: which warnings the fleet's policy silences.
    """
    merged: dict[tuple[object, ...], list[RuleFinding]] = {}
    for each in findings:
        # What differs by device alone is told once: one mistake can concern ten thousand devices.
        message = each.message.replace(each.device, "") if each.device else each.message
        key = (each.rule, each.file, each.line, each.column, message, each.remedy)
        merged.setdefault(key, []).append(each)
    told = [replace(group[0], devices=len({each.device for each in group} - {None})) for group in merged.values()]
    every = len(told)
    told = [
        each
        for each in told
        if each.severity != "warning" or not any(silence.covers(each.rule, each.file) for silence in silences)
    ]
    told.sort(key=lambda each: (each.file or "", each.line or 0, each.column or 0, each.rule, each.message))
    return Validation(
        subject=subject,
        since=since,
        errors=sum(each.severity == "error" for each in told),
        warnings=sum(each.severity == "warning" for each in told),
        notes=sum(each.severity == "note" for each in told),
        silenced=every - len(told),
        findings=tuple(told),
    )


def of_finding(finding: Finding) -> RuleFinding:
    """Return a finding of a document as one of a rule."""
    message = f"{finding.path}: {finding.message}" if finding.path else finding.message
    severity: Severity = "warning" if finding.severity == "warning" else "error"
    return _found(finding.rule or InvalidDocument.code, severity, message, finding.location, finding.remedy)


def of_error(error: MargoGitopsError, severity: Severity = "error") -> RuleFinding:
    """Return an error of the tree as a finding of the rule that has its code."""
    return _found(error.code, severity, error.what, error.where, error.remedy, error.device, error.why)


def of_rule(rule: str, message: str, where: Location, remedy: str) -> RuleFinding:
    """Return a finding of a rule that has an id of its own, with the rule's severity."""
    return _found(rule, RULES[rule].severity, message, where, remedy)


def _found(
    rule: str,
    severity: Severity,
    message: str,
    where: Location | None,
    remedy: str,
    device: str | None = None,
    why: tuple[str, ...] = (),
) -> RuleFinding:
    file, line, column = (where.file, where.line, where.column) if where else (None, None, None)
    return RuleFinding(rule, severity, message, file, line, column, device, 1 if device else 0, why, remedy)
