"""`margo-gitops document`: say of any file what it is, and everything that is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import click

from margo_gitops.agent.settings.configuration import AgentConfiguration
from margo_gitops.cli.output import output_option, show
from margo_gitops.disk.files import read_bounded, reason
from margo_gitops.documents.declarations import API_VERSION, About, Range, Text
from margo_gitops.documents.kinds import check_document, read_source
from margo_gitops.documents.nodes import DEFAULT_BOUNDS, SourceText
from margo_gitops.documents.records import find
from margo_gitops.errors import ExitCode, Finding, Location, UnreadableDocument
from margo_gitops.server.service.configuration import ServerConfiguration
from margo_gitops.values import dataclass, replace

STDIN = "-"
_CONFIGURATIONS: dict[str, type] = {record.__name__: record for record in (AgentConfiguration, ServerConfiguration)}

Verdict = Literal["valid", "invalid", "unopened"]


@dataclass(frozen=True, slots=True)
class ProblemFieldError:
    """What is wrong with one field of a request's body."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class ProblemDetail:
    """An error of the API, with Margo's members for retries; others are allowed (RFC 9457, 3.2)."""

    type: Annotated[str, About("A URI that names the kind of problem.")]
    title: Annotated[str, Text(min_length=1)]
    status: Annotated[int, Range(minimum=100, maximum=599)]
    detail: str | None = None
    instance: str | None = None
    errors: tuple[ProblemFieldError, ...] = ()
    retryable: bool | None = None
    backoff_strategy: Literal["exponential", "none"] | None = None
    retry_after_seconds: Annotated[int | None, Range(minimum=0)] = None


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What one file turned out to be.

    Attributes:
        file: its name as the user gave it; `<stdin>` for the standard input.
        verdict: "unopened" for a file that could not be read at all.
        kind: None if it is unknown.
        shape: G0, G1, G2 of the standard, v1 of our own kinds; None if it is unknown.
        findings: everything that is wrong (errors) or doubtful (warnings).
    """

    file: str
    verdict: Verdict
    kind: str | None
    shape: str | None
    findings: tuple[Finding, ...]


@click.group()
def document() -> None:
    """Check documents of Margo and of this project."""


@document.command()
@output_option()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.pass_context
def check(context: click.Context, output: str, files: tuple[str, ...]) -> None:
    """Check YAML or JSON files: kind, shape, and every finding with its place. - is the standard input.

    Exits 0 if every file is valid (warnings do not count), 1 if one is not, 2 if one cannot be opened.
    """
    checked = [check_file(file) for file in files]
    show(output, [_as_json(item) for item in checked], as_text(checked))
    verdicts = {item.verdict for item in checked}
    if "unopened" in verdicts:
        context.exit(ExitCode.USAGE)
    context.exit(ExitCode.FINDINGS if "invalid" in verdicts else ExitCode.OK)


def check_file(file: str) -> CheckedFile:
    """Return what a file is and every finding in it; a file that cannot be opened is a finding too."""
    name = "<stdin>" if file == STDIN else file
    try:
        content = _read(file)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        finding = Finding(f"cannot be opened: {why}", Location(name), remedy="give the path of a readable file")
        return CheckedFile(name, "unopened", None, None, (finding,))
    try:
        return _checked(read_source(content, name))
    except UnreadableDocument as error:
        message = "; ".join([error.what, *error.why])
        return CheckedFile(name, "invalid", None, None, (Finding(message, error.where, remedy=error.remedy),))


def _checked(source: SourceText) -> CheckedFile:
    root = source.root
    value: object
    shape: str | None
    # A program's own file is declared beside the program, above the layer that knows the other kinds.
    record = _CONFIGURATIONS.get(root.text("kind") or "") if root.text("apiVersion") == API_VERSION else None
    if record is not None:
        kind, shape = root.text("kind"), "v1"
        value, findings = find(record, source)
    elif root.get("title") is not None and root.get("type") is not None and root.get("kind") is None:
        kind, shape = "ProblemDetail", "G2"
        value, findings = find(ProblemDetail, replace(source, foreign=True))  # RFC 9457 allows more members
    else:
        checked = check_document(source)
        kind, shape, value, findings = checked.kind, checked.shape, checked.value, list(checked.findings)
    verdict: Verdict = "invalid" if value is None else "valid"
    return CheckedFile(source.file, verdict, kind, shape, tuple(sorted(findings, key=_place)))


def as_text(checked: Sequence[CheckedFile]) -> Iterator[str]:
    """Yield the lines that tell people what was found."""
    for item in checked:
        kind = f"{item.kind} ({item.shape})" if item.shape else item.kind or "unknown kind"
        verdict = "cannot be opened" if item.verdict == "unopened" else f"{kind}: {item.verdict}"
        yield f"{item.file}: {verdict}"
        for finding in item.findings:
            yield f"  {finding.severity}: {finding}"


def _place(finding: Finding) -> tuple[int, int]:
    where = finding.location
    return (where.line or 0, where.column or 0) if where else (0, 0)


def _as_json(item: CheckedFile) -> dict[str, object]:
    return {
        "file": item.file,
        "kind": item.kind,
        "shape": item.shape,
        "verdict": item.verdict,
        "findings": [
            {
                "severity": finding.severity,
                "line": finding.location.line if finding.location else None,
                "column": finding.location.column if finding.location else None,
                "path": finding.path,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for finding in item.findings
        ],
    }


def _read(file: str) -> bytes:
    # One byte more than a document may have: the reader then says that it is too large.
    most = DEFAULT_BOUNDS.size + 1
    return sys.stdin.buffer.read(most) if file == STDIN else read_bounded(Path(file), most, cut=True)
