"""The first states of many devices, and their objects, made by several processes.

DIVIDED-1  Each process renders a part of the fleet: some devices that pull, with their children.
DIVIDED-2  What only the whole fleet shows is looked at here: names that lead nowhere, and deployments that select no
           device. If anything is wrong, here or in a part, one process renders all of it, and says every error.
DIVIDED-3  Parts are in the order of the devices, so the pack has the same objects in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from margo_gitops.documents.state_layout import DEVICE_REFS, FLEET_REF
from margo_gitops.errors import RenderingRefused
from margo_gitops.processes import divided, process_count
from margo_gitops.rendering.desired_state import DesiredState
from margo_gitops.rendering.intent import Intent
from margo_gitops.rendering.references import broken_references
from margo_gitops.rendering.render import by_client, find_placements, render
from margo_gitops.state_repo.object_pack import ObjectPack
from margo_gitops.state_repo.publication import SharedWork, device_objects
from margo_gitops.values import dataclass, replace

_Made: TypeAlias = tuple[int, bytes, str, dict[str, str], list[tuple[str, bytes]], list[str]]
"""Version, manifest, tree, deployments' objects by deployment id, entries of the pack, deployments that were placed."""


@dataclass(frozen=True, slots=True)
class _PackedDocuments(Mapping[str, bytes]):
    """Exact bytes of documents by deployment id, read from a pack each time."""

    pack: ObjectPack
    objects: Mapping[str, str]

    def __getitem__(self, name: str) -> bytes:
        return self.pack.content(self.objects[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.objects)

    def __len__(self) -> int:
        return len(self.objects)


def divided_states(work: SharedWork, intent: Intent, values: Mapping[str, str]) -> tuple[DesiredState, ...] | None:
    """Return the state of every device of a fleet that has no state yet, and put its objects into the pack.

    Args:
        values: all refs of the state repo.

    Returns:
        None where one process has to do it: the fleet is small, was rendered before, or cannot be rendered.

    Raises:
        ProcessEnded: one of the processes was killed.
    """
    clients = by_client(intent)
    processes = process_count(len(clients), work.jobs)
    if processes < 2 or intent.clients is not None or FLEET_REF in values:
        return None
    if any(ref.startswith(DEVICE_REFS) for ref in values) or any(broken_references(intent)):
        return None

    def made(part: Sequence[str]) -> Iterator[_Made]:
        devices = {name: intent.devices[name] for client in part for name in clients[client]}
        fleet = replace(intent, devices=devices, clients=frozenset(part))
        placements, errors = find_placements(fleet)
        if errors:
            raise RenderingRefused("the fleet cannot be rendered", errors)
        placed = sorted({name for each in placements.values() for name in each})
        pack = ObjectPack()
        for state in render(fleet, lambda _: None, placements=placements):
            tree, objects = device_objects(pack, state)
            yield state.version, state.manifest, tree, objects, pack.drained(), placed
            placed = []

    found: list[_Made] | None = divided("rendering devices", [*clients], processes, made)
    if found is None or {name for each in found for name in each[-1]} != intent.deployments.keys():
        return None
    states = []
    for client, (version, manifest, tree, objects, entries, _) in zip(clients, found, strict=True):
        work.pack.take(entries)
        work.trees[client] = tree
        site = intent.devices[client].value.spec.site
        states.append(DesiredState(client, site, version, manifest, _PackedDocuments(work.pack, objects), changed=True))
    return tuple(states)
