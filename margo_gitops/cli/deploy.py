"""`margo-gitops deploy` and `revert`: change what runs where.

The questions of `deploy --interactive` go to standard error: `--dry-run` prints the diff alone to standard output.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import click

from margo_gitops.cli.completion import (
    complete_applications,
    complete_assignments,
    complete_deployments,
    complete_profiles,
    complete_selectors,
    complete_versions,
)
from margo_gitops.cli.edit_options import Editing, edit_options
from margo_gitops.cli.options import cache_folder
from margo_gitops.cli.output import CHANGES, DIFF, note, say, say_text
from margo_gitops.editing.deploy import DeployRequest, DeployTarget, deploy_target
from margo_gitops.editing.deploy import deploy as deploy_edit
from margo_gitops.editing.edit import Base, Edit, unified_diff
from margo_gitops.editing.form.form import Answers, Form
from margo_gitops.editing.form.form_checks import FormCheck
from margo_gitops.editing.form.form_text import HELP, all_devices, prompt_text, question_lines, title_lines
from margo_gitops.editing.form.preview import Installed, installed_state, preview
from margo_gitops.editing.landing import check_edit
from margo_gitops.editing.revert import revert_commit, revert_deployment
from margo_gitops.editing.selectors import parse_selector
from margo_gitops.editing.values import typed_parameters
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.plan.plan_text import as_text


@click.command()
@click.argument("application", metavar="APP", shell_complete=complete_applications)
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option(
    "--to",
    "selector",
    metavar="SELECTOR",
    help="The devices: all, device=ID, or conditions such as line=3,site=north. Required for a new deployment.",
    shell_complete=complete_selectors,
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter; repeatable.",
    shell_complete=complete_assignments,
)
@click.option("--unset", multiple=True, metavar="NAME", help="Remove a parameter from the deployment; repeatable.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME[=SECRET]",
    help="A parameter that gets its value on the device, from the secret of this name; repeatable.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="PROFILE",
    help="A preferred profile's id; repeatable, best first.",
    shell_complete=complete_profiles,
)
@click.option("--name", metavar="NAME", help="The deployment's name.", shell_complete=complete_deployments)
@click.option("--interactive", is_flag=True, help="Ask for parameters and devices on the terminal.")
@click.option(
    "--state-repo",
    "state",
    metavar="LOCATION",
    help="With --interactive: the state repo, to check immutable settings. Default: spec.stateRepo.",
)
@edit_options
def deploy(
    application: str,
    version: str | None,
    selector: str | None,
    assignments: tuple[str, ...],
    unset: tuple[str, ...],
    secrets: tuple[str, ...],
    profiles: tuple[str, ...],
    name: str | None,
    interactive: bool,
    state: str | None,
    editing: Editing,
) -> None:
    """Deploy APP in VERSION: create a deployment, or change an existing one.

    Without --name, the command changes the only deployment of APP, or creates one with the application's id as its
    name. Without VERSION, an existing deployment keeps its version, and a new one gets the newest version in the fleet
    repo. Everything else that you do not name stays as it is.

    Values get the type that the application declares; a list is a,b,c or a JSON list. Before the command writes
    anything, it checks the change as `validate` does.

    With --interactive, the application's configuration is a form on the terminal: its sections, then the devices.
    Answers from other options are filled in. The command shows the change, and what it does to devices, before it
    writes anything.
    """
    if state is not None and not interactive:
        raise click.UsageError("--state-repo goes with --interactive")
    if secrets and interactive:
        raise click.UsageError("--secret does not go with --interactive")
    base = editing.base()
    target = deploy_target(base.intent, application, version, name)
    request = DeployRequest(
        application,
        target.version,
        target.name,
        parse_selector(selector, base.intent) if selector is not None else None,
        typed_parameters(target.description, assignments),
        unset,
        profiles,
        {parameter: secret or None for parameter, _, secret in (each.partition("=") for each in secrets)},
    )
    if interactive:
        deploy_by_form(editing, base, target, request, state)
    else:
        editing.finish(base, deploy_edit(base, request))


def deploy_by_form(
    editing: Editing, base: Base, target: DeployTarget, request: DeployRequest, state: str | None
) -> None:
    """Ask for the content of a Deployment, show the change and what it does, and make it.

    Raises:
        UsageError: there is no terminal.
        MargoGitopsError: what options say cannot be taken, or the change cannot be written.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("--interactive needs a terminal; without one, say it with --set, --to and --profile")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # lets people move the cursor in what they type
    installed = installed_state(base, state, cache_folder())
    if installed.note:
        note(installed.note)
    answers = Answers(request.parameters, frozenset(request.unset), request.placement, request.profiles)
    form = Form(FormCheck(base.intent, target, installed.previous), answers).begin()
    _say(title_lines(form))
    edit = _filled_in(form, base, installed, dry_run=editing.dry_run)
    if edit is None:
        say("nothing was written", err=True)
    else:
        editing.finish(base, edit)


