"""SSH public keys, and what each type's signatures look like (RFC 4253, 5656, 8332, 8709; OpenSSH PROTOCOL.u2f).

Parsing needs no cryptography and checks the form only. `cryptography` is imported where a signature is verified, so
that a device that uses unsigned state, or has nothing new to verify, starts without it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from margo_gitops.trust.ssh_wire import WireReader

RSA_MIN_BITS = 3072
RSA_MAX_BITS = 16384
RSA_MAX_EXPONENT_BITS = 64
"""What OpenSSL verifies for a large modulus; more would only cost time."""

_CURVE_POINT_BYTES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
_CURVE_HASHES = {"nistp256": "SHA256", "nistp384": "SHA384", "nistp521": "SHA512"}
_RSA_HASHES = {"rsa-sha2-256": "SHA256", "rsa-sha2-512": "SHA512"}


@dataclass(frozen=True, slots=True)
class SshPublicKey:
    """A public key of a supported type, in its one encoding.

    Attributes:
        type: the name in front of the key in a `.pub` file, `ssh-ed25519`.
        blob: the encoded key, what that file holds in base64.
    """

    type: str
    blob: bytes
    _material: _Material = field(repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """The key as people compare it: `SHA256:` and 43 characters of base64, as `ssh-keygen -l` prints."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")

    def __str__(self) -> str:
        return f"{self.type} {base64.b64encode(self.blob).decode('ascii')}"

    def verify(self, signature: bytes, data: bytes) -> None:
        """Check that this key signed `data`.

        Args:
            signature: the signature with its algorithm's name, as on the wire (RFC 4253 section 6.6).
            data: what was signed.

        Raises:
            ValueError: it did not, or the signature is malformed or of an algorithm that this key may not use.
        """
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

        wire = WireReader(signature)
        algorithm = wire.name()
        if algorithm not in self._material.algorithms:
            allowed = " or ".join(self._material.algorithms)
            raise ValueError(f"algorithm {algorithm!r} is not accepted from a key of type {self.type}, only {allowed}")

        try:
            self._material.verify(algorithm, wire, data)
        except InvalidSignature:
            raise ValueError("the signature was made over other bytes, or by another key") from None
        except UnsupportedAlgorithm as error:
            raise ValueError(f"the cryptography on this machine does not do {algorithm}: {error}") from None


def parse_public_key(blob: bytes) -> SshPublicKey:
    """Return the key that `blob` encodes.

    Raises:
        ValueError: malformed, or of a type that is not supported (DSA, certificates), or an RSA key of fewer than 3072
            bits.
    """
    wire = WireReader(blob)
    key_type = wire.name()
    reader = _READERS.get(key_type)
    if reader is None:
        raise ValueError(f"key type {key_type!r} is not supported; supported are {', '.join(_READERS)}")

    material = reader(key_type, wire)
    wire.end()
    return SshPublicKey(key_type, blob, material)


def read_public_key(key_type: str, encoded: str) -> SshPublicKey:
    """Return a key as a line of a `.pub` or allowed-signers file has it: its type, and the key in base64.

    Raises:
        ValueError: as `parse_public_key`; no base64; or the type named is not the type encoded.
    """
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("the key is not base64") from None
    key = parse_public_key(blob)
    if key.type != key_type:
        raise ValueError(f"the line says {key_type}, the key is of type {key.type}")
    return key


