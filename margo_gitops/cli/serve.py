"""`margo-gitops serve`: the state repo over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from margo_gitops.cli.options import extra_packages
from margo_gitops.cli.output import say
from margo_gitops.server.service.configuration import load_server_configuration
from margo_gitops.server.service.run import certificate_notes
from margo_gitops.server.service.run import check as check_server
from margo_gitops.server.service.run import serve as run_server


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The server's configuration.",
)
@click.option("--check", is_flag=True, help="Check the configuration and the files it names, and end.")
def serve(config: Path, check: bool) -> None:
    """Serve the state repo to devices over HTTP, and receive their reports.

    Stops on SIGTERM or SIGINT, after it has answered open requests. Every acknowledged report is on disk.

    Exit status: 0 stopped, 2 usage or configuration, 75 another server uses the journal of reports.
    """
    configuration = load_server_configuration(config)
    if check:
        check_server(configuration)
        say(f"{config}: ok")
        for each in certificate_notes(configuration):
            say(f"note: {each}")
        if configuration.reports.folder is None and configuration.reports.postgresql is None:
            say("note: the journal of reports is in the state repo, and lost with it: name a folder at reports.folder")
        return
    with extra_packages("this configuration", "server,postgresql,s3"):
        run_server(configuration)
