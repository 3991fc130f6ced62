"""Verify what devices signed of what they ran (trust/receipts.py, RECEIPT-1 to RECEIPT-6; docs/receipts.md).

VERIFY-13  The receipts of each device, in the order in which commits brought them, are one chain for each of its keys:
           nothing is dropped, reordered, forged, replayed, forked, or of another device. A file may begin with
           receipts of the file before: what came while a server committed, is committed again. What `spec.lostReports`
           of the fleet repo says is lost, is a warning (RECEIPT-7).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from margo_gitops.audit.verify.verification import AuditFinding
from margo_gitops.catalog.fleet import read_fleet, read_fleet_document
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.digests import Digest
from margo_gitops.disk.files import read_bounded, replace_file
from margo_gitops.documents.fleet_kinds import DeviceSpec, LostReports
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.receipt import write_receipts
from margo_gitops.documents.state_layout import REPORTS_REF, device_reports_ref
from margo_gitops.errors import InvalidDocument, MargoGitopsError, UnreadableDocument
from margo_gitops.state_repo.pushed_reports import PushedReports
from margo_gitops.trust.receipts import Line, ReceiptChain, ReceiptFault, read_receipt, read_receipts, signing_key_of
from margo_gitops.trust.ssh_key import SshPublicKey, read_public_key
from margo_gitops.values import dataclass, field
from margo_gitops.wording import few

_MOST_FINDINGS: Final = 1000
_MOST_BAD: Final = 1000
_LARGEST_STATE: Final = 256 * 1024 * 1024


def new_chain(client: str, spec: DeviceSpec | None, known: set[Digest] | None = None) -> ReceiptChain:
    """Return the chain of a device, before its first receipt.

    Args:
        spec: what the fleet repo says of it; None where it has no such device.
        known: as for `read_link`.
    """
    keys: list[SshPublicKey] = []
    for text in spec.receipt_keys if spec else ():
        key_type, _, encoded = text.partition(" ")
        try:
            keys.append(read_public_key(key_type, encoded))
        except ValueError:
            continue  # it counts for nothing
    names = {client, spec.alias} if spec and spec.alias else {client}
    return ReceiptChain(client, keys, names=names, known=known)


@dataclass(eq=False)
class ReceiptCheck:
    """Checks the receipts that a branch of reports brings.

    Attributes:
        fleet: says whose keys count: its newest commit.
        file: remembers where each chain is, for a verification that is resumed.
        good: how many receipts are right.
        gap: the first commit before which receipts are missing.
    """

    fleet: FleetRepo
    file: Path
    good: int = 0
    gap: str = ""
    chains: dict[str, ReceiptChain] = field(default_factory=dict)
    findings: list[AuditFinding] = field(default_factory=list)
    _known: set[Digest] = field(default_factory=set)
    _is_after_loss: bool = False

    @cached_property
    def lost(self) -> tuple[LostReports, ...]:
        """What the fleet repo says of lost reports."""
        try:
            return read_fleet_document(self.fleet.tree("HEAD")).value.spec.lost_reports
        except MargoGitopsError:
            return ()

    @property
    def _before(self) -> tuple[str, ...]:
        return tuple(each.before for each in self.lost)

    @cached_property
    def _devices(self) -> Mapping[str, DeviceSpec]:
        try:
            found = read_fleet(self.fleet.tree("HEAD")).devices
        except MargoGitopsError as error:
            what = f"no key of a device is known, since the fleet repo cannot be read: {error.what}"
            self.findings.append(AuditFinding.of(REPORTS_REF, what, severity="warning"))
            return {}
        return {name: each.value.spec for name, each in found.items()}

    @property
    def failed(self) -> bool:
        """Whether a receipt is bad."""
        return any(each.severity == "error" for each in self.findings)

    def reach(self, commit: str) -> None:
        """Come to the next commit of the branch."""
        if commit in self._before:
            self._is_after_loss = True
            for chain in self.chains.values():
                chain.after_loss = True

    def take(self, client: str, before: bytes | None, after: bytes, commit: str, path: str) -> None:
        """Take a file of receipts that a commit brought, in place of the one before."""
        try:
            found = read_receipts(after, path)
            held = {each.receipt for each in read_receipts(before, path)} if before else set()
        except (UnreadableDocument, InvalidDocument) as error:
            self._add(AuditFinding.of(REPORTS_REF, f"no file of receipts: {error.what}", commit=commit, file=path))
            return
        chain = self._chain(client)
        for each in found:
            if each.receipt in held:
                continue
            holes = sum(len(line.holes) for line in chain.lines.values())
            faults = list(chain.follow(each))
            if sum(len(line.holes) for line in chain.lines.values()) > holes:
                self.gap = self.gap or commit
            self.good += not any(fault.is_error for fault in faults)
            for fault in faults:
                self._add(_finding(client, fault, commit, path))

    def begin(self, client: str, content: bytes) -> None:
        """Take as good what came up to a file: history ends there."""
        try:
            for each in read_receipts(content, client):
                key = signing_key_of(each)
                if key is not None:
                    self._chain(client).begin(read_receipt(each.receipt).sequence + 1, key)
        except (UnreadableDocument, InvalidDocument):
            return

    def end(self, pushed: PushedReports) -> None:
        """Find what has not come, after the last commit of the branch, and what devices pushed themselves."""
        for client in sorted(pushed.commits):
            report = pushed.get(client)
            if report is not None and report.receipts is not None:
                self._take_pushed(client, report.receipts, report.commit)
        for client, chain in sorted(self.chains.items()):
            for fault in chain.end():
                self._add(_finding(client, fault, gap=self.gap))
        unknown = sorted(client for client, chain in self.chains.items() if chain.lines and not chain.vouched)
        if unknown:
            what = (
                f"the fleet repo names no key for the receipts of {few(unknown, 5)}: the first one that came counts "
                "(write it: margo-gitops device receipt-key)"
            )
            self.findings.append(AuditFinding.of(REPORTS_REF, what, severity="warning", code="receipt-not-vouched"))

    def _take_pushed(self, client: str, content: bytes, commit: str) -> None:
        """Take the newest receipts of a device: those before them are in the branch of reports, or nowhere."""
        last = max((line.last for line in self._chain(client).lines.values()), default=0)
        try:
            found = [each for each in read_receipts(content, client) if read_receipt(each.receipt).sequence > last]
            key = signing_key_of(found[0]) if found else None
            if not last and key is not None:
                self._chain(client).begin(read_receipt(found[0].receipt).sequence, key)
        except (UnreadableDocument, InvalidDocument) as error:
            self._add(AuditFinding.of(device_reports_ref(client), f"no file of receipts: {error.what}", commit=commit))
            return
        if found:
            self.take(client, None, write_receipts(tuple(found)), commit, "receipts/latest.json")

    def load(self, commit: str) -> bool:
        """Continue where the chains were after a commit; return whether that is known."""
        try:
            state = json.loads(read_bounded(self.file, _LARGEST_STATE))
            if state["commit"] != commit or state["lost"] != list(self._before):
                return False
            self._is_after_loss, self.gap = bool(state["after"]), str(state["gap"])
            for client, each in state["chains"].items():
                chain = self._chain(client)
                chain.bad.update(each["bad"])
                chain.after_loss = bool(each["after"])
                chain.lines.update((_key(text), _line(line)) for text, line in each["lines"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.chains.clear()
            return False
        return True

    def save(self, commit: str) -> None:
        """Remember where the chains are after a commit; a cache that cannot be written is not a reason to fail."""
        chains = {
            client: {
                "bad": sorted(chain.bad)[-_MOST_BAD:],
                "after": chain.after_loss,
                "lines": {
                    str(key): {
                        "last": line.last,
                        "links": [list(each) for each in line.links.get(line.last, ())],
                        "holes": [list(each) for each in line.holes],
                    }
                    for key, line in chain.lines.items()
                },
            }
            for client, chain in self.chains.items()
        }
        state = {
            "commit": commit,
            "chains": chains,
            "lost": list(self._before),
            "after": self._is_after_loss,
            "gap": self.gap,
        }
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, write_json(state))  # type: ignore[arg-type]
        except OSError:
            return

    def _chain(self, client: str) -> ReceiptChain:
        if client not in self.chains:
            self.chains[client] = new_chain(client, self._devices.get(client), self._known)
            self.chains[client].after_loss = self._is_after_loss
        return self.chains[client]

    def _add(self, finding: AuditFinding) -> None:
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(finding)


def _finding(
    client: str, fault: ReceiptFault, commit: str = "", path: str | None = None, gap: str = ""
) -> AuditFinding:
    known = f"; if the branch was lost, say so in the fleet repo: spec.lostReports, before: {gap}" if gap else ""
    return AuditFinding.of(
        REPORTS_REF,
        f"{client}: {fault.text} ({fault.remedy}{known})",
        commit=commit,
        file=path,
        severity="error" if fault.is_error else "warning",
        code=f"receipt-{fault.code}",
    )


def _key(text: str) -> SshPublicKey:
    key_type, _, encoded = text.partition(" ")
    return read_public_key(key_type, encoded)


def _line(state: Mapping[str, Any]) -> Line:
    links = [(Digest(digest), previous) for digest, previous in state["links"]]
    return Line(state["last"], {state["last"]: links}, [(first, last) for first, last in state["holes"]])
