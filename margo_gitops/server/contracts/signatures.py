"""Whether a request is signed as the older contract wants it (RFC 9421; Margo API requirements and security, G1).

SIGNED-1  Exactly one signature, with `created` and `keyid`, over `@method`, `@target-uri`, and `content-digest` where
          there is a body. The strict profile also wants `@authority`, and for `keyid` the sha256 of the public key.
SIGNED-2  `created` is in the window that ends now, and `expires`, if there is one, in the future.
SIGNED-3  The algorithm is one of four and fits the key; if there is `alg`, it is that one. Three are those of RFC 9421.
          The fourth, `rsa-pss-sha256`, is Margo's own name: RFC 9421 registers PSS with SHA-512 only.
SIGNED-4  ECDSA signatures are r and s, one after the other; DER is refused.
SIGNED-5  An unknown key takes as long to refuse as a known one.
SIGNED-6  `@target-uri` is made of the server's own names, never of what a request says of itself: a signature for
          another server is not valid here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
)
from http_message_signatures.algorithms import ECDSA_P256_SHA256, ECDSA_P384_SHA384, RSA_V1_5_SHA256
from http_message_signatures.digests import ContentDigest
from starlette.types import Scope

from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.identity.callers import header
from margo_gitops.values import dataclass

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
SignatureProfile: TypeAlias = Literal["specification", "strict"]
FindKey: TypeAlias = Callable[[str], PublicKey | None]
"""Returns the key of a `keyid`."""

SKEW_SECONDS: Final = 5
"""How far a client's clock may be ahead."""

_LONGEST_HEADER: Final = 4096
_SIGNATURE: Final = b"signature"
_INPUT: Final = b"signature-input"
_DIGEST: Final = b"content-digest"


class HeaderLines(tuple[tuple[str, str], ...]):
    """The header lines of a request, in their order: name and value."""

    def items(self) -> Self:
        """Return each line."""
        return self


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """What a signature covers: as `http_message_signatures` wants to see it."""

    method: str
    url: str
    headers: HeaderLines


@dataclass(frozen=True, slots=True)
class Verified:
    """A right signature.

    Attributes:
        key_id: its `keyid`.
        nonce: its nonce; empty for none.
        mark: what is the same if the signature comes again.
    """

    key_id: str
    nonce: str
    mark: bytes


