"""Answers of git, as bytes (pure; gitprotocol-v2, gitprotocol-pack)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from margo_gitops import __version__
from margo_gitops.server.resources.git_requests import Fetch, LsRefs
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, packet

CAPABILITIES: Final = b"".join(
    [
        packet(b"version 2\n"),
        packet(b"ls-refs\n"),
        packet(b"fetch=shallow\n"),
        packet(b"object-format=sha1\n"),
        FLUSH,
    ]
)
"""The advertisement of version 2 (git subset, G-S-2)."""

_NO_OBJECT: Final = "0" * 40
_BAND: Final = 65_515
"""Bytes of a pack in one packet of side-band-64k."""


def refs_answer(request: LsRefs, refs: Mapping[str, str], head: str | None) -> bytes:
    """Return the answer to `ls-refs`.

    Args:
        request: what is asked for.
        refs: what the caller may see.
        head: the ref that `HEAD` stands for; None for none.
    """
    parts = []
    if head is not None and _asked("HEAD", request):
        target = f" symref-target:{head}" if request.symrefs else ""
        parts.append(packet(f"{refs[head]} HEAD{target}\n".encode()))
    parts += [packet(f"{refs[name]} {name}\n".encode()) for name in sorted(refs) if _asked(name, request)]
    return b"".join([*parts, FLUSH])


def _asked(name: str, request: LsRefs) -> bool:
    return not request.prefixes or name.encode().startswith(request.prefixes)


def old_advertisement(refs: Mapping[str, str], head: str | None) -> bytes:
    """Return the advertisement of version 0: all that the caller may see."""
    capabilities = [
        "multi_ack",
        "multi_ack_detailed",
        "shallow",
        "deepen-relative",
        "no-progress",
        "ofs-delta",
        "thin-pack",
        "side-band-64k",
    ]
    capabilities += [f"symref=HEAD:{head}"] if head else []
    capabilities += ["object-format=sha1", f"agent=margo-gitops/{__version__}"]
    lines = [f"{refs[head]} HEAD"] if head else []
    lines += [f"{refs[name]} {name}" for name in sorted(refs)]
    first = lines[0] if lines else f"{_NO_OBJECT} capabilities^{{}}"
    lines[:1] = [f"{first}\0{' '.join(capabilities)}"]
    service = packet(b"# service=git-upload-pack\n") + FLUSH
    return b"".join([service, *(packet(f"{line}\n".encode()) for line in lines), FLUSH])


def error_answer(text: str) -> bytes:
    """Return the packet that ends a request with a message (G-R-1)."""
    return packet(f"ERR {text}\n".encode())


def acknowledgments(common: Iterable[str], *, ready: bool) -> bytes:
    """Return the section that answers haves, up to and without the delimiter or flush packet."""
    lines = [f"ACK {name}" for name in common] or ["NAK"]
    lines += ["ready"] if ready else []
    return b"".join(packet(f"{line}\n".encode()) for line in ("acknowledgments", *lines))


def old_acknowledgments(request: Fetch, spoken: Iterable[str | None], common: Collection[str]) -> bytes:
    """Return what version 0 says to haves (gitprotocol-pack, packfile negotiation).

    Args:
        request: the request.
        spoken: its haves, and None where the client waits for an answer.
        common: those that both hold.
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
    return b"".join(packet(f"{line}\n".encode()) for line in said)


def shallow_lines(shallow: Iterable[str], unshallow: Iterable[str]) -> bytes:
    """Return the lines that tell where history ends, without a frame."""
    lines = [*(f"shallow {name}" for name in shallow), *(f"unshallow {name}" for name in unshallow)]
    return b"".join(packet(f"{line}\n".encode()) for line in lines)


def pack_sections(pack: bytes, shallow_info: bytes) -> bytes:
    """Return the sections `shallow-info`, where there is any, and `packfile`."""
    info = packet(b"shallow-info\n") + shallow_info + DELIMITER if shallow_info else b""
    return info + packet(b"packfile\n") + side_band(pack)


def side_band(pack: bytes) -> bytes:
    """Return a pack on side band 1, and the end of the answer."""
    bands = (packet(b"\1" + pack[at : at + _BAND]) for at in range(0, len(pack), _BAND))
    return b"".join([*bands, FLUSH])
