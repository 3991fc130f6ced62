"""Which version of the contract a source speaks, and what that takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from margo_gitops.transport.http.contract import Contract, CurrentContract
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.transport.web.connection import Seal


@dataclass(frozen=True, slots=True)
class Spoken:
    """One version of the contract.

    Attributes:
        contract: its paths and shapes.
        seal: what signs each request; None for nothing.
    """

    contract: Contract
    seal: Seal | None = None


def speak(source: HttpSource) -> Spoken:
    """Return the version that a source is set to; nothing is read or sent yet."""
    if source.contract == "g2" or not (source.signing_certificate and source.signing_key and source.device):
        return Spoken(CurrentContract(source.prefix))
    # A device that speaks the current version does not load what the older one needs.
    from margo_gitops.transport.http.g1.client_id import ClientIdFile
    from margo_gitops.transport.http.g1.contract import SignedContract
    from margo_gitops.transport.http.g1.signing import DeviceKeyFiles, RequestSigner

    key = DeviceKeyFiles(source.signing_certificate, source.signing_key, source.signature_algorithm)
    ids = ClientIdFile(source.client_id_file, source.url)
    contract = SignedContract(source.prefix, source.device, key, ids, source.client_id)
    return Spoken(contract, RequestSigner(key, source.url, time.time).headers)
