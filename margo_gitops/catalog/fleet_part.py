"""Read some devices of a fleet, and what all devices share: the files of other devices are not read.

PART-1  A part has all documents of a client, its children's too, or none of them. Files that may be about a client are
        known by their names: a document in another file has a finding, and is left out of the whole fleet too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from margo_gitops.catalog.file_tree import RootTree
from margo_gitops.catalog.fleet import find_fleet, read_fleet
from margo_gitops.documents.device_id import client_of, decode_device_id
from margo_gitops.errors import Finding
from margo_gitops.rendering.intent import Intent
from margo_gitops.values import replace


def read_part(tree: RootTree, clients: Collection[str]) -> Intent:
    """Return the part of a fleet that some devices need which pull.

    Raises:
        NoFleetRepo: there is no `margo-gitops.yaml`.
        FleetInvalid: with every finding of what these devices need.
    """
    return _part(read_fleet(tree, files_of(tree.paths("devices"), clients)), clients)


def find_part(tree: RootTree, clients: Collection[str]) -> tuple[Intent | None, list[Finding]]:
    """Return the same as far as it can be read, and every finding (`find_fleet`)."""
    found, findings = find_fleet(tree, files_of(tree.paths("devices"), clients))
    return found and _part(found, clients), findings


def _part(found: Intent, clients: Collection[str]) -> Intent:
    devices = {name: each for name, each in found.devices.items() if client_of(name) in clients}
    return replace(found, devices=devices, clients=frozenset(clients))


def files_of(paths: Iterable[str], clients: Collection[str]) -> list[str]:
    """Return the files below `devices/` that may be about one of these clients, or a child."""
    return [path for path in paths if _may_be_of(path, clients)]


def stem(path: str) -> str:
    """Return a path below a folder of documents, without its ending."""
    return path.partition("/")[2].removesuffix(".yaml")


def _may_be_of(path: str, clients: Collection[str]) -> bool:
    """Whether a file may be about one of these clients, or a child: files are named after ids in several ways."""
    parts = stem(path).split("/")
    return any(part in clients for part in parts) or ("_" in parts[-1] and _decoded_client(parts[-1]) in clients)


def _decoded_client(name: str) -> str | None:
    try:
        return client_of(decode_device_id(name))
    except ValueError:
        return None
