"""Signs what runs: after each change, at the first cycle of a boot, and each day (D-38, docs/receipts.md).

MADE-1  A receipt says what the engines say now: each component's condition and content, and the images of its
        containers where the applier can tell. What the device asked for is only in the digests of the manifest.
MADE-2  One is made where something else runs than the newest one says. While no other content is installed and the
        manifest stays, two changes are ten minutes apart at least: a component that comes and goes does not fill the
        disk.
MADE-3  The day of a device begins at a time that follows from its id, so that a fleet does not send at once.
MADE-4  An idle cycle asks no engine and writes nothing.
MADE-5  A receipt that cannot be made stops nothing: an event says why.
MADE-6  Of a component with secrets, the digest is that of the document, without the marks of values (D-44). It is
        absent while something else than the document's newest content runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from margo_gitops import __version__
from margo_gitops.agent.apply.engines import contract_of
from margo_gitops.agent.memory.events import Event, Reason, Record
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.receipt_store import ReceiptStore
from margo_gitops.agent.memory.recorded import RecordedWorkload, deployment_status
from margo_gitops.agent.memory.state_folder import keep_file
from margo_gitops.agent.pull.device_clock import DeviceClock
from margo_gitops.agent.pull.signature_check import answer_apart
from margo_gitops.appliers.applier import Applier, Observed, RunningImage, TellsImages, WorkloadKey
from margo_gitops.digests import Digest, sha256
from margo_gitops.disk.files import read_small_file
from margo_gitops.disk.stamps import boot_id
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.freshness import format_moment, parse_moment
from margo_gitops.documents.receipt import (
    MAX_RECEIPT_CHARACTERS,
    RECEIPT_NAMESPACE,
    Boot,
    HeldManifest,
    RanComponent,
    RanDeployment,
    RanImage,
    Receipt,
    write_receipt,
)
from margo_gitops.documents.workload_identity import own_extension, workload_contents
from margo_gitops.errors import AgentMisconfigured, ApplyError, DeploymentUnusable, Location, MargoGitopsError
from margo_gitops.trust.git_objects import COMMIT, object_id
from margo_gitops.trust.ssh_key import MAX_KEY_FILE_BYTES, parse_signing_key
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trusted_state import TrustedState
from margo_gitops.values import dataclass, field, replace

_DAY: Final = 86_400
_PAUSE: Final = 600.0
_ROOM: Final = 4096
"""Characters kept free for the digest of the receipt before, and for losses."""


@dataclass(eq=False)
class ReceiptMaker:
    """Makes the receipts of one device.

    Attributes:
        key: private key file; None: one that is made in the store's folder.
        clock: the device's; a receipt says where it contradicts a signed time.
    """

    device: str
    store: ReceiptStore
    key: Path | None
    appliers: Mapping[str, Applier]
    journal: Journal
    clock: DeviceClock
    record: Record
    _seen: object = field(default=None, init=False)
    _told: str = field(default="", init=False)

    def look(self, held: TrustedState) -> None:
        """Sign what runs, if it is not what the newest receipt says (MADE-2)."""
        try:
            self._look(held)
        except MargoGitopsError as error:
            if str(error) != self._told:
                self.record(Event.of(Reason.RECEIPT_FAILED, error))
            self._told = str(error)
        else:
            self._told = ""

    def _look(self, held: TrustedState) -> None:
        now = self.clock.shown()
        today = self._day(now.timestamp())
        recorded = self.journal.workloads()
        seen = (held.snapshot.manifest, today, *map(_marks, recorded))
        if seen == self._seen:
            return
        newest = self.store.newest
        last = newest[1] if newest else None
        boot = boot_id()
        manifest = _manifest(held)
        reason: Literal["start", "change", "daily"] = "start"
        if last is not None and last.boot.id == boot:
            made = parse_moment(last.at).timestamp()
            reason = "change" if self._day(made) == today else "daily"
            is_soon = last.manifest == manifest and 0 <= now.timestamp() - made < _PAUSE
            if reason == "change" and is_soon and not _has_new_content(recorded, last, dict(_with_secrets(held))):
                return
        count = (last.boot.count + (last.boot.id != boot)) if last else 1
        floor = self.clock.floor
        made_now = Receipt(
            device=self.device,
            sequence=1,
            at=format_moment(now),
            reason=reason,
            agent=__version__,
            boot=Boot(boot, count),
            manifest=manifest,
            deployments=self._deployments(held),
            fleet=held.fleet,
            not_before=format_moment(floor) if floor else None,
        )
        for receipt in _shorter(made_now):
            if len(write_receipt(receipt)) <= MAX_RECEIPT_CHARACTERS - _ROOM:
                break
        if last is None or reason != "change" or _what(receipt) != _what(last):
            self.store.add(receipt, self._sign)
        self._seen = seen

    def _day(self, moment: float) -> int:
        """Return the number of a device's day (MADE-3)."""
        phase = int.from_bytes(hashlib.sha256(self.device.encode()).digest()[:4], "big") % _DAY
        return int(moment - phase) // _DAY

    def _deployments(self, held: TrustedState) -> tuple[RanDeployment, ...]:
        observed: dict[WorkloadKey, Observed] = {}
        images: dict[WorkloadKey, tuple[RanImage, ...]] = {}
        silent = set()
        for name, applier in self.appliers.items():
            try:
                with contract_of(name):
                    observed.update((each.key, each) for each in applier.observe())
                    if isinstance(applier, TellsImages):
                        images.update((key, tuple(map(_image, some))) for key, some in applier.images().items())
            except ApplyError:
                silent.add(name)
        digests = {each.deployment_id.lower(): each.digest for each in held.manifest.deployments}
        workloads: dict[str, list[RecordedWorkload]] = {}
        for item in self.journal.workloads():
            workloads.setdefault(item.key.deployment_id, []).append(item)
        found = []
        marked = dict(_with_secrets(held))
        for deployment in self.journal.deployments():
            items = workloads.get(deployment.id, [])
            for item in items:
                if item.key in marked and (ran := observed.get(item.key)) is not None:
                    same = ran.digest is not None and ran.digest == item.installed == item.wanted
                    observed[item.key] = replace(ran, digest=marked[item.key] if same else None)
            components = tuple(
                _component(item, observed.get(item.key), images.get(item.key, ()), is_silent=item.applier in silent)
                for item in items
            )
            state = deployment_status(deployment, items).status.state
            digest = digests.get(deployment.id)
            found.append(RanDeployment(deployment.id, deployment.name, state, deployment.adopted, components, digest))
        return tuple(found)

    def _sign(self, text: str) -> str:
        """Return the signature; another process makes it, since what signs is large (APART-1)."""
        return sign_as_device(text, RECEIPT_NAMESPACE, self.key, self.store.key)


