"""gitolite over ssh: access by rules, and a hook that declines, on a free port of the loopback."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.errors import UnavailableError
from testbed.packages import require
from testbed.processes import SEARCH_PATH, run
from testbed.ssh_server import PROGRAMS, make_key, serve, ssh_command

_SHELL = Path("/usr/share/gitolite3/gitolite-shell")
_RULES = """\
repo open/..*
    C = writer
    RW+ = writer
    R = reader
repo guarded/..*
    C = writer
    - refs/heads/fleet = writer
    RW+ = writer
    R = reader
"""


@dataclass(frozen=True, slots=True)
class Gitolite:
    """A running gitolite.

    Attributes:
        folder: its state.
        port: on 127.0.0.1.
        user: whom ssh asks for; who one is, the key says.
    """

    folder: Path
    port: int
    user: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what a person needs to try it by hand."""
        return {"TESTBED_GITOLITE_URL": self.url("open", "NAME"), "GIT_SSH_COMMAND": self.command("writer")}

    def command(self, who: str) -> str:
        """Return a GIT_SSH_COMMAND of `writer`, or of `reader`, who may not push."""
        return ssh_command(self.folder / who, self.folder / "known_hosts")

    def url(self, kind: str, name: str = "") -> str:
        """Return the URL of a repository, which the writer's first use makes.

        Args:
            kind: open, or guarded: there, the branch `fleet` is closed to all.
            name: of the repository; by default a new one.
        """
        return f"ssh://{self.user}@127.0.0.1:{self.port}/{kind}/{name or secrets.token_hex(8)}"

    def path(self, url: str) -> Path:
        """Return the repository behind a URL."""
        return self.folder / "repositories" / f"{url.split('/', 3)[3]}.git"


def find_gitolite(state: Path) -> Gitolite | None:
    """Return gitolite if it runs."""
    folder = state / "gitolite"
    if not processes.find("sshd", folder):
        return None
    try:
        return Gitolite(folder, **json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def start_gitolite(state: Path) -> Gitolite:
    """Return gitolite, started if need be (UnavailableError: what is missing and how to get it)."""
    running = find_gitolite(state)
    if running:
        return running
    stop_gitolite(state)
    require({**PROGRAMS, "gitolite": "gitolite3"})
    if not _SHELL.exists():
        raise UnavailableError(f"gitolite is not where Debian has it: {_SHELL}", "apt-get install gitolite3")
    folder = state / "gitolite"
    folder.mkdir(parents=True, mode=0o700)
    home = {"HOME": str(folder), "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "USER": "git"}
    run(["gitolite", "setup", "-a", "admin"], environment=home, folder=folder)
    (folder / ".gitolite/conf/gitolite.conf").write_text(_RULES, encoding="ascii")
    run(["gitolite", "setup"], environment=home, folder=folder)
    for who in ("writer", "reader"):
        make_key(folder / who)
        key = (folder / f"{who}.pub").read_text(encoding="ascii")
        with (folder / "authorized_keys").open("a", encoding="ascii") as keys:
            keys.write(f'command="env HOME={folder} {_SHELL} {who}",restrict {key}')
    known = serve(folder, "")
    return Gitolite(folder, **known)


def stop_gitolite(state: Path) -> None:
    """Stop it and remove its state, with the repositories it made."""
    folder = state / "gitolite"
    if folder.exists():
        processes.stop("sshd", folder)
        shutil.rmtree(folder)
