"""Git's requests and answers, as bytes (pure; gitprotocol-v2, gitprotocol-pack).

Version 2 is what devices use; version 0 is read for tools that know nothing newer (git subset, G-S-15).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import BytesIO
from typing import Final, TypeAlias

from margo_gitops import __version__
from margo_gitops.errors import SourceMisbehaved
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.values import dataclass, field

MAX_LINES: Final = 8_192
"""Of one request; what git sends at most for a history of some thousand commits."""

_ID: Final = re.compile(rb"[0-9a-f]{40}")
_NUMBER: Final = re.compile(rb"[0-9]{1,10}")
_FORMAT: Final = b"sha1"
_MULTI_ACK: Final = {b"multi_ack_detailed": "common", b"multi_ack": "continue"}
_Line: TypeAlias = bytes | Mark


class NotGitError(Exception):
    """The bytes are not a git request."""


class RefusedError(Exception):
    """The request is git, and is refused (G-R-1); the client sees the text."""


@dataclass(frozen=True, slots=True)
class LsRefs:
    """Where do refs point?

    Attributes:
        prefixes: of the names asked for; none for all.
        symrefs: say where a symbolic ref points.
    """

    prefixes: tuple[bytes, ...] = ()
    symrefs: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """Give me commits.

    Attributes:
        haves: commits that the client says it holds, in its order.
        shallow: commits whose parents it does not hold.
        depth: how far from the wants to go; None for all the way.
        relative: depth counts from what the client holds.
        done: no further haves follow; send the pack.
        thin: deltas against what the client holds are welcome.
        side_band: the pack goes in packets of side bands; always so in version 2.
        multi_ack: in version 0, how each commit held in common is acknowledged: `continue`, `common` where the client
            asked for details; empty: only the first is.
    """

    wants: tuple[str, ...]
    haves: tuple[str, ...] = ()
    shallow: frozenset[str] = frozenset()
    depth: int | None = None
    relative: bool = False
    done: bool = False
    thin: bool = False
    side_band: bool = True
    multi_ack: str = ""


@dataclass(slots=True)
class _Reading:
    wants: list[str] = field(default_factory=list)
    haves: list[str] = field(default_factory=list)
    shallow: set[str] = field(default_factory=set)
    depth: int | None = None
    flags: set[bytes] = field(default_factory=set)

    def line(self, line: bytes) -> bool:
        """Take what both versions write alike; return whether it was that."""
        key, _, value = line.partition(b" ")
        match key:
            case b"have" if _ID.fullmatch(value):
                self.haves.append(value.decode())
            case b"shallow" if _ID.fullmatch(value):
                self.shallow.add(value.decode())
            case b"deepen" if _NUMBER.fullmatch(value) and int(value):
                self.depth = int(value)
            case b"want" if _ID.fullmatch(value):
                self.wants.append(value.decode())
            case _:
                return False
        return True

    def fetch(self, *, old: bool = False) -> Fetch:
        if not self.wants:
            raise RefusedError("upload-pack: the request wants nothing")
        return Fetch(
            wants=tuple(dict.fromkeys(self.wants)),
            haves=tuple(dict.fromkeys(self.haves)),
            shallow=frozenset(self.shallow),
            depth=self.depth,
            relative=b"deepen-relative" in self.flags,
            done=b"done" in self.flags,
            thin=b"thin-pack" in self.flags,
            side_band=not old or b"side-band-64k" in self.flags,
            multi_ack=next((word for flag, word in _MULTI_ACK.items() if flag in self.flags), ""),
        )


def read_request(body: bytes) -> LsRefs | Fetch | None:
    """Return the request of version 2 in a body; None for the lone flush packet by which git tries a connection.

    Raises:
        NotGitError: the bytes are not a git request.
        RefusedError: another command, another object format, or an argument that is not offered.
    """
    lines = _lines(body)
    first = next(lines, Mark.FLUSH)
    if first is Mark.FLUSH:
        return None
    command = b""
    for line in (first, *_until(lines, Mark.DELIMITER, Mark.FLUSH)):
        if isinstance(line, Mark):
            raise NotGitError("an unexpected packet")
        key, _, value = line.partition(b"=")
        if key == b"command":
            command = value
        elif key == b"object-format" and value != _FORMAT:
            raise RefusedError("mismatched object format: the repository has sha1")
    arguments = list(_until(lines, Mark.FLUSH))
    if next(lines, None) is not None:
        raise NotGitError("more than one request")
    if command == b"ls-refs":
        return _read_ls_refs(arguments)
    if command == b"fetch":
        return _read_fetch(arguments)
    raise RefusedError("invalid command")


def _read_ls_refs(arguments: list[bytes]) -> LsRefs:
    prefixes = []
    for line in arguments:
        key, _, value = line.partition(b" ")
        if key == b"ref-prefix":
            prefixes.append(value)
        elif line not in (b"symrefs", b"peel", b"unborn"):
            raise RefusedError(f"unexpected line: {_shown(line)}")
    return LsRefs(tuple(prefixes), b"symrefs" in arguments)


def _read_fetch(arguments: list[bytes]) -> Fetch:
    offered = {b"done", b"thin-pack", b"no-progress", b"include-tag", b"ofs-delta", b"deepen-relative"}
    reading = _Reading()
    for line in arguments:
        if line in offered:
            reading.flags.add(line)
        elif not reading.line(line):
            raise RefusedError(f"unexpected line: {_shown(line)}")
    return reading.fetch()


def read_old_request(body: bytes) -> tuple[Fetch, tuple[str | None, ...]] | None:
    """Return the request of version 0 in a body, and its haves with a None where the client waits for an answer.

    None for the lone flush packet by which git tries a connection.

    Raises:
        NotGitError: the bytes are not a git request.
        RefusedError: something that is not offered.
    """
    lines = _lines(body)
    reading = _Reading()
    head = [line.replace(b"\0", b" ") for line in _until(lines, Mark.FLUSH)]
    if not head:
        return None
    for number, line in enumerate(head):
        words = line.split(b" ")
        if number == 0 and words[0] == b"want":
            reading.flags.update(words[2:])
            line = b" ".join(words[:2])
        if not reading.line(line):
            raise RefusedError(f"unexpected line: {_shown(line)}")
    spoken: list[str | None] = []
    for said in lines:
        if said is Mark.FLUSH:
            spoken.append(None)
        elif said == b"done":
            reading.flags.add(b"done")
            break
        elif isinstance(said, Mark) or not reading.line(said):
            raise NotGitError("an unexpected packet")
        elif said.startswith(b"have "):
            spoken.append(reading.haves[-1])
    reading.flags.discard(b"thin-pack")
    return reading.fetch(old=True), tuple(spoken)


def _lines(body: bytes) -> Iterator[_Line]:
    stream = BytesIO(body)
    reader = PacketReader(stream.read, len(body))
    for _ in range(MAX_LINES):
        if stream.tell() == len(body):
            return
        try:
            line = reader.packet()
        except SourceMisbehaved as error:
            raise NotGitError(error.what) from None
        yield line if isinstance(line, Mark) else line.removesuffix(b"\n")
    raise RefusedError("the request has too many lines")


def _until(lines: Iterator[_Line], *ends: Mark) -> Iterator[bytes]:
    for line in lines:
        if line in ends:
            return
        if isinstance(line, Mark):
            raise NotGitError("an unexpected packet")
        yield line


def _shown(line: bytes) -> str:
    return line[:40].decode("ascii", "replace").replace("\ufffd", "?")


def _packets(*lines: str) -> bytes:
    return b"".join(packet(f"{line}\n".encode()) for line in lines)


CAPABILITIES: Final = _packets("version 2", "ls-refs", "fetch=shallow", "object-format=sha1") + FLUSH
"""The advertisement of version 2 (git subset, G-S-2)."""

_NO_OBJECT: Final = "0" * 40
_BAND: Final = 65_515
"""Bytes of a pack in one packet of side-band-64k."""


def refs_answer(request: LsRefs, refs: Mapping[str, str], head: str | None) -> bytes:
    """Return the answer to `ls-refs`.

    Args:
        refs: what the caller may see.
        head: the ref that `HEAD` points to; None: there is no `HEAD`.
    """
    lines = [f"{refs[name]} {name}" for name in sorted(refs) if _asked(name, request)]
    if head is not None and _asked("HEAD", request):
        target = f" symref-target:{head}" if request.symrefs else ""
        lines.insert(0, f"{refs[head]} HEAD{target}")
    return _packets(*lines) + FLUSH


def _asked(name: str, request: LsRefs) -> bool:
    return not request.prefixes or name.encode().startswith(request.prefixes)


def old_advertisement(refs: Mapping[str, str], head: str | None, shallow: Iterable[str] = ()) -> bytes:
    """Return the advertisement of version 0: all that the caller may see.

    Args:
        shallow: commits whose parents are not there.
    """
    capabilities = "multi_ack multi_ack_detailed shallow deepen-relative no-progress ofs-delta thin-pack side-band-64k"
    capabilities += f" symref=HEAD:{head}" if head else ""
    capabilities += f" object-format=sha1 agent=margo-gitops/{__version__}"
    lines = [f"{refs[head]} HEAD"] if head else []
    lines += [f"{refs[name]} {name}" for name in sorted(refs)]
    first = lines[0] if lines else f"{_NO_OBJECT} capabilities^{{}}"
    lines[:1] = [f"{first}\0{capabilities}"]
    lines += [f"shallow {name}" for name in sorted(shallow)]
    return _packets("# service=git-upload-pack") + FLUSH + _packets(*lines) + FLUSH


def error_answer(text: str) -> bytes:
    """Return the packet that ends a request with a message (G-R-1)."""
    return _packets(f"ERR {text}")


def acknowledgments(common: Iterable[str], *, ready: bool) -> bytes:
    """Return the section that answers haves, up to and without the delimiter or flush packet."""
    lines = [f"ACK {name}" for name in common] or ["NAK"]
    lines += ["ready"] if ready else []
    return _packets("acknowledgments", *lines)


def old_acknowledgments(request: Fetch, spoken: Iterable[str | None], common: Collection[str]) -> bytes:
    """Return what version 0 says to haves (gitprotocol-pack, packfile negotiation).

    Args:
        spoken: its haves, and None where the client waits for an answer.
    """
    said: list[str] = []
    last = ""
    common = frozenset(common)
    for name in spoken:
        if name is None:
            said += [f"ACK {last} ready"] if last and request.multi_ack == "common" else []
            said += ["NAK"] if request.multi_ack or not last else []
        elif name in common:
            if request.multi_ack or not last:
                said.append(f"ACK {name} {request.multi_ack}".rstrip())
            last = name
    if request.done and not last:
        said.append("NAK")
    elif request.done and request.multi_ack:
        said.append(f"ACK {last}")
    return _packets(*said)


def shallow_lines(shallow: Iterable[str], unshallow: Iterable[str]) -> bytes:
    """Return the lines that tell where history ends, without a frame."""
    return _packets(*(f"shallow {name}" for name in shallow), *(f"unshallow {name}" for name in unshallow))


def pack_sections(pack: bytes, shallow_info: bytes) -> bytes:
    """Return the sections `shallow-info`, where there is any, and `packfile`."""
    info = packet(b"shallow-info\n") + shallow_info + DELIMITER if shallow_info else b""
    return info + packet(b"packfile\n") + side_band(pack)


def side_band(pack: bytes) -> bytes:
    """Return a pack on side band 1, and the end of the answer."""
    bands = (packet(b"\1" + pack[at : at + _BAND]) for at in range(0, len(pack), _BAND))
    return b"".join([*bands, FLUSH])