class _Material(Protocol):
    """The numbers of a key. `verify` reads the rest of a signature and checks it."""

    @property
    def algorithms(self) -> tuple[str, ...]: ...

    def verify(self, algorithm: str, wire: WireReader, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class _Ed25519:
    point: bytes
    algorithms: tuple[str, ...]

    def verify(self, _algorithm: str, wire: WireReader, data: bytes, /) -> None:
        raw = wire.string()
        wire.end()
        self.check(raw, data)

    def check(self, raw: bytes, data: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        Ed25519PublicKey.from_public_bytes(self.point).verify(raw, data)


@dataclass(frozen=True, slots=True)
class _Ecdsa:
    curve: str
    point: bytes
    algorithms: tuple[str, ...]

    def verify(self, _algorithm: str, wire: WireReader, data: bytes, /) -> None:
        raw = wire.string()
        wire.end()
        self.check(raw, data)

    def check(self, raw: bytes, data: bytes) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        curves: dict[str, ec.EllipticCurve] = {
            "nistp256": ec.SECP256R1(),
            "nistp384": ec.SECP384R1(),
            "nistp521": ec.SECP521R1(),
        }
        pair = WireReader(raw)
        r, s = pair.positive(), pair.positive()
        pair.end()

        key = ec.EllipticCurvePublicKey.from_encoded_point(curves[self.curve], self.point)
        key.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(getattr(hashes, _CURVE_HASHES[self.curve])()))


@dataclass(frozen=True, slots=True)
class _Rsa:
    exponent: int
    modulus: int
    # Not "ssh-rsa", although the key's type has that name: it signs with SHA-1.
    algorithms: tuple[str, ...] = tuple(_RSA_HASHES)

    def verify(self, algorithm: str, wire: WireReader, data: bytes) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        raw = wire.string()
        wire.end()
        key = rsa.RSAPublicNumbers(self.exponent, self.modulus).public_key()
        key.verify(raw, data, padding.PKCS1v15(), getattr(hashes, _RSA_HASHES[algorithm])())


@dataclass(frozen=True, slots=True)
class _SecurityKey:
    """A key that lives in a token: the signature covers the application, the token's flags and its counter too."""

    inner: _Ed25519 | _Ecdsa
    application: bytes

    @property
    def algorithms(self) -> tuple[str, ...]:
        return self.inner.algorithms

    def verify(self, _algorithm: str, wire: WireReader, data: bytes, /) -> None:
        raw = wire.string()
        flags_and_counter = wire.take(5)
        wire.end()
        token_data = hashlib.sha256(self.application).digest() + flags_and_counter + hashlib.sha256(data).digest()
        self.inner.check(raw, token_data)


def _read_ed25519(key_type: str, wire: WireReader) -> _Ed25519:
    point = wire.string()
    if len(point) != 32:
        raise ValueError(f"an ed25519 key has 32 bytes, not {len(point)}")
    return _Ed25519(point, (key_type,))


def _read_ecdsa(key_type: str, wire: WireReader) -> _Ecdsa:
    curve, point = wire.name(), wire.string()
    expected = "nistp256" if key_type.startswith("sk-") else key_type.removeprefix("ecdsa-sha2-")
    if curve != expected:
        raise ValueError(f"a key of type {key_type} is on curve {expected}, not {curve!r}")
    if len(point) != _CURVE_POINT_BYTES[curve] or point[0] != 4:
        raise ValueError(f"the key is no uncompressed point of {curve}")
    return _Ecdsa(curve, point, (key_type,))


def _read_rsa(_key_type: str, wire: WireReader) -> _Rsa:
    exponent, modulus = wire.positive(), wire.positive()
    bits = modulus.bit_length()
    if not RSA_MIN_BITS <= bits <= RSA_MAX_BITS:
        raise ValueError(f"an RSA key of {bits} bits; {RSA_MIN_BITS} to {RSA_MAX_BITS} are accepted")
    if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > RSA_MAX_EXPONENT_BITS or modulus % 2 == 0:
        raise ValueError("the numbers of the key are those of no RSA key")
    return _Rsa(exponent, modulus)


def _read_security_key(inner: Callable[[str, WireReader], _Ed25519 | _Ecdsa]) -> Callable[[str, WireReader], _Material]:
    return lambda key_type, wire: _SecurityKey(inner(key_type, wire), wire.string())


_READERS: dict[str, Callable[[str, WireReader], _Material]] = {
    "ssh-ed25519": _read_ed25519,
    "ecdsa-sha2-nistp256": _read_ecdsa,
    "ecdsa-sha2-nistp384": _read_ecdsa,
    "ecdsa-sha2-nistp521": _read_ecdsa,
    "ssh-rsa": _read_rsa,
    "sk-ssh-ed25519@openssh.com": _read_security_key(_read_ed25519),
    "sk-ecdsa-sha2-nistp256@openssh.com": _read_security_key(_read_ecdsa),
}
