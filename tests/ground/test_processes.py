"""Work that is divided over processes: the same result, the same errors, and no process that stays (FORKS-1 to 4)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from margo_gitops import processes
from margo_gitops.errors import ProcessEnded
from margo_gitops.processes import LEAST_ITEMS, divided, process_count
from margo_gitops.progress import heard_by


def doubled(part: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    return ((2 * item, bytes(item)) for item in part)


@pytest.fixture(autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let no fork of a test stay."""
    fork, started = os.fork, []

    def noted() -> int:
        started.append(fork())
        return started[-1]

    monkeypatch.setattr(os, "fork", noted)
    yield started
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize(("items", "count"), [(1, 1), (2, 2), (3, 2), (1000, 3), (5, 4)])
def test_results_are_in_the_order_of_the_items(items: int, count: int) -> None:
    assert divided("", range(items), count, doubled) == [*doubled(range(items))]


def test_results_larger_than_a_pipe_arrive_whole() -> None:
    big = [os.urandom(300_000) for _ in range(9)]
    assert divided("", big, 2, list) == big


def test_what_a_fork_changes_stays_there() -> None:
    held: list[int] = []
    assert divided("", [1, 2], 2, lambda part: [held.append(each) for each in part]) == [None, None]
    assert held == []


@pytest.mark.parametrize("error", [ValueError, MemoryError, SystemExit, KeyboardInterrupt])
def test_where_one_part_fails_there_is_no_result(error: type[BaseException]) -> None:
    def fails(part: Sequence[int]) -> Iterator[int]:
        yield from part
        if 3 in part:
            raise error

    assert divided("", [1, 2, 3, 4], 2, fails) is None


def test_a_value_that_cannot_be_sent_is_no_result() -> None:
    assert divided("", [1, 2], 2, lambda part: [object() for _ in part]) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_killed_is_an_error(number: int) -> None:
    def killed(part: Sequence[int]) -> Iterator[int]:
        yield 1
        if 3 in part:
            os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(ProcessEnded, match="--jobs 1"):
        divided("", [1, 2, 3, 4], 2, killed)


def test_an_interrupt_ends_all_of_them() -> None:
    def waits(part: Sequence[int]) -> Iterator[int]:
        yield from range(100)  # more than one message holds
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal sends it to all
        time.sleep(60)

    with heard_by(lambda *_: signal.raise_signal(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        divided("", [1, 2], 2, waits)


def test_without_another_process_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    before = len([*Path("/proc/self/fd").iterdir()])
    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(ProcessEnded, match="temporarily unavailable"):
        divided("", [1, 2], 2, doubled)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_fork_ends_where_no_one_waits_for_it() -> None:
    read, write = os.pipe()
    os.close(read)
    assert processes._work(write, range(1000), doubled) is None
    os.close(write)


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert process_count(LEAST_ITEMS, None) == 1
    assert process_count(3 * LEAST_ITEMS, None) == 3
    assert process_count(100 * LEAST_ITEMS, None) == 4
    assert process_count(2, 8) == 2
    assert process_count(0, 8) == 1
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert process_count(100 * LEAST_ITEMS, 8) == 1
