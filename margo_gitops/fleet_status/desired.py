"""What devices should run, read from the branch `fleet`: as much of a document as a status needs."""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.documents.deployment import ApplicationDeployment, fleet_device
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.state_layout import deployment_path
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.state_repo.git_store import bad_object
from margo_gitops.state_repo.objects import DeviceTree, StateObjects, listed_deployments
from margo_gitops.trust.git_objects import BLOB
from margo_gitops.values import dataclass, field

_PLAIN: Final = r'([^\s"\']+)'
_NAME: Final = re.compile(rf"^metadata:\n  name: {_PLAIN}$", re.MULTILINE)
_DEVICE: Final = re.compile(rf"^  deviceId: {_PLAIN}$", re.MULTILINE)
_ALIAS: Final = re.compile(r"^    device: ", re.MULTILINE)
_APPLICATION: Final = re.compile(rf"^spec:\n  applicationId: {_PLAIN}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NamedDeployment:
    """What people call a deployment.

    Attributes:
        device: the device; for a gateway's child, the child.
    """

    name: str
    device: str
    application: str


@dataclass(slots=True)
class Desired:
    """The desired state of one device.

    Attributes:
        version: manifestVersion.
        deployments: ids of its deployments, in order.
    """

    version: int
    deployments: tuple[str, ...]
    _held: DeviceTree

    def document(self, deployment: str) -> str | None:
        """Return the blob id of a deployment's document; None where the tree lacks it."""
        return self._held.files.get(deployment_path(deployment))


@dataclass(slots=True)
class DesiredReader:
    """Reads device trees; what was read of a document is kept, as most stay the same from one look to the next.

    StateTampered where no renderer writes such a tree.
    """

    objects: StateObjects
    _names: dict[str, NamedDeployment | None] = field(default_factory=dict)

    def read(self, tree: str) -> Desired:
        """Return what a device's tree says."""
        held = DeviceTree(self.objects, tree)
        version, ids = _manifest(tree, held.manifest)
        return Desired(version, ids, held)

    def named(self, blob: str) -> NamedDeployment | None:
        """Return what a deployment document is called; None where it is something else."""
        if blob not in self._names:
            self._names[blob] = _named(self.objects.read(blob, BLOB))
        return self._names[blob]


def _manifest(name: str, content: bytes) -> tuple[int, tuple[str, ...]]:
    try:
        version, digests = listed_deployments(content)
    except ValueError as error:
        raise bad_object(name, str(error)) from error
    return version, tuple(digests)


def _named(content: bytes) -> NamedDeployment | None:
    # The renderer has one spelling for all it writes; a name that needs quotes, or another writer, is read in full.
    text = content.decode("utf-8", "replace")
    name, device, application = _NAME.search(text), _DEVICE.search(text), _APPLICATION.search(text)
    if name and device and application and not _ALIAS.search(text):
        return NamedDeployment(name[1], device[1], application[1])
    try:
        document = read_as(ApplicationDeployment, read_source(content, "deployment.yaml"))
    except (UnreadableDocument, InvalidDocument):
        return None
    return NamedDeployment(document.metadata.name, fleet_device(document), document.spec.application_id)
