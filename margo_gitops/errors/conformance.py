"""MG23xx: conformance."""

from __future__ import annotations

from margo_gitops.errors.base import ExitCode, MargoGitopsError


class AgentNotRunnable(MargoGitopsError):
    """The agent that shall be checked cannot be run.

    The command after `--` is no program, a program that cannot be started, or one of its settings makes no sense.
    Nothing was judged.
    """

    code = "MG2301"
    exit_code = ExitCode.USAGE


class ServerNotReached(MargoGitopsError):
    """The server that shall be checked cannot be reached.

    Name resolution, connection, TLS handshake, or a time-out at the first request. Nothing was judged: trying again is
    sensible.
    """

    code = "MG2302"
    exit_code = ExitCode.TRANSPORT


class ServerNotCheckable(MargoGitopsError):
    """The settings of a conformance check cannot work.

    A URL of another kind than http or https, credentials in it, a token file that cannot be read, or a device id that
    is none. Nothing was sent.
    """

    code = "MG2303"
    exit_code = ExitCode.USAGE
