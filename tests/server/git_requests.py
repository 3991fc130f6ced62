"""Git's requests as bytes, sent to the real server, and its answers as packets."""

from __future__ import annotations

import io

import httpx

from margo_gitops.transport.git.pack import GitObject, ObjectID, read_pack
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.transport.git.source import GitLimits

REPOSITORY = "/git/state.git"
V2 = {"Git-Protocol": "version=2", "Content-Type": "application/x-git-upload-pack-request"}


def command(name: str, *arguments: str) -> bytes:
    lines = b"".join(packet(f"{line}\n".encode()) for line in arguments)
    return packet(f"command={name}\n".encode()) + DELIMITER + lines + FLUSH


def post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"{REPOSITORY}/git-upload-pack", content=body, headers={**V2, **more})


def ls_refs(client: httpx.Client, *prefixes: str, **headers: str) -> dict[str, str]:
    """Return what `ls-refs` answers, by ref."""
    found = post(client, command("ls-refs", *(f"ref-prefix {prefix}" for prefix in prefixes)), **headers)
    assert found.status_code == 200
    lines = (line.split() for line in texts(found.content))
    return {ref: name for name, ref in lines}


def fetch(client: httpx.Client, *arguments: str) -> httpx.Response:
    return post(client, command("fetch", *arguments))


def texts(content: bytes) -> list[str]:
    """Return the lines of an answer up to its end or its pack."""
    reader = PacketReader(io.BytesIO(content).read, len(content))
    found = []
    while (line := reader.line()) is not Mark.FLUSH and line != b"packfile":
        found.append(line.name if isinstance(line, Mark) else line.decode())
    return found


def objects(content: bytes, held: dict[ObjectID, GitObject] | None = None) -> dict[ObjectID, GitObject]:
    """Return the objects in the pack of an answer."""
    reader = PacketReader(io.BytesIO(content).read, len(content))
    while reader.line() != b"packfile":
        pass

    def bands() -> object:
        while (band := reader.packet()) is not Mark.FLUSH:
            assert isinstance(band, bytes)
            assert band[:1] == b"\1"
            yield band[1:]

    return read_pack(bands(), (held or {}).get, GitLimits())  # type: ignore[arg-type]  # a generator of bytes
