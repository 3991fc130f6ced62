"""`margo-gitops artifact`: large files of deployments (docs/artifacts.md)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from margo_gitops.cli.completion import complete_deployments
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.options import extra_packages, fleet_option
from margo_gitops.cli.output import note, output_option, say, show
from margo_gitops.content.sources import Reach
from margo_gitops.editing.artifacts import add_artifacts
from margo_gitops.errors import ArtifactUnknown, ExitCode
from margo_gitops.operations.fleet_input import read_working_tree
from margo_gitops.publishing.artifacts import DescribedFile, check, describe, push
from margo_gitops.wording import byte_count, did_you_mean, table_lines

_FILES = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def artifact() -> None:
    """Add, push and verify large files that devices fetch for a deployment."""


@artifact.command()
@click.argument("files", nargs=-1, required=True, type=_FILES)
@click.option(
    "--deployment", required=True, shell_complete=complete_deployments, help="The deployment that gets the files."
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    required=True,
    metavar="URL",
    help="Where devices find them: a URL that ends with /, to which the digest is appended, or oci://host/repository; "
    "repeatable, best first.",
)
@click.option("--name", help="The file's name for the workload. Default: its own.")
@edit_options
def add(files: tuple[Path, ...], deployment: str, urls: tuple[str, ...], name: str | None, editing: Editing) -> None:
    """Write name, digest, size, URLs and chunk index of FILES into a deployment.

    The index is written next to each file, under its name and `.caibx`. `artifact push` puts both where the URLs lead.
    """
    if name is not None and len(files) > 1:
        raise ArtifactUnknown("a name is for one file", remedy="leave out --name, or name one file")
    base = editing.base()
    with extra_packages("cutting a file into chunks", "operator"):
        found = [describe(file) for file in files]
    made = [each.artifact(name or each.path.name, [_url(url, each) for url in urls]) for each in found]
    editing.finish(base, add_artifacts(base, deployment, made))


def _url(url: str, file: DescribedFile) -> str:
    if url.startswith("oci://"):
        return url
    if not url.startswith(("https://", "file:///")) or not url.endswith("/"):
        raise ArtifactUnknown(
            f"{url} is not a place for artifacts", remedy="write https://…/, file:///…/ or oci://host/repository"
        )
    return url + file.key


@artifact.command("push")
@click.argument("files", nargs=-1, required=True, type=_FILES)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="TARGET",
    help="A folder that a web server serves, s3://bucket/prefix (extra s3), or oci://host/repository.",
)
def push_files(files: tuple[Path, ...], target: str) -> None:
    """Put FILES and their indexes where devices fetch them; what is there is not sent again."""
    for path in files:
        with extra_packages("cutting a file into chunks", "operator"):
            file = describe(path)
        with extra_packages("writing into a bucket", "s3"):
            sent = push(file, target)
        say(f"{path.name}  {file.digest}  {byte_count(file.size)}  {'sent' if sent else 'was there'}")


@artifact.command()
@click.argument("deployment", required=False, shell_complete=complete_deployments)
@click.option("--whole", is_flag=True, help="Read the files and compare their digests.")
@click.option("--ca-file", type=_FILES, help="Certificates (PEM) to trust instead of the system's.")
@fleet_option
@output_option("text", "json")
def verify(deployment: str | None, whole: bool, ca_file: Path | None, fleet: Path, output: str) -> None:
    """Check that the artifacts of DEPLOYMENT, or of all, are where their URLs lead: size, ranges and index."""
    intent = read_working_tree(fleet)
    if deployment is not None and deployment not in intent.deployments:
        raise ArtifactUnknown(
            f"{deployment} is not a deployment of this fleet", remedy=did_you_mean(deployment, intent.deployments)
        )
    rows = []
    for name in [deployment] if deployment is not None else sorted(intent.deployments):
        for each in intent.deployments[name].value.spec.artifacts:
            for url, problem in check(each, Reach(ca_file=ca_file), whole=whole):
                rows.append({"deployment": name, "artifact": each.name, "url": url, "problem": problem})
    if not rows:
        note("no deployment has artifacts")
    cells = [(row["deployment"], row["artifact"], row["url"], row["problem"] or "ok") for row in rows]
    show(output, rows, table_lines(cells) if cells else ())
    if any(row["problem"] for row in rows):
        sys.exit(ExitCode.FINDINGS)
