"""By which key the state is signed that a device adopted, as far as few objects tell it; signatures are not verified.

ADOPTED-1  A device that adopted an older version, or was asked for by name: its branch is read back to that version. In
     all, at most 20,000 commits are read for that.
ADOPTED-2  Any other device that adopted its newest version: the commit of the branch `fleet` that brought its tree has
     the same key. At most 2,000 commits of that branch are read, and no object for each device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import Final

from margo_gitops.documents.device_id import encode_device_id
from margo_gitops.documents.state_layout import FLEET_REF, device_ref
from margo_gitops.errors import SignatureInvalid, StateTampered
from margo_gitops.fleet_status.status import DeviceStatus
from margo_gitops.state_repo.git_store import first_parents
from margo_gitops.state_repo.objects import DevicePlace, StateObjects
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.git_objects import COMMIT
from margo_gitops.trust.ssh_signature import parse_signature
from margo_gitops.trust.state_commit import StateCommit
from margo_gitops.values import dataclass, field

_DEVICE_COMMITS: Final = 20_000
_FLEET_COMMITS: Final = 2_000
_KEY: Final = re.compile(rb"\ngpgsig [^\n]+\n( [^\n]+\n [^\n]+)\n")
"""The first two lines of a signature: they hold the key, or of a long one enough to tell it from others."""


@dataclass(frozen=True)
class Signers:
    """The keys of one state repo, as it is at one moment.

    Attributes:
        refs: all its refs.
    """

    objects: StateObjects
    refs: Mapping[str, str]
    _read: list[str] = field(default_factory=list)

    @property
    def newest(self) -> str | None:
        """Fingerprint of the key that signed the newest render; None: it has no signature, or there is no render."""
        return self._spans[0][0] if self._spans else None

    def of(self, device: DeviceStatus, tree: str, *, named: bool) -> str | None:
        """Return the fingerprint of the key that signed what a device adopted; None: no signature, or not known.

        Args:
            tree: id of the device's newest tree.
            named: whether the device was asked for.

        Raises:
            StateTampered: an object is missing or damaged.
        """
        if device.adopted is None or device.adopted > device.desired:
            return None
        if named or device.adopted < device.desired:
            return self._by_branch(device)
        encoded = encode_device_id(device.device)
        for signer, before in self._spans:
            place = self._places(before).get(encoded) if before else None
            if place is None or place.tree != tree:
                return signer
        return None

    def _by_branch(self, device: DeviceStatus) -> str | None:
        for name, raw in self._back(self.refs.get(device_ref(device.device))):
            if len(self._read) >= _DEVICE_COMMITS:
                break
            self._read.append(name)
            with suppress(ValueError):
                if StateCommit.of(parse_commit(raw)).manifest_version == str(device.adopted):
                    return _signer(raw)
        return None

    @cached_property
    def _spans(self) -> list[tuple[str | None, str | None]]:
        """The keys of the branch `fleet`, newest first, each with the last commit before it (None: it has no parent).

        Where not all of the branch is read, the last span ends at the last commit that was read.
        """
        signed: list[bytes] = []  # the newest commit of each span
        before: list[str | None] = []
        held, name = None, None
        for name, raw in islice(self._back(self.refs.get(FLEET_REF)), _FLEET_COMMITS):
            match = _KEY.search(raw.partition(b"\n\n")[0])
            key = match[1] if match else b""
            if key != held:
                signed.append(raw)
                before.append(name)
            held = key
        if name is not None:
            before.append(name if self.objects.links(name).parents else None)
        return list(zip(map(_signer, signed), before[1:], strict=True))

    def _places(self, commit: str) -> Mapping[str, DevicePlace]:
        return self.objects.kept("places", self.objects.links(commit).tree, self.objects.places)

    def _back(self, tip: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield a commit and those before it, as far as they can be read: a status does not end for an old one."""
        with suppress(StateTampered):
            for name in first_parents(tip, self._parent, self.objects.boundary()) if tip else ():
                yield name, self.objects.read(name, COMMIT)

    def _parent(self, name: str) -> str | None:
        return next(iter(self.objects.links(name).parents), None)


def _signer(raw: bytes) -> str | None:
    try:
        return parse_signature(parse_commit(raw).signature or "").key.fingerprint
    except (ValueError, SignatureInvalid):
        return None
