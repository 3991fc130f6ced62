"""What a device without a line gives to the person who carries it home: its reports and receipts, signed by its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from margo_gitops.documents.constraints import DeviceName
from margo_gitops.documents.declarations import About, DigestText, OwnKind, Range, Text
from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.freshness import Moment
from margo_gitops.documents.receipt import MAX_SEQUENCE, SignedReceipt
from margo_gitops.values import dataclass

CARRIED_NAMESPACE: Final = "margo-gitops-reports"
CARRIED_FOLDER: Final = "reports"
"""On a stick: a file for each device."""
MAX_CARRIED_BYTES: Final = 32 * 1024 * 1024

Number = Annotated[
    int,
    About("Greater than that of everything the device gave before: one more, or the time in seconds since 1970."),
    Range(minimum=1, maximum=MAX_SEQUENCE),
]


@dataclass(frozen=True, slots=True)
class CarriedReports(OwnKind):
    """What the device signs."""

    device: Annotated[DeviceName, About("Whose reports they are.")]
    number: Number
    at: Annotated[Moment, About("When it was written, by the device's clock.")]
    capabilities: Annotated[Mapping[str, str], About("Margo capabilities documents, by the id of the device.")]
    statuses: Annotated[Mapping[str, str], About("The newest Margo status of each deployment, by its id.")]
    receipts: Annotated[tuple[SignedReceipt, ...], About("Receipts that did not arrive in another way, oldest first.")]


@dataclass(frozen=True, slots=True)
class CarriedEnvelope:
    """The file."""

    reports: Annotated[str, About("The exact text of the reports."), Text(max_length=MAX_CARRIED_BYTES)]
    signature: Annotated[str, About("SSH signature over that text, armored, for the namespace `margo-gitops-reports`.")]


@dataclass(frozen=True, slots=True)
class TakenReports:
    """What the branch of reports remembers of the newest file that was taken."""

    number: Number
    digest: Annotated[DigestText, About("Of the text that was signed.")]


def carried_name(device: str) -> str:
    """Return the name of a device's file."""
    return f"{encode_device_id(device)}.json"
