"""Reports that an agent pushes, as the kit's git host takes them, and how they are judged (git subset, G-P)."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from dulwich.errors import ApplyDeltaError, ChecksumMismatch
from dulwich.object_format import SHA1
from dulwich.objects import Blob, Commit, ShaFile, Tree
from dulwich.pack import PackData, PackInflater

from margo_gitops.conformance.agents.loopback import Request
from margo_gitops.conformance.agents.states import DEVICE
from margo_gitops.conformance.report import shown
from margo_gitops.conformance.wire import FLUSH, packet
from margo_gitops.documents.state_layout import device_reports_ref
from margo_gitops.trust.git_objects import FILE_MODE, FOLDER_MODE
from margo_gitops.values import dataclass, field

RECEIVE_PACK: Final = "git-receive-pack"
OWN_REF: Final = device_reports_ref(DEVICE)
NOTHING: Final = "0" * 40
_COMMAND: Final = re.compile(rb"([0-9a-f]{40}) ([0-9a-f]{40}) ([^\0\n]+)")
_PATHS: Final = re.compile(
    r"capabilities\.json|capabilities/[^/]+\.json|receipts/latest\.json"
    r"|status/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.json"
)
_BROKEN: Final = (ValueError, KeyError, AssertionError, EOFError, zlib.error, ApplyDeltaError, ChecksumMismatch)


@dataclass(frozen=True, slots=True)
class Push:
    """One request to `git-receive-pack`.

    Attributes:
        commands: old id, new id, and full name of each ref.
        parents: how many the commit has.
        tree: id of its tree.
        files: mode and content by path.
        problem: why it cannot be read; empty where it can.
    """

    commands: tuple[tuple[str, str, str], ...]
    parents: int = 0
    tree: str = ""
    files: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    problem: str = ""

    @property
    def oddity(self) -> str:
        """What is not as G-P-2 and G-P-5 say; empty for nothing."""
        if self.problem:
            return self.problem
        odd = [path for path, (mode, _) in self.files.items() if mode != FILE_MODE or not _PATHS.fullmatch(path)]
        return f"it holds {shown(odd[0])}" if odd else ""


def read_push(request: Request) -> Push:
    """Return the push in a request; never raises."""
    body, at = request.body, 0
    commands: list[tuple[str, str, str]] = []
    while (length := body[at : at + 4]) not in (FLUSH, b""):
        try:
            size = int(length, 16)
        except ValueError:
            size = 0
        match = _COMMAND.match(body[at + 4 : at + size])
        if size < 4 or match is None:
            return Push(tuple(commands), problem="a command cannot be read")
        old, new, ref = (each.decode("utf-8", "replace") for each in match.groups())
        commands.append((old, new, ref))
        at += size
    try:
        objects = _objects(body[at + 4 :])
        commit = objects[commands[0][1].encode()]
        if not isinstance(commit, Commit):
            raise KeyError("it is not a commit")
        files = dict(_files(objects, commit.tree, ""))
        return Push(tuple(commands), len(commit.parents), commit.tree.decode(), files)
    except _BROKEN as error:
        return Push(tuple(commands), problem=f"the pack cannot be read whole: {shown(str(error))}")
    except IndexError:
        return Push((), problem="it holds no command")


def _objects(content: bytes) -> dict[bytes, ShaFile]:
    with PackData.from_file(io.BytesIO(content), SHA1, len(content)) as data:
        return {bytes(each.id): each for each in PackInflater.for_pack_data(data)}


def _files(objects: Mapping[bytes, ShaFile], name: bytes, prefix: str) -> Iterator[tuple[str, tuple[int, bytes]]]:
    tree = objects[name]
    if not isinstance(tree, Tree):
        raise KeyError("a folder is not a tree")
    for path, mode, child in tree.items():
        place = prefix + path.decode("utf-8", "replace")
        if mode == FOLDER_MODE:
            yield from _files(objects, child, f"{place}/")
        else:
            blob = objects[child]
            yield place, (mode, blob.data if isinstance(blob, Blob) else b"")


def take_push(refs: dict[str, str], request: Request) -> bytes:
    """Move the ref that a push moves, if it is the device's own and the push knows what it holds; return the answer."""
    push = read_push(request)
    lines = [b"unpack ok\n" if not push.problem else b"unpack error\n"]
    for old, new, ref in push.commands:
        reason = "only the device's own reports are taken" if ref != OWN_REF else push.problem
        reason = reason or ("" if refs.get(ref, NOTHING) == old else "the ref holds another commit")
        if not reason:
            refs[ref] = new
        lines.append(f"ng {ref} {reason}\n".encode() if reason else f"ok {ref}\n".encode())
    report = b"".join(map(packet, lines)) + FLUSH
    return packet(b"\x01" + report) + FLUSH if b"side-band-64k" in request.body.partition(b"PACK")[0] else report


def push_listing(refs: Mapping[str, str]) -> bytes:
    """Return what a git program asks for before it pushes: the device's own ref, and what the host can do."""
    held = refs.get(OWN_REF)
    first = f"{held} {OWN_REF}" if held else f"{NOTHING} capabilities^{{}}"
    line = f"{first}\0report-status side-band-64k object-format=sha1\n".encode()
    return packet(f"# service={RECEIVE_PACK}\n".encode()) + FLUSH + packet(line) + FLUSH
