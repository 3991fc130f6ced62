"""What a person did to a Compose project, as its containers, its files and its engine show it.

TOUCHED-1  What ran when an installation ended well is noted with its revision: settings (Compose's hash) and image of
           each service. A container with others was made by a person, and so was one outside of the project.
TOUCHED-2  A container that ended although its engine should have started it again was stopped by a person. One that the
           engine need not start again was, if the engine says so; it forgets when it is restarted, as after a reboot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from margo_gitops.appliers.applier import Observed, Workload, WorkloadKey
from margo_gitops.appliers.compose.engine import ComposeEngine
from margo_gitops.appliers.compose.project import CONFIG, PROJECT, SERVICES, Container, observed, project_name
from margo_gitops.appliers.written import edited
from margo_gitops.disk.files import read_bounded, replace_file
from margo_gitops.values import replace

_NOTED: Final = "running.json"
_MOST_BYTES: Final = 1024 * 1024


def note_running(folder: Path, containers: Sequence[Container]) -> None:
    """Note what runs of a revision that came up (OSError: the disk refuses)."""
    noted = {each.service: [each.labels.get(CONFIG, ""), each.image] for each in containers}
    replace_file(folder / _NOTED, json.dumps(noted, sort_keys=True).encode())


def as_asked(containers: Sequence[Container], workload: Workload) -> bool:
    """Whether containers run as a workload asks for."""
    return [(state.key, state.digest, state.condition) for state in observed(containers)] == [
        (workload.key, workload.digest, "running")
    ]


def added_by_hand(key: WorkloadKey, containers: Sequence[Container]) -> str:
    """Return which container a person started outside of the project of a workload (TOUCHED-1)."""
    name = project_name(key)
    return next((f"{each.service} was started by hand" for each in containers if each.labels.get(PROJECT) != name), "")


def changed_by_hand(containers: Sequence[Container], folder: Path | None) -> str:
    """Return what a person changed of a workload; empty where nothing shows that (TOUCHED-1).

    Args:
        folder: of the revision that ran last.
    """
    if folder is None:
        return ""
    noted = _noted(folder)
    for each in [each for each in containers if noted and PROJECT in each.labels and each.labels[PROJECT]]:
        was = noted.get(each.service)
        if was is None:
            return f"{each.service} was added"
        if was[0] != each.labels.get(CONFIG, ""):
            return f"{each.service} was started with other settings"
        if was[1] and each.image and was[1] != each.image:
            return f"{each.service} was started with another image"
    name = edited(folder)
    return f"{name} was edited" if name else ""


def told(containers: Sequence[Container], folder_of: Callable[[WorkloadKey], Path | None]) -> list[Observed]:
    """Return what the engine says of each workload, sorted by key, and what a person did to it.

    Args:
        folder_of: returns the folder of the revision that ran last of a workload.
    """
    found = []
    for state in observed(containers):
        own = [each for each in containers if each.key == state.key]
        paused = (f"{each.service} is paused" for each in own if each.state == "paused")
        by_hand = changed_by_hand(own, folder_of(state.key)) or added_by_hand(state.key, own) or next(paused, "")
        found.append(replace(state, condition="degraded", by_hand=by_hand) if by_hand else state)
    return found


def stopped_by_hand(engine: ComposeEngine, containers: Sequence[Container]) -> str:
    """Return what a person stopped or removed of a workload; empty where no person did (TOUCHED-2).

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    there = {each.service for each in containers}
    for name in sorted({name for each in containers for name in each.labels.get(SERVICES, "").split(",") if name}):
        if name not in there:
            return f"{name} was removed"
    ended = [each for each in containers if each.state == "exited" and each.condition == "degraded"]
    return next((f"{each.service} was stopped" for each in ended if engine.was_stopped(each)), "")


def _noted(folder: Path) -> dict[str, list[str]]:
    try:
        noted = json.loads(read_bounded(folder / _NOTED, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}  # an older agent did not note it
    fits = isinstance(noted, dict) and all(isinstance(each, list) and len(each) == 2 for each in noted.values())
    return noted if fits else {}
