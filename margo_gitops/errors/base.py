"""What every error is: a message with its place, reasons and remedy, a code and an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import ClassVar

from margo_gitops.values import dataclass
from margo_gitops.wording import counted, printable

MAX_SHOWN = 50
"""How many errors of one run are printed; one mistake can concern ten thousand devices."""


def listed(lines: Iterable[str]) -> list[str]:
    """Return the first lines, and how many more there are: what an error shows of a long list."""
    every = list(lines)
    more = [f"and {len(every) - MAX_SHOWN} more"] if len(every) > MAX_SHOWN else []
    return [*every[:MAX_SHOWN], *more]


class ExitCode(IntEnum):
    """What a command's exit status means; the same for every command."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    TRANSPORT = 3
    TRUST = 4
    APPLY = 5
    DEFECT = 70
    TRY_LATER = 75


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file; `line` and `column` count from 1, as editors do, and are None where only the file is known."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a document.

    Attributes:
        message: what is wrong, and which value is.
        location: where; None for a document that never was in a file.
        path: the field as people write it, `spec.parameters.greeting`; empty for the document itself.
        remedy: what to do next; empty where the message already says it.
        severity: "error" refuses the document, "warning" does not.
        rule: id of the rule that is broken (docs/rules.md); empty where a document breaks its contract.
    """

    message: str
    location: Location | None = None
    path: str = ""
    remedy: str = ""
    severity: str = "error"
    rule: str = ""

    def __str__(self) -> str:
        head = f"{self.location}: " if self.location else ""
        path = f"{self.path}: " if self.path else ""
        tail = f" ({self.remedy})" if self.remedy else ""
        return printable(f"{head}{path}{self.message}{tail}")


def on_devices(what: str, device: str | None, devices: int) -> str:
    """Return what is wrong, with the device that it is wrong on, and how many more."""
    named = f" (device {device})" if device and device not in what else ""
    others = f" (and {counted(devices - 1, 'more device')})" if devices > 1 else ""
    return f"{what}{named}{others}"


def folded(errors: Iterable[MargoGitopsError]) -> Iterator[MargoGitopsError]:
    """Yield errors, those that differ by the device alone once: one mistake can concern ten thousand devices."""
    groups: dict[tuple[object, ...], list[MargoGitopsError]] = {}
    for each in errors:
        what = each.what.replace(each.device, "") if each.device else each.what
        groups.setdefault((each.code, each.where, what, each.remedy), []).append(each)
    for first, *others in groups.values():
        first.devices = len({first.device, *(each.device for each in others)} - {None})
        yield first


class MargoGitopsError(Exception):
    """Base of all errors of this project.

    You never see this code: every error below has its own code.
    """

    code: ClassVar[str] = "MG1000"
    exit_code: ClassVar[ExitCode] = ExitCode.FINDINGS

    def __init__(
        self,
        what: str,
        *,
        where: Location | None = None,
        device: str | None = None,
        why: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.device = device
        self.devices = 1 if device else 0
        self.why = tuple(why)
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        what = on_devices(self.what, self.device, self.devices)
        lines = [f"{head}{what} [{self.code}]", *(f"  {reason}" for reason in self.why)]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(map(printable, lines))
