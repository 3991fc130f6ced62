"""An origin that holds a fleet's honest history, and lies about it: over git, over HTTP, as files, in a folder by hand.

It uses no git program and no server of the project: all bytes are made here.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FRESHNESS_MEDIA_TYPE, FRESHNESS_PATH
from margo_gitops.documents.state_layout import (
    COMMIT_HEADER,
    COMMIT_MEDIA_TYPE,
    COMMITS_PATH,
    FRESHNESS_REFS,
    TRUST_PATH,
    TRUST_REF,
    device_ref,
)
from margo_gitops.trust.snapshot import Snapshot
from support.faulty_http import Answer, FaultyServer, Request, listening

_KINDS = {b"commit": 1, b"tree": 2, b"blob": 3}
_WHO = b"Origin <origin@example.com> 1790000000 +0000"
_LISTED = re.compile(r"/api/v1/deployments/([0-9a-f-]+)/sha256:[0-9a-f]{64}")
_MANIFEST_TYPE = "application/vnd.margo.manifest.v1+json"


@dataclass(frozen=True)
class Shown:
    """What an origin shows one device; each part may be a lie.

    Attributes:
        state: the commit and its files; None: there is no such device.
        documents: the versions of the trust document, by the name of their file without `.json`.
        proof: of freshness; None: there is none.
        extra: files that the device's tree has as well.
    """

    state: Snapshot | None
    documents: Mapping[int | str, bytes] = field(default_factory=dict)
    proof: bytes | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)


class Objects(dict[str, tuple[bytes, bytes]]):
    """Git objects by id: kind and content."""

    def add(self, kind: bytes, content: bytes) -> str:
        name = hashlib.sha1(b"%b %d\0%b" % (kind, len(content), content)).hexdigest()
        self[name] = kind, content
        return name

    def folder(self, files: Mapping[str, bytes], folders: Mapping[str, str] | None = None) -> str:
        entries = [(name, b"100644", self.add(b"blob", content)) for name, content in files.items()]
        entries += [(name, b"40000", tree) for name, tree in (folders or {}).items()]
        lines = (b"%b %b\0%b" % (mode, name.encode(), bytes.fromhex(each)) for name, mode, each in sorted(entries))
        return self.add(b"tree", b"".join(lines))

    def commit(self, files: Mapping[str, bytes]) -> str:
        tree = self.folder(files).encode()
        return self.add(b"commit", b"tree %b\nauthor %b\ncommitter %b\n\nIt\n" % (tree, _WHO, _WHO))

    def pack(self) -> bytes:
        body = b"PACK" + struct.pack(">II", 2, len(self))
        for kind, content in self.values():
            size = len(content) >> 4
            head = [_KINDS[kind] << 4 | len(content) & 15]
            while size:
                head, size = [*head, size & 127], size >> 7
            body += bytes(each | 128 for each in head[:-1]) + bytes(head[-1:])
            body += zlib.compress(content)
        return body + hashlib.sha1(body).digest()


def as_git(shown: Shown, device: str) -> dict[str, Objects]:
    """Return the refs of what is shown: for each, objects of which the last is the commit."""
    refs: dict[str, Objects] = {}
    if shown.state is not None and shown.state.commit is not None:
        state = refs[device_ref(device)] = Objects()
        names = {f"{name}.yaml": content for name, content in shown.state.deployments.items()}
        folders = {"deployments": state.folder(names)} if names else {}
        state.folder({"manifest.json": shown.state.manifest, **shown.extra}, folders)
        state.add(b"commit", shown.state.commit)
    if shown.documents:
        trust = refs[TRUST_REF] = Objects()
        trust.commit({f"{version}.json": content for version, content in shown.documents.items()})
    if shown.proof is not None:
        fresh = refs[f"{FRESHNESS_REFS}all"] = Objects()
        fresh.commit({"freshness.json": shown.proof})
    return refs


def write_folder(folder: Path, shown: Shown, device: str) -> None:
    """Write what is shown as a bare repository: what a person carries to a device, or a copy of it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("objects/info", "objects/pack", "refs/heads"):
        (folder / name).mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    for ref, objects in as_git(shown, device).items():
        for name, (kind, content) in objects.items():
            path = folder / "objects" / name[:2] / name[2:]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(b"%b %d\0%b" % (kind, len(content), content)))
        (folder / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / ref).write_text(f"{[*objects][-1]}\n")


