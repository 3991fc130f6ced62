"""The key that signs state commits: ed25519, whose signatures are deterministic; unencrypted (OpenSSH PROTOCOL.key)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from margo_gitops.trust.ssh_key import SshPublicKey, parse_public_key
from margo_gitops.trust.ssh_wire import WireReader, wire_string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_KEY_FILE_BYTES: Final = 64 * 1024

_BEGIN: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_END: Final = b"-----END OPENSSH PRIVATE KEY-----"
_MAGIC: Final = b"openssh-key-v1\0"
_TYPE: Final = "ssh-ed25519"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, ready to sign. It is never printed, compared or written."""

    public: SshPublicKey
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data` with its algorithm's name, as on the wire (RFC 8709 section 6)."""
        return wire_string(_TYPE) + wire_string(self._private.sign(data))


def parse_signing_key(content: bytes) -> SigningKey:
    """Return the key in a private key file as `ssh-keygen -t ed25519 -N ''` writes it.

    Raises:
        ValueError: no such file: encrypted, of another type or form, or damaged. The message says which, what to do,
            and nothing of the content.
    """
    public, seed = _read(_unwrap(content))
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(seed)
    if wire_string(_TYPE) + wire_string(private.public_key().public_bytes_raw()) != public.blob:
        raise ValueError("the private key file is damaged: its public half belongs to another key")
    return SigningKey(public, private)


def _unwrap(content: bytes) -> bytes:
    text = content.strip()
    if len(content) > MAX_KEY_FILE_BYTES or not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise ValueError("the file is no OpenSSH private key; make one with: ssh-keygen -t ed25519 -N '' -f FILE")
    try:
        blob = base64.b64decode(b"".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except binascii.Error:
        raise ValueError("the private key file is damaged: its body is not base64") from None
    if not blob.startswith(_MAGIC):
        raise ValueError("the private key file is damaged, or of a later format")
    return blob[len(_MAGIC) :]


def _read(blob: bytes) -> tuple[SshPublicKey, bytes]:
    try:
        return _read_keys(WireReader(blob))
    except _Unusable:
        raise
    except ValueError as error:
        raise ValueError(f"the private key file is damaged: {error}") from None


def _read_keys(wire: WireReader) -> tuple[SshPublicKey, bytes]:
    cipher, _kdf, _kdf_options, keys = wire.name(), wire.name(), wire.string(), wire.uint32()
    if cipher != "none":
        raise _Unusable(
            f"the private key is encrypted ({cipher}), and nobody is there to type its passphrase; "
            "remove it with: ssh-keygen -p -N '' -f FILE, and keep the file readable for the renderer only"
        )
    if keys != 1:
        raise _Unusable(f"the file holds {keys} private keys, not one")

    public_blob, secret = wire.string(), wire.string()
    wire.end()
    key_type = WireReader(public_blob).name()
    if key_type != _TYPE:
        raise _Unusable(
            f"the private key is of type {key_type}; state commits are signed with ed25519, the same every time. "
            "Make a key with: ssh-keygen -t ed25519 -N '' -f FILE"
        )
    return parse_public_key(public_blob), _read_seed(WireReader(secret))


def _read_seed(secret: WireReader) -> bytes:
    if secret.uint32() != secret.uint32():
        raise ValueError("its check numbers differ")
    if secret.name() != _TYPE:
        raise ValueError("its two halves are of different types")
    point, private = secret.string(), secret.string()
    if len(private) != 64 or private[32:] != point:
        raise ValueError("its private half is not that of an ed25519 key")
    return private[:32]


class _Unusable(ValueError):
    """The file is sound, but not a key to sign with."""
