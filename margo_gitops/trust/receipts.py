"""Whether receipts say the truth about their order: each device signs what ran, after the one before (D-38). Pure.

RECEIPT-1  A receipt is canonical text that follows its contract, of the device that it came from. [unreadable, foreign]
RECEIPT-2  Its signature is over exactly this text, for the namespace `margo-gitops-receipt`. [forged]
RECEIPT-3  Its key is one that the fleet repo names for the device; where that names none, the first key that came.
           [unknown-key, and a warning: not-vouched]
RECEIPT-4  Each key signs one chain: numbers count from 1, and each receipt names the digest of the one before.
           [dropped, reordered, replayed]
RECEIPT-5  No number has two receipts, and a receipt does not follow another one than the one that came: otherwise two
           devices have the key, or a disk was restored. [forked]
RECEIPT-6  What a later receipt says is lost, is not dropped. [a warning: lost]
RECEIPT-7  What is missing before the first receipt that came after a loss of the branch of reports, as the fleet repo
           says, is not dropped. What is missing later is. [a warning: not-kept]

That the newest receipts are missing, no chain can tell: a device makes one each day, so their age says it.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import Final, Literal, TypeAlias

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.json_text import exact_node, exact_value, write_sorted_json
from margo_gitops.documents.nodes import Bounds, SourceText
from margo_gitops.documents.receipt import (
    MAX_RECEIPT_CHARACTERS,
    RECEIPT_NAMESPACE,
    LostReceipts,
    Receipt,
    ReceiptFile,
    SignedReceipt,
    write_receipts,
)
from margo_gitops.documents.records import find, read_ours
from margo_gitops.errors import InvalidDocument, SignatureInvalid, UnreadableDocument
from margo_gitops.trust.ssh_key import SshPublicKey, Verify
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.values import dataclass, field

Code: TypeAlias = Literal[
    "unreadable", "foreign", "forged", "unknown-key", "dropped", "reordered", "replayed", "forked", "lost", "not-kept"
]

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
_FILE_BOUNDS: Final = Bounds(size=MAX_FILE_BYTES, depth=4, nodes=100_000)
_BOUNDS: Final = Bounds(size=4 * MAX_RECEIPT_CHARACTERS, depth=8, nodes=20_000)
_MOST_KNOWN: Final = 100_000
_REMEMBERED: Final = 100
"""How many numbers of a chain are kept; an older one that comes again counts as replayed."""

_FOUND: Final[dict[Code, tuple[str, str]]] = {
    "unreadable": ("it is not a receipt", "find out who wrote it: a server keeps none like it"),
    "foreign": ("it is of another device", "find out who sent it in this device's name"),
    "forged": ("its signature does not belong to it", "find out who changed it, and ask the device for its own"),
    "unknown-key": (
        "its key is not one of this device's",
        "if the device has a new key, add it to receiptKeys of its Device document; otherwise find out whose it is",
    ),
    "dropped": ("it is missing", "look for it in backups and archives; find out who removed it"),
    "reordered": ("it came after a later one", "find out who changed the order: a device sends them in order"),
    "replayed": ("it came again", "find out who sent it again: a server takes none twice"),
    "forked": (
        "another one has this number, or it follows another one",
        "two devices have this key, or a disk was restored from a backup: enrol the device again with a new key",
    ),
    "not-kept": ("the fleet repo says that it is lost", "keep the state repo and its reports in a second place"),
    "lost": ("the device says that it lost it", "look after the disk of the device, and how long it was off line"),
}


@dataclass(frozen=True, slots=True)
class ReceiptFault:
    """What is wrong with a receipt of a chain.

    Attributes:
        first, last: the numbers; None where it has none that counts.
    """

    code: Code
    first: int | None = None
    last: int | None = None
    detail: str = ""

    @property
    def is_error(self) -> bool:
        """Whether somebody did something wrong, other than the device's disk."""
        return self.code not in ("lost", "not-kept")

    @property
    def text(self) -> str:
        """What is wrong, with the number."""
        number = f" {self.first}" if self.first is not None else ""
        many = f" to {self.last}" if self.last not in (None, self.first) else ""
        return f"receipt{number}{many}: {_FOUND[self.code][0]}{f' ({self.detail})' if self.detail else ''}"

    @property
    def remedy(self) -> str:
        """What to do."""
        return _FOUND[self.code][1]


