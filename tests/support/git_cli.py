"""The git command line in a clean environment: no configuration of the machine, a fixed author, UTC."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

# Proxies and CA bundles of the machine stay out too: the tests' servers are on the loopback.
GIT_ENVIRONMENT: Mapping[str, str] = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "Ada Author",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Carl Committer",
    "GIT_COMMITTER_EMAIL": "carl@example.com",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "init.defaultBranch",
    "GIT_CONFIG_VALUE_0": "main",
    "GIT_CONFIG_KEY_1": "safe.directory",
    "GIT_CONFIG_VALUE_1": "*",
    "GIT_CONFIG_KEY_2": "gc.auto",
    "GIT_CONFIG_VALUE_2": "0",
}


class GitFailedError(AssertionError):
    """Git ended with another status than 0; the message holds what it said."""


class Git:
    """Runs git in one folder.

    Args:
        path: the folder; it need not be a repository yet.
        environment: variables besides GIT_ENVIRONMENT, for example GIT_SSH_COMMAND.
    """

    def __init__(self, path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.environment = {**GIT_ENVIRONMENT, **(environment or {})}

    def run(
        self, *arguments: str | Path, content: bytes | str = b"", environment: Mapping[str, str] | None = None
    ) -> str:
        """Return what `git ARGUMENTS` prints, without the last line's end.

        Raises:
            GitFailedError: its status was not 0.
        """
        return self.run_bytes(*arguments, content=content, environment=environment).decode().removesuffix("\n")

    def run_bytes(
        self, *arguments: str | Path, content: bytes | str = b"", environment: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the very bytes that `git ARGUMENTS` prints.

        Raises:
            GitFailedError: its status was not 0.
        """
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={**self.environment, **(environment or {})},
            input=content.encode() if isinstance(content, str) else content,
            capture_output=True,
            timeout=60,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise GitFailedError(f"git {' '.join(map(str, arguments))}: status {done.returncode}\n{said}")
        return done.stdout

    def init(self, *, bare: bool = False) -> "Git":
        """Make a repository with the branch main here; returns self."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.run("init", "--quiet", *(["--bare"] if bare else []))
        return self

    def commit(self, files: Mapping[str, str | bytes], message: str = "change", *options: str) -> str:
        """Write files, commit all that is in the work tree and return the commit's id.

        Args:
            files: path below the work tree to content.
            message: the commit message.
            options: further options of `git commit`, for example "-S".
        """
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.run("add", "--all")
        self.run("commit", "--quiet", "--allow-empty", "-m", message, *options)
        return self.run("rev-parse", "HEAD")
