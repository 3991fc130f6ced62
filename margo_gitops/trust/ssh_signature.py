"""SSH signatures as git and `ssh-keygen -Y` make them (OpenSSH PROTOCOL.sshsig).

SSHSIG-1  The armor is one block, BEGIN line to END line, of canonical base64; there is nothing before or after it.
SSHSIG-2  The blob is version 1 with an empty reserved field and ends where its last field ends.
SSHSIG-3  The namespace is the expected one: a signature over a file does not count for a commit.
SSHSIG-4  The message is hashed with sha256 or sha512.
SSHSIG-5  The key signs with an algorithm of its type; RSA never with SHA-1.
SSHSIG-6  The signature covers magic, namespace, reserved field, hash name and message hash.

The rules are stricter than ssh-keygen's where its leniency would let two spellings mean one signature (SSHSIG-1,
SSHSIG-2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from margo_gitops.errors import SignatureInvalid
from margo_gitops.trust.ssh_key import SigningKey, SshPublicKey, Verify, WireReader, parse_public_key, wire_string
from margo_gitops.values import dataclass

GIT_NAMESPACE: Final = "git"
MAX_ARMOR_BYTES: Final = 16 * 1024

_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_ARMOR_COLUMNS: Final = 70
_MAGIC: Final = b"SSHSIG"
_VERSION: Final = 1
_USER_PRESENT: Final = 1
_HASHES: Final = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_REMEDY: Final = "fetch again; if it stays, find out who or what changed the state between renderer and device"


@dataclass(frozen=True, slots=True)
class SshSignature:
    """A signature that is well formed, not yet verified.

    Attributes:
        key: the key it says it was made with.
        namespace: what kind of thing was signed.
        hash_name: how the message was hashed, `sha256` or `sha512`.
        signature: algorithm and signature, as on the wire.
    """

    key: SshPublicKey
    namespace: str
    hash_name: str
    signature: bytes

    @property
    def touched(self) -> bool:
        """Whether a person touched the token that signed, as it says itself; true for a key that is in no token."""
        return not self.key.in_token or bool(self.signature[-5] & _USER_PRESENT)

    def verify(
        self,
        message: bytes,
        key: SshPublicKey,
        namespace: str = GIT_NAMESPACE,
        verify: Verify = SshPublicKey.verify,
    ) -> None:
        """Check that `key` signed `message` for `namespace`, by SSHSIG-3 to SSHSIG-6 (SignatureInvalid: it did not).

        Args:
            verify: does the part of SSHSIG-5 and SSHSIG-6 that is cryptography.
        """
        if self.namespace != namespace:
            raise _invalid("the signature was made for another use", f"namespace {self.namespace!r}, not {namespace!r}")
        if self.key != key:
            raise _invalid("the signature was made with another key", f"{self.key.fingerprint}, not {key.fingerprint}")
        try:
            verify(key, self.signature, _signed_data(message, namespace, self.hash_name))
        except ValueError as error:
            raise _invalid("the signature does not belong to these bytes", f"key {key.fingerprint}: {error}") from None


def parse_signature(armor: str) -> SshSignature:
    """Return the signature in its armor (SSHSIG-1, SSHSIG-2, SSHSIG-4).

    Raises:
        SignatureInvalid: not an SSH signature, too long, or of a key type or hash that is not accepted.
    """
    try:
        return _parse_blob(_dearmor(armor))
    except ValueError as error:
        raise _invalid("the signature is not an SSH signature that can be trusted", str(error)) from None


def sign(message: bytes, key: SigningKey, namespace: str = GIT_NAMESPACE) -> str:
    """Return the armored signature over `message`: the same text as `ssh-keygen -Y sign -n <namespace>` gives.

    The same message and key always give the same text. It ends with a newline.
    """
    hash_name = "sha512"
    blob = b"".join(
        [
            _MAGIC,
            _VERSION.to_bytes(4, "big"),
            wire_string(key.public.blob),
            wire_string(namespace),
            wire_string(b""),
            wire_string(hash_name),
            wire_string(key.sign(_signed_data(message, namespace, hash_name))),
        ]
    )
    body = base64.b64encode(blob).decode("ascii")
    lines = [body[at : at + _ARMOR_COLUMNS] for at in range(0, len(body), _ARMOR_COLUMNS)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def _signed_data(message: bytes, namespace: str, hash_name: str) -> bytes:
    digest = _HASHES[hash_name](message).digest()
    return _MAGIC + b"".join(wire_string(part) for part in (namespace, b"", hash_name, digest))


def _dearmor(armor: str) -> bytes:
    if len(armor) > MAX_ARMOR_BYTES:
        raise ValueError(f"longer than {MAX_ARMOR_BYTES} bytes")
    lines = armor.removesuffix("\n").split("\n")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise ValueError(f"it is not one block from {_BEGIN!r} to {_END!r}")

    body = "".join(lines[1:-1])
    try:
        blob = base64.b64decode(body.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("its body is not base64") from None
    # Unused bits at the end would let one signature have several spellings.
    if base64.b64encode(blob).decode("ascii") != body:
        raise ValueError("its base64 is not canonical")
    return blob


def _parse_blob(blob: bytes) -> SshSignature:
    wire = WireReader(blob)
    if wire.take(len(_MAGIC)) != _MAGIC:
        raise ValueError("its first bytes are not SSHSIG")
    version = wire.uint32()
    if version != _VERSION:
        raise ValueError(f"version {version} is not known, only {_VERSION}")

    key_blob, namespace, reserved, hash_name, signature = (
        wire.string(),
        wire.name(),
        wire.string(),
        wire.name(),
        wire.string(),
    )
    wire.end()
    if reserved:
        raise ValueError("its reserved field is not empty")
    if hash_name not in _HASHES:
        raise ValueError(f"hash {hash_name!r} is not accepted, only {' or '.join(_HASHES)}")
    return SshSignature(parse_public_key(key_blob), namespace, hash_name, signature)


def _invalid(what: str, why: str) -> SignatureInvalid:
    return SignatureInvalid(what, why=[why], remedy=_REMEDY)
