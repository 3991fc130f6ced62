"""A device's world for tests: what a renderer writes, a real state repo in a folder, and an agent's configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.command_line import forked
from support.git_cli import Git

from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION, ApplicationDeployment
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.nodes import Json
from margo_gitops.documents.state_layout import device_ref
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.trust.git_commit import Ident, build_commit, format_trailers, sign_commit
from margo_gitops.trust.git_objects import COMMIT, device_tree_id, object_id
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key

DEVICE = "press-07"


def deployment_id(number: int) -> str:
    return f"{number:08d}-1111-5111-8111-111111111111"


def signing_key(seed: int) -> SigningKey:
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return parse_signing_key(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


RENDERER = signing_key(1)
STRANGER = signing_key(2)
ALLOWED_SIGNERS = f'renderer@example.com namespaces="git" {RENDERER.public}\n'


def deployment_bytes(
    number: int,
    *,
    values: Mapping[str, Json] | None = None,
    components: Sequence[str] = ("web",),
    after: Iterable[int] = (),
    kind: str = "compose",
    extension: Mapping[str, Json] | None = None,
    parameters: Mapping[str, Json] | None = None,
    device: str = DEVICE,
    content: str | None = None,
    namespace: str = "margo",
    properties: Mapping[str, Json] | None = None,
) -> bytes:
    """Return a deployment document; `values` go to all components, under the pointer of their own name.

    Args:
        content: the format of all components.
        properties: of all components, in addition.
    """
    targeted: dict[str, Json] = {
        name.lower(): {"value": value, "targets": [{"pointer": name, "components": list(components)}]}
        for name, value in (values or {"GREETING": "hello"}).items()
    }
    own: dict[str, Json] = {
        "deployment": f"app-{number}",
        "applicationVersion": "1.0.0",
        "profile": "only",
        "after": [deployment_id(other) for other in after],
    }
    return write_yaml(
        {
            "id": deployment_id(number),
            "metadata": {"name": f"app-{number}", "namespace": namespace, "deviceId": device},
            "spec": {
                "applicationId": "com-example-app",
                "deploymentProfile": {
                    "type": kind,
                    "components": [
                        {
                            "name": name,
                            "properties": {
                                "repository": "oci://registry.example.com/app",
                                "revision": "1.0.0",
                                **(properties or {}),
                            },
                            **({OWN_EXTENSION: {"format": content}} if content else {}),
                        }
                        for name in components
                    ],
                },
                "parameters": {**targeted, **(parameters or {})},
                OWN_EXTENSION: {**own, **(extension or {})},
            },
        }
    )


def parsed(content: bytes) -> ApplicationDeployment:
    return read_as(ApplicationDeployment, read_source(content, "deployment.yaml"))


def snapshot_of(
    version: int,
    deployments: Mapping[int, bytes],
    *,
    parents: tuple[str, ...] = (),
    key: SigningKey | None = RENDERER,
    device: str = DEVICE,
    fleet: str = "plant",
    trust: str | None = None,
    rendered_by: str | None = None,
) -> Snapshot:
    """Return what a renderer writes for one version."""
    files = {deployment_id(number): content for number, content in deployments.items()}
    archive = write_bundle(files) if files else b""
    bundle: Json = None
    if files:
        bundle = {
            "mediaType": "application/vnd.margo.bundle.v1+tar+gzip",
            "digest": sha256(archive),
            "url": f"/api/v1/bundles/{sha256(archive)}",
        }
    references: list[Json] = [
        {"deploymentId": name, "digest": sha256(content), "url": f"/api/v1/deployments/{name}/{sha256(content)}"}
        for name, content in files.items()
    ]
    manifest = write_json({"manifestVersion": version, "bundle": bundle, "deployments": references})
    who = Ident("Renderer", "renderer@example.com", 1_790_000_000 + version % 1000, 0)
    trailers = {
        "Fleet": fleet,
        **({"Rendered-By": rendered_by} if rendered_by else {}),
        "Manifest-Digest": sha256(manifest),
        "Device": device,
        "Manifest-Version": str(version),
        **({"Trust-Version": trust} if trust else {}),
    }
    message = f"{device}: version {version}\n\n{format_trailers(trailers)}"
    payload = build_commit(device_tree_id(manifest, files), parents, who, who, message)
    commit = sign_commit(payload, key) if key else payload
    return Snapshot(manifest, files, commit, object_id(COMMIT, commit))


@dataclass
class World:
    """One device: a state repo, a folder for the agent, a folder that the `files` applier writes."""

    folder: Path
    versions: list[Snapshot] = field(default_factory=list)
    settings: dict[str, Json] = field(default_factory=dict)
    device: str = DEVICE

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repository = Git(self.folder / "state.git").init(bare=True)
        (self.folder / "allowed_signers").write_text(ALLOWED_SIGNERS)
        self.configure()

    @property
    def state(self) -> Path:
        return self.folder / "agent"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def config(self) -> Path:
        return self.folder / "agent.yaml"

    def configure(self, **changes: Json) -> None:
        """Write the configuration; keys by name, null removes one."""
        plain: dict[str, Json] = {
            "apiVersion": "margo-gitops/v1",
            "kind": "AgentConfiguration",
            "device": self.device,
            "stateFolder": "agent",
            "source": {"git": {"url": f"file://{self.repository.path}"}},
            "trust": {"allowedSigners": "allowed_signers", "floorCopy": "elsewhere/floor.json"},
            "poll": {"interval": "1s"},
            "appliers": {"files": {"folder": str(self.output)}},
        }
        self.settings = {name: value for name, value in {**plain, **changes}.items() if value is not None}
        self.config.write_bytes(write_yaml(self.settings))

    def publish(self, deployments: Mapping[int, bytes], *, version: int | None = None, **options: object) -> Snapshot:
        """Commit the next version to the device's branch."""
        number = version if version is not None else len(self.versions) + 1
        parents = (self.versions[-1].revision,) if self.versions else ()
        snapshot = snapshot_of(number, deployments, **{"parents": parents, "device": self.device, **options})  # type: ignore[arg-type]
        self.put(snapshot)
        self.versions.append(snapshot)
        return snapshot

    def put(self, snapshot: Snapshot) -> None:
        """Let the branch hold this snapshot, whatever it is."""
        git = self.repository
        manifest = git.run("hash-object", "-w", "--stdin", content=snapshot.manifest)
        lines = ""
        for name, content in sorted(snapshot.deployments.items()):
            blob = git.run("hash-object", "-w", "--stdin", content=content)
            lines += f"100644 blob {blob}\t{name}.yaml\n"
        root = f"100644 blob {manifest}\tmanifest.json\n"
        if lines:
            root = f"040000 tree {git.run('mktree', content=lines)}\tdeployments\n" + root
        git.run("mktree", content=root)
        assert snapshot.commit is not None
        commit = git.run("hash-object", "-w", "-t", "commit", "--stdin", content=snapshot.commit)
        git.run("update-ref", device_ref(self.device), commit)

    def command(self, *arguments: str) -> list[str]:
        program = "from margo_gitops.cli.main import main; main()"
        return [sys.executable, "-c", program, "agent", *arguments, "--config", str(self.config)]

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **variables}

    def agent(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the agent's command line in a process of its own."""
        command = ["agent", *arguments, "--config", str(self.config)]
        done = forked(command, Path.cwd(), self.environment(**variables))
        return subprocess.CompletedProcess(command, done.code, done.stdout, done.stderr)

    def value(self, number: int, component: str = "web") -> str | None:
        """Return the environment that the `files` applier wrote for a component; None where there is none."""
        path = self.output / deployment_id(number) / component / "values.env"
        return path.read_text() if path.exists() else None
