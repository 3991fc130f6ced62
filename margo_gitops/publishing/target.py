"""What a target of publishing can do: a folder of a web server, or a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from margo_gitops.publishing.layout import PublishedObject


class PublishTarget(Protocol):
    """Holds the published files of many devices.

    Every method raises PublishTargetUnusable where the target refuses.
    """

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other publishers away while the context lasts; make the target where there is nothing.

        Raises:
            PublishBusy: another publisher is at work.
        """
        ...

    def devices(self) -> Iterable[str]:
        """Return the encoded ids of all devices that were ever published here."""
        ...

    def manifest(self, device: str) -> bytes | None:
        """Return the manifest that a device is given now; None for none.

        Args:
            device: encoded device id, as in all other methods.
        """
        ...

    def objects(self, device: str) -> frozenset[str]:
        """Return the paths of all objects that are there for a device."""
        ...

    def read(self, device: str, path: str) -> bytes | None:
        """Return an object's bytes; None where it is not there."""
        ...

    def put(self, device: str, wanted: PublishedObject, content: bytes) -> None:
        """Write an object, whole or not at all."""
        ...

    def switch(self, device: str, manifest: bytes) -> None:
        """Give the device this manifest from one moment to the next; all its objects are there and durable."""
        ...

    def proof(self, device: str) -> bytes | None:
        """Return the proof of freshness that a device is given now; None for none."""
        ...

    def put_proof(self, device: str, shard: str, content: bytes) -> None:
        """Give the device this proof, which is that of all devices of a shard, from one moment to the next."""
        ...

    def collect(self, device: str, keep: float) -> int:
        """Remove what no manifest of the last `keep` seconds leads to; return how many objects went."""
        ...
