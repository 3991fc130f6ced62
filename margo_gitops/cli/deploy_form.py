"""`margo-gitops deploy --interactive`: the form of `editing.form` on a terminal.

Questions go to standard error, so that `--dry-run` prints the diff alone to standard output.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import click

from margo_gitops.cli.edit_options import Editing
from margo_gitops.cli.options import cache_folder
from margo_gitops.editing.checking import check_edit
from margo_gitops.editing.deploy import DeployRequest, DeployTarget
from margo_gitops.editing.deploy import deploy as deploy_edit
from margo_gitops.editing.edit import Base, Edit, unified_diff
from margo_gitops.editing.form.checks import FormCheck
from margo_gitops.editing.form.form import Answers, Form
from margo_gitops.editing.form.text import HELP, all_devices, prompt_text, question_lines, title_lines
from margo_gitops.editing.installed import Installed, installed_state
from margo_gitops.editing.preview import preview
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.plan_text import as_text
from margo_gitops.wording import printable


def deploy_by_form(
    editing: Editing, base: Base, target: DeployTarget, request: DeployRequest, state: str | None
) -> None:
    """Ask for what a Deployment shall be, show the change and what it does, and make it.

    Args:
        editing: how the edit is made.
        base: what it starts from.
        target: the Deployment.
        request: what options say already.
        state: the state repo that the person named.

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
        _say([f"note: {installed.note}"])
    answers = Answers(request.parameters, frozenset(request.unset), request.placement, request.profiles)
    form = Form(FormCheck(base.intent, target, installed.previous), answers).begin()
    _say(title_lines(form))
    edit = _filled_in(form, base, installed, dry_run=editing.dry_run)
    if edit is None:
        click.echo("nothing was written", err=True)
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
            _say([f"  no: {printable(text)} is no command; :help names them, and ::text is the text :text"])
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
    _say(["", *([*map(printable, unified_diff(edit).splitlines()), ""] if diff else [])])
    if plan is None:
        _say(["note: the fleet cannot be rendered as it is, so what this does to devices cannot be told"])
    else:
        _say(as_text(plan))
    return edit


def _refusal(error: MargoGitopsError) -> list[str]:
    first, *rest = str(error).splitlines()
    return [printable(line) for line in (f"  no: {first}", *(f"    {line}" for line in rest))]


def _typed(question: str) -> str:
    return str(click.prompt(question, default="", show_default=False, prompt_suffix="> ", err=True))


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
