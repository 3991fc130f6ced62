"""Device states as a renderer writes them, and as an attacker might: every part can be told to lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from margo_gitops.digests import Digest, sha256
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.trust.allowed_signers import AllowedSigners, parse_allowed_signers
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.git_commit import Ident, build_commit, format_trailers, sign_commit
from margo_gitops.trust.git_objects import COMMIT, device_tree_id, object_id
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key

DEVICE = "press-07"
VISION = "0b5b6a1c-6f5e-5c39-9d67-2a5a8c3a4c11"
GREETER = "f7b1f0a2-1d3e-5a44-8c55-6d7e8f901234"
RENDERED_AT = 1_790_000_000
"""2026-09-21 14:13:20 UTC."""


def private_key_file(seed: int) -> bytes:
    """Return an OpenSSH private key file, the same for the same seed."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def signing_key(seed: int) -> SigningKey:
    return parse_signing_key(private_key_file(seed))


RENDERER = signing_key(1)
STRANGER = signing_key(2)


def allowed(key: SigningKey = RENDERER, options: str = 'namespaces="git"') -> AllowedSigners:
    line = f"renderer@example.com {options} {key.public}\n" if options else f"renderer@example.com {key.public}\n"
    return parse_allowed_signers(line.encode(), "allowed_signers")


def deployment(deployment_id: str, device: str | None = DEVICE, greeting: str = "Hello") -> bytes:
    metadata: dict[str, Json] = {"name": "greeter", "namespace": "margo"}
    if device is not None:
        metadata["deviceId"] = device
    return write_yaml(
        {
            "id": deployment_id,
            "metadata": metadata,
            "spec": {
                "applicationId": "com-example-greeter",
                "deploymentProfile": {
                    "type": "compose",
                    "components": [
                        {"name": "web", "properties": {"packageLocation": "https://files.example.com/web.tar.gz"}}
                    ],
                },
                "parameters": {
                    "greeting": {"value": greeting, "targets": [{"pointer": "GREETING", "components": ["web"]}]}
                },
            },
        }
    )


@dataclass(frozen=True)
class DeviceState:
    """What one render writes for one device.

    Attributes:
        version: manifest version.
        deployments: documents by id.
        parents: ids of the parents of its commit.
        key: who signs; None for an unsigned commit.
        manifest: fields of the manifest that differ from the true ones; the value None removes a field.
        trailers: trailers that differ from the true ones; the value None removes a trailer.
        files: files by deployment id that differ from what was committed; the value None removes a file.
    """

    version: int = 1
    deployments: Mapping[str, bytes] = field(
        default_factory=lambda: {VISION: deployment(VISION), GREETER: deployment(GREETER)}
    )
    parents: tuple[str, ...] = ()
    key: SigningKey | None = RENDERER
    manifest: Mapping[str, Json] = field(default_factory=dict)
    manifest_text: bytes | None = None
    trailers: Mapping[str, str | None] = field(default_factory=dict)
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    committed_at: int = RENDERED_AT

    def but(self, **changes: object) -> DeviceState:
        return replace(self, **changes)  # type: ignore[arg-type]

    def next(self, **changes: object) -> DeviceState:
        """Return the state of the next version, whose commit follows from this one's."""
        return replace(self, version=self.version + 1, parents=(self.commit_id,), **changes)  # type: ignore[arg-type]

    @property
    def manifest_bytes(self) -> bytes:
        if self.manifest_text is not None:
            return self.manifest_text
        references: list[Json] = [
            {
                "deploymentId": name,
                "digest": sha256(content),
                "sizeBytes": len(content),
                "url": f"/api/v1/deployments/{name}/{sha256(content)}",
            }
            for name, content in self.deployments.items()
        ]
        bundle: Json = None
        if self.deployments:
            archive = write_bundle(self.deployments)
            bundle = {
                "mediaType": "application/vnd.margo.bundle.v1+tar+gzip",
                "digest": sha256(archive),
                "sizeBytes": len(archive),
                "url": f"/api/v1/bundles/{sha256(archive)}",
            }
        truth: dict[str, Json] = {"manifestVersion": self.version, "bundle": bundle, "deployments": references}
        return write_json({**truth, **self.manifest})

    @property
    def digest(self) -> Digest:
        return sha256(self.manifest_bytes)

    @property
    def commit(self) -> bytes:
        truth = {
            "Fleet-Commit": "5" * 40,
            "Manifest-Digest": self.digest,
            "Device": DEVICE,
            "Manifest-Version": str(self.version),
        }
        trailers = {name: value for name, value in {**truth, **self.trailers}.items() if value is not None}
        who = Ident("Ada Author", "ada@example.com", self.committed_at, 60)
        message = f"press-07: version {self.version}\n\n{format_trailers(trailers)}"
        payload = build_commit(device_tree_id(self.manifest_bytes, self.deployments), self.parents, who, who, message)
        return sign_commit(payload, self.key) if self.key else payload

    @property
    def commit_id(self) -> str:
        return object_id(COMMIT, self.commit)

    @property
    def floor(self) -> Floor:
        """The floor of a device that trusts this state."""
        return Floor(self.version, self.digest, self.commit_id)

    def over_git(self) -> Snapshot:
        return Snapshot(self.manifest_bytes, self._files(), self.commit, self.commit_id)

    def over_http(self) -> Snapshot:
        return Snapshot(self.manifest_bytes, self._files(), None, f'"{self.digest}"')

    def _files(self) -> dict[str, bytes]:
        changed = {**self.deployments, **self.files}
        return {name: content for name, content in changed.items() if content is not None}