def write_stick(folder: Path, shown: Shown, device: str) -> None:
    """Write what is shown as a bundle: what a person carries on a stick, lies too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = {f"trust/{version}.json": content for version, content in shown.documents.items()}
    if shown.state is not None:
        files[f"devices/{device}/manifest.json"] = shown.state.manifest
        if shown.state.commit is not None:
            files[f"devices/{device}/commit"] = shown.state.commit
        for listed in _LISTED.finditer(shown.state.manifest.decode()):
            files[f"blobs/sha256/{listed[0][-64:]}"] = shown.state.deployments.get(listed[1], b"")
    if shown.proof is not None:
        files["freshness/all.json"] = shown.proof
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@dataclass(kw_only=True)
class HostileServer(FaultyServer):
    """Answers as a git server (`/state.git`), as a server of the Margo API, and below `/static` as plain files.

    Attributes:
        shown: what it shows.
        frozen: it says that nothing changed, whatever is asked.
    """

    device: str
    shown: Shown
    frozen: bool = False

    def _backend(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if path == "/state.git/git-upload-pack":
            return Answer(200, [_git("result"), ("Cache-Control", "no-cache")], self._git(request.body))
        if path == "/state.git/info/refs":
            said = [b"version 2\n", b"ls-refs\n", b"fetch=shallow\n", b"object-format=sha1\n"]
            return Answer(200, [_git("advertisement")], b"".join(map(_line, said)) + b"0000")
        is_static, path = path.startswith("/static/"), path.removeprefix("/static")
        if path == "/api/v1/deployments":
            return self._manifest(request, is_static)
        found = self._resources().get(path)
        return Answer(404, [], b"") if found is None else Answer(200, [("Content-Type", found[0])], found[1])

    def _git(self, body: bytes) -> bytes:
        refs = as_git(self.shown, self.device)
        tips = {ref: [*objects][-1] for ref, objects in refs.items()}
        lines = [line.split(b"\n")[0][4:] for line in _lines(body)]
        if b"command=ls-refs" in lines:
            asked = tuple(
                line.removeprefix(b"ref-prefix ").decode() for line in lines if line.startswith(b"ref-prefix")
            )
            return (
                b"".join(_line(f"{tip} {ref}\n".encode()) for ref, tip in tips.items() if ref.startswith(asked))
                + b"0000"
            )
        wanted = next(line.removeprefix(b"want ").decode() for line in lines if line.startswith(b"want "))
        objects = next((refs[ref] for ref, tip in tips.items() if tip == wanted), None)
        if objects is None:
            return _line(f"ERR upload-pack: not our ref {wanted}\n".encode())
        pack = objects.pack()
        pieces = (_line(b"\1" + pack[at : at + 60_000]) for at in range(0, len(pack), 60_000))
        return (
            _line(b"shallow-info\n")
            + _line(f"shallow {wanted}\n".encode())
            + b"0001"
            + _line(b"packfile\n")
            + b"".join(pieces)
            + b"0000"
        )

    def _manifest(self, request: Request, is_static: bool) -> Answer:
        state = self.shown.state
        if state is None:
            return Answer(404, [], b"")
        tag = f'"{hashlib.sha1(state.manifest).hexdigest()}"' if is_static else f'"{sha256(state.manifest)}"'
        headers = [("Content-Type", "application/json" if is_static else _MANIFEST_TYPE), ("ETag", tag)]
        if self.frozen or request.headers.get("if-none-match") == tag:
            return Answer(304, headers[1:], b"")
        if not is_static and state.commit is not None:
            headers.append((COMMIT_HEADER, base64.b64encode(state.commit).decode()))
        return Answer(200, headers, state.manifest)

    def _resources(self) -> dict[str, tuple[str, bytes]]:
        found = {f"{TRUST_PATH}{name}.json": ("application/json", body) for name, body in self.shown.documents.items()}
        state = self.shown.state
        if state is not None:
            # Under the digests that the manifest states, whatever the documents are.
            for listed in _LISTED.finditer(state.manifest.decode()):
                found[listed[0]] = ("application/yaml", state.deployments.get(listed[1], b""))
            if state.commit is not None:
                found[f"{COMMITS_PATH}/{sha256(state.manifest)}"] = (COMMIT_MEDIA_TYPE, state.commit)
        if self.shown.proof is not None:
            found[FRESHNESS_PATH] = (FRESHNESS_MEDIA_TYPE, self.shown.proof)
        return found


@contextmanager
def hostile_server(device: str, shown: Shown) -> Iterator[HostileServer]:
    """Serve until the block ends."""
    server = HostileServer(device=device, shown=shown)
    with listening(server):
        yield server


def _git(what: str) -> tuple[str, str]:
    return "Content-Type", f"application/x-git-upload-pack-{what}"


def _line(content: bytes) -> bytes:
    return b"%04x%b" % (len(content) + 4, content)


def _lines(body: bytes) -> Iterator[bytes]:
    while body:
        size = max(int(body[:4], 16), 4)
        yield body[:size]
        body = body[size:]
