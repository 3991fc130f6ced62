"""The four signature algorithms of the older contract (Margo API requirements and security, G1).

Three are those of RFC 9421. The fourth, `rsa-pss-sha256`, is Margo's own name: RFC 9421 registers PSS with SHA-512
only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from http_message_signatures import HTTPSignatureAlgorithm
from http_message_signatures.algorithms import ECDSA_P256_SHA256, ECDSA_P384_SHA384, RSA_V1_5_SHA256

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

SMALLEST_RSA: Final = 2048
LARGEST_RSA: Final = 8192
"""Bits; a larger key would cost more time than a client has a right to."""

_LARGEST_EXPONENT: Final = 2**32


class RsaPssSha256(RSA_V1_5_SHA256):
    """RSA-PSS with SHA-256; salts of any length, because libraries differ in what they choose."""

    algorithm_id = "rsa-pss-sha256"

    def __init__(
        self,
        public_key: rsa.RSAPublicKey | bytes | None = None,
        private_key: rsa.RSAPrivateKey | bytes | None = None,
        password: bytes | None = None,
    ) -> None:
        super().__init__(public_key, private_key, password)  # type: ignore[no-untyped-call]
        self.padding = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.AUTO)


@dataclass(slots=True)
class Attempt:
    """One key that a signature is held against.

    Attributes:
        key: the key.
        mark: set where the signature is right: what makes it the same one if it comes again.
    """

    key: PublicKey
    mark: bytes = b""


def is_usable(key: object) -> bool:
    """Return whether one of the four algorithms works with a public key."""
    if isinstance(key, rsa.RSAPublicKey):
        return SMALLEST_RSA <= key.key_size <= LARGEST_RSA and key.public_numbers().e <= _LARGEST_EXPONENT
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)


def _marking(inner: type[HTTPSignatureAlgorithm]) -> type[HTTPSignatureAlgorithm]:
    """Return an algorithm that takes an `Attempt` for its key, and marks it."""

    class Marking(HTTPSignatureAlgorithm):
        algorithm_id = inner.algorithm_id

        def __init__(self, public_key: Attempt | None = None, private_key: None = None) -> None:  # noqa: ARG002
            if public_key is None:
                raise TypeError("a signature is held against an attempt")
            self._attempt = public_key
            self._inner = inner(public_key=public_key.key)

        def verify(self, signature: bytes, message: bytes) -> None:
            self._inner.verify(signature, message)
            # Whoever has seen (r, s) can make (r, -s) of it: of an ECDSA signature, r alone tells which one it is.
            half = len(signature) // 2 if isinstance(self._attempt.key, ec.EllipticCurvePublicKey) else len(signature)
            self._attempt.mark = hashlib.sha256(message + b"\0" + signature[:half]).digest()

    return Marking


_P256: Final = _marking(ECDSA_P256_SHA256)
_P384: Final = _marking(ECDSA_P384_SHA384)
_RSA: Final = (_marking(RSA_V1_5_SHA256), _marking(RsaPssSha256))


@dataclass(frozen=True, slots=True)
class Family:
    """The algorithms that signatures of one length come from.

    Attributes:
        algorithms: of this family.
        decoy: a key that nobody has: a signature of an unknown client takes as long to refuse as any other.
    """

    algorithms: tuple[type[HTTPSignatureAlgorithm], ...]
    decoy: PublicKey

    def fits(self, key: PublicKey) -> bool:
        """Return whether a key is one of this family."""
        if isinstance(key, rsa.RSAPublicKey) or isinstance(self.decoy, rsa.RSAPublicKey):
            return isinstance(key, rsa.RSAPublicKey) and isinstance(self.decoy, rsa.RSAPublicKey)
        return key.curve.name == self.decoy.curve.name


_FAMILIES: Final = (
    (64, Family((_P256,), ec.generate_private_key(ec.SECP256R1()).public_key())),
    (96, Family((_P384,), ec.generate_private_key(ec.SECP384R1()).public_key())),
)
_RSA_FAMILY: Final = Family(_RSA, rsa.RSAPublicNumbers(65537, 2**SMALLEST_RSA - 1).public_key())
_AROUND: Final = 16


def family_of(length: int) -> Family:
    """Return the family that signs with about this many bytes.

    Args:
        length: of the signature; the text around it may add a little.
    """
    return next((family for size, family in _FAMILIES if length <= size + _AROUND), _RSA_FAMILY)
