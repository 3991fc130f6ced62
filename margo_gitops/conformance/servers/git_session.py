"""What the checks of a git server share: commands as bytes, answers as packets, the device's ref."""

from __future__ import annotations

import re
from typing import Final

from margo_gitops.conformance.report import shown
from margo_gitops.conformance.servers.checking import CheckFailed, CheckSkipped, expect
from margo_gitops.conformance.servers.client import RawClient, Reply, ServerTarget
from margo_gitops.conformance.wire import (
    FLUSH,
    PackContents,
    PacketsMalformed,
    PackMalformed,
    command_bytes,
    packets,
    read_pack,
)
from margo_gitops.documents.state_layout import DEVICE_REFS, device_ref
from margo_gitops.values import dataclass

V2: Final = {"Git-Protocol": "version=2"}
RESULT_TYPE: Final = "application/x-git-upload-pack-result"
ADVERTISEMENT_TYPE: Final = "application/x-git-upload-pack-advertisement"
_REQUEST: Final = {**V2, "Content-Type": "application/x-git-upload-pack-request", "Accept": RESULT_TYPE}
_REF: Final = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64}) (\S+)")


@dataclass(frozen=True, slots=True)
class FetchAnswer:
    """The answer to `fetch`.

    Attributes:
        sections: names of its sections, in order.
        shallow: lines of the section `shallow-info`.
        bands: the side bands that were used.
        pack: what was sent on side band 1.
    """

    sections: tuple[str, ...]
    shallow: tuple[str, ...]
    bands: frozenset[int]
    pack: bytes


@dataclass(slots=True)
class GitSession:
    """Asks one git server."""

    target: ServerTarget
    client: RawClient
    _tip: str = ""

    def reach(self) -> Reply:
        """Ask the first question."""
        return self.advertisement()

    @property
    def ref(self) -> str:
        """The device's ref."""
        return device_ref(self.target.device)

    def path(self, tail: str) -> str:
        """Return a path below the repository."""
        return f"{self.target.prefix}/{tail}"

    def advertisement(self, *, token: str | None = None) -> Reply:
        """Ask for the capabilities."""
        return self.client.ask("GET", self.path("info/refs?service=git-upload-pack"), V2, token=token)

    def post(self, body: bytes, headers: dict[str, str] | None = None, *, token: str | None = None) -> Reply:
        """Send a command."""
        return self.client.ask("POST", self.path("git-upload-pack"), {**_REQUEST, **(headers or {})}, body, token=token)

    def list_refs(self, *prefixes: str, headers: dict[str, str] | None = None, token: str | None = None) -> Reply:
        """Ask where refs point."""
        body = command_bytes("ls-refs", [f"ref-prefix {each}" for each in prefixes])
        return self.post(body, headers, token=token)

    def refs(self, *prefixes: str, token: str | None = None) -> dict[str, str]:
        """Return id by ref (CheckFailed: it does not answer `ls-refs`)."""
        return read_refs(self.list_refs(*prefixes, token=token))

    def tip(self) -> str:
        """Return the commit of the device's ref, asked for once (CheckSkipped: there is no such ref)."""
        if not self._tip:
            try:
                found = self.refs(self.ref)
            except CheckFailed as error:
                raise CheckSkipped(f"the device's ref cannot be read: {error}") from error
            if self.ref not in found:
                raise CheckSkipped(f"there is no ref {self.ref}: check with a device that has a state")
            self._tip = found[self.ref]
        return self._tip

    @property
    def object_format(self) -> str:
        """The object format that ids are in."""
        return "sha1" if len(self.tip()) == 40 else "sha256"

    @property
    def nobody(self) -> str:
        """An id that no object has."""
        return "5" * len(self.tip())

    def fetch(self, *arguments: str, token: str | None = None) -> Reply:
        """Ask for objects, in the repository's object format."""
        formats = () if self.object_format == "sha1" else (f"object-format={self.object_format}",)
        return self.post(command_bytes("fetch", list(arguments), formats), token=token)

    def fetch_one(self, want: str, *more: str) -> FetchAnswer:
        """Ask for one commit at depth 1, in the one form of the subset (CheckFailed: no pack comes)."""
        return read_fetch(self.fetch("no-progress", "ofs-delta", "deepen 1", f"want {want}", *more, "done"))

    def state(self) -> PackContents:
        """Return the objects of the device's state (CheckFailed: no sound pack comes)."""
        return self.contents(self.fetch_one(self.tip()))

    def contents(self, answer: FetchAnswer) -> PackContents:
        """Return the objects of an answer (CheckFailed: it holds no sound pack)."""
        try:
            return read_pack(answer.pack, self.object_format)
        except PackMalformed as error:
            raise CheckFailed(str(error)) from error

    def others(self) -> list[str]:
        """Return commits of other devices, as far as they can be learnt (CheckSkipped: no such commit is known)."""
        target = self.target
        found = self.refs(DEVICE_REFS)
        if target.other_token:
            found |= self.refs(DEVICE_REFS, token=target.other_token)
        ids = sorted({name for ref, name in found.items() if ref != self.ref} - {self.tip()})
        if not ids:
            raise CheckSkipped("no commit of another device is known: name one with --other-device and its token")
        return ids


def lines_of(reply: Reply) -> list[bytes]:
    """Return the packets of an answer (CheckFailed: it is not 200, or holds something else)."""
    expect(reply.status == 200, f"the answer is {reply.status}")
    try:
        return packets(reply.body)
    except PacketsMalformed as error:
        raise CheckFailed(f"the answer is not made of packets: {error}") from error


def read_refs(reply: Reply) -> dict[str, str]:
    """Return id by ref (CheckFailed: it does not answer `ls-refs`)."""
    found = lines_of(reply)
    expect(bool(found) and found[-1] == FLUSH, "the answer does not end with a flush packet")
    refs = {}
    for line in found[:-1]:
        match = _REF.fullmatch(line[1:].removesuffix(b"\n").decode(errors="replace").partition(" symref-target")[0])
        if match is None:
            raise CheckFailed(f"a line is not a ref: {shown(line[1:])}")
        refs[match[2]] = match[1]
    return refs


def error_of(reply: Reply) -> str:
    """Return the text of an `ERR` packet; empty for another answer."""
    try:
        found = packets(reply.body)
    except PacketsMalformed:
        return ""
    return found[0][5:].decode(errors="replace").strip() if found and found[0].startswith(b"=ERR ") else ""


def read_fetch(reply: Reply) -> FetchAnswer:
    """Return the parts of an answer to `fetch` (CheckFailed: it is an error, or something else)."""
    found = lines_of(reply)
    said = error_of(reply)
    expect(not said, f"the server says: {shown(said)}")
    expect(bool(found), "the answer is empty")
    sections: list[str] = []
    shallow: list[str] = []
    bands: set[int] = set()
    pack = bytearray()
    begin = True
    for each in found:
        if not each.startswith(b"="):
            begin = True
        elif sections[-1:] == ["packfile"]:
            bands.add(each[1])
            if each[1] == 1:
                pack += each[2:]
        else:
            line = each[1:].removesuffix(b"\n").decode(errors="replace")
            if begin:
                sections.append(line)
            elif sections[-1] == "shallow-info":
                shallow.append(line)
            begin = False
    return FetchAnswer(tuple(sections), tuple(shallow), frozenset(bands), bytes(pack))
