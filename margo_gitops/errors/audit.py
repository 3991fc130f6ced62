"""MG22xx: what the fleet reported, and evidence of it."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class StatusUnusable(MargoGitopsError):
    """The status of the fleet cannot be shown for this request.

    Possible causes: a device that is not in the fleet, an invalid condition on labels, or labels without a fleet repo
    (the state repo has no labels). The message names the cause.
    """

    code = "MG2201"
    exit_code = ExitCode.USAGE


class EvidenceRefused(MargoGitopsError):
    """An evidence file does not prove what it says.

    Each line names a broken rule (`docs/audit.md` lists them): a signature that no allowed signer made, an object whose
    bytes have another id, or a statement that the objects do not prove. Do not believe any of it. Ask its maker for
    another file, and keep this one.
    """

    code = "MG2202"
    exit_code = ExitCode.TRUST


class EvidenceUnusable(MargoGitopsError):
    """An evidence file cannot be made or read.

    There is nothing to export, or the file is not an evidence file, is larger than evidence may be, or cannot be
    written. The message says which.
    """

    code = "MG2203"
    exit_code = ExitCode.USAGE
