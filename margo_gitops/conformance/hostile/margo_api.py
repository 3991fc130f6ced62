"""A Margo server for one device: the manifest, documents and bundle of one state (Margo desired state, endpoints)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from margo_gitops.conformance.hostile.server import Answer, Request
from margo_gitops.conformance.hostile.states import State
from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FRESHNESS_PATH
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE

PREFIX: Final = "/margo"
MANIFEST_PATH: Final = "/api/v1/deployments"
_DOCUMENT: Final = re.compile(r"/api/v1/deployments/([^/]+)/(sha[^/]+)")
_STATUS: Final = re.compile(r"/api/v1/deployments/([^/]+)/status")
_BUNDLE: Final = re.compile(r"/api/v1/bundles/(sha[^/]+)")


@dataclass(slots=True)
class MargoApi:
    """Serves one state.

    Attributes:
        state: what is served: under each digest that its manifest lists, what this state has.
        static: as files behind a plain web server: a tag that is no digest, one media type, no reports.
        freshness: the proof of freshness; None for none.
        reports: what came in: method, path and body.
    """

    state: State
    static: bool = False
    freshness: bytes | None = None
    reports: list[tuple[str, str, bytes]] = field(default_factory=list)

    def respond(self, request: Request) -> Answer:
        """Answer a request that was authorized."""
        if not request.path.startswith(PREFIX):
            return problem(404, "nothing is here")
        path = request.path.removeprefix(PREFIX).replace("%3A", ":").replace("%3a", ":")
        if request.method in ("POST", "PUT", "DELETE"):
            return self._report(request, path)
        if path == MANIFEST_PATH:
            return self._manifest(request)
        if path == FRESHNESS_PATH and self.freshness is not None:
            return self._content(self.freshness, "application/json")
        if match := _DOCUMENT.fullmatch(path):
            found = self.state.documents.get(match[1])
            if found is not None and self._is_listed(match[2]):
                return self._content(found, "application/yaml")
            return problem(404, "no such deployment")
        if (match := _BUNDLE.fullmatch(path)) and self.state.bundle is not None and self._is_listed(match[1]):
            return self._content(self.state.bundle, BUNDLE_MEDIA_TYPE)
        return problem(404, "nothing is here")

    def tag(self) -> str:
        """Return the entity tag of the manifest."""
        digest = sha256(self.state.manifest)
        return f'"{digest[7:15]}-{len(self.state.manifest):x}"' if self.static else f'"{digest}"'

    def _is_listed(self, digest: str) -> bool:
        return digest.encode() in self.state.manifest

    def _manifest(self, request: Request) -> Answer:
        accepted = request.headers.get("accept", "*/*")
        if not self.static and MANIFEST_MEDIA_TYPE not in accepted and "*/*" not in accepted:
            return problem(406, "the manifest is not of a type that was asked for")
        kind = "application/octet-stream" if self.static else MANIFEST_MEDIA_TYPE
        headers = [("Content-Type", kind), ("ETag", self.tag()), ("Cache-Control", "private, no-cache")]
        held = request.headers.get("if-none-match", "")
        if self.tag() in held or held == "*":
            return Answer(304, headers, note="not modified")
        return Answer(200, headers, self.state.manifest, note=f"manifest {self.state.version}")

    def _content(self, content: bytes, kind: str) -> Answer:
        kind = "application/octet-stream" if self.static else kind
        return Answer(200, [("Content-Type", kind), ("ETag", f'"{sha256(content)}"')], content)

    def _report(self, request: Request, path: str) -> Answer:
        if self.static:
            return Answer(405, [("Allow", "GET, HEAD")])
        if _STATUS.fullmatch(path) or path.startswith("/api/v1/capabilities/"):
            self.reports.append((request.method, path, request.body))
            return Answer(204 if request.method == "DELETE" else 201, note="report")
        return problem(404, "nothing is here")

    def statuses(self) -> list[tuple[str, bytes]]:
        """Return the deployment statuses that came in: deployment id of the path, and body."""
        found = ((_STATUS.fullmatch(path), body) for method, path, body in self.reports if method == "POST")
        return [(match[1], body) for match, body in found if match]


def problem(status: int, detail: str) -> Answer:
    """Return a problem document as an answer (RFC 9457)."""
    content = json.dumps({"type": "about:blank", "title": "no", "status": status, "detail": detail}).encode()
    return Answer(status, [("Content-Type", "application/problem+json")], content, note=detail)
