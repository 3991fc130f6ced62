"""Signals as questions the agent asks between steps: shall I stop, shall I poll now."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final, Self

from margo_gitops.errors import SourceUnreachable

_CUT_OFF: Final = "the poll was cut off by a signal to stop"


class Interruptions:
    """SIGTERM and SIGINT ask to stop after the current step, SIGHUP asks to poll now; for the main thread.

    A pipe wakes `wait`: a signal that comes just before the wait is not lost.
    """

    def __init__(self) -> None:
        self._stop = False
        self._poll = False
        self._abort = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before: dict[signal.Signals, signal.Handlers | int | object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        os.close(self._read)
        os.close(self._write)

    def stopping(self) -> bool:
        """Return whether the agent shall end."""
        return self._stop

    def called(self) -> bool:
        """Return whether a signal waits to be followed: to end, or to poll now."""
        return self._stop or self._poll

    def take_poll(self) -> bool:
        """Return whether a poll was asked for since the last call."""
        asked, self._poll = self._poll, False
        return asked

    @contextlib.contextmanager
    def abortable(self) -> Iterator[None]:
        """Let a signal to stop cut off what is done inside: only for what may be cut off anywhere, such as a pull.

        Raises:
            SourceUnreachable: the signal came.
        """
        self._abort = True
        try:
            if self._stop:
                raise SourceUnreachable(_CUT_OFF)
            yield
        finally:
            self._abort = False

    def wait(self, seconds: float) -> None:
        """Return after this time, or as soon as a signal came."""
        if not (self._stop or self._poll):
            select.select([self._read], [], [], max(seconds, 0.0))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 64):
                pass

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._poll = True
        else:
            self._stop = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")
        if self._stop and self._abort:
            self._abort = False  # once: cleaning up is not cut off
            raise SourceUnreachable(_CUT_OFF)
