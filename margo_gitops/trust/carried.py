"""Reports that were carried home, judged (pure): taken once, from the device's own key, in its order (docs/sticks.md).

HOME-1  The file is bounded and follows its contract.
HOME-2  Its signature is over exactly its text, for the namespace `margo-gitops-reports`, by a key that the fleet repo
        names for the device.
HOME-3  Its number is greater than that of the newest one that was taken. The same file again is nothing new.
HOME-4  Its capabilities and receipts are of this device or its children. Its statuses count for this device alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from margo_gitops.digests import sha256
from margo_gitops.documents.carried import (
    CARRIED_NAMESPACE,
    MAX_CARRIED_BYTES,
    CarriedEnvelope,
    CarriedReports,
    TakenReports,
)
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read_ours
from margo_gitops.errors import (
    CarriedForeign,
    CarriedForged,
    CarriedReplayed,
    InvalidDocument,
    SignatureInvalid,
    UnreadableDocument,
)
from margo_gitops.trust.receipts import read_receipt
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.values import dataclass

_BOUNDS: Final = Bounds(size=MAX_CARRIED_BYTES, depth=6, nodes=50_000)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a file says, and the key that signed it."""

    reports: CarriedReports
    taken: TakenReports
    key: SshPublicKey


def read_carried(content: bytes, file: str, keys: Mapping[str, Collection[SshPublicKey]]) -> Carried:
    """Return what a device gave (HOME-1, HOME-2, HOME-4).

    Args:
        keys: of each device of the fleet.

    Raises:
        CarriedForeign: it is not of a device of this fleet, or has what is of another device.
        CarriedForged: it is malformed, or none of the device's keys signed it.
    """
    try:
        envelope = read_ours(CarriedEnvelope, content, file, _BOUNDS)
        reports = read_ours(CarriedReports, envelope.reports.encode(), file, _BOUNDS, exact=True)
        signature = parse_signature(envelope.signature)
        if reports.device not in keys:
            raise CarriedForeign(
                f"{file} is of {reports.device}, which this fleet does not have", remedy="import it into its own fleet"
            )
        if signature.key not in keys[reports.device]:
            raise CarriedForged(
                f"{file} is signed with {signature.key.fingerprint}, which is not a key of {reports.device}",
                device=reports.device,
                remedy="compare it with `agent status` at the device; if it is its own, name it: "
                f"margo-gitops device receipt-key {reports.device} --key '{signature.key}'",
            )
        signature.verify(envelope.reports.encode(), signature.key, CARRIED_NAMESPACE)
        receipts = [read_receipt(each.receipt) for each in reports.receipts]
    except (UnreadableDocument, InvalidDocument, SignatureInvalid) as error:
        raise CarriedForged(
            f"{file} is not what a device wrote", why=[str(error)], remedy="find out who changed it"
        ) from error
    named = {*reports.capabilities, *(each.device for each in receipts)}
    if foreign := sorted(name for name in named if name.partition("/")[0] != reports.device):
        raise CarriedForeign(
            f"{file} of {reports.device} has reports of {foreign[0]}",
            device=reports.device,
            remedy="find out who wrote it: a device reports on itself and its children",
        )
    return Carried(reports, TakenReports(reports.number, sha256(envelope.reports.encode())), signature.key)


def is_news(carried: Carried, before: TakenReports | None) -> bool:
    """Return whether reports are newer than those that were taken last (HOME-3).

    Raises:
        CarriedReplayed: they are older, or others with the same number.
    """
    if before is None or carried.taken.number > before.number:
        return True
    if carried.taken == before:
        return False
    raise CarriedReplayed(
        f"the reports of {carried.reports.device} have the number {carried.taken.number}; {before.number} was taken",
        device=carried.reports.device,
        remedy="look for the newest stick; if this is it, the clock of the device is wrong, or its disk was restored",
    )
