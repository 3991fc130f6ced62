"""`margo-gitops init`: a fleet repo that renders as it is, and later versions of its scaffold."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

import click

from margo_gitops.cli.output import say
from margo_gitops.documents.state_layout import is_remote
from margo_gitops.errors import ExitCode, ScaffoldRefused
from margo_gitops.scaffolding.merge import FileUpgrade, OnConflict
from margo_gitops.scaffolding.scaffold import (
    Scaffold,
    check_artifacts_url,
    check_target,
    default_artifacts_url,
    default_state_repo,
    repository_around,
    scaffold,
)
from margo_gitops.scaffolding.template import FIRST_SITE, REQUIREMENTS_FILE, Answers, CiKind
from margo_gitops.scaffolding.tool import requirements
from margo_gitops.scaffolding.upgrade import Upgraded, upgrade
from margo_gitops.values import dataclass, replace

_ONLY_NEW = ("name", "state_repo", "artifacts_url", "site", "sign", "yes", "empty")
_ONLY_UPGRADE = ("conflicts", "allow_dirty")
_FATES = {
    "added": "",
    "updated": "",
    "merged": "with your changes",
    "removed": "the scaffold no longer has it",
    "left": "yours; the scaffold no longer has it, or it is behind a link",
    "deleted": "by you, and stays so",
    "marked": "with conflict markers: edit them",
    "conflict": "you and the scaffold changed the same lines; yours are kept, the scaffold's are",
}


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="The fleet's name. Default: the folder's.")
@click.option("--state-repo", help="The state repo, a path or a URL. Default: a folder next to DIR.")
@click.option("--artifacts-url", help="The applications/ folder as devices see it. Default: this folder, by file://.")
@click.option("--site", help="The first site's name. Default: north.")
@click.option(
    "--ci", type=click.Choice(get_args(CiKind)), help="Which pipelines to write. Default: both; none in a repository."
)
@click.option(
    "--tool",
    metavar="SOURCE",
    help="Where pipelines find margo-gitops: a wheel's URL with #sha256=DIGEST, a git URL with @COMMIT, or a "
    "requirements file with a hash for each package. Default: where this program was installed from.",
)
@click.option("--sign/--no-sign", default=None, help="Refuse to write unsigned state. Default: --no-sign.")
@click.option("--empty", is_flag=True, help="Scaffold no examples: no site, device, application or deployment.")
@click.option("--yes", is_flag=True, help="Ask nothing, and use the defaults.")
@click.option("--upgrade", "upgrading", is_flag=True, help="Upgrade the scaffold in DIR, or in this folder.")
@click.option(
    "--conflicts",
    type=click.Choice(get_args(OnConflict)),
    default="keep",
    help="With --upgrade, for lines that you and the scaffold changed. keep: the file stays, and the next upgrade "
    "tries again. mine, theirs: these lines win. mark: write both with conflict markers. Default: keep.",
)
@click.option("--allow-dirty", is_flag=True, help="With --upgrade: continue although there are uncommitted changes.")
@click.pass_context
def init(
    context: click.Context,
    folder: Path | None,
    name: str | None,
    state_repo: str | None,
    artifacts_url: str | None,
    site: str | None,
    ci: CiKind | None,
    tool: str | None,
    sign: bool | None,
    empty: bool,
    yes: bool,
    upgrading: bool,
    conflicts: OnConflict,
    allow_dirty: bool,
) -> None:
    """Scaffold a fleet repo in DIR: two sites, four devices, two applications, pipelines, hooks and editor settings.

    You can render it at once. On a terminal, init asks for what no option says.

    With --upgrade, the pipelines, hooks, schemas and editor settings of a scaffold become those of this version. Your
    changes stay, deleted files stay deleted, and files that say what runs where do not change. Nothing is committed.
    Exits 1 if you and the scaffold changed the same lines.
    """
    _refuse_mixture(context, upgrading=upgrading)
    if upgrading:
        told = requirements(tool)
        done = upgrade(folder or Path(), ci=ci, requirements=told, on_conflict=conflicts, allow_dirty=allow_dirty)
        _print_upgraded(done)
        if told is None and done.before != done.after:
            say(f"pipelines install what {REQUIREMENTS_FILE} says: say with --tool where {done.after} is")
        context.exit(ExitCode.FINDINGS if done.conflicts else ExitCode.OK)
    if folder is None:
        raise click.UsageError("Missing argument 'DIR'.")
    wanted = _Wanted(name, state_repo, artifacts_url, site, ci, sign)
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        check_target(folder)
        wanted = _asked(folder, wanted)
    told = requirements(tool)
    answers = Answers(
        wanted.name or _name_of(folder),
        wanted.ci or ("none" if repository_around(folder) else "both"),
        wanted.site or FIRST_SITE,
    )
    made = scaffold(
        folder,
        answers,
        state_repo=wanted.state,
        artifacts_url=wanted.artifacts_url,
        sign=bool(wanted.sign),
        empty=empty,
        requirements=told,
    )
    _print_scaffolded(folder, made, answers, wanted)
    if answers.ci != "none" and told is None:
        say(f"before a pipeline runs: say where it finds margo-gitops in {folder / REQUIREMENTS_FILE}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What options say; None: nothing."""

    name: str | None
    state: str | None
    artifacts_url: str | None
    site: str | None
    ci: CiKind | None
    sign: bool | None


