"""A small server of the Margo API that says what it is told to: also what no real server says on purpose."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from margo_gitops.digests import sha256
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.documents.nodes import Json
from support.faulty_http import Answer, FaultyServer, Request, listening

MANIFEST_TYPE = "application/vnd.margo.manifest.v1+json"
BUNDLE_TYPE = "application/vnd.margo.bundle.v1+tar+gzip"


@dataclass
class MargoServer(FaultyServer):
    """One server on the loopback, for one device.

    Attributes:
        prefix: path before `/api/v1`.
        resources: what is served, by path without the prefix: content type and bytes.
        reports: what came in, as method, path and body.
        report_status: how reports are answered.
        honours_wait: whether it keeps a poll waiting for a change.
    """

    prefix: str = ""
    manifest: bytes = b""
    tag: str | None = None
    resources: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    reports: list[tuple[str, str, bytes]] = field(default_factory=list)
    report_status: int = 201
    honours_wait: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def base(self) -> str:
        return self.url(self.prefix.lstrip("/"))

    def publish(
        self,
        version: int,
        deployments: Mapping[str, bytes],
        *,
        bundle: bytes | None = None,
        sizes: bool = True,
        prefixed: bool = False,
        listed: list[Json] | None = None,
    ) -> bytes:
        """Serve this state, and return its manifest; `listed` takes the place of the true list of deployments."""
        prefix = self.prefix if prefixed else ""
        archive = bundle if bundle is not None else write_bundle(deployments) if deployments else b""
        reference: Json = None
        if archive:
            reference = {
                "mediaType": BUNDLE_TYPE,
                "digest": sha256(archive),
                "url": f"{prefix}/api/v1/bundles/{sha256(archive)}",
                **({"sizeBytes": len(archive)} if sizes else {}),
            }
        references: list[Json] = [
            {
                "deploymentId": name,
                "digest": sha256(content),
                "url": f"{prefix}/api/v1/deployments/{name}/{sha256(content)}",
                **({"sizeBytes": len(content)} if sizes else {}),
            }
            for name, content in deployments.items()
        ]
        shown = references if listed is None else listed
        manifest: Json = {"manifestVersion": version, "bundle": reference, "deployments": shown}
        resources = {f"/api/v1/bundles/{sha256(archive)}": (BUNDLE_TYPE, archive)} if archive else {}
        for name, content in deployments.items():
            resources[f"/api/v1/deployments/{name}/{sha256(content)}"] = ("application/yaml", content)
        with self.changed:
            self.manifest = write_json(manifest)
            self.resources = resources
            self.changed.notify_all()
        return self.manifest

    def asked(self, word: str = "") -> list[str]:
        """Return the paths of the requests so far that hold a word, without `/api/v1/` and digests."""
        paths = [urlsplit(request.path).path.removeprefix(self.prefix) for request in self.requests]
        short = [path.removeprefix("/api/v1/").partition("/sha256:")[0] for path in paths]
        return [path for path in short if word in path]

    def _backend(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if not path.startswith(self.prefix):
            return problem(404, "there is nothing here")
        path = path.removeprefix(self.prefix)
        if request.method in ("POST", "PUT"):
            self.reports.append((request.method, path, request.body))
            return (
                problem(self.report_status, "no") if self.report_status >= 400 else Answer(self.report_status, [], b"")
            )
        if path == "/api/v1/deployments":
            return self._manifest(request)
        found = self.resources.get(path)
        if found is None:
            return problem(404, "no such content")
        return Answer(200, [("Content-Type", found[0])], found[1])

    def _manifest(self, request: Request) -> Answer:
        if request.headers.get("accept") != MANIFEST_TYPE:
            return problem(406, "only manifests are here")
        headers = []
        wait = request.headers.get("prefer", "").removeprefix("wait=")
        with self.changed:
            if wait and self.honours_wait:
                headers.append(("Preference-Applied", f"wait={wait}"))
                held = request.headers.get("if-none-match")
                self.changed.wait_for(lambda: held != self._tag() or self.stopping.is_set(), int(wait))
            headers += [("Content-Type", MANIFEST_TYPE), ("ETag", self._tag())]
            if request.headers.get("if-none-match") == self._tag():
                return Answer(304, headers, b"")
            return Answer(200, headers, self.manifest)

    def _tag(self) -> str:
        return self.tag if self.tag is not None else f'"{sha256(self.manifest)}"'


def problem(status: int, detail: str, **members: Json) -> Answer:
    """Return a problem document as an answer."""
    content = json.dumps({"type": "about:blank", "title": "no", "status": status, "detail": detail, **members})
    return Answer(status, [("Content-Type", "application/problem+json")], content.encode())


@contextmanager
def margo_server(prefix: str = "", **settings: bool) -> Iterator[MargoServer]:
    """Serve nothing yet, until the block ends."""
    server = MargoServer(prefix=prefix, **settings)  # type: ignore[arg-type]  # only flags are given
    with listening(server):
        try:
            yield server
        finally:
            server.stopping.set()
            with server.changed:
                server.changed.notify_all()
