"""Who signed this, and may they: the one place that asks it, for state, freshness, policies, audits and evidence.

SIGNER-1  The signature's key is looked up in the list of allowed signers, for this use, at the time of what is signed.
SIGNER-2  The signature is over exactly these bytes, made for this use.
SIGNER-3  Both are asked, in this order: a key that is not allowed is named as such for any content.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Protocol

from margo_gitops.errors import SignatureInvalid, SignatureMissing, SignerUnknown, TrustRefused
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE, parse_signature
from margo_gitops.values import dataclass


@dataclass(frozen=True, slots=True)
class Use:
    """What a signature is for, and what people read where it does not count.

    Attributes:
        signed: what may be signed, "this device's state".
        remedy: what to do about an unknown key; `{file}` is the list.
        missing: what to do where the signature is missing.
    """

    namespace: str
    signed: str
    remedy: str
    missing: str = ""


COMMIT_USE: Final = Use(GIT_NAMESPACE, "the commit", "if the key is right, list it in {file}")


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature, judged.

    Attributes:
        key: that signed; None where there is no signature, or it is not over these bytes.
        principals: who that is, as the list says; None where no list was asked, or it does not allow the key.
        refusal: why the signature does not count; None where it does, or where it is not needed and is missing.
    """

    key: SshPublicKey | None
    principals: str | None
    refusal: TrustRefused | None

    @property
    def signer(self) -> str | None:
        """Principals, or the key's fingerprint where no list was asked; None where the signature does not count."""
        if self.refusal is not None or self.key is None:
            return None
        return self.principals or self.key.fingerprint

    @property
    def objection(self) -> str:
        """Why the signature does not count, in one line; empty where it does, or is missing."""
        if self.refusal is None:
            return ""
        unknown = isinstance(self.refusal, SignerUnknown)
        return "; ".join([*([] if unknown else [self.refusal.what]), *self.refusal.why])

    def required(self) -> str:
        """Return principals and fingerprint of the signer.

        Raises:
            SignatureMissing, SignatureInvalid, SignerUnknown: the signature does not count.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.key is None:
            raise SignatureMissing("it is not signed")
        return f"{self.principals} {self.key.fingerprint}"


def who_signed(armor: str | None, content: bytes, at: datetime, signers: AllowedSigners | None, use: Use) -> Signed:
    """Return who signed these bytes (SIGNER-1 to SIGNER-3).

    Args:
        armor: the signature; None: it is missing.
        content: the exact bytes that it covers.
        at: when they were signed, with a time zone.
        signers: who may; None: anyone, but a signature that is there must be right.
    """
    if armor is None:
        missing = SignatureMissing(f"{use.signed} is not signed", remedy=use.missing) if signers is not None else None
        return Signed(None, None, missing)
    try:
        signature = parse_signature(armor)
    except SignatureInvalid as error:
        return Signed(None, None, error)
    principals = signers.find(signature.key, use.namespace, at) if signers is not None else None
    refusal: TrustRefused | None = None
    if signers is not None and principals is None:
        refusal = SignerUnknown(
            f"the key {signature.key.fingerprint} may not sign {use.signed}",
            why=signers.objections(signature.key, use.namespace, at),
            remedy=use.remedy.format(file=signers.file),
        )
    verify = signers.verify if signers is not None else SshPublicKey.verify
    try:
        signature.verify(content, signature.key, use.namespace, verify)
    except SignatureInvalid as error:
        return Signed(None, None, refusal or error)
    return Signed(signature.key, principals, refusal)


class SignedCommit(Protocol):
    """What a signature of a commit is judged by: a `GitCommit`, or a commit that people made."""

    @property
    def signature(self) -> str | None:
        """The armor of its signature, or None."""
        ...

    @property
    def payload(self) -> bytes:
        """The exact bytes that a signature covers."""
        ...

    @property
    def committed_at(self) -> int:
        """When it was made: seconds since 1970-01-01 UTC."""
        ...


def commit_signer(commit: SignedCommit, signers: AllowedSigners | None, use: Use = COMMIT_USE) -> Signed:
    """Return who signed a commit, as `who_signed`, at the commit's own time."""
    at = datetime.fromtimestamp(commit.committed_at, UTC)
    return who_signed(commit.signature, commit.payload, at, signers, use)
