"""Check signatures in a process of its own: what checks them is large, stays in memory, and is needed once in weeks.

APART-1  The other process is a fork of this one. It calls the same code with the same bytes, and only "good" counts.
APART-2  One that says nothing, or cannot be started, decides nothing: then this process checks the signature itself.
APART-3  A signature that was good is not checked again while this process lives: key and bytes decide, nothing else.
"""

from __future__ import annotations

import functools
import os
import select
import signal
from collections.abc import Callable
from typing import Final

from margo_gitops.trust.ssh_key import SshPublicKey

_GOOD: Final = b"good"
_BAD: Final = b"bad:"
_LONGEST_ANSWER: Final = 4096
_SECONDS: Final = 60.0


@functools.lru_cache(maxsize=8)
def verify_apart(key: SshPublicKey, signature: bytes, data: bytes) -> None:
    """Check that a key signed `data`, as `SshPublicKey.verify` does (ValueError: it did not)."""
    answer = answer_apart(lambda: _judge(key, signature, data))
    if answer.startswith(_BAD):
        raise ValueError(answer.removeprefix(_BAD).decode(errors="replace"))
    if answer != _GOOD:
        key.verify(signature, data)


def answer_apart(ask: Callable[[], bytes]) -> bytes:
    """Return what a fork of this process answers, at most 4 KiB; nothing where it could not (APART-2)."""
    read, write = os.pipe()
    try:
        other = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        return b""
    if other == 0:
        try:
            os.write(write, ask())
        finally:
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], _SECONDS)
        answer = os.read(read, _LONGEST_ANSWER) if ready else b""
    finally:
        os.close(read)
        os.kill(other, signal.SIGKILL)  # it has said all that it can say
        os.waitpid(other, 0)
    return answer


def _judge(key: SshPublicKey, signature: bytes, data: bytes) -> bytes:
    try:
        key.verify(signature, data)
    except ValueError as error:
        return _BAD + str(error).encode()[: _LONGEST_ANSWER - len(_BAD)]
    return _GOOD
