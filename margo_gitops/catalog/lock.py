"""`applications.lock`: which bytes each vendored application version has."""

from __future__ import annotations

from collections.abc import Mapping

from margo_gitops.digests import Digest
from margo_gitops.documents.fleet_kinds import API_VERSION, ApplicationsLock, LockedApplication
from margo_gitops.documents.records import read, write
from margo_gitops.documents.yaml_reader import read_yaml
from margo_gitops.documents.yaml_writer import write_yaml

LOCK_FILE = "applications.lock"

Pins = Mapping[tuple[str, str], Digest]
"""Digest of a package's file list, by (application id, version)."""


def locked_digests(content: bytes) -> dict[tuple[str, str], Digest]:
    """Return what a lock file pins.

    Raises:
        UnreadableDocument, InvalidDocument: it is no lock file.
    """
    lock = read(ApplicationsLock, read_yaml(content, LOCK_FILE))
    return {(entry.id, entry.version): Digest(entry.digest) for entry in lock.applications}


def write_lock(pins: Pins) -> bytes:
    """Return the lock file for these pins, sorted."""
    entries = tuple(LockedApplication(name, version, pins[name, version]) for name, version in sorted(pins))
    header = b"# Written by `margo-gitops app add`: which bytes each application version has.\n"
    return header + write_yaml(write(ApplicationsLock(API_VERSION, "ApplicationsLock", entries)))
