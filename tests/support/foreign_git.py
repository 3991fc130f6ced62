"""Git clients of other languages: JGit from Debian's packages, isomorphic-git from npm, each installed once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from testbed.errors import UnavailableError
from testbed.packages import INSTALL, REQUIRE_REAL, require
from testbed.places import locked, state_folder

from support.real import unavailable

_ISOMORPHIC = "isomorphic-git@1.44.11"
_SCRIPT = """
const [folder, url, username, password, action] = process.argv.slice(1);
const git = require("isomorphic-git"), http = require("isomorphic-git/http/node"), fs = require("fs");
const common = {fs, http, dir: folder, onAuth: () => ({username, password}), onAuthFailure: () => ({cancel: true})};
const author = {name: "Ada", email: "ada@example.com"};
(async () => {
    if (action === "clone") await git.clone({...common, url});
    else if (action === "clone at depth 1") await git.clone({...common, url, depth: 1, singleBranch: true});
    else await git.pull({...common, author, fastForwardOnly: true});
    console.log(await git.resolveRef({fs, dir: folder, ref: "HEAD"}));
})().catch(error => { console.error(error); process.exit(1); });
"""


def jgit(folder: Path, credentials: tuple[str, str], *arguments: str) -> str:
    """Return what `jgit ARGUMENTS` prints; ends the test where there is none."""
    _require({"jgit": "jgit-cli"})
    # Debian 12's launcher forgets jars that its own main program needs.
    (folder / ".netrc").write_text("machine 127.0.0.1 login {} password {}\n".format(*credentials))
    java = [
        "java",
        f"-Duser.home={folder}",
        "-Djava.awt.headless=true",
        "-cp",
        "/usr/share/java/*",
        "org.eclipse.jgit.pgm.Main",
    ]
    return _run([*java, *arguments], folder, {"PATH": os.environ["PATH"], "HOME": str(folder)})


def isomorphic_git(folder: Path, url: str, credentials: tuple[str, str], action: str) -> str:
    """Return the commit that HEAD is at after `clone`, `clone at depth 1` or `pull`."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "NODE_PATH": str(_modules())}
    found = _run(["node", "-e", _SCRIPT, str(folder), url, *credentials, action], folder.parent, environment)
    return found.strip()


def _modules() -> Path:
    _require({"node": "nodejs", "npm": "npm"})
    folder = state_folder() / "node"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not (folder / "node_modules" / "isomorphic-git").exists():
            if all(os.environ.get(name, "0") in {"", "0"} for name in (INSTALL, REQUIRE_REAL)):
                unavailable(f"no isomorphic-git; {INSTALL}=1 lets tests install it with npm")
            _run(
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), _ISOMORPHIC], folder, os.environ
            )
    return folder / "node_modules"


def _require(programs: dict[str, str]) -> None:
    try:
        require(programs)
    except UnavailableError as error:
        unavailable(str(error))


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
    return done.stdout
