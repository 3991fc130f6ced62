"""MG10xx: documents."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, Finding, Location, MargoGitopsError


class InvalidDocument(MargoGitopsError):
    """A document does not follow its contract.

    Each line below the message names one finding with file, line, column, field and remedy. Nothing of the document is
    used until you fix all of them. `margo-gitops document check FILE` shows the same findings for one file.
    """

    code = "MG1001"

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class UnreadableDocument(MargoGitopsError):
    """A file is not YAML or JSON that can be read safely.

    Possible causes: broken syntax, aliases, tags, duplicate keys, several documents in one file, bytes that are not
    UTF-8, or a file beyond the bounds on size and depth. A value that YAML 1.1 and YAML 1.2 readers understand
    differently is refused too.
    """

    code = "MG1002"


class UnwritableValue(MargoGitopsError):
    """A value cannot be written so that every reader reads the same value back.

    This concerns numbers that are not finite or need more than 64 bits, and text with lone surrogates.
    """

    code = "MG1003"


class ExtraMissing(MargoGitopsError):
    """A command needs packages that are not installed.

    A device needs only `margo-gitops`. People and pipelines that render need the extra `operator`.
    """

    code = "MG1010"
    exit_code = ExitCode.USAGE


class EnvironmentInvalid(MargoGitopsError):
    """An environment variable that starts with `MARGO_` is unknown, or has a value that cannot be used.

    Without this error, a misspelled variable would be ignored, and its setting would silently keep the default.
    """

    code = "MG1011"
    exit_code = ExitCode.USAGE