def _filled_in(form: Form, base: Base, installed: Installed, *, dry_run: bool) -> Edit | None:
    """Return the edit that the person wants in the end; None where they want none."""
    while True:
        while form.question is not None:
            form = _asked(form)
        edit = _shown(form, base, installed, diff=not dry_run)
        if edit is None:
            form = form.back()
            continue
        if dry_run or not edit.changes:
            return edit
        answer = _typed("make this change? (yes, no, back)").lower()
        if answer in ("y", "yes"):
            return edit
        if answer in ("n", "no"):
            return None
        if answer in ("b", "back", ":back"):
            form = form.back()


_COMMANDS: Final[Mapping[str, Callable[[Form], Form]]] = {
    ":back": Form.back,
    ":default": Form.defaulted,
    ":empty": Form.emptied,
}


def _asked(form: Form) -> Form:
    """Ask one question until there is an answer that can be taken."""
    _say(["", *question_lines(form)])
    while True:
        text = _typed(prompt_text(form)).strip()
        if text == ":help":
            _say(f"  {line}" for line in HELP)
        elif text == ":list":
            _say(all_devices(form))
        elif text.startswith(":") and not text.startswith("::") and text not in _COMMANDS:
            _say([f"  no: {text} is not a command; :help names them, and ::text is the text :text"])
        else:
            try:
                return _COMMANDS[text](form) if text in _COMMANDS else form.answered(text.removeprefix(":"))
            except MargoGitopsError as error:
                _say(_refusal(error))


def _shown(form: Form, base: Base, installed: Installed, *, diff: bool) -> Edit | None:
    """Show the change and what it does; return it if it can be made."""
    try:
        edit = deploy_edit(base, form.request())
        if not edit.changes:
            return edit
        check_edit(base, edit)
        plan = preview(base, edit, installed.previous)
    except MargoGitopsError as error:
        _say(["", *_refusal(error), "  answer again; :back goes to the question before"])
        return None
    say_text(f"\n{unified_diff(edit)}\n" if diff else "\n", err=True, paint=DIFF)
    if plan is None:
        note("the fleet cannot be rendered as it is, so the effect on devices is unknown")
    else:
        _say(as_text(plan), CHANGES)
    return edit


def _refusal(error: MargoGitopsError) -> list[str]:
    first, *rest = str(error).splitlines()
    return [f"  no: {first}", *(f"    {line}" for line in rest)]


def _typed(question: str) -> str:
    return str(click.prompt(question, default="", show_default=False, prompt_suffix="> ", err=True))


def _say(lines: Iterable[str], paint: re.Pattern[str] | None = None) -> None:
    for line in lines:
        say(line, err=True, paint=paint)


@click.command()
@click.argument("revision", metavar="COMMIT", required=False)
@click.option("--deployment", metavar="NAME", help="Restore one deployment.", shell_complete=complete_deployments)
@click.option("--to", "target", metavar="REV", help="With --deployment: the commit to restore it from.")
@edit_options
def revert(
    revision: str | None,
    deployment: str | None,
    target: str | None,
    editing: Editing,
) -> None:
    """Undo COMMIT; or with --deployment NAME --to REV, restore a deployment as it was at REV.

    Undoing a merge undoes everything that it brought. If later commits changed the same lines, the command names the
    files and writes nothing. A restored deployment brings back the application version that it needs.

    The fleet goes forward: devices get the old content with a new manifest version, never an old version. `plan` shows
    it before.
    """
    if (deployment is None) != (target is None) or (revision is None) == (deployment is None):
        raise click.UsageError("name a COMMIT, or --deployment NAME with --to REV")
    base = editing.base()
    if revision is not None:
        edit = revert_commit(base, revision)
    else:
        edit = revert_deployment(base, deployment or "", target or "")
    editing.finish(base, edit)
