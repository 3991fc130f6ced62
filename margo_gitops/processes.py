"""Divide work over forks of this process: each does one part of it, and sends what it made.

FORKS-1  A fork sees what this process sees, and changes nothing of it. Only what it sends stays.
FORKS-2  A fork that cannot do its part says so. Then this process does all of it, so errors are the same, in the same
         order. A fork that ends without a word was killed: that is an error.
FORKS-3  An interrupt, which a terminal sends to all of them, is answered by this process alone. However the work ends,
         no fork is left. If this process is killed, a fork ends when it next sends something.
FORKS-4  A process with several threads is not forked: a fork could wait for a lock that no one returns.
"""

from __future__ import annotations

import gc
import marshal
import os
import selectors
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, Final, TypeVar

from margo_gitops.errors import ProcessEnded
from margo_gitops.progress import step

T = TypeVar("T")

LEAST_ITEMS: Final = 500
"""Of one process: with fewer, a fork costs more than it saves."""
_MOST: Final = 8
"""Processes, if no one says how many: what one process does alone takes longer then."""
_AT_ONCE: Final = 64
_READ_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct(">L")
_DONE: Final = b"done"
_CANNOT: Final = b"cannot"


@contextmanager
def without_collections() -> Iterator[None]:
    """Switch the search for cyclic garbage off: a render makes millions of objects and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def process_count(items: int, wanted: int | None) -> int:
    """Return how many processes work on some items: one for each processor, where it is worth it.

    Args:
        wanted: how many a person asked for; None: no one did.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return 1
    if wanted is None:
        wanted, items = min(len(os.sched_getaffinity(0)), _MOST), items // LEAST_ITEMS
    return max(1, min(wanted, items))


def divided(
    label: str, items: Sequence[T], processes: int, make: Callable[[Sequence[T]], Iterable[Any]]
) -> list[Any] | None:
    """Return what `make` yields for all items, made by forks of this process; None where one could not do its part.

    Args:
        label: what is done, for the progress.
        make: yields values that `marshal` knows for each item of a part, in order; anything that it raises ends it.

    Raises:
        ProcessEnded: a fork was killed.
    """
    size = -(-len(items) // processes)
    parts = [items[at : at + size] for at in range(0, len(items), size)]
    found: list[list[Any]] = [[] for _ in parts]
    with selectors.DefaultSelector() as selector:
        forks: list[int] = []
        try:
            for number, part in enumerate(parts):
                _fork(forks, selector, number, part, make)
            for number, message in _messages(selector):
                if message == _CANNOT:
                    return None
                found[number] += marshal.loads(message)  # noqa: S302  # a fork of this process wrote it
                step(label, sum(map(len, found)), len(items))
        finally:
            for key in [*selector.get_map().values()]:
                os.close(key.fd)
            for fork in forks:
                os.kill(fork, signal.SIGKILL)  # one that has ended is still there until it is waited for
            for fork in forks:
                os.waitpid(fork, 0)
    step("", 0, 0)
    return [value for values in found for value in values]


def _fork(
    forks: list[int],
    selector: selectors.BaseSelector,
    number: int,
    part: Sequence[T],
    make: Callable[[Sequence[T]], Iterable[Any]],
) -> None:
    """Start a fork that does one part."""
    read, write = os.pipe()
    # The fork keeps it so; here, an interrupt waits until the fork is known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        fork = os.fork()
        if fork == 0:
            try:
                for key in [*selector.get_map().values()]:
                    os.close(key.fd)
                os.close(read)
                _work(write, part, make)
            finally:
                os._exit(0)
        forks.append(fork)
        selector.register(read, selectors.EVENT_READ, (number, bytearray()))
    except OSError as error:
        os.close(read)
        raise ProcessEnded(
            "another process cannot be started", why=[str(error)], remedy="do it in one process: --jobs 1"
        ) from error
    finally:
        os.close(write)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(target: int, part: Sequence[T], make: Callable[[Sequence[T]], Iterable[Any]]) -> None:
    gc.disable()  # a search would copy what both processes share until then
    try:
        values = iter(make(part))
        while some := [*islice(values, _AT_ONCE)]:
            _send(target, marshal.dumps(some))
        _send(target, _DONE)
    except BrokenPipeError:
        pass  # no one waits any more
    except BaseException:  # noqa: BLE001  # the other process meets it too, and says it (FORKS-2)
        with suppress(OSError):
            _send(target, _CANNOT)


def _send(target: int, message: bytes) -> None:
    content = memoryview(_LENGTH.pack(len(message)) + message)
    while content:
        content = content[os.write(target, content) :]


def _messages(selector: selectors.BaseSelector) -> Iterator[tuple[int, bytes]]:
    """Yield what forks send, with the number of each, until all are done."""
    while selector.get_map():
        for key, _ in selector.select():
            number, held = key.data
            arrived = os.read(key.fd, _READ_BYTES)
            held += arrived
            message = b""
            while message != _DONE and len(held) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(held)[0]
                if len(held) < end:
                    break
                message = bytes(held[_LENGTH.size : end])
                del held[:end]
                if message != _DONE:
                    yield number, message
            if message == _DONE:
                selector.unregister(key.fd)
                os.close(key.fd)
            elif not arrived:
                raise ProcessEnded(
                    "one of the processes was ended, most often because memory was short",
                    remedy="do it in one process: --jobs 1",
                )