def _refuse_mixture(context: click.Context, *, upgrading: bool) -> None:
    """Refuse options that would mean nothing."""
    for option in _ONLY_NEW if upgrading else _ONLY_UPGRADE:
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            flag = "--" + option.replace("_", "-")
            raise click.UsageError(f"{flag} {'does not go with' if upgrading else 'goes only with'} --upgrade.")


def _name_of(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-")


def _ask(question: str, default: str, check: Callable[[str], None] = lambda _given: None) -> str:
    """Return what a person answers, asked again until it is usable."""
    while True:
        given = str(click.prompt(question, default=default, err=True))
        try:
            check(given)
        except ScaffoldRefused as error:
            say(f"  {error.what}: {error.remedy}", err=True)
        else:
            return given


def _asked(folder: Path, wanted: _Wanted) -> _Wanted:
    """Return what options say, and people answer to the other questions."""

    def name_of(what: str, default: str) -> str:
        fleet = what == "name of the fleet"
        return _ask(what, default, lambda given: Answers(given if fleet else "fleet", site=given).check())

    if wanted.name is None:
        wanted = replace(wanted, name=name_of("name of the fleet", _name_of(folder)))
    if wanted.site is None:
        wanted = replace(wanted, site=name_of("name of the first site", FIRST_SITE))
    if wanted.state is None:
        wanted = replace(wanted, state=_ask("state repo, a path or a URL", default_state_repo(folder)))
    if wanted.artifacts_url is None:
        question = "the applications/ folder as devices see it"
        wanted = replace(wanted, artifacts_url=_ask(question, default_artifacts_url(folder), check_artifacts_url))
    if wanted.ci is None:
        choice = click.Choice(get_args(CiKind))
        wanted = replace(wanted, ci=cast("CiKind", click.prompt("pipelines of", "both", type=choice, err=True)))
    if wanted.sign is None:
        wanted = replace(wanted, sign=click.confirm("refuse to write unsigned state", default=False, err=True))
    return wanted


def _print_scaffolded(folder: Path, made: Scaffold, answers: Answers, wanted: _Wanted) -> None:
    place = shlex.quote(str(folder))
    say(f"scaffolded the fleet {answers.name} in {folder}")
    around = repository_around(folder)
    if around is not None:
        say(f"it is part of the repository {around}; commit it before you render:")
        say(f"  git -C {place} commit -m 'Scaffold the fleet' -- .")
        if answers.ci != "none":
            say("GitHub and GitLab read pipelines in the root of a repository: move them there, and name the folder")
    elif made.commit is None:
        if shutil.which("git") is None:
            say("git is missing, so nothing is committed; install it (on Debian and Ubuntu: apt-get install git):")
        else:
            say("git does not know who you are yet, so nothing is committed:")
        say("  git config --global user.name NAME && git config --global user.email ADDRESS")
        say(f"  git -C {place} commit -m 'Scaffold the fleet'")
    say("next:")
    if wanted.sign:
        key = shlex.quote(f"{folder.absolute().name}-signing-key")
        say(f"  ssh-keygen -q -t ed25519 -N '' -C renderer -f {key}")
        say(f"  margo-gitops render --fleet {place} --signing-key {key}")
    else:
        say(f"  margo-gitops render --fleet {place}")
    if answers.ci != "none" and not (wanted.state and is_remote(wanted.state)):
        say(f"before a pipeline renders: write the URL of the state repo into {folder / 'margo-gitops.yaml'}")


def _print_upgraded(done: Upgraded) -> None:
    told = [file for file in done.files if file.fate in _FATES]
    before = f"{done.before} -> " if done.before != done.after else ""
    say(f"scaffold {before if done.before else ''}{done.after}  {done.root}")
    for file in told:
        for line in _upgrade_lines(file):
            say(line)
    written = [file for file in told if file.content is not None or file.fate == "removed"]
    if done.conflicts:
        say("next: write the scaffold's change into these files yourself, or say whose lines win:")
        here = "" if done.root.resolve() == Path.cwd() else f" {shlex.quote(str(done.root).rstrip('/'))}"
        say(f"  margo-gitops init --upgrade{here} --allow-dirty --conflicts mine|theirs|mark")
    if written:
        root = shlex.quote(str(done.root).rstrip("/"))
        say("next: look at it, and commit it")
        say(f"  git -C {root} add --all && git -C {root} diff --cached")
    elif not done.conflicts:
        say("up to date")


def _upgrade_lines(file: FileUpgrade) -> list[str]:
    about = _FATES[file.fate]
    first = f"  {file.fate:<9} {file.path}{f'  ({about})' if about else ''}"
    return [first, *(f"      {line}" for line in file.told)]
