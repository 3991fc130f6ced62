"""SSH keys and their signatures, as on the wire (RFC 4251, 4253, 5656, 8332, 8709; OpenSSH PROTOCOL.key, PROTOCOL.u2f).

The form of a public key is checked here, strictly, without `cryptography`: a device that uses unsigned state, or has
nothing new to verify, starts without it. `cryptography` reads private keys, and public keys to verify a signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from margo_gitops.values import dataclass, field

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_KEY_FILE_BYTES: Final = 64 * 1024

_RSA_MIN_BITS: Final = 3072
_RSA_MAX_BITS: Final = 16384
_RSA_MAX_EXPONENT_BITS: Final = 64
"""What OpenSSL verifies for a large modulus; more would only cost time."""

_ED25519: Final = "ssh-ed25519"
_RSA: Final = "ssh-rsa"
_CURVE_POINT_BYTES: Final = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
_SECURITY_KEYS: Final = {
    "sk-ssh-ed25519@openssh.com": _ED25519,
    "sk-ecdsa-sha2-nistp256@openssh.com": "ecdsa-sha2-nistp256",
}
"""Keys that live in a token, and the type of the key inside."""
_TYPES: Final = (_ED25519, *(f"ecdsa-sha2-{curve}" for curve in _CURVE_POINT_BYTES), _RSA, *_SECURITY_KEYS)
_BEGIN: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_END: Final = b"-----END OPENSSH PRIVATE KEY-----"
_MAGIC: Final = b"openssh-key-v1\0"
_MAKE_ONE: Final = "make one with: ssh-keygen -t ed25519 -N '' -f FILE"


@dataclass(frozen=True, slots=True)
class SshPublicKey:
    """A public key of a supported type, in its one encoding.

    Attributes:
        type: the name in front of the key in a `.pub` file, `ssh-ed25519`.
        blob: the encoded key, what that file holds in base64.
    """

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """The key as people compare it: `SHA256:` and 43 characters of base64, as `ssh-keygen -l` prints."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")

    @property
    def in_token(self) -> bool:
        """Whether it is an `sk-` key: the private half is in a token."""
        return self.type in _SECURITY_KEYS

    def __str__(self) -> str:
        return f"{self.type} {base64.b64encode(self.blob).decode('ascii')}"

    def verify(self, signature: bytes, data: bytes) -> None:
        """Check that this key signed `data`.

        Args:
            signature: the signature with its algorithm's name, as on the wire (RFC 4253 section 6.6).

        Raises:
            ValueError: it did not, or the signature is malformed or of an algorithm that this key may not use.
        """
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

        wire = WireReader(signature)
        algorithm = wire.name()
        # Not "ssh-rsa", although the key's type has that name: it signs with SHA-1.
        algorithms = ("rsa-sha2-256", "rsa-sha2-512") if self.type == _RSA else (self.type,)
        if algorithm not in algorithms:
            allowed = " or ".join(algorithms)
            raise ValueError(f"algorithm {algorithm!r} is not accepted from a key of type {self.type}, only {allowed}")
        raw = wire.string()
        if self.in_token:
            # A token signs the application, its flags and its counter too.
            token = hashlib.sha256(self._application()).digest() + wire.take(5)
            data = token + hashlib.sha256(data).digest()
        wire.end()
        try:
            self._verify(algorithm, raw, data)
        except InvalidSignature:
            raise ValueError("the signature was made over other bytes, or by another key") from None
        except UnsupportedAlgorithm as error:
            raise ValueError(f"the cryptography on this machine does not do {algorithm}: {error}") from None

    def _application(self) -> bytes:
        wire = WireReader(self.blob)
        *_, application = [wire.string() for _ in range(3 if self.type.startswith("sk-ssh") else 4)]
        return application

    def _plain(self) -> bytes:
        """Return the key as a line of a `.pub` file; of a token, the key inside."""
        inner = _SECURITY_KEYS.get(self.type)
        if inner is None:
            return str(self).encode("ascii")
        body = self.blob[len(wire_string(self.type)) : -len(wire_string(self._application()))]
        return f"{inner} ".encode("ascii") + base64.b64encode(wire_string(inner) + body)

    def _verify(self, algorithm: str, raw: bytes, data: bytes) -> None:
        if _SECURITY_KEYS.get(self.type, self.type) == _ED25519:
            # Half of the package is enough for the keys that almost everybody has: a device that starts spends less.
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

            wire = WireReader(self.blob)
            wire.name()
            Ed25519PublicKey.from_public_bytes(wire.string()).verify(raw, data)
            return
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key

        key = load_ssh_public_key(self._plain())
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, data, padding.PKCS1v15(), hashes.SHA512() if algorithm.endswith("512") else hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            pair = WireReader(raw)
            r, s = pair.positive(), pair.positive()
            pair.end()
            digest = {256: hashes.SHA256(), 384: hashes.SHA384()}.get(key.key_size, hashes.SHA512())
            key.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(digest))
        else:
            raise TypeError(f"a key of type {self.type} became a {type(key).__name__}")


