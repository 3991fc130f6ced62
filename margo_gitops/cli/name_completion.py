"""What a shell offers for the names of a fleet: devices, sites, deployments, applications, parameters.

A completion is never an error: where the fleet cannot be read, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from margo_gitops.editing import fleet_names

MOST = 1000
"""Words that are offered; nobody reads more."""

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _completer(find: Callable[[Path, click.Context], Iterable[str]]) -> Completer:
    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            root = fleet_names.fleet_root(Path(context.params.get("fleet") or "."))
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
    applications = [application] if application else fleet_names.application_ids(root)
    for each in applications:
        yield from (f"{name}=" for name in fleet_names.parameter_names(root, each, version))


def _parameters(root: Path, context: click.Context) -> Iterator[str]:
    return (each.removesuffix("=") for each in _assignments(root, context))


def _selectors(root: Path, _context: click.Context) -> Iterator[str]:
    yield "all"
    yield from (f"site={name}" for name in fleet_names.site_names(root))
    yield from (f"{key}=" for key in fleet_names.label_keys(root))
    yield from (f"device={name}" for name in fleet_names.device_names(root))


complete_devices = _completer(lambda root, _context: fleet_names.device_names(root))
complete_sites = _completer(lambda root, _context: fleet_names.site_names(root))
complete_deployments = _completer(lambda root, _context: fleet_names.deployment_names(root))
complete_applications = _completer(lambda root, _context: fleet_names.application_ids(root))
complete_versions = _completer(
    lambda root, context: fleet_names.application_versions(root, _of_application(context)[0])
)
complete_profiles = _completer(lambda root, context: fleet_names.profile_ids(root, *_of_application(context)))
complete_parameters = _completer(_parameters)
complete_assignments = _completer(_assignments)
complete_selectors = _completer(_selectors)
