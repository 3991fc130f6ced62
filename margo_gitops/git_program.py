"""git, for what libgit2 cannot do: it knows the person's servers, and every kind of clone. And ssh-keygen."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.errors import SignatureInvalid
from margo_gitops.progress import is_heard, step
from margo_gitops.wording import how_it_ended

_ELSEWHERE: Final = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE",
)  # fmt: skip
"""What git tells the hooks of one repository; in another it would do harm."""

_SIGN_SECONDS: Final = 300
"""A person types a passphrase, or finds and touches a token."""
_LARGEST_SIGNATURE: Final = 16 * 1024
_LOOK_SECONDS: Final = 0.2
_PROGRESS: Final = re.compile(rb"([A-Za-z ]+): +[0-9]+% \(([0-9]+)/([0-9]+)\)")
_REPLACED: Final = re.compile(r"^.*: +[0-9]+% \([0-9]+/[0-9]+\)(?!.*done\.).*\n", re.MULTILINE)
"""What git writes over on a terminal."""


def run_git(
    arguments: Sequence[str], *, seconds: float, variables: Mapping[str, str], given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run git in the person's environment, without what points it at another repository.

    Args:
        variables: set in addition.
        given: its standard input.

    Raises:
        FileNotFoundError: there is no git.
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    with subprocess.Popen(
        ["git", *arguments],
        env={**inherited, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            output, said = _communicate(process, given, seconds)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, said)
    if done.returncode < 0:
        done.stderr += f"\n{how_it_ended(done.returncode)}"
    return done


def _communicate(process: subprocess.Popen[str], given: str, seconds: float) -> tuple[str, str]:
    """Return output and errors of git; say how far it is, where it was asked to tell (`--progress`)."""
    if not is_heard():
        return process.communicate(given, timeout=seconds)
    end = time.monotonic() + seconds
    asked: str | None = given
    while True:
        try:
            output, said = process.communicate(asked, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired as waiting:
            if time.monotonic() > end:
                raise
            asked = None  # it has that
            if found := list(_PROGRESS.finditer(waiting.stderr or b"")):
                label, done, total = found[-1].groups()
                step(f"git: {label.decode().strip().lower()}", int(done), int(total))
        else:
            step("", 0, 0)
            return output, _REPLACED.sub("", said)


def last_lines(text: str) -> list[str]:
    """Return the last lines of what git said that say something."""
    return [line for line in text.splitlines() if line.strip()][-6:]


def format_remedy(said: str) -> str:
    """Return what to do about a repository format that libgit2 does not read; empty for any other error.

    Args:
        said: the message of libgit2.
    """
    said = said.lower()
    if "refstorage" in said:
        return "reftable is not supported: git refs migrate --ref-format=files"
    if "objectformat" in said or "object format" in said:
        return "sha256 objects are not supported: make a repository with git init --object-format=sha1"
    return ""


def sign_with_ssh(content: bytes, key: Path, namespace: str, remedy: str) -> str:
    """Return a signature that `ssh-keygen -Y sign` made.

    That program knows passphrases, tokens (`sk-` keys) and ssh-agent, for which the file is the public key.

    Raises:
        SignatureInvalid: it made none.
    """
    command = ["ssh-keygen", "-Y", "sign", "-q", "-n", namespace, "-f", str(key)]
    try:
        done = subprocess.run(command, input=content, stdout=subprocess.PIPE, timeout=_SIGN_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SignatureInvalid("ssh-keygen did not sign", why=[str(error)], remedy=remedy) from error
    if done.returncode or len(done.stdout) > _LARGEST_SIGNATURE:
        raise SignatureInvalid("ssh-keygen did not sign", why=[how_it_ended(done.returncode)], remedy=remedy)
    return done.stdout.decode("ascii", "replace")
