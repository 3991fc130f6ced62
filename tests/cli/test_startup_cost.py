"""What a device loads to answer and to work: nothing that only operators, or other sources and appliers, need."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support.command_line import margo_gitops
from support.fleet import FleetFolder, write_signing_key
from testbed.git_server import GitServer

from margo_gitops.cli.agent import agent as agent_commands
from margo_gitops.cli.main import plain_service

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
        "dataclasses",
        "dulwich",
        "inspect",
        "urllib3",
        "requests",
        "traceback",
    },
}
# Big or slow parts of the standard library, and of packages, that an agent never has a use for.
NEVER = {"asyncio", "multiprocessing", "unittest", "xml", "tkinter", "setuptools", "pkg_resources"}
# Large, and of no use to an agent that waits; with a source over HTTP, dulwich too.
NEVER_WHILE_IT_WAITS = {
    "click",
    "cryptography",
    "gzip",
    "importlib.metadata",
    "margo_gitops.agent.report.inspection",
    "margo_gitops.agent.service.health",
    "margo_gitops.agent.service.metrics",
    "margo_gitops.cli.output",
    "margo_gitops.documents.fleet_kinds",
    "margo_gitops.documents.freshness",
    "tarfile",
    "uuid",
    "yaml",
}
ONCE_AT_WORK = {
    "cryptography",
    "http.client",
    "ssl",
    "subprocess",
    "dulwich.repo",
    "margo_gitops.appliers.compose.applier",
}

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


def loaded_by_service(config: Path) -> set[str]:
    """Return the modules of an `agent run` that was started, has polled, and was stopped."""
    modules = config.with_name("modules.txt")
    write = f"pathlib.Path({str(modules)!r}).write_text(' '.join(sys.modules))"
    arguments = ["margo-gitops", "agent", "run", "--config", str(config)]
    code = f"import atexit, pathlib, sys; atexit.register(lambda: {write}); sys.argv = {arguments}\n"
    code += "from margo_gitops.cli.main import main; main()"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        for wanted, then in (("Started", signal.SIGHUP), ("WorkloadInstalled", signal.SIGTERM)):
            assert next((line for line in agent.stderr if f" {wanted}" in line), None), f"no event {wanted}"
            agent.send_signal(then)
        agent.stderr.read()
    assert agent.returncode == 0
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


def test_a_render_of_nothing_new_loads_no_templates_and_no_plans(tmp_path: Path, state: Path) -> None:
    loaded = loaded_by("render", cwd=tmp_path / "fleet")
    assert "margo_gitops.operations.render.fleet_render" in loaded
    unused = {"jinja2", "re2", "margo_gitops.operations.plan.planning", "margo_gitops.operations.plan.chart_templates"}
    assert loaded & (unused | NEVER) == set()


def test_an_agent_with_a_local_source_loads_neither_the_operators_side_nor_a_network(
    tmp_path: Path, state: Path
) -> None:
    config = configured(tmp_path, state.as_uri())
    for poll in ("first", "idle"):
        loaded = loaded_by("agent", "once", "--config", config, cwd=tmp_path)
        assert "margo_gitops.transport.git.local_repository" in loaded
        assert loaded & (OPERATORS | NEVER) == set(), poll
        assert loaded & OF_OTHER_SOURCES["file"] == set(), poll
        assert "margo_gitops.appliers.compose.applier" not in loaded, "only the configured appliers are loaded"


def test_a_running_agent_keeps_nothing_in_memory_that_only_a_change_or_a_person_needs(
    tmp_path: Path, state: Path
) -> None:
    loaded = loaded_by_service(configured(tmp_path, state.as_uri()))
    assert "margo_gitops.agent.pull.signature_check" in loaded
    assert loaded & (OPERATORS | NEVER | NEVER_WHILE_IT_WAITS) == set()


@pytest.mark.parametrize(
    "written",
    [
        [],
        ["--config", "agent.yaml"],
        ["--log-format=json", "--config=a=b.yaml"],
        ["--config", "one", "--config", "two"],
        ["--log-format", "xml"],
        ["--config"],
        ["--config", "--log-format"],
        ["--conf", "agent.yaml"],
        ["--help"],
        ["agent.yaml"],
        ["--log-format", "json", "--"],
    ],
)
def test_the_service_reads_its_command_line_as_click_does(written: list[str]) -> None:
    found = plain_service(["agent", "run", *written])
    try:
        context = agent_commands.commands["run"].make_context("run", list(written), resilient_parsing=False)
    except (click.UsageError, click.exceptions.Exit):
        assert found is None
        return
    if found is not None:
        assert Path(found["--config"]) == context.params["config"] if found else context.params["config"] is None
        assert found.get("--log-format", "text") == context.params["log_format"]


@pytest.mark.real
def test_an_agent_with_a_server_loads_neither_the_operators_side_nor_a_git_client(
    tmp_path: Path, state: Path, git_server: GitServer
) -> None:
    config = configured(tmp_path, git_server.add_repository(state).http())
    loaded = loaded_by_service(config)
    assert "margo_gitops.transport.git.http_connection" in loaded
    assert loaded & (OPERATORS | NEVER | NEVER_WHILE_IT_WAITS) == set()
    assert loaded & OF_OTHER_SOURCES["http"] == set()
