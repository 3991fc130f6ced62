"""`margo-gitops support-bundle`: what a bug report needs of a device or a server."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from margo_gitops.agent.memory.journal import JOURNAL_FILE, Journal
from margo_gitops.agent.report.inspection import as_json, report
from margo_gitops.agent.settings.environment import read_environment
from margo_gitops.agent.settings.loading import DEFAULT_CONFIGURATION, load_configuration
from margo_gitops.cli.output import say
from margo_gitops.disk.files import disk_errors, read_small_file, replace_file
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import AgentMisconfigured, MargoGitopsError
from margo_gitops.settings import MOST_BYTES
from margo_gitops.support_bundle import write_support_bundle

_EVENTS = 500


@click.command("support-bundle")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIGURATION,
    show_default=True,
    help="The configuration of the agent or the server.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("support-bundle.tar.gz"),
              show_default=True, help="The archive to write.")  # fmt: skip
def support_bundle(config: Path, output: Path) -> None:
    """Write versions, the configuration without secrets, and the last events into an archive for a bug report.

    Look into it before you send it. Of a server, add what its service logged.
    """
    settings = read_small_file(config, MOST_BYTES, what="the configuration cannot be read", error=AgentMisconfigured)
    content = write_support_bundle(config, settings, _of_agent(config, settings))
    with disk_errors(output, what="the support bundle cannot be written", error=AgentMisconfigured):
        replace_file(output, content)
    say(f"wrote {output}: {len(content)} bytes")


def _of_agent(config: Path, settings: bytes) -> dict[str, Json]:
    """Return the status and the last events of an agent, or why they cannot be read; nothing of a server."""
    if b"AgentConfiguration" not in settings:
        return {}
    try:
        configuration = load_configuration(config, read_environment(os.environ), settings)
        files: dict[str, Json] = {"status.json": as_json(report(configuration))}
        journal = Journal.peek(configuration.state_folder / JOURNAL_FILE)
        if journal is not None:
            with journal:
                kept = [each for security in (False, True) for each in journal.events(_EVENTS, security=security)]
            files["events.json"] = [asdict(each) for each in sorted(kept, key=lambda each: each.last_at)]
    except MargoGitopsError as error:
        return {"problem.json": [*str(error).split("\n")]}
    return files
