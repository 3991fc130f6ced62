"""Values of secrets, from the device's own sources or from the state, where they are encrypted for it (D-44).

SOURCE-1  The first source that has a secret gives it: environment, command, folder, systemd's credentials, state.
SOURCE-2  Values are bounded, and so is what a command may take; it gets PATH and HOME, and no input.
SOURCE-3  A value is read when it is needed, and not kept. What a source says of a failure is not repeated, since it may
          be the value: no error, event or status has one.
SOURCE-4  A value that changes in a source of the device changes the workload's digest, by a mark that only this device
          can make. A command is asked for changes once an hour; if it fails then, the last mark holds.
SOURCE-5  A secret without a value refuses its deployment before anything of it changes; what runs, runs on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from margo_gitops.agent.apply.engines import hand_out
from margo_gitops.agent.memory.state_folder import folder_errors, keep_file
from margo_gitops.agent.settings.configuration import MARK_KEY_FILE
from margo_gitops.agent.settings.secret_sources import SecretSettings
from margo_gitops.appliers.programs import run_program
from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.files import read_bounded, reason
from margo_gitops.documents.secrets import MAX_SECRET_BYTES, WantedSecret
from margo_gitops.errors import SecretUnavailable
from margo_gitops.trust.sealing import open_sealed, read_identities
from margo_gitops.trust.ssh_key import MAX_KEY_FILE_BYTES

CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
_INHERITED: Final = ("PATH", "HOME")
_MARK_KEY_BYTES: Final = 32
_ASKED_EVERY: Final = 3600.0
_PR_SET_DUMPABLE: Final = 4


class _UnusableError(Exception):
    """A source that should have a secret, and why it does not give it; never with the value."""


class SecretSources:
    """Where this device has the values of secrets.

    Args:
        environment: the agent's own.
        folder: the state folder, for the key of marks.
    """

    def __init__(self, settings: SecretSettings, environment: Mapping[str, str], folder: Path) -> None:
        self._settings = settings
        self._environment = environment
        self._key_file = folder / MARK_KEY_FILE
        self._key = b""
        self._asked: dict[str, tuple[float, bytes]] = {}

    def open(self, wanted: Mapping[str, WantedSecret]) -> Mapping[str, bytes]:
        """Return the values of secrets, by pointer.

        Raises:
            SecretUnavailable: one has none.
        """
        values = {pointer: self._value(secret)[0] for pointer, secret in wanted.items()}
        hand_out(values)
        return values

    def digest(self, wanted: Mapping[str, WantedSecret], digest: Digest) -> Digest:
        """Return the digest of a workload with the secrets that it gets (SOURCE-4).

        Args:
            digest: that follows from the deployment; what is encrypted in the state is in it already.

        Raises:
            SecretUnavailable: one has none.
            StateFolderUnusable: the key of marks cannot be made or read.
        """
        marks = [f"{pointer} {mark.hex()}" for pointer, secret in wanted.items() if (mark := self._mark(secret))]
        return sha256("\n".join([digest, *marks]).encode()) if marks else digest

    def _mark(self, secret: WantedSecret) -> bytes:
        """Return a mark of a value; empty where it comes from the state."""
        command = secret.name in self._settings.commands and secret.name not in self._settings.environment
        when, last = self._asked.get(secret.name, (0.0, b""))
        now = time.monotonic()
        if command and last and now - when < _ASKED_EVERY:
            return last
        try:
            value, own = self._value(secret)
        except SecretUnavailable:
            if command and last:
                return last
            raise
        if not own:
            return b""
        mark = hmac.digest(self._mark_key(), value, hashlib.sha256)
        if command:
            self._asked[secret.name] = now, mark
        return mark

    def _mark_key(self) -> bytes:
        if not self._key:
            with folder_errors(self._key_file), suppress(FileNotFoundError):
                self._key = read_bounded(self._key_file, _MARK_KEY_BYTES)
            if len(self._key) != _MARK_KEY_BYTES:
                self._key = os.urandom(_MARK_KEY_BYTES)
                keep_file(self._key_file, self._key)
        return self._key

    def _value(self, secret: WantedSecret) -> tuple[bytes, bool]:
        """Return a value, and whether a source of the device gave it."""
        looked = []
        for value, place in self._own(secret.name):
            if value is not None:
                if len(value) > MAX_SECRET_BYTES:
                    raise _unavailable(secret.name, [f"{place}: it has more than {MAX_SECRET_BYTES} bytes"])
                return value, True
            looked.append(place)
        if secret.sealed is None:
            looked.append("the state: it has none that is encrypted for this device")
            raise _unavailable(secret.name, looked)
        try:
            return self._opened(secret, secret.sealed), False
        except _UnusableError as error:
            raise _unavailable(secret.name, [*looked, f"the state: {error}"]) from None

    def _own(self, name: str) -> Iterator[tuple[bytes | None, str]]:
        """Yield what each source of the device has, or None, and what the source is (SOURCE-1)."""
        settings = self._settings
        if variable := settings.environment.get(name):
            text = self._environment.get(variable)
            yield text.encode(errors="surrogateescape") if text is not None else None, f"the variable {variable}"
        if (command := settings.commands.get(name)) is not None:
            try:
                said = self._said(command.command, command.timeout)
            except _UnusableError as error:
                raise _unavailable(name, [f"{command.command[0]}: {error}"]) from None
            yield said, command.command[0]
        if settings.folder:
            yield _in_folder(settings.folder, name, private=True)
        if settings.credentials:
            given = self._environment.get(CREDENTIALS_VARIABLE)
            if given is None:
                yield None, f"systemd's credentials: {CREDENTIALS_VARIABLE} is not set"
            else:  # systemd gives access by a list that looks like a group's
                yield _in_folder(Path(given), name, private=False)

    def _said(self, command: tuple[str, ...], seconds: float) -> bytes:
        inherited = {name: self._environment[name] for name in _INHERITED if name in self._environment}
        try:
            done = run_program(command, inherited, seconds=seconds)
        except OSError as error:
            raise _UnusableError(reason(error)) from None
        if done.status is None:
            raise _UnusableError(f"it did not end within {seconds:g} s")
        if done.status != 0:
            raise _UnusableError(f"it ended with status {done.status}; what it said is not shown")
        return done.output.encode()

    def _opened(self, secret: WantedSecret, sealed: str) -> bytes:
        if not self._settings.keys:
            raise _UnusableError("`secrets.keys` of the configuration names no key that could open it")
        identities = []
        for file in self._settings.keys:
            try:
                identities += read_identities(read_bounded(file, MAX_KEY_FILE_BYTES, private=True))
            except OSError as error:
                raise _UnusableError(f"{file}: {reason(error)}") from None
            except ValueError as error:
                raise _UnusableError(f"{file}: {error}") from None
            except ModuleNotFoundError:
                raise _UnusableError("the Python package pyrage is missing: install margo-gitops[secrets]") from None
        try:
            return open_sealed(sealed, secret.device, secret.name, identities)
        except ValueError as error:
            raise _UnusableError(str(error)) from None


def _in_folder(folder: Path, name: str, *, private: bool) -> tuple[bytes | None, str]:
    try:
        return read_bounded(folder / name, MAX_SECRET_BYTES, private=private), str(folder)
    except FileNotFoundError:
        return None, f"{folder}: there is no file {name}"
    except OSError as error:
        raise _unavailable(name, [f"{folder / name}: {reason(error)}"]) from None


def _unavailable(name: str, why: list[str]) -> SecretUnavailable:
    return SecretUnavailable(
        f"there is no value for the secret {name}",
        why=why,
        remedy="put it into a source of this device, or run `margo-gitops secret set` in the fleet repo",
    )


def protect_process() -> None:
    """Let no core dump and no debugger of another process of the same user have this process's memory."""
    import ctypes

    # Linux pipes a core dump to a program (systemd-coredump) whatever the limit is, even if it is 0. Only 1 is an
    # exception: it is less than any core dump, and nothing is piped. The programs that this process starts inherit it.
    with suppress(ValueError, OSError):  # 0 cannot be raised
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
