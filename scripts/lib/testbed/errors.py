"""The one error of the testbed: a part cannot run here."""

from __future__ import annotations


class UnavailableError(RuntimeError):
    """A real part cannot be started on this machine.

    Args:
        what: which part or program, and why it cannot run.
        remedy: what a person can do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n  remedy: {remedy}")
        self.what = what
        self.remedy = remedy
