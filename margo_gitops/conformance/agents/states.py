"""Device states to offer: sound ones, and ones with a single flaw."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Final, Literal

from margo_gitops.digests import sha256
from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.manifest import write_bundle, write_manifest
from margo_gitops.documents.nodes import Json, Node
from margo_gitops.documents.state_layout import MANIFEST_FILE, deployment_path
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key
from margo_gitops.values import dataclass, field, replace

DEVICE: Final = "conformance-01"
OTHER_DEVICE: Final = "conformance-02"
BASE_VERSION: Final = 5
FLEET: Final = "conformance"

_NAMESPACE: Final = uuid.UUID("5f1f9a4e-2d0b-5b59-9a77-2a1c6f3f8b11")


def deployment_id(name: str) -> str:
    """Return the id of the deployment of this name; always the same."""
    return str(uuid.uuid5(_NAMESPACE, name))


def document(name: str, setting: str = "one", *, device: str = DEVICE) -> bytes:
    """Return a deployment document as a renderer writes it; `setting` is the value of its one parameter."""
    properties: Json = {"repository": f"oci://registry.example.com/{name}", "revision": "1.0.0"}
    return write_yaml(
        {
            "id": deployment_id(name),
            "metadata": {"name": name, "namespace": "margo", "deviceId": device},
            "spec": {
                "applicationId": f"com-example-{name}",
                "deploymentProfile": {"type": "compose", "components": [{"name": name, "properties": properties}]},
                "parameters": {
                    "setting": {"value": setting, "targets": [{"pointer": "SETTING", "components": [name]}]}
                },
            },
        }
    )


@dataclass(frozen=True, slots=True)
class OddEntry:
    """An entry of a git tree that no renderer writes.

    Attributes:
        name: as written in the tree.
        content: of its blob, or of a symbolic link; the id of a submodule's commit, as bytes.
    """

    name: bytes
    mode: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """How a state is written in git.

    Attributes:
        signer: whose key signs it, by its name among the keys; "moved" keeps the signature of the state as it was
            before `manifest` and `documents` were changed, as somebody without a key would.
        namespace: what the signature is for.
        device: trailer `Device`.
        fleet: trailer `Fleet`, where the fleet has trust documents.
        trust: trailer `Trust-Version`, there too.
        digest: trailer `Manifest-Digest`; None for the right one.
        version: trailer `Manifest-Version`; None for the right one.
        descends: its parent is the state before; otherwise it has no parent.
        root: further entries of the tree.
        folder: further entries of the folder `deployments`, or others in place of those of the same name.
        reversed: the entries of the folder are in the wrong order.
        again: a trailer that occurs a second time.
        signatures: how often the commit has the signature.
    """

    signer: Literal["renderer", "successor", "freshness", "root", "stranger", "nobody", "moved"] = "renderer"
    namespace: str = "git"
    device: str = DEVICE
    fleet: str = FLEET
    trust: int = 1
    digest: str | None = None
    version: str | None = None
    descends: bool = True
    root: tuple[OddEntry, ...] = ()
    folder: tuple[OddEntry, ...] = ()
    documents_mode: int = 0o100644
    reversed: bool = False
    again: str = ""
    signatures: int = 1


@dataclass(frozen=True, slots=True)
class State:
    """What a device is to run, as it is offered.

    Attributes:
        version: that it says it has.
        manifest: its bytes.
        documents: what is served, by deployment id; with a flaw, not what the manifest lists.
        bundle: what is served as the bundle; None: nothing is.
        commit: how it is written in git.
    """

    version: int
    manifest: bytes
    documents: Mapping[str, bytes]
    bundle: bytes | None
    commit: CommitPlan = field(default_factory=CommitPlan)

    def files(self) -> dict[str, bytes]:
        """Return what an agent holds that took it, by path."""
        return {MANIFEST_FILE: self.manifest} | {
            deployment_path(name): content for name, content in self.documents.items()
        }

    def with_commit(self, **changes: object) -> State:
        """Return it with another plan of its commit."""
        return replace(self, commit=replace(self.commit, **changes))  # type: ignore[arg-type]  # checked by the plan


def manifest_fields(version: int, documents: Mapping[str, bytes], bundle: bytes | None = None) -> dict[str, Json]:
    """Return the fields of a sound manifest, to be written or changed; arguments as for `make_state`."""
    fields = read_json(write_manifest(version, documents), MANIFEST_FILE).root
    if bundle is not None:
        digest = sha256(bundle)
        changed: dict[str, str | int] = {"digest": digest, "url": f"/api/v1/bundles/{digest}", "sizeBytes": len(bundle)}
        fields.entries("bundle").update({name: Node(value) for name, value in changed.items()})
    return {name: value.plain() for name, value in fields.entries().items()}


def make_state(version: int, documents: Mapping[str, bytes], *, bundle: bytes | None = None) -> State:
    """Return a sound state.

    Args:
        documents: by deployment id.
        bundle: the archive; None for the one of these documents.
    """
    archive = bundle if bundle is not None else write_bundle(documents) if documents else None
    return State(version, write_json(manifest_fields(version, documents, archive)), dict(documents), archive)


def documents(**settings: str) -> dict[str, bytes]:
    """Return documents by deployment id: `documents(hmi="one")` has the deployment `hmi`."""
    return {deployment_id(name): document(name, setting) for name, setting in settings.items()}


def base_state() -> State:
    """Return the state that a device holds before each case."""
    return make_state(BASE_VERSION, documents(hmi="one", mes="one", edge="one", opc="one"))


def next_state(version: int = BASE_VERSION + 1) -> State:
    """Return a sound state after the base: one document changed."""
    return make_state(version, documents(hmi="two", mes="one", edge="one", opc="one"))


def make_signing_key() -> SigningKey:
    """Return a new key; it lives as long as this run."""
    # Only who puts an agent through cases needs them, and they are slow to load.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    return parse_signing_key(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
