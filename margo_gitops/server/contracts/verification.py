"""Whether a request is signed as the older contract wants it (RFC 9421; Margo API requirements and security, G1).

V-1  Exactly one signature, with `created` and `keyid`, over `@method`, `@target-uri`, and `content-digest` where there
     is a body. The strict profile wants `@authority` besides, and for `keyid` the sha256 of the public key.
V-2  `created` lies in the window that ends now, and `expires`, where it stands, in the future.
V-3  The algorithm is one of the four and fits the key; where `alg` stands, it is that one.
V-4  ECDSA signatures are r and s, one after the other; DER is refused.
V-5  Who has no key here is refused after the same work as who has one.
V-6  `@target-uri` is made of the server's own names, never of what a request says of itself: what was signed for
     another server is nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
)
from http_message_signatures.digests import ContentDigest
from starlette.types import Scope

from margo_gitops.errors import MargoGitopsError
from margo_gitops.server.contracts.algorithms import Attempt, Family, PublicKey, family_of
from margo_gitops.server.identity.callers import header

SignatureProfile: TypeAlias = Literal["specification", "strict"]
FindKey: TypeAlias = Callable[[str], PublicKey | None]
"""Returns the key of a `keyid`."""

SKEW_SECONDS: Final = 5
"""How far a client's clock may be ahead."""

_LONGEST_HEADER: Final = 4096
_SIGNATURE: Final = b"signature"
_INPUT: Final = b"signature-input"
_DIGEST: Final = b"content-digest"


class HeaderLines:
    """The header lines of a request, in their order."""

    def __init__(self, lines: Iterable[tuple[bytes, bytes]]) -> None:
        self._lines = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in lines)

    def items(self) -> Sequence[tuple[str, str]]:
        """Return each line: name and value."""
        return self._lines


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


class SignatureVerifier:
    """Holds requests against keys."""

    def __init__(
        self, public_urls: Sequence[str], profile: SignatureProfile, window: float, clock: Callable[[], float]
    ) -> None:
        """Take the rules.

        Args:
            public_urls: how clients reach this server: what stands before the path that arrives here.
            profile: how much a signature covers (V-1).
            window: seconds that a signature holds.
            clock: the time, seconds since the epoch.
        """
        self._public_urls = tuple(public_urls)
        self._profile = profile
        self._window = window
        self._clock = clock

    def verify(self, scope: Scope, find: FindKey, *, has_body: bool) -> Verified | None:
        """Return what is known of a request whose signature is right; None for every other one.

        Args:
            scope: the request.
            find: returns the key that a signature must be held against.
            has_body: whether its body must be covered.

        Raises:
            MargoGitopsError: what `find` raises.
        """
        length = _length(scope, _SIGNATURE)
        if max(length, _length(scope, _INPUT)) > _LONGEST_HEADER:
            return None
        message = SignedMessage(scope["method"], self._target(scope), HeaderLines(scope["headers"]))
        required = ["@method", "@target-uri"]
        if self._profile == "strict":
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
        verifier = _Verifier(algorithm, keys, self._window, self._clock)
        try:
            results = verifier.verify(message, max_age=None, require_components=required)
        except HTTPMessageSignaturesException:
            if keys.problem is not None:
                raise keys.problem from None
            return None
        if len(results) != 1 or not keys.known:
            return None
        key = keys.attempt.key
        key_id = str(results[0].parameters["keyid"])
        if self._profile == "strict" and key_id != key_id_of(key):
            return None
        return Verified(key_id, results[0].nonce or "", keys.attempt.mark)

    def _target(self, scope: Scope) -> str:
        """Return the URL that the request was sent to (V-6)."""
        host = (header(scope, b"host") or "").lower()
        named = (url for url in self._public_urls if urlsplit(url).netloc.lower() == host)
        base = next(named, self._public_urls[0])
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
    """Returns the key to try; for a client that has none of this kind, one that nobody has (V-5)."""

    def __init__(self, family: Family, find: FindKey) -> None:
        self._family = family
        self._find = find
        self.known = False
        self.attempt = Attempt(family.decoy)
        self.problem: MargoGitopsError | None = None

    def resolve_public_key(self, key_id: str) -> Attempt:
        """Return the attempt that is made."""
        try:
            key = self._find(key_id)
        except MargoGitopsError as error:
            self.problem = error  # the library makes a wrong signature of every error
            raise
        self.known = key is not None and self._family.fits(key)
        self.attempt = Attempt(key if key is not None and self.known else self._family.decoy)
        return self.attempt


class _Verifier(HTTPMessageVerifier):
    """The library's verifier, with a clock of ours (V-2)."""

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