@dataclass(frozen=True, slots=True)
class SignatureVerifier:
    """Holds requests against keys.

    Attributes:
        public_urls: how clients reach this server: what comes before the path that arrives here.
        profile: how much a signature covers (SIGNED-1).
        window: seconds that a signature holds.
        clock: the time, seconds since the epoch.
    """

    public_urls: Sequence[str]
    profile: SignatureProfile
    window: float
    clock: Callable[[], float]

    def verify(self, scope: Scope, find: FindKey, *, has_body: bool) -> Verified | None:
        """Return what is known of a request whose signature is right; None for every other one.

        Args:
            find: returns the key that a signature must fit.
            has_body: whether its body must be covered.

        Raises:
            MargoGitopsError: what `find` raises.
        """
        length = _length(scope, _SIGNATURE)
        if max(length, _length(scope, _INPUT)) > _LONGEST_HEADER:
            return None
        message = SignedMessage(
            scope["method"],
            self._target(scope),
            HeaderLines((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        )
        required = ["@method", "@target-uri"]
        if self.profile == "strict":
            required.append("@authority")
        if has_body:
            required.append("content-digest")
        # Four characters of base64 are three bytes; its label and colons add a few.
        family = family_of(length * 3 // 4)
        found = [self._try(message, algorithm, family, find, required) for algorithm in family.algorithms]
        return next((each for each in found if each is not None), None)

    def _try(
        self,
        message: SignedMessage,
        algorithm: type[HTTPSignatureAlgorithm],
        family: Family,
        find: FindKey,
        required: Sequence[str],
    ) -> Verified | None:
        keys = _Keys(family, find)
        verifier = _Verifier(algorithm, keys, self.window, self.clock)
        try:
            results = verifier.verify(message, max_age=None, require_components=required)
        except HTTPMessageSignaturesException:
            if keys.problem is not None:
                raise keys.problem from None
            return None
        if not keys.known:
            return None
        key = keys.attempt.key
        (result,) = results  # the library refuses a second signature where none is asked for by its tag (SIGNED-1)
        key_id = str(result.parameters["keyid"])
        if self.profile == "strict" and key_id != key_id_of(key):
            return None
        return Verified(key_id, result.nonce or "", keys.attempt.mark)

    def _target(self, scope: Scope) -> str:
        """Return the URL that the request was sent to (SIGNED-6)."""
        host = (header(scope, b"host") or "").lower()
        named = (url for url in self.public_urls if urlsplit(url).netloc.lower() == host)
        base = next(named, self.public_urls[0])
        path: bytes = scope["raw_path"]
        query: bytes = scope["query_string"]
        return base + (path + (b"?" + query if query else b"")).decode("latin-1")


def key_id_of(key: PublicKey) -> str:
    """Return the `keyid` that the strict profile wants: hex sha256 of the DER SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def digest_fits(scope: Scope, body: bytes) -> bool:
    """Return whether a request has a Content-Digest, and it is that of its body (RFC 9530)."""
    lines = [value for name, value in scope["headers"] if name == _DIGEST]
    value = b", ".join(lines)
    if not value or len(value) > _LONGEST_HEADER:
        return False
    try:
        ContentDigest.verify(value, body)
    except InvalidSignature:
        return False
    return True


def _length(scope: Scope, name: bytes) -> int:
    return sum(len(value) for key, value in scope["headers"] if key == name)


class _Keys(HTTPSignatureKeyResolver):
    """Returns the key to try; for a client without one of this kind, a decoy (SIGNED-5)."""

    def __init__(self, family: Family, find: FindKey) -> None:
        self._family = family
        self._find = find
        self.known = False
        self.attempt = Attempt(family.decoy)
        self.problem: MargoGitopsError | None = None

    def resolve_public_key(self, key_id: str) -> Attempt:
        try:
            key = self._find(key_id)
        except MargoGitopsError as error:
            self.problem = error  # the library makes a wrong signature of every error
            raise
        self.known = key is not None and self._family.fits(key)
        self.attempt = Attempt(key if key is not None and self.known else self._family.decoy)
        return self.attempt


class _Verifier(HTTPMessageVerifier):
    """The library's verifier, with a clock of ours (SIGNED-2)."""

    def __init__(
        self, algorithm: type[HTTPSignatureAlgorithm], keys: _Keys, window: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(signature_algorithm=algorithm, key_resolver=keys)
        self._window = window
        self._clock = clock

    def validate_created_and_expires(
        self,
        sig_input: Any,  # noqa: ANN401  # the library's own type
        max_age: timedelta | None = None,  # noqa: ARG002
    ) -> None:
        now = self._clock()
        created, expires = sig_input.params.get("created"), sig_input.params.get("expires")
        if type(created) is not int or not now - self._window <= created <= now + SKEW_SECONDS:
            raise InvalidSignature("created is not within the window")
        if expires is not None and (type(expires) is not int or expires < now):
            raise InvalidSignature("it has expired")


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
    """One key that a signature is checked with.

    Attributes:
        mark: set if the signature is right: the same if it comes again.
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
                raise TypeError("a signature is checked with an attempt")
            self._attempt = public_key
            self._inner = inner(public_key=public_key.key)

        def verify(self, signature: bytes, message: bytes) -> None:
            self._inner.verify(signature, message)
            # (r, -s) can be made of (r, s): of an ECDSA signature, r alone identifies it.
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
        decoy: a key that no client has: a signature of an unknown client takes as long to refuse as any other.
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
