"""What devices have installed, as far as the state repo can tell, for settings that may not change any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from margo_gitops.editing.edit import Base
from margo_gitops.editing.form.checks import Previous
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.fleet_input import open_state, state_location
from margo_gitops.rendering.difference import rendered_fleet
from margo_gitops.rendering.render import render
from margo_gitops.state_repo.remote import is_remote


@dataclass(frozen=True, slots=True)
class Installed:
    """What devices have.

    Attributes:
        previous: the state of a device; None for a device that never had one.
        note: what a person should know of it; empty for nothing.
    """

    previous: Previous
    note: str = ""


def installed_state(base: Base, state: str | None, cache: Path) -> Installed:
    """Return what devices have installed.

    Where the state repo cannot be read, what the fleet repo says counts as installed: an immutable setting is rather
    kept than changed.

    Args:
        base: the fleet repo.
        state: the state repo that a person named; None: what the fleet says.
        cache: a folder for mirrors of remote state repos.

    Raises:
        MargoGitopsError: a state repo that was named cannot be read.
    """
    location = state_location(base.repo.root, base.intent, state)
    if state is None and not is_remote(location) and not Path(location).exists():
        return Installed(lambda _device: None)
    try:
        target = open_state(location, cache, create=False)
    except MargoGitopsError as error:
        if state is not None:
            raise
        return _as_the_fleet_says(base, error)
    try:
        values = target.repo.refs.read()
    finally:
        # A person fills in a form for minutes; commits, once fetched, stay readable without holding the mirror.
        target.release()
    return Installed(lambda device: target.repo.held(device, values))


def _as_the_fleet_says(base: Base, error: MargoGitopsError) -> Installed:
    note = f"the state repo cannot be read ({error.what}); settings that may not change count as installed"
    try:
        states = render(base.intent, lambda _device: None)
    except MargoGitopsError:
        return Installed(lambda _device: None, f"{note} as far as the fleet can be rendered: it cannot")
    return Installed(rendered_fleet(states).previous, note)
