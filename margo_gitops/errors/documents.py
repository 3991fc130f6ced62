"""MG10xx: documents."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, Finding, Location, MargoGitopsError


class InvalidDocument(MargoGitopsError):
    """A document does not follow its contract.

    Each line below the message names one finding with file, line, column, field and remedy. Nothing of the document is
    used until all of them are mended. `margo-gitops document check FILE` shows the same findings for one file.
    """

    code = "MG1001"

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class UnreadableDocument(MargoGitopsError):
    """A file is not YAML or JSON that can be read safely.

    Broken syntax, aliases, tags, duplicate keys, several documents in one file, bytes that are not UTF-8, values whose
    meaning differs between YAML 1.1 and 1.2 readers, or a file beyond the bounds on size and depth.
    """

    code = "MG1002"


class UnwritableValue(MargoGitopsError):
    """A value cannot be written so that every reader reads the same value back.

    Numbers that are not finite or need more than 64 bits, and text with lone surrogates.
    """

    code = "MG1003"


class ExtraMissing(MargoGitopsError):
    """A command needs packages that this installation does not have.

    A device installs `margo-gitops` alone. People and pipelines that render install `margo-gitops[operator]`.
    """

    code = "MG1010"
    exit_code = ExitCode.USAGE


class EnvironmentInvalid(MargoGitopsError):
    """An environment variable that starts with `MARGO_` is not known, or has a value that cannot be used.

    A misspelt variable would be ignored in silence otherwise, and the setting it was meant for stay at its default.
    """

    code = "MG1011"
    exit_code = ExitCode.USAGE
