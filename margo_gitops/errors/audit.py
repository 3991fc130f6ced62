"""MG22xx: what the fleet reported, and evidence of it."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class StatusUnusable(MargoGitopsError):
    """The status of the fleet was asked for in a way that it cannot be told.

    A device that is none of the fleet's, a condition on labels that is none, or labels where no fleet repo is at hand:
    they are written there, not in the state repo. The message names it.
    """

    code = "MG2201"
    exit_code = ExitCode.USAGE


class EvidenceRefused(MargoGitopsError):
    """An evidence file does not prove what it says.

    Each line names a rule that is broken (`docs/audit.md` lists them): a signature that is none of an allowed signer's,
    an object whose bytes have another id, a statement that the objects do not bear out. Do not believe any of it. Ask
    whoever made the file for another one, and keep this one.
    """

    code = "MG2202"
    exit_code = ExitCode.TRUST


class EvidenceUnusable(MargoGitopsError):
    """An evidence file cannot be made or read.

    There is nothing to export, the file is no evidence file at all, is larger than evidence may be, or cannot be
    written. The message names which.
    """

    code = "MG2203"
    exit_code = ExitCode.USAGE
