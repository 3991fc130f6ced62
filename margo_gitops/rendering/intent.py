"""What people want, as read from one commit of the fleet repo: with the previous state, the renderer's whole input."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Generic, TypeVar

from margo_gitops.digests import Digest
from margo_gitops.documents.application import ApplicationDescription
from margo_gitops.documents.components import ProfileType
from margo_gitops.documents.device_id import client_of
from margo_gitops.documents.fleet_kinds import Deployment, Device, Fleet, Site
from margo_gitops.documents.kinds import read_source
from margo_gitops.documents.nodes import Node
from margo_gitops.documents.trust_document import FloorChange
from margo_gitops.errors import Location
from margo_gitops.values import dataclass, field

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Located(Generic[T_co]):
    """A document and the file it came from.

    Positions are looked up only when an error or an explanation needs one: a fleet of 10,000 devices keeps few trees.
    """

    value: T_co
    file: str
    content: bytes = field(repr=False)

    def at(self, *path: str | int) -> Location:
        """Return where the field at `path` is; the nearest one above it that exists, if it does not."""
        root = _root(self.content, self.file)
        for length in range(len(path), -1, -1):
            node = root.get(*path[:length])
            if node is not None:
                return Location(self.file, node.line, node.column)
        return Location(self.file)

    def at_key(self, *path: str | int) -> Location:
        """Return where the key of the field at `path` is."""
        node = _root(self.content, self.file).get(*path)
        if node is None or not node.key_line:
            return self.at(*path)
        return Location(self.file, node.key_line, node.key_column)


@lru_cache(maxsize=16)  # one mistake of a deployment has the same place on every device
def _root(content: bytes, file: str) -> Node:
    return read_source(content, file).root


@dataclass(frozen=True, slots=True)
class ComponentContent:
    """Where a component's content is, and its digest.

    Attributes:
        location: a URL, or a path relative to the `applications/` folder.
        digest: of the tar.gz, or of the folder's file list.
        is_folder: whether it is a folder.
        size: bytes to download; None where it is not known.
    """

    location: str
    digest: Digest
    is_folder: bool
    size: int | None


@dataclass(frozen=True, slots=True)
class Application:
    """One version of an application, as vendored in the fleet repo.

    Attributes:
        description: in the current shape.
        digest: of the package folder's file list.
        contents: the content of components, by type of profile and component name; those fetched by OCI reference have
            none.
    """

    description: Located[ApplicationDescription]
    digest: Digest
    contents: Mapping[tuple[ProfileType, str], ComponentContent]


@dataclass(frozen=True, slots=True)
class Intent:
    """The fleet repo at one commit, or a part of it that is rendered alone.

    Attributes:
        applications: by (application id, version).
        applications_lock: digest of `applications.lock`; None where the fleet has none.
        floors: changes of what devices accept, by the trust document that counts.
        clients: the devices that pull of which these are all documents, their children's too; None: all of the fleet.
    """

    fleet: Located[Fleet]
    sites: Mapping[str, Located[Site]]
    devices: Mapping[str, Located[Device]]
    deployments: Mapping[str, Located[Deployment]]
    applications: Mapping[tuple[str, str], Application]
    applications_lock: Digest | None = None
    clients: frozenset[str] | None = None
    floors: tuple[FloorChange, ...] = ()

    def lowest_version(self, client: str) -> int:
        """Return the lowest manifest version that a device may get next: the state repo may have lost higher ones."""
        concerned = (each for each in self.floors if each.devices is None or client in map(client_of, each.devices))
        return max((each.next or 1 for each in concerned), default=1)

    def leaves_out(self, device: str) -> bool:
        """Return whether this is a part of a fleet that does not say whether there is such a device."""
        return self.clients is not None and client_of(device) not in self.clients

    def called(self, device: str) -> str:
        """Return what a device calls itself: its alias, for a child that of its gateway in front, or its id."""
        client, slash, child = device.partition("/")
        gateway = self.devices.get(client)
        return f"{(gateway.value.spec.alias if gateway else None) or client}{slash}{child}"

    @property
    def aliases(self) -> dict[str, str]:
        """The alias of each device that has one."""
        return {name: alias for name, each in self.devices.items() if (alias := each.value.spec.alias) is not None}


@dataclass(frozen=True, slots=True, eq=False)
class ById(Generic[T_co]):
    """A value as a key by identity: what is computed once for a document is not computed again for each device.

    It is equal only to a key of exactly the same object, which it keeps alive.
    """

    value: T_co

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and other.value is self.value
