"""Follows the fleet's trust documents: from the one that the device was given, to the newest (D-31).

ROTATE-1  Trust begins at the document that was given by hand. All that were followed are verified again from there.
ROTATE-2  A document is kept in two places before anything is judged by it. A damaged one is read from the other place,
          or fetched again.
ROTATE-3  A state or a statement of freshness that names a newer version is judged after that version was followed.
          Where the source does not have it, or it does not count, what named it is refused.
ROTATE-4  After a refused state the device asks for the next version, and judges again if there is one.
ROTATE-5  At most 64 versions in a row are followed, of at most 64 KiB each; each counts before the next is fetched.
ROTATE-6  A change of the floor is made once for its id, and is a security event.
ROTATE-7  An expired document takes no new state. What runs keeps running.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, TypeAlias

from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.state_folder import TwoPlaces
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.agent.pull.floor_files import Remembered
from margo_gitops.agent.pull.signature_check import answer_apart, verify_apart
from margo_gitops.digests import sha256
from margo_gitops.disk.files import read_small_file
from margo_gitops.documents.freshness import parse_moment
from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES
from margo_gitops.errors import AgentMisconfigured, Location, TrustDocumentGap, TrustRefused
from margo_gitops.transport.transport import TrustSource
from margo_gitops.trust.ssh_key import SshPublicKey, Verify
from margo_gitops.trust.trust_document import FleetTrust, first, follow, read_envelope
from margo_gitops.values import dataclass, field

MOST_FOLLOWED: Final = 64
"""Versions that are followed in a row."""

_Chain: TypeAlias = tuple[bytes, tuple[tuple[bytes, ...], ...]]
"""The given document, and the copies of each later version in order, as they are on the disk."""


@dataclass(eq=False)
class TrustKeeper:
    """Keeps the trust documents of one device.

    A given document that cannot be used is `AgentMisconfigured`.

    Attributes:
        device: its id.
        given: the file that was given by hand.
        fleet: the fleet's name, as the configuration has it; None where it has none.
        place: returns where a version is kept.
        clock: the time.
        source: where newer versions come from; None: nowhere.
        abortable: a signal to stop may cut off what is done inside.
    """

    device: str
    given: Path
    fleet: str | None
    place: Callable[[int], TwoPlaces]
    record: Record
    clock: DeviceClock
    source: TrustSource | None = None
    abortable: Callable[[], AbstractContextManager[None]] = nullcontext
    _held: FleetTrust | None = field(default=None, init=False)
    _verified: tuple[_Chain, FleetTrust] | None = field(default=None, init=False)

    def current(self) -> FleetTrust:
        """Return the newest document that was followed (ROTATE-1); read from the disk once in a cycle."""
        if self._held is None:
            self._held = self._read()
        return self._held

    def begin(self) -> None:
        """Begin a cycle: another process may have changed what is on the disk."""
        self._held = None

    def _read(self) -> FleetTrust:
        given = read_small_file(
            self.given,
            MAX_ENVELOPE_BYTES,
            what="the trust document cannot be read",
            error=AgentMisconfigured,
            remedy="put keys/<version>.json of the fleet repo there, or correct trust.document",
        )
        try:
            version = read_envelope(given, str(self.given)).version
            kept: list[tuple[bytes, ...]] = []
            while copies := self.place(version + len(kept) + 1).read():
                kept.append(tuple(copies))
            chain = given, tuple(kept)
            if self._verified is None or self._verified[0] != chain:
                self._verified = chain, _newest(given, str(self.given), self.fleet, chain[1])
            return self._verified[1]
        except TrustRefused as error:
            raise AgentMisconfigured(
                f"the trust document of this device cannot be used: {error.what}",
                where=Location(str(self.given)),
                why=error.why,
                remedy="give it one that counts: keys/<version>.json of the fleet repo",
            ) from error

    def follow(self, named: int | None = None) -> bool:
        """Follow the versions after the held one, and return whether there was one (ROTATE-2 to ROTATE-5).

        Args:
            named: the version to reach; None: as far as the source has them.

        Raises:
            TrustRefused: one does not count, or the named one cannot be had.
            TransportError: the source broke off.
            StateFolderUnusable, StorageFull: it cannot be kept.
        """
        held = begin = self.current()
        while (named is None or held.version < named) and held.version < begin.version + MOST_FOLLOWED:
            content = self._fetch(held.version + 1)
            if content is None:
                break
            held = self.take(content)
        if named is not None and held.version < named:
            only = f"the source has only version {held.version}"
            if held.version == begin.version + MOST_FOLLOWED:
                only = f"a device follows {MOST_FOLLOWED} versions in a row; the next poll continues"
            raise TrustDocumentGap(
                f"trust document {named} is named, but {only}",
                device=self.device,
                remedy="publish again; if the source has it, find out who keeps it from this device",
            )
        return held is not begin

    def reach(self, named: int) -> bool:
        """Follow up to a version that was named, as `follow`, if it is newer than the held one."""
        return named > self.current().version and self.follow(named)

    def take(self, content: bytes) -> FleetTrust:
        """Follow one version that came from the source or by hand, and keep it.

        Raises:
            TrustRefused: it is not the next one, or does not count.
            StateFolderUnusable, StorageFull: it cannot be kept.
        """
        held = self.current()
        try:
            offered = follow(held, content)
            if offered is held:
                raise TrustDocumentGap(f"{held.name} is held, and comes in place of the next")
        except TrustRefused as refusal:
            refusal.device = self.device
            raise
        place = self.place(offered.version)
        place.write(content)
        if self._verified is not None and content in (copies := tuple(place.read())):
            given, kept = self._verified[0]
            before = offered.version - 1 - read_envelope(given).version
            self._verified = (given, (*kept[:before], copies)), offered
        self._held = offered
        text = f"{offered.name} is followed, signed by {', '.join(offered.signed_by(held))}"
        self.record(Event(Reason.TRUST_FOLLOWED, text))
        return offered

    def admit(self) -> None:
        """Refuse new state where the document has expired (ROTATE-7: TrustDocumentExpired)."""
        self.current().required(self.clock.now())

    def expired(self) -> Event | None:
        """Return the event that the newest document has expired; None where it has not."""
        held = self.current()
        for moment in (held.document.issued, held.document.expires):
            self.clock.reach(parse_moment(moment))
        try:
            held.required(self.clock.now())
        except TrustRefused as error:
            return Event.of(Reason.TRUST_EXPIRED, error)
        return None

    def change(self, remembered: Remembered) -> Remembered:
        """Return what the device remembers after the changes that the document makes of its floor (ROTATE-6)."""
        held = self.current()
        for change in held.floors_for(self.device, remembered.applied):
            before, remembered = remembered.floor, remembered.changed(change)
            what = "changes nothing here"
            if before != remembered.floor:
                what = f"the floor was version {before.version if before else 0}, from now on it is {remembered.lowest}"
            elif remembered.floor is None:
                what = f"the lowest version from now on is {remembered.lowest}"
            text = f"{held.name} changes the trust floor ({change.id}: {change.reason}): {what}"
            self.record(Event(Reason.FLOOR_CHANGED, text))
        return remembered.pruned({each.id for each in held.document.floors})

    def _fetch(self, version: int) -> bytes | None:
        if self.source is None:
            return None
        with self.abortable():
            return self.source.trust_document(version)


def _newest(given: bytes, file: str, fleet: str | None, kept: tuple[tuple[bytes, ...], ...]) -> FleetTrust:
    """Return the newest document of a chain.

    Args:
        kept: the copies of each later version, in order.
    """
    # One other process verifies all of it (signature_check).
    digest = answer_apart(lambda: sha256(_chain(given, file, fleet, kept, SshPublicKey.verify).content).encode())
    for content in (given, *(copy for copies in kept for copy in copies)):
        if sha256(content).encode() == digest:
            return read_envelope(content, file, verify_apart)
    return _chain(given, file, fleet, kept, verify_apart)


def _chain(
    given: bytes, file: str, fleet: str | None, kept: tuple[tuple[bytes, ...], ...], verify: Verify
) -> FleetTrust:
    held = first(given, fleet, file, verify)
    for copies in kept:
        for content in copies:
            try:
                after = follow(held, content)
            except TrustRefused:
                continue  # a damaged copy
            if after is not held:
                held = after
                break
        else:
            break
    return held
