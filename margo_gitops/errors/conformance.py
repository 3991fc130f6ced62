"""MG23xx: conformance."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class AgentNotRunnable(MargoGitopsError):
    """The agent to check cannot be run.

    What follows `--` is not a program or cannot be started, or one of its settings makes no sense. The kit checked
    nothing.
    """

    code = "MG2301"
    exit_code = ExitCode.USAGE


class ServerNotReached(MargoGitopsError):
    """The server to check cannot be reached.

    Possible causes: name resolution, connection, TLS handshake, or a timeout at the first request. The kit checked
    nothing. You can try again.
    """

    code = "MG2302"
    exit_code = ExitCode.TRANSPORT


class ServerNotCheckable(MargoGitopsError):
    """The settings of a conformance check cannot work.

    Possible causes: a URL that is not http or https or that contains credentials, a token file that cannot be read, or
    an invalid device id. Nothing was sent.
    """

    code = "MG2303"
    exit_code = ExitCode.USAGE
