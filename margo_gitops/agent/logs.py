"""The agent's log: one line per event on standard error, as text or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

from margo_gitops.agent.events import Event
from margo_gitops.documents.json_writer import write_json

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
    """Return text as one line without control characters, whoever wrote it."""
    return printable("; ".join(part.strip() for part in text.splitlines() if part.strip()))


def printable(text: str) -> str:
    """Return text with every character that a terminal or a JSON reader could stumble over spelled out."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
