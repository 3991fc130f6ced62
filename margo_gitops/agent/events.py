"""What is worth telling of a device's life; each event goes to the journal and to the log.

`Reason` is the one list of reasons; docs/agent.md explains each, and a test keeps the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from margo_gitops.errors import MargoGitopsError, TrustRefused


class Reason(Enum):
    """Why an event was recorded; `security` ones are kept apart when the journal is thinned out."""

    FIRST_CONTACT = "FirstContact"
    STATE_TRUSTED = "StateTrusted"
    STATE_REFUSED = "StateRefused"
    STATE_DAMAGED = "StateDamaged"
    SIGNERS_UNREADABLE = "SignersUnreadable"
    FLOOR_DAMAGED = "FloorDamaged"
    FLOOR_MENDED = "FloorMended"
    FLOOR_COPY_FAILED = "FloorCopyFailed"
    FRESHNESS_LOST = "FreshnessLost"
    FRESHNESS_REFUSED = "FreshnessRefused"
    FRESHNESS_REGAINED = "FreshnessRegained"
    JOURNAL_REBUILT = "JournalRebuilt"
    POLL_FAILED = "PollFailed"
    POLL_RECOVERED = "PollRecovered"
    WORKLOAD_INSTALLED = "WorkloadInstalled"
    WORKLOAD_FAILED = "WorkloadFailed"
    WORKLOAD_REMOVED = "WorkloadRemoved"
    DEPLOYMENT_WAITS = "DeploymentWaits"
    REPORT_FAILED = "ReportFailed"
    REPORT_REFUSED = "ReportRefused"
    REPORT_RECOVERED = "ReportRecovered"
    STORAGE_FAILED = "StorageFailed"
    DEFECT = "Defect"

    @property
    def security(self) -> bool:
        """Whether somebody should look at it even if everything works again."""
        return self in _SECURITY

    @property
    def failure(self) -> bool:
        """Whether something did not work."""
        return self in _FAILURES


_SECURITY = frozenset(
    {
        Reason.FIRST_CONTACT,
        Reason.STATE_REFUSED,
        Reason.STATE_DAMAGED,
        Reason.SIGNERS_UNREADABLE,
        Reason.FLOOR_DAMAGED,
        Reason.FLOOR_MENDED,
        Reason.FLOOR_COPY_FAILED,
        Reason.FRESHNESS_LOST,
        Reason.FRESHNESS_REFUSED,
    }
)
_FAILURES = frozenset(
    {
        Reason.STATE_REFUSED,
        Reason.STATE_DAMAGED,
        Reason.SIGNERS_UNREADABLE,
        Reason.FLOOR_DAMAGED,
        Reason.FLOOR_COPY_FAILED,
        Reason.FRESHNESS_LOST,
        Reason.FRESHNESS_REFUSED,
        Reason.JOURNAL_REBUILT,
        Reason.POLL_FAILED,
        Reason.WORKLOAD_FAILED,
        Reason.DEPLOYMENT_WAITS,
        Reason.REPORT_FAILED,
        Reason.REPORT_REFUSED,
        Reason.STORAGE_FAILED,
        Reason.DEFECT,
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        reason: of which kind it is.
        text: for people; says what, where and why.
        code: of the error behind it; empty where there is none.
        subject: the deployment or component it is about; empty for the device.
    """

    reason: Reason
    text: str
    code: str = ""
    subject: str = ""

    @staticmethod
    def of(reason: Reason, error: MargoGitopsError, subject: str = "") -> Event:
        """Return the event that an error is."""
        return Event(reason, str(error), error.code, subject)


Record: TypeAlias = Callable[[Event], None]
"""Keeps an event, in the journal and in the log."""


def refusal(error: TrustRefused) -> Event:
    """Return the security event of a snapshot that was not trusted."""
    return Event.of(Reason.STATE_REFUSED, error)
