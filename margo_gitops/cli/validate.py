"""`margo-gitops validate`: everything that is wrong with a fleet repo."""

from __future__ import annotations

from pathlib import Path

import click

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.cli.options import at_option, before_merge_option, cache_folder, date_of_files, fleet_option
from margo_gitops.cli.output import SEVERITIES, say_text
from margo_gitops.errors import ExitCode
from margo_gitops.operations.validate.finding_formats import FORMATS, in_repository
from margo_gitops.operations.validate.fleet_validation import ValidateRequest, validate_fleet
from margo_gitops.operations.validate.rules import RULES
from margo_gitops.wording import did_you_mean


@click.command()
@fleet_option
@click.option("--rev", help="A commit of the fleet repo. Default: the files as they are now.")
@click.option("--since", help="Show only findings of the change since this commit: in changed files, or new elsewhere.")
@click.option("--state-repo", "state", help="The state repo, a path or a URL: also check immutable settings.")
@at_option
@before_merge_option
@click.option("--strict", is_flag=True, help="Exit 1 on warnings too.")
@click.option("--explain", metavar="RULE", help="Explain a rule, and check nothing.")
@click.option(
    "--output",
    type=click.Choice(sorted(FORMATS)),
    default="text",
    show_default=True,
    help="How to print: text for people, or a report for a pipeline.",
)
@click.pass_context
def validate(
    context: click.Context,
    fleet: Path,
    rev: str | None,
    since: str | None,
    state: str | None,
    at: str | None,
    before_merge: bool,
    strict: bool,
    explain: str | None,
    output: str,
) -> None:
    """Check a fleet repo: every finding in one run, with its rule, file, line, reason and remedy. Nothing is written.

    Errors are what `render` would refuse: documents, references, placement, parameters, packages and their pins.
    Warnings are what is not pinned, such as images without a digest. The fleet's policy applies too: to applications
    and their content, and with --since to freezes, signatures and reviews of the change.

    Exits 0 if there are no errors, 1 if there are, 2 or more if nothing could be checked.
    """
    if explain is not None:
        say_text(_explained(explain))
        return
    date = date_of_files(at, rev)
    found = validate_fleet(ValidateRequest(fleet, rev, since, state, cache_folder(), date, before_merge))
    if output not in ("json", "text"):
        found = in_repository(found, FleetRepo.find(fleet).folder)
    say_text(FORMATS[output](found), paint=SEVERITIES if output == "text" else None)
    failed = found.errors or (strict and found.warnings)
    context.exit(ExitCode.FINDINGS if failed else ExitCode.OK)


def _explained(name: str) -> str:
    rule = RULES.get(name.upper())
    if rule is None:
        hint = did_you_mean(name.upper(), RULES, f"known: {', '.join(sorted(RULES))}")
        raise click.BadParameter(f"there is no rule {name}; {hint}", param_hint="--explain")
    text = click.wrap_text(rule.text.replace("`", ""), 100)
    return f"{rule.id} ({rule.severity}): {rule.title}\n\n{text}\n\nThe page: docs/rules.md#{rule.id.lower()}\n"