def read_receipts(content: bytes, file: str) -> tuple[SignedReceipt, ...]:
    """Return the receipts of a file (UnreadableDocument, InvalidDocument: it is not one)."""
    return read_ours(ReceiptFile, content, file, _FILE_BOUNDS).receipts


def read_receipt(text: str) -> Receipt:
    """Return what a receipt says (UnreadableDocument, InvalidDocument: it is not one; RECEIPT-1)."""
    return read_ours(Receipt, text.encode(), "receipt", _BOUNDS, exact=True)


def read_link(text: str, known: set[Digest]) -> Receipt:
    """Return what `read_receipt` does, without its deployments where the same ones were read before.

    Args:
        known: digests of the deployments that were read: a device runs for months what others run too.
    """
    with contextlib.suppress(ValueError):
        value = exact_value(text.encode(), _BOUNDS)
        if isinstance(value, dict):
            digest = sha256(write_sorted_json(value.get("deployments")))
            if digest in known:
                root = exact_node({**value, "deployments": []}, _BOUNDS)
                receipt, _ = find(Receipt, SourceText("receipt", root))
                return receipt or read_receipt(text)
            receipt = read_receipt(text)
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known.add(digest)
            return receipt
    return read_receipt(text)


def signing_key_of(signed: SignedReceipt) -> SshPublicKey | None:
    """Return the key that a receipt says it was signed with; None where its signature cannot be read."""
    try:
        return parse_signature(signed.signature).key
    except SignatureInvalid:
        return None


