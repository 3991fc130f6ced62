"""MG11xx: the fleet repo."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, Finding, Location, MargoGitopsError


class FleetInvalid(MargoGitopsError):
    """The fleet repo has documents that do not follow their contract, or do not fit together.

    Each line names one finding with file, line and column. All findings of the repo are shown in one run.
    """

    code = "MG1101"

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class NoFleetRepo(MargoGitopsError):
    """There is no fleet repo here: no git repository with a `margo-gitops.yaml` in its root.

    Change into one, name it with `--fleet`, or make one with `margo-gitops init DIR`.
    """

    code = "MG1102"
    exit_code = ExitCode.USAGE


class PackageInvalid(MargoGitopsError):
    """An application package cannot be used.

    Its folder holds no `margo.yaml`, its description or resources have findings, or it holds links or special files.
    """

    code = "MG1103"
    findings: tuple[Finding, ...] = ()


class PackageExists(MargoGitopsError):
    """This version of the application is already in the fleet repo, with other content.

    A version is published once. Raise the version in the package, or pass --replace to overwrite it.
    """

    code = "MG1104"


class ScaffoldRefused(MargoGitopsError):
    """A fleet repo cannot be scaffolded there: the folder holds something, or cannot be written.

    Name a folder that does not exist yet or is empty. Nothing of what is there was touched.
    """

    code = "MG1105"
    exit_code = ExitCode.USAGE


class UpgradeRefused(MargoGitopsError):
    """The scaffold of this fleet repo cannot be brought up to date.

    Changes are not committed, so that nobody could tell them from what the upgrade does; or a newer margo-gitops made
    the scaffold; or files cannot be written, or git is missing, which merges what you changed with what is new.
    """

    code = "MG1121"
    exit_code = ExitCode.USAGE