Verify: TypeAlias = Callable[[SshPublicKey, bytes, bytes], None]
"""Checks a signature as `SshPublicKey.verify` does; a program may have a process of its own do it."""


def parse_public_key(blob: bytes) -> SshPublicKey:
    """Return the key that `blob` encodes.

    Raises:
        ValueError: malformed, or of a type that is not supported (DSA, certificates), or an RSA key of fewer than 3072
            bits.
    """
    wire = WireReader(blob)
    key_type = wire.name()
    if key_type not in _TYPES:
        raise ValueError(f"key type {key_type!r} is not supported; supported are {', '.join(_TYPES)}")
    inner = _SECURITY_KEYS.get(key_type, key_type)
    if inner == _ED25519:
        point = wire.string()
        if len(point) != 32:
            raise ValueError(f"an ed25519 key has 32 bytes, not {len(point)}")
    elif inner == _RSA:
        _check_rsa(wire.positive(), wire.positive())
    else:
        _check_point(key_type, inner.removeprefix("ecdsa-sha2-"), wire.name(), wire.string())
    if key_type in _SECURITY_KEYS:
        wire.string()
    wire.end()
    return SshPublicKey(key_type, blob)


def _check_point(key_type: str, expected: str, curve: str, point: bytes) -> None:
    if curve != expected:
        raise ValueError(f"a key of type {key_type} is on curve {expected}, not {curve!r}")
    if len(point) != _CURVE_POINT_BYTES[curve] or point[0] != 4:
        raise ValueError(f"the key is not an uncompressed point of {curve}")


def _check_rsa(exponent: int, modulus: int) -> None:
    bits = modulus.bit_length()
    if not _RSA_MIN_BITS <= bits <= _RSA_MAX_BITS:
        raise ValueError(f"an RSA key of {bits} bits; {_RSA_MIN_BITS} to {_RSA_MAX_BITS} are accepted")
    if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > _RSA_MAX_EXPONENT_BITS or modulus % 2 == 0:
        raise ValueError("the numbers of the key are those of no RSA key")


def read_public_key(key_type: str, encoded: str) -> SshPublicKey:
    """Return a key as a line of a `.pub` or allowed-signers file has it: its type, and the key in base64.

    Raises:
        ValueError: as `parse_public_key`; no base64; or the type named is not the type encoded.
    """
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("the key is not base64") from None
    # Unused bits at the end would let one key have several spellings.
    if base64.b64encode(blob).decode("ascii") != encoded:
        raise ValueError("its base64 is not canonical")
    key = parse_public_key(blob)
    if key.type != key_type:
        raise ValueError(f"the line says {key_type}, the key is of type {key.type}")
    return key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An ed25519 private key, ready to sign; its signatures are deterministic. It is never printed or compared."""

    public: SshPublicKey
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over `data` with its algorithm's name, as on the wire (RFC 8709 section 6)."""
        return wire_string(_ED25519) + wire_string(self._private.sign(data))


