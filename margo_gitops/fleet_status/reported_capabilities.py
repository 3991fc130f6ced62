"""What devices report that they are and offer, each as the server committed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from margo_gitops.documents.device_id import client_of
from margo_gitops.fleet_status.reading import StatusRequest, opened_state
from margo_gitops.state_repo.reported import Reports


@dataclass(frozen=True, slots=True)
class ReportedCapabilities:
    """The capabilities in the branch of reports.

    Attributes:
        commit: of the branch; None where nothing was ever reported.
        documents: the reported bytes, by device id; a gateway reports for its children.
    """

    commit: str | None
    documents: Mapping[str, bytes]


def read_reported_capabilities(request: StatusRequest) -> ReportedCapabilities:
    """Return the capabilities of all devices that reported any.

    What a client says of a device that is neither itself nor a child of it is left out: placement must not follow what
    one device says of another.

    Raises:
        StateTampered: the branch holds what no server wrote.
        MargoGitopsError: the state repo cannot be read.
    """
    with opened_state(request) as (objects, _location):
        reports = Reports(objects)
        tip = reports.tip(objects.refs())
        if tip is None:
            return ReportedCapabilities(None, {})
        documents = {
            device: content
            for client, folder in reports.clients(reports.commit(tip).tree)
            for device, content in reports.capabilities(folder).items()
            if client_of(device) == client
        }
        return ReportedCapabilities(tip, documents)
