"""What ran on a device, when, and by which state: signed by the device itself, each after the one before (D-38).

A signed receipt carries the exact text of the receipt, with one signature over it. `receipts/latest.json` in the branch
of reports has those of a device that came since the commit before; the device sends the same document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops.documents.constraints import DeviceName, Name
from margo_gitops.documents.declarations import About, DigestText, Items, OwnKind, Problem, Range, Text
from margo_gitops.documents.freshness import Moment, moment_problems
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.documents.records import write
from margo_gitops.documents.status import State
from margo_gitops.values import dataclass

MAX_RECEIPT_CHARACTERS: Final = 64 * 1024
MAX_RECEIPTS: Final = 64
"""How many receipts are sent at once."""
MAX_SEQUENCE: Final = 2**53 - 1
RECEIPT_NAMESPACE: Final = "margo-gitops-receipt"

Condition: TypeAlias = Literal["running", "starting", "degraded", "unknown", "absent"]
Sequence = Annotated[int, Range(minimum=1, maximum=MAX_SEQUENCE)]
Word = Annotated[str, Text(min_length=1, max_length=512)]


@dataclass(frozen=True, slots=True)
class RanImage:
    """An image of a container, in the engine's words."""

    service: Annotated[Word, About("The service of the compose file.")]
    image: Annotated[Word, About("The name that the container was started with.")]
    id: Annotated[DigestText, About("The engine's id of the image: a digest of its content.")]
    digest: Annotated[DigestText | None, About("Its digest in the registry; absent where the engine knows none.")] = (
        None
    )


@dataclass(frozen=True, slots=True)
class RanComponent:
    """A component, as its engine has it."""

    name: Word
    applier: Annotated[str, About("What makes it run; empty where nothing does."), Text(max_length=64)]
    condition: Annotated[
        Condition,
        About("What the engine says; `unknown` where it holds only files or does not answer, `absent` for nothing."),
    ]
    digest: Annotated[
        DigestText | None, About("Of the content that the engine says it runs; absent where it cannot tell.")
    ] = None
    rolled_back: Annotated[
        bool | None, About("true: an update failed, and what ran before runs; `digest` says what that is.")
    ] = None
    images: tuple[RanImage, ...] = ()


@dataclass(frozen=True, slots=True)
class RanDeployment:
    """A deployment that the device knows."""

    id: Word
    name: Word
    state: Annotated[State, About("Margo's state of the deployment.")]
    manifest_version: Annotated[
        int,
        About("The latest manifest of which the device began to apply it."),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION),
    ]
    components: tuple[RanComponent, ...]
    digest: Annotated[
        DigestText | None, About("Of its document in the held manifest; absent where that does not list it.")
    ] = None


@dataclass(frozen=True, slots=True)
class HeldManifest:
    """The manifest that the device holds."""

    version: Annotated[int, Range(minimum=1, maximum=MAX_MANIFEST_VERSION)]
    digest: DigestText
    commit: Annotated[
        str | None,
        About("The commit of the device's branch; absent where the source has no commits."),
        Text(pattern=r"^[0-9a-f]{40}$", what="a commit id, 40 lower-case hex digits"),
    ] = None


@dataclass(frozen=True, slots=True)
class Boot:
    """A run of the machine."""

    id: Annotated[str, About("The kernel's id of it; empty where it has none."), Text(max_length=64)]
    count: Annotated[int, About("How many boots the receipts have seen."), Range(minimum=1, maximum=MAX_SEQUENCE)]


@dataclass(frozen=True, slots=True)
class LostReceipts:
    """Receipts that the device cannot deliver any more."""

    first: Sequence
    last: Sequence
    digest: Annotated[DigestText | None, About("Of the last one's text; absent where it could not be read.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield an end before the beginning."""
        if self.last < self.first:
            yield Problem(("last",), "must not be below first")


@dataclass(frozen=True, slots=True)
class Receipt(OwnKind):
    """What a device says that it ran. It is one link: each names the one before by its digest."""

    device: DeviceName
    sequence: Annotated[Sequence, About("Counts from 1. No number is used twice.")]
    at: Annotated[Moment, About("The time, as the device's clock shows it.")]
    reason: Annotated[
        Literal["start", "change", "daily"],
        About("`start`: the first one of a boot. `change`: something else runs. `daily`: a day has begun."),
    ]
    agent: Annotated[str, About("Version of the agent."), Text(min_length=1, max_length=64)]
    boot: Boot
    manifest: HeldManifest
    deployments: tuple[RanDeployment, ...]
    fleet: Annotated[Name | None, About("Name of the fleet; absent where the state does not say.")] = None
    previous: Annotated[
        DigestText | None, About("Digest of the text of the receipt before; absent for the first one.")
    ] = None
    not_before: Annotated[
        Moment | None, About("The latest signed time that the device has reached. `at` before it: the clock is wrong.")
    ] = None
    abridged: Annotated[bool | None, About("true: images, or components too, are left out; it would be too long.")] = (
        None
    )
    lost: Annotated[tuple[LostReceipts, ...], Items(), About("Receipts that will not come any more.")] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield times that cannot be read."""
        yield from moment_problems(at=self.at)
        if self.not_before is not None:
            yield from moment_problems(not_before=self.not_before)


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt and its signature."""

    receipt: Annotated[str, About("The exact text of the receipt."), Text(max_length=MAX_RECEIPT_CHARACTERS)]
    signature: Annotated[
        str,
        About("SSH signature over that text, armored, for the namespace `margo-gitops-receipt`."),
        Text(max_length=4096),
    ]


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """Receipts of one device, in the order in which they were made."""

    receipts: Annotated[tuple[SignedReceipt, ...], Items(minimum=1)]


def write_receipt(receipt: Receipt) -> str:
    """Return the exact text of a receipt (RFC 8785)."""
    return write_json(write(receipt)).decode()


def write_receipts(receipts: tuple[SignedReceipt, ...]) -> bytes:
    """Return the exact bytes of a file of receipts (RFC 8785)."""
    return write_json(write(ReceiptFile(receipts)))
