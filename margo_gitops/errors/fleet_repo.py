"""MG11xx: the fleet repo."""

from __future__ import annotations

from collections.abc import Sequence

from margo_gitops.errors.base import ExitCode, Finding, Location, MargoGitopsError


class FleetInvalid(MargoGitopsError):
    """The fleet repo has documents that break their contract or do not fit together.

    Each line names one finding with file, line and column. One run shows all findings of the repo.
    """

    code = "MG1101"

    def __init__(self, what: str, findings: Sequence[Finding], *, where: Location | None = None) -> None:
        super().__init__(what, where=where, why=[str(finding) for finding in findings])
        self.findings = tuple(findings)


class NoFleetRepo(MargoGitopsError):
    """There is no fleet repo here: no git repository with a `margo-gitops.yaml`.

    Change to a fleet repo, name its folder with `--fleet`, or make one with `margo-gitops init DIR`.
    """

    code = "MG1102"
    exit_code = ExitCode.USAGE


class PackageInvalid(MargoGitopsError):
    """An application package cannot be used.

    Its folder has no `margo.yaml`, its description or resources have findings, or it contains links or special files.
    """

    code = "MG1103"
    findings: tuple[Finding, ...] = ()


class PackageExists(MargoGitopsError):
    """This version of the application is already in the fleet repo, with other content.

    Each version is published only once: raise the version in the package. To overwrite the version, pass `--replace`.
    """

    code = "MG1104"


class ScaffoldRefused(MargoGitopsError):
    """A fleet repo cannot be scaffolded there: the folder is not empty, or cannot be written.

    Name a folder that is empty or does not exist yet. Nothing in the folder was changed.
    """

    code = "MG1105"
    exit_code = ExitCode.USAGE


class UpgradeRefused(MargoGitopsError):
    """The scaffold of this fleet repo cannot be upgraded.

    Possible causes: a newer margo-gitops made the scaffold, files cannot be written, or git is missing, which merges
    your changes with the new ones. Uncommitted changes also prevent the upgrade: you could not distinguish them from
    its changes.
    """

    code = "MG1121"
    exit_code = ExitCode.USAGE
