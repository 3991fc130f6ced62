"""JGit's HTTP server, the library inside Gerrit: from Maven (7 MB, once), on a free port of the loopback."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.errors import UnavailableError
from testbed.git_server import answers, free_ports
from testbed.packages import may_install, program, require
from testbed.places import locked
from testbed.processes import SEARCH_PATH, run

VERSION = "7.1.0.202411261347-r"
_SOURCE = Path(__file__).with_name("jgit")
_ATTEMPTS = 5
_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class JgitServer:
    """A running server.

    Attributes:
        folder: its state.
        port: on 127.0.0.1.
    """

    folder: Path
    port: int

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what a person needs to try the server by hand."""
        return {
            "TESTBED_JGIT_REPOSITORIES": str(self.folder / "repositories"),
            "TESTBED_JGIT_HTTP": f"http://127.0.0.1:{self.port}",
        }

    def add_repository(self) -> tuple[str, Path]:
        """Return the URL of a new repository, and the repository; anybody may push there.

        A ref that its setting `testbed.protected` names is declined.
        """
        name = f"{secrets.token_hex(8)}.git"
        path = self.folder / "repositories" / name
        git = {"PATH": SEARCH_PATH, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
        run(["git", "init", "--quiet", "--bare", "--initial-branch=main", path], environment=git)
        return f"http://127.0.0.1:{self.port}/{name}", path


def fetch_jgit(state: Path) -> Path:
    """Return the folder of the server's classes, fetched and compiled the first time.

    Raises:
        UnavailableError: nobody asked for it, or Java, Maven or its repository is missing.
    """
    classes = state / "packages" / f"jgit-{VERSION}"
    with locked(classes):
        if (classes / "JgitServer.class").exists():
            return classes
        if not may_install():
            raise UnavailableError("JGit is not fetched yet", "scripts/testbed fetch jgit (7 MB and 15 seconds, once)")
        require({"mvn": "maven", "javac": "default-jdk-headless", "java": "default-jre-headless"})
        with tempfile.TemporaryDirectory(dir=classes) as work:
            shutil.copy(_SOURCE / "pom.xml", work)
            options = ["-q", "-B", f"-Djgit={VERSION}", "dependency:copy-dependencies", f"-DoutputDirectory={classes}"]
            run(["mvn", *options], environment=dict(os.environ), folder=Path(work), seconds=_SECONDS)
        run([program("javac") or "javac", "-cp", f"{classes}/*", "-d", classes, _SOURCE / "JgitServer.java"])
    return classes


def find_jgit_server(state: Path) -> JgitServer | None:
    """Return the server if it runs."""
    folder = state / "jgit"
    if not processes.find("java", folder):
        return None
    try:
        return JgitServer(folder, **json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def start_jgit_server(state: Path) -> JgitServer:
    """Return the server, started if need be (UnavailableError: what is missing and how to get it)."""
    running = find_jgit_server(state)
    if running:
        return running
    stop_jgit_server(state)
    classes = fetch_jgit(state)
    folder = state / "jgit"
    (folder / "repositories").mkdir(parents=True, mode=0o700)
    for _ in range(_ATTEMPTS):
        (port,) = free_ports(1)
        java = [program("java") or "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]
        command = [*java, "-cp", f"{classes}:{classes}/*", "JgitServer", folder / "repositories", str(port)]
        processes.start("java", command, folder, {"PATH": SEARCH_PATH, "HOME": str(folder)})
        url = f"http://127.0.0.1:{port}/none.git/info/refs"
        processes.wait_until(lambda url=url: answers(url, 404) or not processes.find("java", folder), 60)  # type: ignore[misc]
        if processes.find("java", folder):
            (folder / "server.json").write_text(json.dumps({"port": port}), encoding="ascii")
            return JgitServer(folder, port)
    problem = processes.tail(folder / "java.log")
    stop_jgit_server(state)
    raise UnavailableError(f"JGit's server does not start:\n    {problem}", "run it by hand to see why")


def stop_jgit_server(state: Path) -> None:
    """Stop the server and remove its state, with the repositories it made."""
    folder = state / "jgit"
    if folder.exists():
        processes.stop("java", folder)
        shutil.rmtree(folder)
