"""Signatures that a process of its own checks: the same verdicts, and none from a process that says nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from margo_gitops.agent.pull.signature_check import verify_apart
from margo_gitops.trust.ssh_key import SigningKey, SshPublicKey, read_public_key


def signing_key(seed: int) -> SigningKey:
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return SigningKey(read_public_key(*public.split()), private)


RENDERER, STRANGER = signing_key(1), signing_key(2)
KEY = RENDERER.public
MESSAGE = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
SIGNATURE = RENDERER.sign(MESSAGE)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    verify_apart.cache_clear()


@pytest.fixture
def other_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], list[int]]:
    """Let the process that checks do something first; returns the ids of the processes that checked, as far as seen."""

    def install(does: Callable[[], None]) -> list[int]:
        here, seen = os.getpid(), []
        checks = SshPublicKey.verify

        def verify(key: SshPublicKey, signature: bytes, data: bytes) -> None:
            seen.append(os.getpid())
            if os.getpid() != here:
                does()
            checks(key, signature, data)

        monkeypatch.setattr(SshPublicKey, "verify", verify)
        return seen

    return install


def test_a_good_signature_is_checked_elsewhere_and_once(other_process) -> None:
    here = other_process(lambda: None)
    verify_apart(KEY, SIGNATURE, MESSAGE)
    verify_apart(KEY, SIGNATURE, MESSAGE)
    assert here == []
    assert verify_apart.cache_info().hits == 1


@pytest.mark.parametrize(
    ("key", "signature", "data"),
    [
        (KEY, SIGNATURE, MESSAGE + b"\n"),
        (STRANGER.public, SIGNATURE, MESSAGE),
        (KEY, SIGNATURE[:-1] + b"\0", MESSAGE),
        (KEY, b"", MESSAGE),
        (KEY, STRANGER.sign(MESSAGE), MESSAGE),
    ],
)
def test_a_bad_signature_is_refused_in_the_same_words_each_time(key, signature, data) -> None:
    with pytest.raises(ValueError, match=r"\w") as here:
        key.verify(signature, data)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\w") as elsewhere:
            verify_apart(key, signature, data)
        assert str(elsewhere.value) == str(here.value)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ends() -> None:
    os._exit(0)


def has_no_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize("end", [is_killed, ends, has_no_memory])
def test_a_process_that_says_nothing_decides_nothing(other_process, end) -> None:
    here = other_process(end)
    verify_apart(KEY, SIGNATURE, MESSAGE)
    with pytest.raises(ValueError, match="other bytes"):
        verify_apart(KEY, SIGNATURE, b"other")
    assert here == [os.getpid()] * 2


def test_where_no_process_can_be_started_this_one_checks(monkeypatch, other_process) -> None:
    def fork() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", fork)
    here = other_process(lambda: None)
    verify_apart(KEY, SIGNATURE, MESSAGE)
    with pytest.raises(ValueError, match="other bytes"):
        verify_apart(KEY, SIGNATURE, b"other")
    assert here == [os.getpid()] * 2


def test_nothing_of_a_check_stays_open(other_process) -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before, others = len(list(Path("/proc/self/fd").iterdir())), children.read_text()
    for number in range(5):
        with pytest.raises(ValueError, match="other bytes"):
            verify_apart(KEY, SIGNATURE, b"%d" % number)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert children.read_text() == others
