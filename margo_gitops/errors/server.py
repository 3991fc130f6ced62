"""MG18xx: the server, and from MG1820 on the audit."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class ServerMisconfigured(MargoGitopsError):
    """The server's configuration, or a file that it names, cannot be used.

    Each line names a mistake with its place. The server does not start. A list of tokens or of accepted clients that
    gets a mistake while the server runs is not taken over: what held before holds on, and the log says so.
    """

    code = "MG1801"
    exit_code = ExitCode.USAGE


class ServerBusy(MargoGitopsError):
    """Another server works with the same folder of reports.

    One journal has one writer. Give each server a folder of its own, and let one of them alone take reports.
    """

    code = "MG1802"
    exit_code = ExitCode.TRY_LATER


class ReportsUnusable(MargoGitopsError):
    """The journal of reports cannot be read or written.

    A report is acknowledged once it is on disk; without a disk none is. Reading the state goes on.
    """

    code = "MG1803"
    exit_code = ExitCode.USAGE


class ClientRegistryUnusable(MargoGitopsError):
    """The registry of client ids cannot be read or written.

    Devices of the older contract are known by the ids in it. It lies beside the journal of reports; a backup of that
    folder has both. Without it, devices have to be onboarded again, and get other ids.
    """

    code = "MG1810"
    exit_code = ExitCode.USAGE


class AuditFailed(MargoGitopsError):
    """The state repo's history is not what the fleet repo's commits render to.

    The first bad commit is named, with the branch, the file, and what is expected and found there. Nothing after it was
    looked at. Somebody other than the renderer wrote it, or a ref was moved: find out who, keep a copy of the
    repository as evidence, and restore the branches from a clone that verifies. `docs/audit.md` lists what is checked.
    """

    code = "MG1820"
    exit_code = ExitCode.TRUST


class AuditUnusable(MargoGitopsError):
    """What an audit was asked for is not there: a commit, a device, a time before the first render.

    The message names it, and the remedy says how to list what there is.
    """

    code = "MG1821"
    exit_code = ExitCode.USAGE