def sign_as_device(text: str, namespace: str, named: Path | None, own: Path) -> str:
    """Return the device's signature over a text.

    Args:
        named: its private key file; None: the one at `own`, made if it does not exist.

    Raises:
        AgentMisconfigured: the key cannot be used.
        StateFolderUnusable, StorageFull: a new one cannot be kept.
    """
    path = named or own
    if named is None and not path.exists():
        keep_file(path, answer_apart(new_private_key) or new_private_key())
    content = read_small_file(
        path,
        MAX_KEY_FILE_BYTES,
        what="the key that signs receipts cannot be read",
        error=AgentMisconfigured,
        remedy="correct receipts.key, owner and mode of the file (0600)",
        private=True,
    )

    def signature() -> bytes:
        return sign(text.encode(), parse_signing_key(content), namespace).encode()

    try:
        return (answer_apart(_or_nothing(signature)) or signature()).decode("ascii")
    except ValueError as error:
        raise AgentMisconfigured(
            "the key that signs receipts cannot be used",
            where=Location(str(path)),
            why=[str(error)],
            remedy="name an OpenSSH ed25519 key without a passphrase, or none: the agent makes one",
        ) from error


def _with_secrets(held: TrustedState) -> Iterator[tuple[WorkloadKey, Digest]]:
    """Yield the digests of components with secrets, without the marks of their values: these stay on the device."""
    for document in held.deployments:
        own = document.spec.extensions.get(OWN_EXTENSION)
        if isinstance(own, dict) and own.get("secrets"):
            with suppress(DeploymentUnusable):
                for each in workload_contents(document, own_extension(document)):
                    if each.secrets:
                        yield WorkloadKey(document.id.lower(), each.component.name), each.digest


def new_private_key() -> bytes:
    """Return a new private key, as `ssh-keygen -t ed25519 -N ''` writes it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _or_nothing(signature: Callable[[], bytes]) -> Callable[[], bytes]:
    """Return what answers with nothing where a key cannot be used: this process then says why."""

    def answer() -> bytes:
        try:
            return signature()
        except ValueError:
            return b""

    return answer


def _marks(item: RecordedWorkload) -> tuple[object, ...]:
    """Return what tells that a component may run otherwise than before; a failure that comes again does not."""
    changed = None if item.state == "failed" else item.changed_at
    return item.key, item.applier, item.wanted, item.installed, item.state, item.failure, changed


def _has_new_content(recorded: Iterable[RecordedWorkload], last: Receipt, marked: Mapping[WorkloadKey, Digest]) -> bool:
    """Whether something is installed now that was not when a receipt was made: what came and went alone is not new.

    Args:
        marked: components of which a receipt does not say the installed digest (MADE-6).
    """
    said = {WorkloadKey(each.id, part.name): part.digest for each in last.deployments for part in each.components}
    waited = {each.id for each in last.deployments if each.state in ("pending", "installing")}
    return any(
        item.key.deployment_id in waited
        or (item.key not in marked and said.get(item.key) not in (None, item.installed))
        for item in recorded
        if item.state == "installed"
    )


def _what(receipt: Receipt) -> tuple[object, ...]:
    return receipt.manifest, receipt.deployments, receipt.fleet, receipt.agent


def _shorter(receipt: Receipt) -> tuple[Receipt, ...]:
    """Return a receipt, and what can be said in fewer words."""

    def cut(component: RanComponent) -> RanComponent:
        return replace(component, images=())

    without_images = tuple(replace(each, components=tuple(map(cut, each.components))) for each in receipt.deployments)
    without_components = tuple(replace(each, components=()) for each in receipt.deployments)
    shorter = (without_images, without_components, ())
    return (receipt, *(replace(receipt, deployments=each, abridged=True) for each in shorter))


def _manifest(held: TrustedState) -> HeldManifest:
    commit = held.snapshot.commit
    return HeldManifest(
        held.manifest.manifest_version,
        sha256(held.snapshot.manifest),
        object_id(COMMIT, commit) if commit is not None else None,
    )


def _component(
    item: RecordedWorkload, found: Observed | None, images: tuple[RanImage, ...], *, is_silent: bool
) -> RanComponent:
    return RanComponent(
        item.key.component,
        item.applier,
        found.condition if found else "unknown" if is_silent else "absent",
        found.digest if found else None,
        rolled_back=True if item.failure == "quarantined" else None,
        images=images,
    )


def _image(image: RunningImage) -> RanImage:
    return RanImage(image.part, image.name[:512], image.id, image.digest)
