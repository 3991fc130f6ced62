"""How far long work is: the work says so, and a program that shows it listens. Without a listener it costs nothing.

for device in steps("rendering", devices):
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Listener: TypeAlias = Callable[[str, int, int], None]
"""Takes what is done ("rendering"), how many of it are done, and how many there are; 0 where that is not known."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let a listener hear of all work that is done inside."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def is_heard() -> bool:
    """Return whether somebody listens: whether it is worth to find out how far work is."""
    return _listener.get() is not None


def step(label: str, done: int, total: int) -> None:
    """Say how far work is."""
    listener = _listener.get()
    if listener is not None:
        listener(label, done, total)


def steps(label: str, items: Iterable[T]) -> Iterable[T]:
    """Return items, to be worked on one after the other; each that is taken is a step."""
    listener = _listener.get()
    return items if listener is None else _told(label, items, listener)


def _told(label: str, items: Iterable[T], listener: Listener) -> Iterator[T]:
    total = len(items) if isinstance(items, Sized) else 0
    for done, item in enumerate(items):
        listener(label, done, total)
        yield item
    listener("", 0, 0)
