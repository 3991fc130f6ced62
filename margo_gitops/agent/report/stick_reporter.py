"""Reports of a device without a line: one file, signed by the device, that goes home on the stick (docs/sticks.md).

PACKED-1  Each file has all that is known: the newest status of each deployment, capabilities, and receipts that did not
          arrive. So a stick that is lost costs nothing but time.
PACKED-2  Its number is greater than every one before: it is on disk before the file is. After the loss of the state
          folder, the clock makes it so.
PACKED-3  It is written where the stick does not have it yet: an idle cycle writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.receipt_store import ReceiptStore
from margo_gitops.agent.memory.state_folder import keep_file
from margo_gitops.agent.report.outgoing import own_capabilities
from margo_gitops.agent.report.receipt_maker import sign_as_device
from margo_gitops.digests import sha256
from margo_gitops.disk.files import disk_errors, read_bounded
from margo_gitops.documents.carried import (
    CARRIED_FOLDER,
    CARRIED_NAMESPACE,
    MAX_CARRIED_BYTES,
    CarriedEnvelope,
    CarriedReports,
    carried_name,
)
from margo_gitops.documents.freshness import format_moment
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.errors import CarriedUnusable, MargoGitopsError
from margo_gitops.transport.stick.files import read_home, write_home
from margo_gitops.transport.stick.stick_transport import StickTransport
from margo_gitops.values import dataclass, replace


@dataclass(eq=False, kw_only=True)
class StickReporter:
    """Writes a device's reports onto the stick that its state comes from.

    Attributes:
        transport: knows where the stick is.
        capabilities: files that say what the device and its children are and offer, the device's first.
        key: private key file; None: the one in the store's folder.
        memory: a file for the number of the newest file, and the digests of what is in it and of the file.
        clock: the time, seconds since the epoch.
    """

    transport: StickTransport
    device: str
    capabilities: Sequence[Path]
    journal: Journal
    receipts: ReceiptStore
    key: Path | None
    memory: Path
    record: Record
    clock: Callable[[], float]
    _told: str = ""

    @property
    def place(self) -> Path:
        """The folder on the stick."""
        return self.transport.place

    def greet(self) -> None:
        """Do nothing: a stick has time."""

    def hear(self, deployment: str, document: bytes) -> None:
        """Do nothing: what is true at the end goes home."""

    def send(self) -> None:
        """Write the file, if the stick is there and does not have it. What goes wrong is recorded, not raised."""
        if not self.place.is_dir():
            return
        try:
            self.write()
        except MargoGitopsError as error:
            if str(error) != self._told:
                self.record(Event.of(Reason.REPORT_FAILED, error))
            self._told = str(error)
        else:
            self._told = ""

    def write(self) -> bool:
        """Write the file, and return whether the stick did not have it.

        Raises:
            CarriedUnusable: the stick cannot be written.
            AgentMisconfigured: capabilities or the key cannot be used.
            StateFolderUnusable, StorageFull: the number cannot be kept.
        """
        reports = CarriedReports(
            self.device,
            1,
            "1970-01-01T00:00:00Z",
            {name: text.decode() for name, text in (own_capabilities(path, self.device) for path in self.capabilities)},
            {name: text.decode() for name, text in self.journal.outbox().items()},
            self.receipts.carried(),
        )
        number, before, file = self._remembered()
        said = sha256(write_json(write(reports)))
        name = carried_name(self.device)
        held = read_home(self.place, CARRIED_FOLDER, name, 2 * MAX_CARRIED_BYTES) if said == before else None
        if held is not None and sha256(held) == file:
            return False
        now = max(int(self.clock()), 1)
        reports = replace(reports, number=max(number + 1, now), at=_moment(now))
        text = write_json(write(reports)).decode()
        signature = sign_as_device(text, CARRIED_NAMESPACE, self.key, self.receipts.key)
        content = write_json(write(CarriedEnvelope(text, signature)))
        keep_file(self.memory, f"{reports.number} {said} {sha256(content)}\n".encode())
        remedy = "see that the stick is not full and not write-protected"
        with disk_errors(self.place, what="the reports cannot be written", error=CarriedUnusable, remedy=remedy):
            write_home(self.place, CARRIED_FOLDER, name, content)
        return True

    def _remembered(self) -> tuple[int, str, str]:
        try:
            number, said, file = read_bounded(self.memory, 256).decode("ascii").split()
            return int(number), said, file
        except (OSError, ValueError):
            return 0, "", ""


def _moment(seconds: int) -> str:
    from datetime import UTC, datetime

    return format_moment(datetime.fromtimestamp(seconds, UTC))
