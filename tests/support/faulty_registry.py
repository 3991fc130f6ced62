"""A registry in memory that misbehaves on request: the distribution API over `faulty_http`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from margo_gitops.digests import sha256
from margo_gitops.registry.manifests import MANIFEST, described, write_manifest
from margo_gitops.registry.references import Reference
from margo_gitops.registry.settings import RegistryAccess
from support.faulty_http import Answer, FaultyServer, Request, listening

_PATH = re.compile(r"/v2/(.+)/(manifests|blobs|tags|referrers)/(.+)")


@dataclass(kw_only=True)
class FaultyRegistry(FaultyServer):
    """What was pushed, by repository and by digest or tag.

    Attributes:
        ranges: whether parts of blobs are given.
        token: what a client must bring; None: it is open.
        page: how many tags one answer has.
    """

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    ranges: bool = True
    token: str | None = None
    page: int = 100

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def access(self) -> RegistryAccess:
        return RegistryAccess(self.host, plain_http=True)

    def add(self, repository: str, tag: str, *layers: bytes) -> Reference:
        """Put a manifest of layers into a repository."""
        for layer in layers:
            self.blobs[repository, sha256(layer)] = layer
        content = write_manifest("application/x", tuple(described("application/x.layer", layer) for layer in layers))
        self.manifests[repository, tag] = self.manifests[repository, sha256(content)] = (MANIFEST, content)
        return Reference(self.host, repository, tag, sha256(content))

    def _backend(self, request: Request) -> Answer:
        address = urlsplit(request.path)
        if address.path == "/token":
            return Answer(200, [], json.dumps({"token": self.token or "any"}).encode())
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://{self.host}/token",service="tests",scope="repository:everything:*"'
            return Answer(401, [("WWW-Authenticate", challenge)], b"{}")
        found = _PATH.fullmatch(address.path)
        if found is None:
            return Answer(404, [], b"404 page not found\n")
        repository, kind, name = found.groups()
        if kind == "tags":
            return self._tags(repository, parse_qs(address.query))
        if kind == "manifests" and (repository, name) in self.manifests:
            media_type, content = self.manifests[repository, name]
            return Answer(200, [("Content-Type", media_type)], content)
        if kind == "blobs" and (repository, name) in self.blobs:
            content = self.blobs[repository, name]
            asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
            if asked is None or not self.ranges:
                return Answer(200, [], content)
            start = int(asked[1])
            part = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return Answer(206, [("Content-Range", part)], content[start:])
        return Answer(404, [], b'{"errors":[{"code":"NAME_UNKNOWN","message":"unknown to the tests"}]}')

    def _tags(self, repository: str, query: dict[str, list[str]]) -> Answer:
        tags = sorted(tag for name, tag in self.manifests if name == repository and not tag.startswith("sha256:"))
        after = [tag for tag in tags if tag > query.get("last", [""])[0]]
        headers = []
        if len(after) > self.page:
            headers.append(("Link", f'</v2/{repository}/tags/list?last={after[self.page - 1]}>; rel="next"'))
        return Answer(200, headers, json.dumps({"name": repository, "tags": after[: self.page]}).encode())


@contextmanager
def faulty_registry(**settings: object) -> Iterator[FaultyRegistry]:
    """Let a registry answer until the block ends."""
    registry = FaultyRegistry(**settings)  # type: ignore[arg-type]
    with listening(registry):
        yield registry
