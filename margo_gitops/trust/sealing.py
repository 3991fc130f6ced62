"""Values that only one device can read: age files for its keys, made and opened by `pyrage`. Pure.

Keys are age's own (X25519), or the device's ed25519 SSH key from its enrolment: age can use both (docs/secrets.md).

SEAL-1  A value is sealed with its device and its name, so that no one can give it to another device, or pass it off
        as another secret, by moving the text.
SEAL-2  The length of the text tells the length of the value to 256 bytes only.
SEAL-3  Two sealings of one value differ. So a render copies the text, and never seals.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from margo_gitops.documents.secrets import MAX_SECRET_BYTES, SealedSecret
from margo_gitops.trust.ssh_key import read_public_key

if TYPE_CHECKING:
    import pyrage

_MAGIC: Final = b"margo-gitops secret 1"
_BLOCK: Final = 256
_AGE_IDENTITY: Final = "AGE-SECRET-KEY-"


def recipient_name(key: str) -> str:
    """Return how people compare a key that values are sealed for: an age recipient as it is, an SSH key's fingerprint.

    Args:
        key: `age1…`, or a line of a `.pub` file.

    Raises:
        ValueError: it is another key, or none.
    """
    words = key.split()
    if len(words) == 1 and words[0].startswith("age1"):
        return words[0]
    if len(words) >= 2 and words[0] == "ssh-ed25519":
        return read_public_key(words[0], words[1]).fingerprint
    raise ValueError("secrets cannot be encrypted for it: age1…, or ssh-ed25519 with the key in base64")


def seal(device: str, name: str, value: bytes, keys: Sequence[str]) -> SealedSecret:
    """Return a value that only the holders of these keys can read (SEAL-1 to SEAL-3).

    Raises:
        ValueError: a key is not valid, or the value is larger than 64 KiB.
        ModuleNotFoundError: pyrage is not installed.
    """
    import pyrage

    if len(value) > MAX_SECRET_BYTES:
        raise ValueError(f"it has {len(value)} bytes; {MAX_SECRET_BYTES} are possible")
    recipients = [_recipient(key) for key in keys]
    head = b"\n".join((_MAGIC, device.encode(), name.encode(), str(len(value)).encode(), value))
    padded = head.ljust(-(-len(head) // _BLOCK) * _BLOCK, b"\0")
    text = base64.b64encode(pyrage.encrypt(padded, recipients)).decode("ascii")
    return SealedSecret(tuple(map(recipient_name, keys)), text)


def _recipient(key: str) -> pyrage.x25519.Recipient | pyrage.ssh.Recipient:
    import pyrage

    recipient_name(key)
    kind = pyrage.x25519.Recipient if key.startswith("age1") else pyrage.ssh.Recipient
    try:
        return kind.from_str(" ".join(key.split()[:2]))
    except pyrage.RecipientError as error:
        raise ValueError(f"secrets cannot be encrypted for it: {error}") from None


Identity = object
"""A private key, as `pyrage` holds it."""


def read_identities(content: bytes) -> list[Identity]:
    """Return the private keys of a file: age's, one a line, or one OpenSSH key without a passphrase.

    Raises:
        ValueError: it holds none, or another kind.
        ModuleNotFoundError: pyrage is not installed.
    """
    import pyrage

    try:
        if b"-----BEGIN OPENSSH PRIVATE KEY-----" in content:
            return [pyrage.ssh.Identity.from_buffer(content)]
        lines = content.decode("ascii").splitlines()
        found = [pyrage.x25519.Identity.from_str(line.strip()) for line in lines if line.startswith(_AGE_IDENTITY)]
    except (pyrage.IdentityError, UnicodeDecodeError):
        # What the library says could quote the key.
        raise ValueError("it must be an age identity, or an ed25519 SSH key without a passphrase") from None
    if not found:
        raise ValueError("it holds no age identity (AGE-SECRET-KEY-1…), and no OpenSSH private key")
    return list(found)


def open_sealed(text: str, device: str, name: str, identities: Iterable[Identity]) -> bytes:
    """Return a sealed value.

    Args:
        device, name: which secret it must be (SEAL-1).

    Raises:
        ValueError: none of the keys opens it, or it is another secret.
        ModuleNotFoundError: pyrage is not installed.
    """
    import pyrage

    try:
        plain = pyrage.decrypt(base64.b64decode(text, validate=True), list(identities))
    except (pyrage.DecryptError, binascii.Error):
        raise ValueError("none of the keys opens it") from None
    magic, _, rest = plain.partition(b"\n")
    parts = rest.split(b"\n", 3)
    if magic != _MAGIC or len(parts) != 4 or not parts[2].isdigit() or len(parts[2]) > 8:
        raise ValueError("another program sealed it")
    if (parts[0], parts[1]) != (device.encode(), name.encode()):
        raise ValueError("it was sealed for another device, or as another secret")
    value = parts[3][: int(parts[2])]
    if len(value) != int(parts[2]):
        raise ValueError("what is sealed is cut off")
    return bytes(value)