def parse_signing_key(content: bytes) -> SigningKey:
    """Return the key in a private key file as `ssh-keygen -t ed25519 -N ''` writes it.

    Raises:
        ValueError: no such file: encrypted, of another type or form, or damaged. The message says which, what to do,
            and nothing of the content.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    text = content.strip()
    if len(content) > MAX_KEY_FILE_BYTES or not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise ValueError(f"the file is not an OpenSSH private key; {_MAKE_ONE}")
    try:
        body = base64.b64decode(b"".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except binascii.Error:
        raise ValueError("the private key file is damaged: its body is not base64") from None
    blob, objection = _read_header(body)
    if objection:
        raise ValueError(objection)
    try:
        private = cast("Ed25519PrivateKey", load_ssh_private_key(content, password=None))
    except ValueError as error:
        raise ValueError(f"the private key file is damaged: {error}") from None
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    if wire_string(_ED25519) + wire_string(public) != blob:
        raise ValueError("the private key file is damaged: its public half belongs to another key")
    return SigningKey(parse_public_key(blob), private)


def _read_header(body: bytes) -> tuple[bytes, str]:
    """Return the public key in a private key file, and why the file cannot be used, or nothing."""
    if not body.startswith(_MAGIC):
        raise ValueError("the private key file is damaged, or of a later format")
    wire = WireReader(body[len(_MAGIC) :])
    try:
        cipher, _kdf, _kdf_options, keys, blob = wire.name(), wire.name(), wire.string(), wire.uint32(), wire.string()
        key_type = WireReader(blob).name()
    except ValueError as error:
        raise ValueError(f"the private key file is damaged: {error}") from None
    if cipher != "none":
        return blob, (
            f"the private key is encrypted ({cipher}), and a program cannot type its passphrase; "
            "remove it with: ssh-keygen -p -N '' -f FILE, and keep the file readable for the renderer only"
        )
    if keys != 1:
        return blob, f"the file holds {keys} private keys, not one"
    if key_type != _ED25519:
        return blob, (
            f"the private key is of type {key_type}; state commits are signed with ed25519, whose signature is the "
            f"same every time; {_MAKE_ONE}"
        )
    return blob, ""


class WireReader:
    """Reads wire values one after the other. Every method raises ValueError where the bytes do not hold the value."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError(f"{size} bytes are promised, {len(taken)} are there")
        self._at += size
        return taken

    def uint32(self) -> int:
        """Return a number of four bytes."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """Return a string of bytes."""
        return self.take(self.uint32())

    def name(self) -> str:
        """Return a name: a string of printable US-ASCII, maybe empty."""
        text = self.string().decode("ascii", "replace")
        if not (text.isascii() and text.isprintable()):
            raise ValueError("a name holds characters outside printable US-ASCII")
        return text

    def positive(self) -> int:
        """Return an `mpint` that is not negative, in its one shortest form (ValueError: it is another)."""
        encoded = self.string()
        number = int.from_bytes(encoded, "big")
        if wire_positive(number) != wire_string(encoded):
            raise ValueError("a number is negative or not in its shortest form")
        return number

    def end(self) -> None:
        """Expect the end."""
        left = len(self._data) - self._at
        if left:
            raise ValueError(f"{left} bytes too many")


def wire_string(content: bytes | str) -> bytes:
    """Return `content` as a wire string; text is US-ASCII."""
    data = content.encode("ascii") if isinstance(content, str) else content
    return len(data).to_bytes(4, "big") + data


def wire_positive(number: int) -> bytes:
    """Return `number`, zero or more, as an `mpint`: a leading zero keeps the top bit from meaning a minus."""
    return wire_string(number.to_bytes((number.bit_length() + 8) // 8, "big") if number else b"")
