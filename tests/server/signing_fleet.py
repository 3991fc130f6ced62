"""A running server of the older contract, and clients that it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding
from server.serving import ServedFleet
from support.signed_requests import PUBLIC_URL, SignedClient, certificate, private_key

STRICT_COVER = ("@method", "@target-uri", "@authority")


class SigningFleet:
    """A server that takes signed requests, and nothing else where `identity` says nothing else."""

    def __init__(self, fleet: ServedFleet) -> None:
        self.fleet = fleet
        self.lines: list[str] = []
        self.write()
        self.http = httpx.Client()

    def start(
        self, profile: str = "specification", identity: Any = None, tls: Any = None, **settings: Any
    ) -> SigningFleet:
        signatures = {"accepted": "certificates", "publicUrls": [PUBLIC_URL], "profile": profile, **settings}
        limits = {"requestsPerMinute": 1_000_000, "burst": 1_000_000}
        more = {"tls": tls} if tls else {}
        self.fleet.start(identity={**(identity or {}), "signatures": signatures}, limits=limits, **more)
        self.http.close()
        self.http = httpx.Client(base_url=self.fleet.url, timeout=30, trust_env=False)
        return self

    def accept(self, client: SignedClient, device: str) -> None:
        self.lines.append(f"{device} {client.fingerprint}")
        self.write()

    def write(self, *without: str) -> None:
        """Write the list of accepted certificates, without some."""
        lines = [line for line in self.lines if not line.endswith(without)] if without else self.lines
        fresh = self.fleet.folder / "certificates.new"
        fresh.write_text("\n".join([*lines, ""]))
        fresh.replace(self.fleet.folder / "certificates")

    def stranger(self, algorithm: str = "ecdsa-p256-sha256", number: int = 0, **more: Any) -> SignedClient:
        """Return a client that nobody has accepted."""
        key = private_key(algorithm, number)
        return SignedClient(self.http, algorithm, key, certificate(key, **more), covered=STRICT_COVER)

    def client(self, device: str = "press-01", algorithm: str = "ecdsa-p256-sha256", number: int = 0) -> SignedClient:
        """Return a client that is onboarded."""
        client = self.stranger(algorithm, number)
        self.accept(client, device)
        assert client.onboard().status_code == 201
        return client

    def manifest(self, client: SignedClient, device: str = "press-01") -> Any:
        """Return the manifest that a client gets of documents that are no deployments: its links are below its id."""
        text = json.dumps(self.fleet.manifest(device))
        return json.loads(text.replace("/api/v1/", client.path("")))

    @property
    def folder(self) -> Path:
        return self.fleet.folder


def pem(client: SignedClient) -> bytes:
    assert client.certificate is not None
    return client.certificate.public_bytes(Encoding.PEM)
