"""MG18xx: the server, and from MG1820 on the audit."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class ServerMisconfigured(MargoGitopsError):
    """The server's configuration, or a file that it names, cannot be used.

    Each line names a mistake with its place. The server does not start. If a list of tokens, accepted
    clients or allowed signers becomes invalid while the server runs, it keeps the previous list and logs the mistake.
    """

    code = "MG1801"
    exit_code = ExitCode.USAGE


class ServerBusy(MargoGitopsError):
    """Another server uses the same folder of reports.

    A journal in a folder has one writer. For several servers, keep it in PostgreSQL (`reports.postgresql`).
    """

    code = "MG1802"
    exit_code = ExitCode.TRY_LATER


class ReportsUnusable(MargoGitopsError):
    """The journal of reports cannot be read or written.

    The server acknowledges a report only after it is on disk, so it takes no reports now. It still serves the state.
    """

    code = "MG1803"
    exit_code = ExitCode.USAGE


class ReportsDatabaseAway(MargoGitopsError):
    """The PostgreSQL database of reports does not answer.

    Reports are refused with 503 and a time to come back until it answers again; devices then send them again. The
    server still serves the state.
    """

    code = "MG1804"
    exit_code = ExitCode.TRY_LATER


class ReportsDatabaseRefused(MargoGitopsError):
    """The PostgreSQL database of reports does not let the server in.

    User, password or name of the database is wrong, or `pg_hba.conf` of the database has no line for this server. Or a
    table is missing, and the user may not make it: let it do so once, with `GRANT CREATE ON SCHEMA`.
    """

    code = "MG1805"
    exit_code = ExitCode.USAGE


class ReportsDatabaseNewer(MargoGitopsError):
    """A newer version of margo-gitops has changed the tables of reports.

    This server does not know what they mean now, and takes no reports. It still serves the state. Install the version
    that the other servers have.
    """

    code = "MG1806"
    exit_code = ExitCode.USAGE


class EnrolmentsUnusable(MargoGitopsError):
    """The enrolled devices cannot be read or written.

    They are in a file in the folder of the journal of reports, or in the same database. Devices that the server knows
    already are served; it enrols no device now.
    """

    code = "MG1807"
    exit_code = ExitCode.USAGE


class EnrolmentNotMade(MargoGitopsError):
    """The device cannot be enrolled, approved or revoked in this way.

    Possible causes: the server's configuration has no section `enrolment`, the fleet has no trust document, the id is
    one that no device with a token can have, or no such key waits. Nothing was changed.
    """

    code = "MG1808"
    exit_code = ExitCode.USAGE


class ClientRegistryUnusable(MargoGitopsError):
    """The registry of client ids cannot be read or written.

    The server knows devices of the older contract by these ids. The registry is in the folder of the journal of
    reports; a backup of that folder has both. Without it, devices must be onboarded again, and get other ids.
    """

    code = "MG1810"
    exit_code = ExitCode.USAGE


class AuditFailed(MargoGitopsError):
    """The state repo's history is not what the fleet repo's commits render to.

    The message names the first bad commit, with the branch, the file, and the expected and the found content. Later
    commits were not checked. Someone other than the renderer wrote it, or moved a ref. Find out who, keep a copy of the
    repository as evidence, and restore the branches from a clone that verifies. `docs/audit.md` lists the checks.
    """

    code = "MG1820"
    exit_code = ExitCode.TRUST


class AuditUnusable(MargoGitopsError):
    """The audit cannot find what you asked for: a commit, a device, or a render at that time.

    The message names it, and the remedy says how to list what exists.
    """

    code = "MG1821"
    exit_code = ExitCode.USAGE