def not_yet_held(held: tuple[SignedReceipt, ...], sent: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    """Return which receipts are news: those after the newest that is held, or all of them where it is not among them.

    Args:
        held: the newest that are held, oldest first.
    """
    texts = [each.receipt for each in sent]
    newest = held[-1].receipt if held else None
    return sent[texts.index(newest) + 1 :] if newest in texts else sent


def joined(held: bytes | None, sent: bytes, *, is_committed: bool) -> bytes:
    """Return a file of receipts with what was sent after what is held, or what is held where nothing of it is news.

    Args:
        is_committed: whether what is held is in the branch of reports already, so that news begin a new file.
    """
    before = read_receipts(held, "receipts") if held else ()
    news = not_yet_held(before, read_receipts(sent, "receipts"))
    if not news:
        return held or sent
    return write_receipts((*(() if is_committed else before), *news))


@dataclass(slots=True)
class Line:
    """The receipts that one key signed, as far as they came.

    Attributes:
        last: the highest number.
        links: the digests of what has a number, and of what that follows: the newest numbers.
        holes: numbers below the last that did not come, as first and last.
    """

    last: int = 0
    links: dict[int, list[tuple[Digest, Digest | None]]] = field(default_factory=dict)
    holes: list[tuple[int, int]] = field(default_factory=list)

    def put(self, number: int, digest: Digest, previous: Digest | None) -> None:
        """Take a receipt."""
        if number > self.last:
            if number > self.last + 1:
                self.holes.append((self.last + 1, number - 1))
            self.last = number
        self.links.setdefault(number, []).append((digest, previous))
        while len(self.links) > _REMEMBERED:
            del self.links[min(self.links)]

    def fill(self, first: int, last: int) -> bool:
        """Take numbers out of the holes; return whether any was in one."""
        # Holes are in order. A hostile device can make very many, and name as many in one receipt.
        at = end = bisect_left(self.holes, first, key=lambda hole: hole[1])
        kept: list[tuple[int, int]] = []
        while end < len(self.holes) and self.holes[end][0] <= last:
            start, stop = self.holes[end]
            kept += [(start, first - 1)] if start < first else []
            kept += [(last + 1, stop)] if stop > last else []
            end += 1
        self.holes[at:end] = kept
        return end > at


class ReceiptChain:
    """Judges the receipts of one device, in the order in which they came.

    Attributes:
        lines: what each key signed.
        bad: numbers of receipts that did not count.
        after_loss: whether the branch of reports was lost before the next receipt comes (RECEIPT-7).
    """

    def __init__(
        self,
        device: str,
        keys: Collection[SshPublicKey] = (),
        verify: Verify = SshPublicKey.verify,
        names: Collection[str] = (),
        known: set[Digest] | None = None,
    ) -> None:
        """Begin.

        Args:
            keys: those that the fleet repo names for the device; empty: the first one that comes counts.
            names: what the device may call itself; empty: by its id.
            known: as for `read_link`; chains that are judged together share it.
        """
        self.device = device
        self._names = names or (device,)
        self.lines: dict[SshPublicKey, Line] = {}
        self.bad: set[int] = set()
        self.after_loss = False
        self._keys = frozenset(keys)
        self._verify = verify
        self._known = set() if known is None else known
        self._told: set[SshPublicKey] = set()

    @property
    def vouched(self) -> bool:
        """Whether the fleet repo names the key."""
        return bool(self._keys)

    def begin(self, number: int, key: SshPublicKey) -> None:
        """Take as good what came before a number: history ends there."""
        self.lines[key] = Line(last=number - 1)

    def follow(self, signed: SignedReceipt) -> Iterator[ReceiptFault]:
        """Take the next receipt; yield what is wrong with it."""
        try:
            receipt = read_link(signed.receipt, self._known)
        except (UnreadableDocument, InvalidDocument):
            yield ReceiptFault("unreadable")
            return
        number = receipt.sequence
        if receipt.device not in self._names:
            yield ReceiptFault("foreign", number, detail=receipt.device)
            return
        try:
            signature = parse_signature(signed.signature)
            signature.verify(signed.receipt.encode(), signature.key, RECEIPT_NAMESPACE, self._verify)
        except SignatureInvalid:
            self.bad.add(number)
            yield ReceiptFault("forged", number)
            return
        key = signature.key
        known = self._keys or set(list(self.lines)[:1]) or {key}
        if key not in known:
            if key not in self._told:
                self._told.add(key)
                yield ReceiptFault("unknown-key", number, detail=key.fingerprint)
            self.bad.add(number)
            return
        yield from self._link(self.lines.setdefault(key, Line()), receipt, sha256(signed.receipt.encode()))

    def end(self) -> Iterator[ReceiptFault]:
        """Yield what has not come."""
        for line in self.lines.values():
            for first, last in line.holes:
                if not all(number in self.bad for number in range(first, min(last, first + len(self.bad)) + 1)):
                    yield ReceiptFault("dropped", first, last)

    def _link(self, line: Line, receipt: Receipt, digest: Digest) -> Iterator[ReceiptFault]:
        """RECEIPT-4 to RECEIPT-7."""
        number, previous = receipt.sequence, receipt.previous
        same = line.links.get(number, [])
        if digest in [each for each, _ in same]:
            yield ReceiptFault("replayed", number)
            return
        late = number <= line.last
        in_hole = late and line.fill(number, number)
        if late and not same and not in_hole:
            yield ReceiptFault("replayed", number)
            return
        before, after = line.links.get(number - 1, []), line.links.get(number + 1, [])
        forgotten = previous is None and any(each.first < number <= each.last + 1 for each in receipt.lost)
        follows = not before or forgotten or previous in [each for each, _ in before]
        leads = not after or digest in [each for _, each in after]
        first = line.last + 1
        line.put(number, digest, previous)
        if self.after_loss and line.fill(first, number - 1):
            yield ReceiptFault("not-kept", first, number - 1)
        self.after_loss = False
        if same or not (follows and leads) or (number == 1 and previous is not None):
            yield ReceiptFault("forked", number)
        elif in_hole and number not in self.bad:
            yield ReceiptFault("reordered", number)
        for lost in receipt.lost:
            yield from self._excuse(line, lost)

    def _excuse(self, line: Line, lost: LostReceipts) -> Iterator[ReceiptFault]:
        if not line.fill(lost.first, lost.last):
            return
        after = [each for _, each in line.links.get(lost.last + 1, [])]
        if lost.digest is not None and after and lost.digest not in after:
            yield ReceiptFault("forked", lost.last)
        yield ReceiptFault("lost", lost.first, lost.last)
