"""Plan again at every save, and continue after errors: `render --watch`.

Only what a save can concern is rendered again, and the files are read again; both give what a whole render gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event

from watchfiles import watch

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.errors import MargoGitopsError
from margo_gitops.operations.fleet_input import StateTarget
from margo_gitops.operations.plan.planning import PlanRequest, plan_fleet
from margo_gitops.operations.render.rendered_part import rendered_states
from margo_gitops.processes import without_collections
from margo_gitops.rendering.changes import Plan
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.render import PlacementsByDevice, affected, place, render
from margo_gitops.values import dataclass, field

_GATHER_MS = 30
"""An editor's save is several events: what comes this close together is one."""

_BEGIN_MS = 100
"""How long the watch waits for a save before the first plan is shown."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A plan after a save.

    Attributes:
        files: what was saved, relative to the fleet repo, sorted; empty at the start.
        plan: what a render of the files would change; an error where that cannot be computed.
    """

    files: tuple[str, ...]
    plan: Plan | MargoGitopsError


def watch_fleet(request: PlanRequest, stop: Event | None = None) -> Iterator[Saved]:
    """Yield a plan now and after every save, until interrupted (NoFleetRepo; every other error is yielded)."""
    root = FleetRepo.find(request.fleet).root
    renders = Rerender()
    begun = False
    with without_collections():
        # The watch is on before the first plan is made, so that no save falls between the two.
        for changes in watch(
            root,
            watch_filter=lambda _change, path: ".git" not in Path(path).relative_to(root).parts,
            debounce=_GATHER_MS * 4,
            step=_GATHER_MS,
            stop_event=stop,
            rust_timeout=_BEGIN_MS,
            yield_on_timeout=True,
        ):
            if changes or not begun:
                begun = True
                files = sorted({str(Path(path).relative_to(root)) for _, path in changes})
                yield Saved(tuple(files), _plan(request, renders))


def _plan(request: PlanRequest, renders: Rerender) -> Plan | MargoGitopsError:
    try:
        return plan_fleet(request, renders)
    except MargoGitopsError as error:
        return error


@dataclass(slots=True)
class Rerender:
    """Renders like `rendered_states`; what it rendered last is the start of the next time."""

    _intent: Intent | None = None
    _placed: PlacementsByDevice = field(default_factory=dict)
    _values: Mapping[str, str] = field(default_factory=dict)
    _states: dict[str, DesiredState] = field(default_factory=dict)

    def __call__(self, intent: Intent, target: StateTarget, values: Mapping[str, str]) -> tuple[DesiredState, ...]:
        """Return the state of every device.

        Raises:
            RenderingRefused, StateTampered: as `rendered_states`; what was rendered last is kept.
        """
        placed = place(intent)
        only = None
        if self._intent is not None and self._values == values:
            only = affected(self._intent, self._placed, intent, placed)
        if only is None:
            fresh = rendered_states(intent, target, values)
        else:
            fresh = render(intent, lambda device: target.repo.held(device, values), only, placed)
        rendered = {state.device: state for state in fresh}
        states = rendered if only is None else {**self._states, **rendered}
        self._states = {device: states[device] for device in sorted(states) if device in intent.devices}
        self._intent, self._placed, self._values = intent, placed, values
        return tuple(self._states.values())
