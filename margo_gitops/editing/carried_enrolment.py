"""Enrolment of devices without a line: requests that a person carried here, and the answers that go back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from margo_gitops.disk.files import disk_errors
from margo_gitops.documents.enrolment import (
    ENROLMENT_FOLDER,
    MAX_REQUEST_BYTES,
    DeviceEnrolment,
    StickRequest,
    approval_name,
    request_name,
)
from margo_gitops.documents.records import write
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import CarriedUnusable, EnrolmentInvalid
from margo_gitops.transport.stick.files import read_home, write_home
from margo_gitops.trust.enrolment import read_stick_request
from margo_gitops.trust.ssh_key import SshPublicKey

_MOST: Final = 1000


def requests_on(stick: Path) -> list[tuple[StickRequest, SshPublicKey]]:
    """Return the requests on a stick, sorted by device; what is not signed by the key that it names does not count.

    Raises:
        CarriedUnusable: the stick cannot be read.
    """
    folder = stick / ENROLMENT_FOLDER
    found = []
    with disk_errors(stick, what="the stick cannot be read", error=CarriedUnusable):
        names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    for name in names[:_MOST]:
        content = read_home(stick, ENROLMENT_FOLDER, name, MAX_REQUEST_BYTES) if name.endswith(".json") else None
        try:
            request, key = read_stick_request(content or b"")
        except EnrolmentInvalid:
            continue
        if name == request_name(str(key)):
            found.append((request, key))
    return sorted(found, key=lambda each: (each[0].device, each[1].fingerprint))


def answer_on(stick: Path, answer: DeviceEnrolment) -> None:
    """Write the answer for a device onto the stick (CarriedUnusable: it cannot be written)."""
    with disk_errors(stick, what="the answer cannot be written", error=CarriedUnusable, remedy="see if it is full"):
        write_home(stick, ENROLMENT_FOLDER, approval_name(answer.public_key or ""), write_yaml(write(answer)))
