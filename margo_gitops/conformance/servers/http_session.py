"""What the checks of an HTTP server share: the manifest, and paths of what it lists."""

from __future__ import annotations

import json
import uuid
from typing import Final

from margo_gitops.conformance.report import shown
from margo_gitops.conformance.servers.checking import CheckFailed, CheckSkipped, expect
from margo_gitops.conformance.servers.client import RawClient, Reply, ServerTarget
from margo_gitops.documents.kinds import read_as, read_source
from margo_gitops.documents.manifest import MANIFEST_MEDIA_TYPE, DeploymentReference, StateManifest
from margo_gitops.documents.state_layout import COMMITS_PATH, MANIFEST_FILE, RECEIPTS_PATH, TRUST_PATH, trust_file
from margo_gitops.errors import InvalidDocument, UnreadableDocument
from margo_gitops.values import dataclass

API: Final = "/api/v1"
ACCEPTED: Final = {"Accept": MANIFEST_MEDIA_TYPE}


@dataclass(slots=True)
class HttpSession:
    """Asks one server of the Margo API."""

    target: ServerTarget
    client: RawClient
    _manifest: StateManifest | None = None

    def reach(self) -> Reply:
        """Ask the first question."""
        return self.get_manifest()

    @property
    def deployments(self) -> str:
        """Path of the manifest."""
        return f"{self.target.prefix}{API}/deployments"

    def get(self, path: str, headers: dict[str, str] | None = None, *, token: str | None = None) -> Reply:
        """Get a path as the device, or with another token."""
        return self.client.ask("GET", path, headers, token=token)

    def get_manifest(self, *, token: str | None = None, **headers: str) -> Reply:
        """Get the manifest; further headers by name, `If_None_Match`."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.get(self.deployments, {**ACCEPTED, **more}, token=token)

    def manifest(self) -> StateManifest:
        """Return the manifest, asked for once (CheckSkipped: none can be read)."""
        if self._manifest is None:
            try:
                self._manifest = read_manifest(self.get_manifest())
            except CheckFailed as error:
                raise CheckSkipped(f"there is no manifest to check with: {error}") from error
        return self._manifest

    def first(self) -> DeploymentReference:
        """Return the first deployment of the manifest (CheckSkipped: the device runs nothing)."""
        listed = self.manifest().deployments
        if not listed:
            raise CheckSkipped("the device has no deployment: check with one that has")
        return listed[0]

    def path_of(self, url: str) -> str:
        """Return the target of a path in the manifest: below the base, whether or not the manifest repeats it."""
        prefix = self.target.prefix
        return url if prefix and url.startswith(f"{prefix}{API}/") else f"{prefix}{url}"

    def document_path(self, deployment: str, digest: str) -> str:
        """Return the path of a deployment."""
        return f"{self.deployments}/{deployment}/{digest}"

    def bundle_path(self, digest: str) -> str:
        """Return the path of a bundle."""
        return f"{self.target.prefix}{API}/bundles/{digest}"

    def commit_path(self, manifest: str) -> str:
        """Return the path of the commit of a manifest with this digest."""
        return f"{self.target.prefix}{COMMITS_PATH}/{manifest}"

    def trust_path(self, version: int) -> str:
        """Return the path of a version of the trust document."""
        return f"{self.target.prefix}{TRUST_PATH}{trust_file(version)}"

    @property
    def receipts_path(self) -> str:
        """The path of receipts."""
        return f"{self.target.prefix}{RECEIPTS_PATH}"

    def status_path(self, deployment: str) -> str:
        """Return the path of a deployment's status."""
        return f"{self.deployments}/{deployment}/status"

    def capabilities_path(self, device: str) -> str:
        """Return the path of a device's capabilities."""
        return f"{self.target.prefix}{API}/capabilities/{device}"


def read_manifest(reply: Reply) -> StateManifest:
    """Return the manifest in an answer (CheckFailed: it is not one)."""
    expect(reply.status == 200, f"the manifest is answered with {reply.status}")
    try:
        return read_as(StateManifest, read_source(reply.content(), MANIFEST_FILE, foreign=True))
    except (InvalidDocument, UnreadableDocument) as error:
        raise CheckFailed(f"the manifest does not follow its contract: {shown(str(error))}") from error
    except ValueError as error:
        raise CheckFailed(str(error)) from error


def unknown_id() -> str:
    """Return the id of a deployment that does not exist."""
    return str(uuid.uuid4())


def check_problem(reply: Reply) -> None:
    """Check that an answer is a problem document by RFC 9457 (CheckFailed: it is not one)."""
    expect(reply.media_type == "application/problem+json", f"{reply.status} comes as {reply.media_type or 'nothing'}")
    try:
        document = json.loads(reply.content())
    except ValueError as error:
        raise CheckFailed(f"the problem document is not JSON: {shown(str(error))}") from error
    expect(isinstance(document, dict), "the problem document is not an object")
    expect(document.get("status") == reply.status, f"its status is {document.get('status')!r}, not {reply.status}")
