"""What is worth telling of a device's life. Each event goes to the journal and to the log, one line on standard error.

`Reason` is the one list of reasons; docs/agent.md explains each, and a test keeps the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Literal, TextIO, TypeAlias

from margo_gitops.documents.json_text import write_json
from margo_gitops.errors import MargoGitopsError


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
        """Whether a person should look at it even if everything works again."""
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
        text: for people; says what, where and why.
        code: of the error behind it; empty without an error.
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


LogFormat: TypeAlias = Literal["text", "json"]


class EventLog:
    """Writes events as lines.

    Args:
        form: `text` for people, `json` for machines.
        clock: the time, seconds since the epoch.
        stream: where to; standard error if not given.
    """

    def __init__(self, form: LogFormat, clock: Callable[[], float], stream: TextIO | None = None) -> None:
        self._form = form
        self._clock = clock
        self._stream = stream if stream is not None else sys.stderr

    def write(self, event: Event) -> None:
        """Write one line; a log that cannot be written stops nothing."""
        moment = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        level = "security" if event.reason.security else "error" if event.reason.failure else "info"
        if self._form == "json":
            fields = {
                "time": moment,
                "level": level,
                "reason": event.reason.value,
                "code": event.code,
                "subject": event.subject,
                "text": printable(event.text),
            }
            line = write_json({name: text for name, text in fields.items() if text}).decode()
        else:
            subject = f" {event.subject}" if event.subject else ""
            line = f"{moment} {level} {event.reason.value}{subject}: {one_line(event.text)}"
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):
            return


def one_line(text: str) -> str:
    """Return text as one line without control characters, wherever it comes from."""
    return printable("; ".join(part.strip() for part in text.splitlines() if part.strip()))


def printable(text: str) -> str:
    """Return text with every character that a terminal or a JSON reader could stumble over spelled out."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
