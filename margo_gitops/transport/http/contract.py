"""Which paths a server has, and in which shape it takes reports: what differs between the versions of the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import quote

from margo_gitops.errors import SourceMisbehaved
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.values import dataclass

ROOT: Final = "/api/v1/"
MANIFEST: Final = "deployments"
MANIFEST_PATH: Final = ROOT + MANIFEST


@dataclass(frozen=True, slots=True)
class Submission:
    """A report on its way.

    Attributes:
        methods: to try one after the other, where a server says that one is not for this (405, 409).
        target: path, with the prefix.
    """

    methods: tuple[str, ...]
    target: str
    document: bytes


Submit: TypeAlias = Callable[[Submission], tuple[int, bytes]]
"""Sends something, and returns status and body of the answer."""


class Contract:
    """One version of the Workload Management API, seen from a device: OpenAPI 1.0.0-rc.3, unless overridden.

    There, the connection says who calls, and documents go as they are.
    """

    def __init__(self, prefix: str) -> None:
        """Take the path before `/api/v1`."""
        self._prefix = prefix

    def prepare(self, submit: Submit) -> bool:  # noqa: ARG002
        """Do what must be done before a request; return whether paths are others than before.

        Raises:
            TransportError: the server does not take this device.
        """
        return False

    def answered(self, status: int) -> None:
        """Hear what a server answered."""

    def sent(self, held: Snapshot, version: int) -> Snapshot:  # noqa: ARG002
        """Return a held state of this version as a server of this contract sends it."""
        return held

    def taken(self, came: Snapshot, version: int) -> Snapshot:  # noqa: ARG002
        """Return a state that came as it is held."""
        return came

    def path(self, resource: str) -> str:
        """Return the target of a resource, such as `deployments`."""
        return self._prefix + ROOT + resource

    def path_of(self, url: str) -> str:
        """Return the target of a path from a manifest: always on this server and below this prefix.

        Raises:
            SourceMisbehaved: it holds what no path of a request may hold.
        """
        return self._prefix + local_path(url, self._prefix)

    def capabilities(self, device: str, document: bytes) -> Submission:
        """Return the capabilities of a device, or of a child of it, as this version takes them."""
        return Submission(("PUT",), self.path(f"capabilities/{quote(device)}"), document)

    def status(self, deployment_id: str, document: bytes) -> Submission:
        """Return the status of a deployment as this version takes it."""
        return Submission(("POST",), self.path(f"deployments/{quote(deployment_id, safe='')}/status"), document)


def local_path(url: str, prefix: str) -> str:
    """Return a path from a manifest without the prefix: some servers write theirs into the manifest, most do not.

    Raises:
        SourceMisbehaved: it holds what no path of a request may hold.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "#" in url or not url.startswith("/"):
        raise SourceMisbehaved("the manifest names a path that is not valid")
    return url.removeprefix(prefix) if url.startswith(prefix + ROOT) else url
