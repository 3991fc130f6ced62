"""Who signed a commit, and whether that was allowed at its date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from margo_gitops.errors import SignatureInvalid
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE, parse_signature


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


@dataclass(frozen=True, slots=True)
class Signed:
    """A commit's signature, checked.

    Attributes:
        key: that signed; None where nobody did or the signature is broken.
        signer: principals, or the key's fingerprint where no list says whose it is; None as for `key`.
        objection: why the signature does not count; empty where it does, or where there is none.
    """

    key: SshPublicKey | None
    signer: str | None
    objection: str = ""


def check_signature(commit: SignedCommit, signers: AllowedSigners | None) -> Signed:
    """Return who signed a commit.

    Args:
        commit: the commit.
        signers: who may; None: anybody, but a signature that is there must be right.
    """
    if commit.signature is None:
        return Signed(None, None, "the commit is not signed" if signers is not None else "")
    try:
        signature = parse_signature(commit.signature)
        signature.verify(commit.payload, signature.key)
    except SignatureInvalid as error:
        return Signed(None, None, "; ".join([error.what, *error.why]))
    if signers is None:
        return Signed(signature.key, signature.key.fingerprint)
    at = datetime.fromtimestamp(commit.committed_at, UTC)
    principals = signers.find(signature.key, GIT_NAMESPACE, at)
    if principals is None:
        return Signed(signature.key, None, "; ".join(signers.objections(signature.key, GIT_NAMESPACE, at)))
    return Signed(signature.key, principals)
