"""The agent under test: a command that polls once and ends, and the files that it holds afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from margo_gitops.conformance.report import shown
from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import DEPLOYMENTS_FOLDER, MANIFEST_FILE
from margo_gitops.errors import AgentNotRunnable
from margo_gitops.values import dataclass, field

VARIABLE_PREFIX: Final = "CONFORMANCE_"
PLACEHOLDERS: Final = {
    "url": "where the state comes from: the git repository, or what comes before /api/v1/deployments",
    "device": "id of the device",
    "folder": "folder in which the agent keeps everything that it keeps; the same for all polls of a case",
    "allowed_signers": "file with the keys that may sign state and statements of freshness, in ssh-keygen's format",
    "trust_document": "file with version 1 of the trust document; empty without `--rooted`",
    "transport": "`git` or `http`",
    "token_file": "file with the access token of the device",
    "ref": "full name of the device's ref; git only",
    "view": "folder into which `--held-by` writes what is held",
    "code_file": "file with a code for one enrolment, as `device enroll` prints it; for `--enroll`",
}
"""What a command may have in braces, and in upper case after `CONFORMANCE_` in its environment."""

_LONGEST_OUTPUT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (None: it was killed), seconds, and its last line of output that is not blank."""

    code: int | None
    seconds: float
    said: str

    def __str__(self) -> str:
        how = "did not end and was killed" if self.code is None else f"ended with {self.code}"
        return f"the command {how} after {self.seconds:.1f} s{f': {self.said}' if self.said else ''}"


def filled_in(arguments: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return a command with its placeholders replaced; other braces stay as they are."""
    filled = []
    for argument in arguments:
        text = argument
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        filled.append(text)
    return filled


def run_command(arguments: Sequence[str], values: Mapping[str, str], seconds: float, secret: str) -> Ended:
    """Run a command to its end, or kill it and what it started.

    Args:
        secret: what no report may show.

    Raises:
        AgentNotRunnable: it cannot be started.
    """
    environment = {**os.environ, **{VARIABLE_PREFIX + name.upper(): value for name, value in values.items()}}
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                filled_in(arguments, values),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentNotRunnable(
                f"the command {arguments[0]} cannot be started: {error.strerror}",
                remedy="name a program, and its arguments, after --",
            ) from error
        code = _wait(process, seconds)
        return Ended(code, time.monotonic() - begin, _last_line(output, secret))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # What it left running would go on asking, and disturb the next case.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(output: IO[bytes], secret: str) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LONGEST_OUTPUT))
    lines = [line for line in output.read().splitlines() if line.strip()]
    return shown(lines[-1], (secret,)) if lines else ""


_LARGEST: Final = 16 * 1024 * 1024
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """What an agent holds.

    Attributes:
        files: content by path, of `manifest.json` and all below `deployments/`.
        odd: what is not a plain file there: a link, an executable file, with the words for it, by path.
        names: everything else in the folder of `manifest.json`.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def differences(self, wanted: Mapping[str, bytes], names: frozenset[str]) -> list[str]:
        """Return in words how this differs from the wanted content by path; `names` may be next to `manifest.json`."""
        found = [f"{shown(path)} is {what}" for path, what in sorted(self.odd.items())]
        for path in sorted(self.files.keys() | wanted.keys()):
            if path not in wanted:
                found.append(f"{shown(path)} is held, but should not be")
            elif path not in self.files:
                found.append(f"{path} is not held")
            elif self.files[path] != wanted[path]:
                found.append(f"{path} has other content: {sha256(self.files[path])[:19]}…")
        expected = names | {path.partition("/")[0] for path in wanted}
        found += [f"{shown(name)} is held, but should not be" for name in sorted(self.names - expected)]
        return found


def read_held(folder: Path) -> Held:
    """Return what is in a folder; nothing if it does not exist. Links in it are named, not followed."""
    if not folder.is_dir():
        return Held()
    names = frozenset(entry.name for entry in os.scandir(folder))
    files: dict[str, bytes] = {}
    odd: dict[str, str] = {}
    for path in _paths(folder):
        name = path.relative_to(folder).as_posix()
        what = _oddity(path)
        if what is not None:
            odd[name] = what
        else:
            files[name] = path.read_bytes()
        if len(files) + len(odd) > _MOST:
            break
    return Held(files, odd, names)


def _paths(folder: Path) -> Iterator[Path]:
    manifest = folder / MANIFEST_FILE
    if os.path.lexists(manifest):
        yield manifest
    deployments = folder / DEPLOYMENTS_FOLDER
    if deployments.is_symlink() or deployments.is_file():
        yield deployments
        return
    for place, folders, files in os.walk(deployments):
        yield from (Path(place) / name for name in sorted(files))
        yield from (Path(place) / name for name in sorted(folders) if (Path(place) / name).is_symlink())


def _oddity(path: Path) -> str | None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "no file"
    if status.st_mode & 0o111:
        return "executable"
    return f"larger than {_LARGEST} bytes" if status.st_size > _LARGEST else None
