"""What a device loads to answer and to work: nothing that only operators, or other sources and appliers, need."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder, write_signing_key
from testbed.git_server import GitServer

OPERATORS = {
    "pygit2",
    "jinja2",
    "re2",
    "jsonschema",
    "kubernetes",
    "watchfiles",
    "margo_gitops.rendering",
    "margo_gitops.operations",
    "margo_gitops.catalog",
    "margo_gitops.state_repo",
}
OF_OTHER_SOURCES = {
    "file": {"margo_gitops.transport.git.http_connection", "margo_gitops.transport.git.ssh_connection"},
    "http": {
        "margo_gitops.transport.git.ssh_connection",
        "margo_gitops.transport.git.local_repository",
        "dulwich.repo",
        "dulwich.client",
        "urllib3",
        "requests",
    },
}
# Big or slow parts of the standard library, and of packages, that an agent never has a use for.
NEVER = {"asyncio", "multiprocessing", "unittest", "xml", "tkinter", "setuptools", "pkg_resources"}
ONCE_AT_WORK = {"cryptography", "http.client", "ssl", "subprocess", "dulwich.repo", "margo_gitops.appliers.compose"}

CONFIGURATION = """\
apiVersion: margo-gitops/v1
kind: AgentConfiguration
device: press-01
stateFolder: agent
source:
  git:
    url: {url}
trust:
  allowedSigners: renderer.allowed
appliers:
  files:
    folder: {output}
"""


def loaded_by(*arguments: str | Path, cwd: Path) -> set[str]:
    """Return the modules that are imported when `margo-gitops ARGUMENTS` ends well."""
    modules = cwd / "modules.txt"
    write = f"pathlib.Path({str(modules)!r}).write_text(' '.join(sys.modules))"
    prelude = f"import atexit, pathlib, sys\natexit.register(lambda: {write})"
    outcome = margo_gitops(*arguments, cwd=cwd, prelude=prelude)
    assert outcome.code == 0, outcome
    return set(modules.read_text().split())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A signed state repo; who may sign it stands in renderer.allowed."""
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.put(".gitignore", ".cache\n")
    fleet.change("margo-gitops.yaml", "file:///srv/my-fleet", f"file://{fleet.root}")
    fleet.commit("Make the fleet")
    key = write_signing_key(tmp_path / "renderer")
    rendered = margo_gitops("render", "--signing-key", key, cwd=fleet.root)
    assert rendered.code == 0, rendered
    return tmp_path / "my-fleet-state.git"


def configured(folder: Path, url: str) -> Path:
    config = folder / "agent.yaml"
    config.write_text(CONFIGURATION.format(url=url, output=folder / "output"))
    return config


def test_the_agents_help_loads_only_what_describes_it(tmp_path: Path) -> None:
    loaded = loaded_by("agent", "--help", cwd=tmp_path)
    assert "margo_gitops.cli.agent" in loaded
    assert loaded & (OPERATORS | NEVER | ONCE_AT_WORK) == set()


def test_an_agent_with_a_local_source_loads_neither_the_operators_side_nor_a_network(
    tmp_path: Path, state: Path
) -> None:
    config = configured(tmp_path, state.as_uri())
    for poll in ("first", "idle"):
        loaded = loaded_by("agent", "once", "--config", config, cwd=tmp_path)
        assert "margo_gitops.transport.git.local_repository" in loaded
        assert loaded & (OPERATORS | NEVER) == set(), poll
        assert loaded & OF_OTHER_SOURCES["file"] == set(), poll
        assert "margo_gitops.appliers.compose" not in loaded, "only the configured appliers are loaded"


@pytest.mark.real
def test_an_agent_with_a_server_loads_neither_the_operators_side_nor_a_git_client(
    tmp_path: Path, state: Path, git_server: GitServer
) -> None:
    config = configured(tmp_path, git_server.add_repository(state).http())
    for poll in ("first", "idle"):
        loaded = loaded_by("agent", "once", "--config", config, cwd=tmp_path)
        assert "margo_gitops.transport.git.http_connection" in loaded
        assert loaded & (OPERATORS | NEVER) == set(), poll
        assert loaded & OF_OTHER_SOURCES["http"] == set(), poll
