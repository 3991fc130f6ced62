"""Check a server against every requirement that can be seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Final

from margo_gitops.conformance.evidence import shown
from margo_gitops.conformance.report import ConformanceReport, Heading, make_report
from margo_gitops.conformance.requirement import GIT_PAGE, HTTP_PAGE, requirements
from margo_gitops.conformance.servers import git_checks, http_checks
from margo_gitops.conformance.servers.checking import run_checks
from margo_gitops.conformance.servers.git_access_checks import ACCESS
from margo_gitops.conformance.servers.git_session import GitSession
from margo_gitops.conformance.servers.git_state_checks import WRITTEN
from margo_gitops.conformance.servers.http_report_checks import REPORTING
from margo_gitops.conformance.servers.http_session import HttpSession
from margo_gitops.conformance.servers.raw_client import RawClient
from margo_gitops.conformance.servers.target import ServerTarget

GIT_CHECKS: Final = (*git_checks.OFFERING, *ACCESS, *WRITTEN, *git_checks.AFTERWARDS)
"""Every check of a git server, in the order in which they are made."""

HTTP_CHECKS: Final = (*http_checks.READING, *REPORTING, *http_checks.AFTERWARDS)
"""Every check of an HTTP server, in the order in which they are made."""


def check_git(
    target: ServerTarget, checked_at: str, told: Callable[[str], None] = lambda _line: None
) -> ConformanceReport:
    """Check a git server.

    Args:
        target: the server and who asks; its URL is that of the repository.
        checked_at: the time, RFC 3339 in UTC.
        told: is told the name of each check before it is made.

    Raises:
        ServerNotReached: its first answer does not come.
        ServerNotCheckable: a certificate cannot be used.
    """
    with closing(RawClient(target)) as client:
        session = GitSession(target, client)
        session.advertisement()
        outcomes = list(run_checks(session, GIT_CHECKS, told))
    return make_report(Heading("git", shown(target.url), checked_at), requirements(GIT_PAGE), outcomes)


def check_http(
    target: ServerTarget, checked_at: str, told: Callable[[str], None] = lambda _line: None
) -> ConformanceReport:
    """Check a server of the Margo API.

    Args:
        target: the server and who asks; its URL is what stands before /api/v1/deployments.
        checked_at: the time, RFC 3339 in UTC.
        told: is told the name of each check before it is made.

    Raises:
        ServerNotReached: its first answer does not come.
        ServerNotCheckable: a certificate cannot be used.
    """
    with closing(RawClient(target)) as client:
        session = HttpSession(target, client)
        session.get_manifest()
        outcomes = list(run_checks(session, HTTP_CHECKS, told))
    return make_report(Heading("http", shown(target.url), checked_at), requirements(HTTP_PAGE), outcomes)
