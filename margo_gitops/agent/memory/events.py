"""What is worth telling of a device's life. Each event goes to the journal and to the log, one line on standard error.

`Reason` is the one list of reasons; docs/agent.md explains each, and a test keeps the two together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Literal, Self, TextIO, TypeAlias

from margo_gitops.errors import MargoGitopsError
from margo_gitops.values import dataclass
from margo_gitops.wording import json_text, printable

_SECURITY: Final = "security"
_FAILURE: Final = "failure"


class Reason(Enum):
    """Why an event was recorded, as its value says.

    Attributes:
        security: a person should look at it even if everything works again; kept apart when the journal is thinned out.
        failure: something did not work.
    """

    security: bool
    failure: bool

    STARTED = "Started"
    FIRST_CONTACT = "FirstContact", _SECURITY
    STATE_TRUSTED = "StateTrusted"
    STATE_REFUSED = "StateRefused", _SECURITY, _FAILURE
    STATE_DAMAGED = "StateDamaged", _SECURITY, _FAILURE
    SIGNERS_UNREADABLE = "SignersUnreadable", _SECURITY, _FAILURE
    SIGNER_DROPPED = "SignerDropped", _SECURITY
    TRUST_FOLLOWED = "TrustFollowed"
    TRUST_REFUSED = "TrustRefused", _SECURITY, _FAILURE
    TRUST_EXPIRED = "TrustExpired", _SECURITY, _FAILURE
    FLOOR_CHANGED = "FloorChanged", _SECURITY
    FLOOR_DAMAGED = "FloorDamaged", _SECURITY, _FAILURE
    FLOOR_MENDED = "FloorMended", _SECURITY
    FLOOR_COPY_FAILED = "FloorCopyFailed", _SECURITY, _FAILURE
    FRESHNESS_LOST = "FreshnessLost", _SECURITY, _FAILURE
    FRESHNESS_REFUSED = "FreshnessRefused", _SECURITY, _FAILURE
    FRESHNESS_REGAINED = "FreshnessRegained"
    JOURNAL_REBUILT = "JournalRebuilt", _FAILURE
    POLL_FAILED = "PollFailed", _FAILURE
    POLL_RECOVERED = "PollRecovered"
    WORKLOAD_INSTALLED = "WorkloadInstalled"
    WORKLOAD_FAILED = "WorkloadFailed", _FAILURE
    WORKLOAD_REMOVED = "WorkloadRemoved"
    WORKLOAD_STOPPED = "WorkloadStopped"
    WORKLOAD_STARTED = "WorkloadStarted"
    DEPLOYMENT_WAITS = "DeploymentWaits", _FAILURE
    WINDOW_AWAITED = "WindowAwaited"
    LOCK_AWAITED = "LockAwaited"
    ARTIFACT_AWAITED = "ArtifactAwaited"
    ARTIFACT_FETCHED = "ArtifactFetched"
    ARTIFACT_DELETED = "ArtifactDeleted"
    DRIFT_FOUND = "DriftFound", _FAILURE
    ROLLED_BACK = "RolledBack", _FAILURE
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    APPLIED_NOW = "AppliedNow"
    REPORT_FAILED = "ReportFailed", _FAILURE
    REPORT_REFUSED = "ReportRefused", _FAILURE
    REPORT_REPLACED = "ReportReplaced", _SECURITY
    REPORT_RECOVERED = "ReportRecovered"
    CAPABILITIES_CHANGED = "CapabilitiesChanged"
    CAPABILITIES_UNKNOWN = "CapabilitiesUnknown", _FAILURE
    RECEIPT_FAILED = "ReceiptFailed", _FAILURE
    STORAGE_FAILED = "StorageFailed", _FAILURE
    HEALTH_UNSAID = "HealthUnsaid", _FAILURE
    DEFECT = "Defect", _FAILURE

    def __new__(cls, word: str, *kinds: str) -> Self:
        """Return the reason that a row above says."""
        reason = object.__new__(cls)
        reason._value_ = word
        reason.security, reason.failure = _SECURITY in kinds, _FAILURE in kinds
        return reason


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
        journald: whether systemd's journal reads the lines: then each begins with its priority.
    """

    def __init__(
        self, form: LogFormat, clock: Callable[[], float], stream: TextIO | None = None, *, journald: bool = False
    ) -> None:
        self._form = form
        self._clock = clock
        self._stream = stream if stream is not None else sys.stderr
        self._journald = journald

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
                "text": event.text,
            }
            line = json_text({name: text for name, text in sorted(fields.items()) if text})
        else:
            subject = f" {event.subject}" if event.subject else ""
            line = f"{moment} {level} {event.reason.value}{printable(subject)}: {one_line(event.text)}"
        if self._journald:  # sd-daemon(3): error, warning, information
            line = f"{'<3>' if event.reason.failure else '<4>' if event.reason.security else '<6>'}{line}"
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):
            return


def read_by_journald(variables: Mapping[str, str], stream: TextIO) -> bool:
    """Return whether a stream goes to systemd's journal, as it says in JOURNAL_STREAM."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return variables.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def one_line(text: str) -> str:
    """Return text as one line without control characters."""
    return printable("; ".join(part.strip() for part in text.splitlines() if part.strip()))


def recorder(note: Callable[[Event, float], None], log: EventLog, clock: Callable[[], float], noted: Record) -> Record:
    """Return what tells an event to the log, to `noted` and to the journal.

    Args:
        note: puts an event into the journal.
    """

    def record(event: Event) -> None:
        log.write(event)
        noted(event)
        try:
            note(event, clock())
        except MargoGitopsError as error:
            # The log has the event; what it is about goes on.
            log.write(Event.of(Reason.STORAGE_FAILED, error))

    return record
