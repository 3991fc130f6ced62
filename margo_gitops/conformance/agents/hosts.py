"""A git host and a Margo server for one device, from memory (gitprotocol-v2; Margo desired state, endpoints)."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

from margo_gitops.conformance.agents.loopback import LONGEST_REQUEST, Answer, Request
from margo_gitops.conformance.agents.offered_commits import SUBMODULE, GitState
from margo_gitops.conformance.agents.pushes import RECEIVE_PACK, push_listing, take_push
from margo_gitops.conformance.agents.states import State
from margo_gitops.conformance.report import shown
from margo_gitops.conformance.wire import COMMIT, DELIMITER, FLUSH, TREE, entry, pack, packet, packets
from margo_gitops.digests import sha256
from margo_gitops.documents.freshness import FRESHNESS_PATH
from margo_gitops.documents.manifest import BUNDLE_MEDIA_TYPE, MANIFEST_MEDIA_TYPE
from margo_gitops.documents.state_layout import COMMIT_HEADER, COMMIT_MEDIA_TYPE, COMMITS_PATH, TRUST_PATH
from margo_gitops.values import dataclass, field

REPOSITORY: Final = "/state.git"
_ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"
_RESULT: Final = "application/x-git-upload-pack-result"
_BAND_BYTES: Final = 65_515
_PARENT: Final = re.compile(rb"^parent ([0-9a-f]{40})$", re.MULTILINE)
_COMMIT_TREE: Final = re.compile(rb"tree ([0-9a-f]{40})\n")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of protocol version 2, such as `fetch`, and the lines of its arguments."""

    name: str
    arguments: tuple[str, ...]

    def values(self, name: str) -> list[str]:
        """Return what follows each argument of this name."""
        return [line.partition(" ")[2] for line in self.arguments if line.partition(" ")[0] == name]

    def __str__(self) -> str:
        return shown(f"{self.name}: {', '.join(self.arguments)}")


@dataclass(slots=True)
class GitHost:
    """Serves refs and objects.

    Attributes:
        refs: id by name of the ref.
        objects: kind and content by id.
        listed: refs in every answer to `ls-refs`; None: only those that were asked for.
        pack_of: makes the pack of the answer to `fetch`; gets the objects that belong into it.
        side_band: makes packets that come before the pack, such as progress.
        commands: what was asked so far, in order.
    """

    refs: dict[str, str]
    objects: dict[str, tuple[int, bytes]]
    listed: list[tuple[str, str]] | None = None
    pack_of: Callable[[dict[str, tuple[int, bytes]]], bytes] = field(
        default=lambda objects: pack(entry(kind, content) for kind, content in objects.values())
    )
    side_band: Callable[[], Iterable[bytes]] | None = None
    commands: list[Command] = field(default_factory=list)

    def add(self, ref: str, state: GitState) -> None:
        """Let a ref point to a state; what was there before stays."""
        self.objects.update(state.objects)
        self.refs[ref] = state.tip

    def respond(self, request: Request) -> Answer:
        """Answer a request that was authorized."""
        if request.path == f"{REPOSITORY}/info/refs":
            if f"service={RECEIVE_PACK}" in request.target:
                return self._result(
                    push_listing(self.refs), "refs, for a push", f"application/x-{RECEIVE_PACK}-advertisement"
                )
            if "service=git-upload-pack" not in request.target:
                return Answer(403, note="only git-upload-pack and git-receive-pack are served")
            return self._advertisement()
        if request.path == f"{REPOSITORY}/{RECEIVE_PACK}" and request.method == "POST":
            return self._result(take_push(self.refs, request), "a push", f"application/x-{RECEIVE_PACK}-result")
        if request.path == f"{REPOSITORY}/git-upload-pack" and request.method == "POST":
            try:
                command = read_command(request)
            except (ValueError, OSError, EOFError) as error:
                return Answer(400, note=f"no command of protocol version 2: {shown(str(error))}")
            self.commands.append(command)
            if command.name == "ls-refs":
                return self._result(self._ls_refs(command), note=str(command))
            if command.name == "fetch":
                return self._fetch(command)
            return self._result(packet(b"ERR unknown command\n"), note=str(command))
        return Answer(404, note="nothing is here")

    def _advertisement(self) -> Answer:
        lines = (b"version 2\n", b"agent=conformance\n", b"ls-refs\n", b"fetch=shallow\n", b"object-format=sha1\n")
        body = packet(b"# service=git-upload-pack\n") + FLUSH + b"".join(map(packet, lines)) + FLUSH
        headers = [("Content-Type", _ADVERTISEMENT), ("Cache-Control", "no-cache")]
        return Answer(200, headers, body, note="capabilities")

    def _ls_refs(self, command: Command) -> bytes:
        prefixes = tuple(command.values("ref-prefix"))
        found = self.listed
        if found is None:
            found = [each for each in sorted(self.refs.items()) if not prefixes or each[0].startswith(prefixes)]
        return b"".join(packet(f"{target} {name}\n".encode()) for name, target in found) + FLUSH

    def _fetch(self, command: Command) -> Answer:
        wants, haves = command.values("want"), command.values("have")
        note = str(command)
        for want in wants:
            if want not in self.objects:
                return self._result(packet(f"ERR upload-pack: not our ref {want}\n".encode()), note=note)
        known = [have for have in haves if have in self.objects]
        head = b""
        if "done" not in command.arguments:
            if not known:
                return self._result(packet(b"acknowledgments\n") + packet(b"NAK\n") + FLUSH, note=note)
            lines = [b"acknowledgments\n", *(f"ACK {have}\n".encode() for have in known), b"ready\n"]
            head = b"".join(map(packet, lines)) + DELIMITER
        deep = not command.values("deepen")
        shallow = [want for want in wants if not deep and self._parents(want)]
        if shallow:
            lines = [b"shallow-info\n", *(f"shallow {each}\n".encode() for each in shallow)]
            head += b"".join(map(packet, lines)) + DELIMITER
        there: set[str] = set()
        for have in known:
            there |= self._reachable(have, deep=False)
        wanted: set[str] = set()
        for want in wants:
            wanted |= self._reachable(want, deep=deep)
        sent = {name: self.objects[name] for name in sorted(wanted - there) if name in self.objects}
        return self._result(self._packets(head + packet(b"packfile\n"), self.pack_of(sent)), note=note)

    def _packets(self, head: bytes, content: bytes) -> bytes | Iterator[bytes]:
        tail = b"".join(
            packet(b"\x01" + content[start : start + _BAND_BYTES]) for start in range(0, len(content), _BAND_BYTES)
        )
        if self.side_band is None:
            return head + tail + FLUSH
        return chain((head,), self.side_band(), (tail + FLUSH,))

    @staticmethod
    def _result(body: bytes | Iterator[bytes], note: str, kind: str = _RESULT) -> Answer:
        return Answer(200, [("Content-Type", kind), ("Cache-Control", "no-cache")], body, note=note)

    def _parents(self, commit: str) -> list[str]:
        kind, content = self.objects.get(commit, (0, b""))
        return [each.decode() for each in _PARENT.findall(content.partition(b"\n\n")[0])] if kind == COMMIT else []

    def _reachable(self, start: str, *, deep: bool) -> set[str]:
        found: set[str] = set()
        left = [start]
        while left:
            name = left.pop()
            kind, content = self.objects.get(name, (0, b""))
            if name in found:
                continue
            found.add(name)
            if kind == COMMIT and (match := _COMMIT_TREE.match(content)):
                left.append(match[1].decode())
                left += self._parents(name) if deep else []
            elif kind == TREE:
                left += tree_targets(content)
        return found


