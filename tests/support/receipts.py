"""Receipts for tests: what a device signs, one after the other."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from margo_gitops.digests import sha256
from margo_gitops.documents.receipt import (
    RECEIPT_NAMESPACE,
    Boot,
    HeldManifest,
    LostReceipts,
    Receipt,
    SignedReceipt,
    write_receipt,
)
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key
from margo_gitops.trust.ssh_signature import sign


def private_key(seed: int) -> bytes:
    """Return a private key file, the same for the same seed."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


DEVICE_KEY = parse_signing_key(private_key(70))
OTHER_KEY = parse_signing_key(private_key(71))


def receipt(
    sequence: int,
    previous: SignedReceipt | None = None,
    *,
    device: str = "press-07",
    version: int = 1,
    at: str = "2026-05-03T14:00:00Z",
    lost: tuple[LostReceipts, ...] = (),
) -> Receipt:
    return Receipt(
        device=device,
        sequence=sequence,
        at=at,
        reason="change",
        agent="1.0.0",
        boot=Boot("", 1),
        manifest=HeldManifest(version, sha256(str(version).encode())),
        deployments=(),
        fleet="plant",
        previous=sha256(previous.receipt.encode()) if previous else None,
        lost=lost,
    )


def signed(what: Receipt, key: SigningKey = DEVICE_KEY) -> SignedReceipt:
    text = write_receipt(what)
    return SignedReceipt(text, sign(text.encode(), key, RECEIPT_NAMESPACE))


def chain(
    count: int, key: SigningKey = DEVICE_KEY, *, device: str = "press-07", version: int = 1
) -> list[SignedReceipt]:
    """Return the first receipts of a device."""
    return longer([], count, key, device=device, version=version)


def longer(
    begun: list[SignedReceipt], count: int, key: SigningKey = DEVICE_KEY, *, device: str = "press-07", version: int = 1
) -> list[SignedReceipt]:
    """Return a chain with this many receipts more."""
    made = list(begun)
    for _ in range(count):
        what = receipt(len(made) + 1, made[-1] if made else None, device=device, version=version)
        made.append(signed(what, key))
    return made


def altered(one: SignedReceipt) -> SignedReceipt:
    """Return a receipt that somebody changed after it was signed."""
    return replace(one, receipt=one.receipt.replace('"agent":"1.0.0"', '"agent":"1.0.1"'))
