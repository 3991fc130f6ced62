"""What `margo-gitops audit verify` finds, as a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from margo_gitops.documents.declarations import About, OwnKind
from margo_gitops.values import dataclass
from margo_gitops.wording import counted


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """Something in the state repo's history that no render made, or that cannot be proven."""

    severity: Annotated[Literal["error", "warning"], About("An `error` means that the history does not verify.")]
    commit: Annotated[str, About("The commit of the branch `fleet`, or of `reports`; empty where it is about none.")]
    fleet_commit: Annotated[str, About("The commit of the fleet repo that it names; empty for none.")]
    ref: Annotated[str, About("The branch concerned.", ("refs/heads/devices/press-07",))]
    file: Annotated[str | None, About("The path in that fleet commit's tree; null where it is not a file.")]
    what: Annotated[str, About("What is wrong.")]
    expected: Annotated[str | None, About("What should be there; null where that says nothing.")]
    found: Annotated[str | None, About("What is there; null where that says nothing.")]
    code: Annotated[str | None, About("What kind of fault it is; only of receipts.", ("receipt-dropped",))] = None

    @classmethod
    def of(
        cls,
        ref: str,
        what: str,
        expected: str | None = None,
        found: str | None = None,
        *,
        commit: str = "",
        file: str | None = None,
        severity: Literal["error", "warning"] = "error",
        code: str | None = None,
    ) -> AuditFinding:
        """Return a finding about a branch that names no fleet commit."""
        return cls(severity, commit, "", ref, file, what, expected, found, code)

    @property
    def sentence(self) -> str:
        """The finding on one line."""
        place = f"{self.ref}: {self.file}" if self.file else self.ref
        parts = [f"{self.commit[:12]}: {place}: {self.what}" if self.commit else f"{place}: {self.what}"]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.code is not None:
            parts[0] += f" [{self.code}]"
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Verification(OwnKind):
    """The result of a verification."""

    state_repo: Annotated[str, About("Path or URL.")]
    tip: Annotated[str | None, About("The newest commit of the branch `fleet`; null for an empty state repo.")]
    since: Annotated[str | None, About("Nothing up to and including this commit was looked at; null: all was.")]
    checkpoint: Annotated[
        str | None, About("The signed checkpoint at which history ends; null where all of it was there.")
    ]
    commits: Annotated[int, About("How many commits of the branch `fleet` are good.")]
    device_commits: Annotated[int, About("How many commits of device branches are good.")]
    report_commits: Annotated[int, About("How many commits of the branch `reports` are good.")]
    verified: Annotated[str | None, About("The last good commit of the branch `fleet`; null for none.")]
    signed_by: Annotated[tuple[str, ...], About("The signers of all these commits, sorted.")]
    findings: Annotated[tuple[AuditFinding, ...], About("Warnings, and the errors of the first bad commit.")]
    receipts: Annotated[int, About("How many receipts of devices are good.")] = 0

    @property
    def errors(self) -> tuple[AuditFinding, ...]:
        """What makes the history a bad one."""
        return tuple(each for each in self.findings if each.severity == "error")

    @property
    def warnings(self) -> tuple[AuditFinding, ...]:
        """What could not be proven, or was unusual."""
        return tuple(each for each in self.findings if each.severity == "warning")


def verification_lines(result: Verification) -> Iterator[str]:
    """Yield what a verification found; its errors are for the error that ends the command."""
    for each in result.warnings:
        yield f"warning: {each.sentence}"
    if result.tip is None:
        yield "nothing to verify: the state repo is empty"
        return
    since = f" since {result.since[:12]}" if result.since else ""
    devices = counted(result.device_commits, "device commit")
    yield f"{counted(result.commits, 'fleet commit')}{since} and {devices} verified"
    if result.checkpoint:
        yield f"older history is in an archive, by the signed checkpoint {result.checkpoint[:12]}"
    if result.report_commits:
        yield f"{counted(result.report_commits, 'commit')} of reports verified"
    if result.receipts:
        yield f"{counted(result.receipts, 'receipt')} of what ran verified"
    for signer in result.signed_by:
        yield f"signed by {signer}"