def tree_targets(content: bytes) -> list[str]:
    """Return the ids of the objects that a tree names, without commits of submodules."""
    found = []
    at = 0
    while (end := content.find(b"\0", at)) >= 0:
        mode = int(content[at:end].partition(b" ")[0], 8)
        if mode != SUBMODULE:
            found.append(content[end + 1 : end + 21].hex())
        at = end + 21
    return found


def read_command(request: Request) -> Command:
    """Return the command in the body of a request.

    Raises:
        ValueError: it is not one of protocol version 2.
        OSError: it is said to be compressed, and is not.
    """
    body = request.body
    if request.headers.get("content-encoding") == "gzip":
        with gzip.open(io.BytesIO(body)) as file:
            body = file.read(LONGEST_REQUEST)
    name, arguments, in_arguments = "", [], False
    for each in packets(body):
        text = each[1:].removesuffix(b"\n").decode(errors="replace")
        if each == FLUSH:
            break
        if each == DELIMITER:
            in_arguments = True
        elif in_arguments:
            arguments.append(text)
        elif text.startswith("command="):
            name = text.removeprefix("command=")
    if not name:
        raise ValueError("it names no command")
    return Command(name, tuple(arguments))


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
        static: as files behind a plain web server: a tag that is not a digest, one media type, no reports.
        freshness: the proof of freshness; None for none.
        commit: the signed commit of the state; None for none.
        trust: the trust documents, by name of their file.
        carried: whether the manifest's answer carries it too.
        reports: what came in: method, path and body.
    """

    state: State
    static: bool = False
    freshness: bytes | None = None
    commit: bytes | None = None
    trust: Mapping[str, bytes] = field(default_factory=dict)
    carried: bool = True
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
        if path == f"{COMMITS_PATH}/{sha256(self.state.manifest)}" and self.commit is not None:
            return self._content(self.commit, COMMIT_MEDIA_TYPE)
        if path == FRESHNESS_PATH and self.freshness is not None:
            return self._content(self.freshness, "application/json")
        if path.startswith(TRUST_PATH) and (found := self.trust.get(path.removeprefix(TRUST_PATH))) is not None:
            return self._content(found, "application/json")
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
        if self.commit is not None and self.carried and not self.static:
            headers.append((COMMIT_HEADER, base64.b64encode(self.commit).decode()))
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
