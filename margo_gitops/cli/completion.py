"""`margo-gitops completion`: the script that teaches a shell to complete commands, options and names of the fleet.

Names come from the fleet's file names alone, so that completing a word is fast. A completion is never an error: what
cannot be read has no names.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import get_completion_class

from margo_gitops.cli import COMPLETION_VARIABLE
from margo_gitops.documents.device_id import decode_device_id

PROGRAM = "margo-gitops"

_NO_SPACE = "    [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
"""For bash: behind `greeting=` a value follows, not the next word."""

_BEFORE = "    return 0\n"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, and the names of the fleet repo you are in.

    bash: put `eval "$(margo-gitops completion bash)"` into ~/.bashrc. zsh: put `eval "$(margo-gitops completion zsh)"`
    into ~/.zshrc, below compinit. fish: `margo-gitops completion fish > ~/.config/fish/completions/margo-gitops.fish`.
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click knows no {shell}")
    script = found(context.find_root().command, {}, PROGRAM, COMPLETION_VARIABLE).source()
    if shell == "bash":
        script = script.replace(_BEFORE, _NO_SPACE + _BEFORE, 1)
    click.echo(script)


def answer(cli: click.Command) -> NoReturn:
    """Print the words that a shell asks for, and end; if anything goes wrong, offer nothing and print no error."""
    code = 0
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123  # no path of ours
        sys.stderr, said = nowhere, sys.stderr
        try:
            cli.main(prog_name=PROGRAM)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001  # a traceback would end up in the line that somebody types
            code = 1
        finally:
            sys.stderr = said
    sys.exit(code)


_FLEET_FILE = "margo-gitops.yaml"
_NAME = re.compile(r"^[ \t]+[\"']?name[\"']?:[ \t]*[\"']?(?P<name>[^\s\"'#,]+)", re.MULTILINE)
_HEAD = 4096
_MOST_FILES = 50_000
_DESCRIPTION_BYTES = 1024 * 1024


def _fleet_root(start: Path) -> Path | None:
    folder = start.absolute()
    return next((each for each in (folder, *folder.parents) if (each / _FLEET_FILE).is_file()), None)


def _device_names(root: Path) -> Iterator[str]:
    for path, stem in _documents(root / "devices"):
        if "/" not in stem:
            yield _decoded(stem)
        else:
            # The folder may be part of the id, or not: only the file knows.
            yield _name_in(path) or stem


def _names(folder: Path) -> Iterator[str]:
    return (stem.rpartition("/")[2] for _, stem in _documents(folder))


def _application_ids(root: Path) -> Iterator[str]:
    return _folders(root / "applications")


def _application_versions(root: Path, application: str) -> Iterator[str]:
    is_name = "/" not in application and application not in ("", ".", "..")
    return _folders(root / "applications" / application) if is_name else iter(())


def _parameter_names(root: Path, application: str, version: str | None) -> Iterator[str]:
    from margo_gitops.documents.kinds import read_source

    content = _description(root, application, version)
    yield from read_source(content, "margo.yaml").root.entries("parameters") if content else ()


def _profile_ids(root: Path, application: str, version: str | None) -> Iterator[str]:
    from margo_gitops.documents.kinds import read_source

    content = _description(root, application, version)
    for profile in read_source(content, "margo.yaml").root.items("deploymentProfiles") if content else ():
        if name := profile.text("id"):
            yield name


def _label_keys(root: Path) -> Iterator[str]:
    from margo_gitops.documents.kinds import read_source

    seen: set[str] = set()
    for path, _ in [*islice(_documents(root / "devices"), 20), *islice(_documents(root / "sites"), 20)]:
        document = read_source(path.read_bytes()[:_DESCRIPTION_BYTES], path.name).root
        for key in document.entries("metadata", "labels"):
            if key not in seen:
                seen.add(key)
                yield key


def _documents(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every document of a folder, with its path inside and without the suffix."""
    count = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            count += 1
            if count > _MOST_FILES:
                return
            if name.endswith(".yaml"):
                path = Path(parent, name)
                yield path, path.relative_to(folder).as_posix().removesuffix(".yaml")


def _decoded(stem: str) -> str:
    try:
        return decode_device_id(stem)
    except ValueError:
        return stem


def _name_in(path: Path) -> str | None:
    with path.open(encoding="utf-8", errors="replace") as file:
        match = _NAME.search(file.read(_HEAD))
    return match["name"] if match else None


def _folders(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _description(root: Path, application: str, version: str | None) -> bytes | None:
    from margo_gitops.documents.versions import newest

    versions = list(_application_versions(root, application))
    chosen = version if version in versions else newest(versions) if versions else None
    if chosen is None:
        return None
    with (root / "applications" / application / chosen / "margo.yaml").open("rb") as file:
        return file.read(_DESCRIPTION_BYTES)


MOST = 1000
"""Words that are offered; no one reads more."""

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _completer(find: Callable[[Path, click.Context], Iterable[str]]) -> Completer:
    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            root = _fleet_root(Path(context.params.get("fleet") or "."))
            if root is None:
                return []
            matching = (name for name in find(root, context) if name.startswith(incomplete))
            return list(islice(dict.fromkeys(islice(matching, MOST * 2)), MOST))
        except Exception:  # noqa: BLE001  # a word that cannot be completed must not disturb who types it
            return []

    return complete


def _of_application(context: click.Context) -> tuple[str, str | None]:
    if not any(each.name == "application" for each in context.command.params):
        return "", None
    # Behind an option without its value, click has not given the arguments their names yet.
    words: list[str | None] = [*context.args, None, None]
    application = context.params.get("application") or words[0]
    version = context.params.get("version") or words[1]
    return str(application or ""), str(version) if version else None


def _assignments(root: Path, context: click.Context) -> Iterator[str]:
    application, version = _of_application(context)
    applications = [application] if application else _application_ids(root)
    for each in applications:
        yield from (f"{name}=" for name in _parameter_names(root, each, version))


def _selectors(root: Path, _context: click.Context) -> Iterator[str]:
    yield "all"
    yield from (f"site={name}" for name in _names(root / "sites"))
    yield from (f"{key}=" for key in _label_keys(root))
    yield from (f"device={name}" for name in _device_names(root))


complete_devices = _completer(lambda root, _context: _device_names(root))
complete_sites = _completer(lambda root, _context: _names(root / "sites"))
complete_deployments = _completer(lambda root, _context: _names(root / "deployments"))
complete_applications = _completer(lambda root, _context: _application_ids(root))
complete_versions = _completer(lambda root, context: _application_versions(root, _of_application(context)[0]))
complete_profiles = _completer(lambda root, context: _profile_ids(root, *_of_application(context)))
complete_assignments = _completer(_assignments)
complete_selectors = _completer(_selectors)
