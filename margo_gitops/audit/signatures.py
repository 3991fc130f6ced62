"""Who signed a commit, and whether that was allowed at its date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from margo_gitops.errors import SignatureInvalid
from margo_gitops.trust.allowed_signers import AllowedSigners
from margo_gitops.trust.git_commit import GitCommit
from margo_gitops.trust.ssh_key import SshPublicKey
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE, parse_signature


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


def check_signature(commit: GitCommit, signers: AllowedSigners | None) -> Signed:
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
