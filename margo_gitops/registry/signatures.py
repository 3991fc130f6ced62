"""Signatures of what is in a registry, as cosign makes and reads them: with a key, and verified without a network.

COSIGN-1  A signature is over a small JSON text (simple signing) that names the digest of a manifest. The text counts
             only if its signature is right, and only for that digest.
COSIGN-2  It is found by the API for referrers, by the list that a tag names, or by cosign's own tag
             `sha256-<hex>.sig`. Where it was found says nothing: only the key does.
COSIGN-3  At most 32 signatures of at most 64 KB are looked at, and one that is right is enough.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

from margo_gitops.digests import Digest
from margo_gitops.documents.declarations import Wire
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.nodes import Json
from margo_gitops.errors import (
    PackageKeyUnusable,
    PackageSignatureRefused,
    PackageUnsigned,
    RegistryLacks,
    RegistryMisbehaved,
)
from margo_gitops.registry.client import RegistryClient
from margo_gitops.registry.manifests import (
    MANIFEST,
    Descriptor,
    described,
    read_foreign,
    read_manifest,
    write_manifest,
)
from margo_gitops.registry.pushing import push
from margo_gitops.registry.references import Reference
from margo_gitops.values import dataclass, replace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ARTIFACT: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_CLAIM: Final = "cosign container image signature"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MOST: Final = 32
_MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Image:
    digest: Annotated[str, Wire("docker-manifest-digest")]


@dataclass(frozen=True, slots=True)
class _Critical:
    image: _Image
    type: str


@dataclass(frozen=True, slots=True)
class _Payload:
    critical: _Critical


def sign(client: RegistryClient, reference: Reference, key: bytes, *, by_tag: bool = False) -> Reference:
    """Sign the manifest that a reference means, and put the signature next to it; return the signature's place.

    Args:
        reference: with a digest; what a tag means now is for the caller to decide.
        key: of ECDSA P-256, PEM, not encrypted.
        by_tag: whether cosign's tag names it, as cosign before 3 wants it, instead of the referrers.

    Raises:
        PackageKeyUnusable: the key cannot be used.
        TransportError: the registry does not take it.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    manifest = client.fetch(reference)
    payload = write_payload(reference, manifest.digest)
    signature = base64.b64encode(_private(key).sign(payload, ECDSA(SHA256()))).decode()
    layer = described(SIMPLE_SIGNING, payload, {SIGNATURE: signature})
    if not by_tag:
        subject = Descriptor(manifest.media_type or MANIFEST, manifest.digest, len(manifest.content))
        content = write_manifest(SIGNATURE_ARTIFACT, (layer,), subject=subject)
        return push(client, reference.place, content, [(layer, payload)])
    place = reference.at(f"{manifest.digest.replace(':', '-')}.sig")
    known: tuple[Descriptor, ...] = ()
    with suppress(RegistryLacks):
        known = client.manifest(place)[0].layers
    layers = (*(each for each in known if each != layer), layer)
    config = write_json(
        {
            "architecture": "",
            "config": {},
            "os": "",
            "rootfs": {"diff_ids": [each.digest for each in layers], "type": "layers"},
        }
    )
    named = described(_CONFIG, config)
    return push(client, place, write_manifest(None, layers, config=named), [(layer, payload), (named, config)])


def verify(client: RegistryClient, reference: Reference, key: bytes) -> Digest:
    """Verify that a manifest is signed with a key; return its digest.

    Args:
        reference: with a digest, or with a tag: what it means now.
        key: the public key, PEM.

    Raises:
        PackageUnsigned: no signature is there.
        PackageSignatureRefused: signatures are there, but not one by this key and for this manifest.
        PackageKeyUnusable: the key cannot be used.
        TransportError: there is no usable answer.
    """
    digest = reference.digest or client.fetch(reference).digest
    why = []
    for place, layer in _signatures(client, reference, digest):
        problem = _problem(client, place, layer, digest, key)
        if problem is None:
            return digest
        why.append(problem)
    if not why:
        raise PackageUnsigned(f"{reference.place}@{digest} is not signed", remedy="ask its supplier to sign it")
    raise PackageSignatureRefused(
        f"no signature of {reference.place}@{digest} is by this key",
        why=sorted(set(why)),
        remedy="check the key with its owner; do not use this content",
    )


def write_payload(reference: Reference, digest: Digest) -> bytes:
    """Return what is signed: simple signing, as cosign writes it."""
    critical: Json = {
        "identity": {"docker-reference": str(reference.place).partition("://")[2]},
        "image": {"docker-manifest-digest": digest},
        "type": _CLAIM,
    }
    return write_json({"critical": critical, "optional": None})


def payload_problem(payload: bytes, signature: str, digest: Digest, key: bytes) -> str | None:
    """Return what is wrong with a signature; None: it is by this key and for this digest. Pure.

    Raises:
        PackageKeyUnusable: the key cannot be used.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(key)
    except ValueError:
        public = None
    if not isinstance(public, EllipticCurvePublicKey):
        raise PackageKeyUnusable("the file does not hold a public key of ECDSA", remedy="give cosign.pub, in PEM form")
    try:
        public.verify(base64.b64decode(signature, validate=True), payload, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error):
        return "a signature is by another key, or damaged"
    try:
        claim = read_foreign(_Payload, payload, "the signed text").critical
    except RegistryMisbehaved:
        return "a signed text has another form than cosign's"
    if claim.image.digest != digest or claim.type != _CLAIM:
        return "a signature is for another manifest"
    return None


def _problem(client: RegistryClient, place: Reference, layer: Descriptor, digest: Digest, key: bytes) -> str | None:
    signature = layer.annotations.get(SIGNATURE)
    if signature is None or layer.size > _MOST_BYTES:
        return "a signature has another form than cosign's"
    payload = client.content(place, layer.digest, _MOST_BYTES)
    return payload_problem(payload, signature, digest, key)


def _signatures(client: RegistryClient, reference: Reference, digest: Digest) -> Iterator[tuple[Reference, Descriptor]]:
    """Yield what may be a signature: layers, with the repository that they are in."""
    referrers = client.referrers(reference, digest).manifests
    # Some registries call every manifest by the type of its configuration: those of our kind are only looked at first.
    likely = sorted(referrers, key=lambda each: each.artifact_type != SIGNATURE_ARTIFACT)
    places = [replace(reference.place, digest=each.digest) for each in likely[:_MOST]]
    places.append(reference.at(f"{digest.replace(':', '-')}.sig"))
    seen = 0
    for place in places:
        try:
            layers = read_manifest(client.fetch(place).content, str(place)).layers
        except RegistryLacks:
            continue
        for layer in layers:
            seen += 1
            if layer.media_type == SIMPLE_SIGNING and seen <= _MOST:
                yield reference.place, layer


def _private(key: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, EllipticCurvePrivateKey) or not isinstance(private.curve, SECP256R1):
        raise PackageKeyUnusable(
            "the file does not hold a private key of ECDSA P-256 without a passphrase",
            remedy="make one: openssl ecparam -name prime256v1 -genkey -noout -out supplier.key",
        )
    return private
