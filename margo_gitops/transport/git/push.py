"""Push one branch that a device owns (git subset, G-P; gitprotocol-pack, pushing data to a server).

OWN-1  Each push names the commit that the branch holds (its lease), so that two programs never overwrite each other
       unseen. What the device pushed last is tried first: over HTTP, that is one request, for any number of refs.
OWN-2  If the branch holds another commit, it is asked for alone (`ls-refs`), and the push is sent once more. The
       caller learns what the branch held.
OWN-3  The objects of a push are whole, and small. The answer is bounded like every answer of a source.
OWN-4  Nothing but this branch is pushed, and nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Final

from margo_gitops.errors import PushDeclined, SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.git_transport import RemoteRepository
from margo_gitops.transport.git.pack import ObjectID
from margo_gitops.transport.git.pktline import FLUSH, Mark, PacketReader, packet
from margo_gitops.transport.git.protocol_v2 import RECEIVE_PACK
from margo_gitops.transport.git.source import GitLimits, GitSource
from margo_gitops.trust.git_objects import (
    BLOB,
    FILE_MODE,
    FOLDER_MODE,
    TREE,
    TreeEntry,
    is_object_id,
    object_id,
    pack_bytes,
    pack_entry,
    tree_bytes,
)
from margo_gitops.web.metering import Cost, Deadline, Meter
from margo_gitops.web.refusal import shown

if TYPE_CHECKING:  # each is loaded only where it is used: a device uses one
    from margo_gitops.transport.git.http_connection import HttpConnection

NOTHING: Final = ObjectID(b"0" * 40)
"""In place of the commit of a branch that does not exist."""

_ANSWER_BYTES: Final = 64 * 1024
_SAID_BYTES: Final = 500
_ASKED_FOR: Final = b"report-status side-band-64k"
_REPORT, _PROGRESS, _ERROR = 1, 2, 3
# git starts a push with the list of all refs, over ssh: room for 100,000.
_LISTING_BYTES: Final = GitLimits().listing_bytes


class GitPush:
    """Pushes one branch of one repository over HTTP or ssh. Not for two threads at a time."""

    def __init__(self, source: GitSource) -> None:
        """Take the settings; nothing is opened or read yet.

        Args:
            source: its ref is the branch.
        """
        self.source = source
        self._meter = Meter()
        self._http: HttpConnection | None = None
        if source.address.scheme in ("https", "http"):
            from margo_gitops.transport.git.http_connection import HttpConnection

            self._http = HttpConnection(source, self._meter)

    @property
    def cost(self) -> Cost:
        """What all pushes together have used so far."""
        return self._meter.read()

    def push(
        self, objects: Mapping[ObjectID, tuple[bytes, bytes]], expected: ObjectID | None, deadline: Deadline
    ) -> ObjectID:
        """Let the branch hold a commit; return what it held before: `NOTHING` if it did not exist.

        Args:
            objects: kind and content of each object by id; the commit is the last.
            expected: the commit that the branch is known to hold; None: the server is asked.

        Raises:
            PushDeclined: the server answers, and does not move the branch.
            TransportError: no usable answer came.
        """
        commit = list(objects)[-1]
        pack = pack_bytes([pack_entry(*each) for each in objects.values()])
        try:
            if self._http is None:
                return self._push_by_ssh(commit, pack, deadline)
            return self._push_by_http(self._http, commit, pack, expected, deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the kept connection. A later `push` opens a new one."""
        if self._http is not None:
            self._http.close()

    def _push_by_http(
        self, http: HttpConnection, commit: ObjectID, pack: bytes, expected: ObjectID | None, deadline: Deadline
    ) -> ObjectID:
        declined = None
        if expected is not None:
            declined = self._send(http, expected, commit, pack, deadline)
            if declined is None:
                return expected
        ref = self.source.ref_name
        tip = RemoteRepository(http, GitLimits(), stateless=True).tip(ref, deadline) or NOTHING
        if tip == commit:
            return tip  # the answer to an earlier sending was lost
        if declined is None or tip != expected:
            declined = self._send(http, tip, commit, pack, deadline)
        if declined is not None:
            raise declined
        return tip

    def _send(
        self, http: HttpConnection, held: ObjectID, commit: ObjectID, pack: bytes, deadline: Deadline
    ) -> PushDeclined | None:
        request = push_request(self.source.ref_name, held, commit) + pack
        with http.ask(request, _ANSWER_BYTES, deadline, RECEIVE_PACK) as read:
            return read_result(PacketReader(read, _ANSWER_BYTES), self.source.ref_name)

    def _push_by_ssh(self, commit: ObjectID, pack: bytes, deadline: Deadline) -> ObjectID:
        from margo_gitops.transport.git.ssh_connection import SshConnection

        ref, connection = self.source.ref_name, SshConnection(self.source, self._meter, RECEIVE_PACK)
        try:
            with connection.greet(_LISTING_BYTES, deadline) as read:
                tip = read_listing(PacketReader(read, _LISTING_BYTES), ref)
            if tip != commit:
                with connection.ask(push_request(ref, tip, commit) + pack, _ANSWER_BYTES, deadline) as read:
                    declined = read_result(PacketReader(read, _ANSWER_BYTES), ref)
                if declined is not None:
                    raise declined
            connection.finish()
        finally:
            connection.close()
        return tip


def file_objects(files: Mapping[tuple[str, ...], bytes]) -> dict[ObjectID, tuple[bytes, bytes]]:
    """Return the objects of files by their paths, by id; the tree of all is the last.

    Raises:
        ValueError: a name that no file can have.
    """
    objects: dict[ObjectID, tuple[bytes, bytes]] = {}

    def keep(kind: bytes, content: bytes) -> str:
        name = object_id(kind, content)
        objects.pop(ObjectID(name.encode()), None)
        objects[ObjectID(name.encode())] = kind, content
        return name

    def folder(files: Mapping[tuple[str, ...], bytes]) -> str:
        entries, below = [], dict[str, dict[tuple[str, ...], bytes]]()
        for (head, *rest), content in files.items():
            if rest:
                below.setdefault(head, {})[tuple(rest)] = content
            else:
                entries.append(TreeEntry(head.encode(), FILE_MODE, keep(BLOB, content)))
        entries += [TreeEntry(name.encode(), FOLDER_MODE, folder(each)) for name, each in below.items()]
        return keep(TREE, tree_bytes(entries))

    folder(files)
    return objects


def push_request(ref: bytes, held: ObjectID, commit: ObjectID) -> bytes:
    """Return what comes before the pack: move one ref from one commit to another."""
    return packet(held + b" " + commit + b" " + ref + b"\0 " + _ASKED_FOR) + FLUSH


def read_listing(packets: PacketReader, ref: bytes) -> ObjectID:
    """Return the commit of a ref in the list with which a server starts a push; `NOTHING` without such a ref."""
    found, first = NOTHING, True
    while (line := packets.line()) is not Mark.FLUSH:
        if isinstance(line, Mark):
            raise SourceMisbehaved("the list of refs is cut by a packet that does not belong there")
        line, _, offered = line.partition(b"\0")
        if first and b"object-format=sha256" in offered.split():
            raise SourceRefused(
                "the repository keeps sha256 objects", remedy="make the repository with the sha1 object format"
            )
        first = False
        name, _, listed = line.partition(b" ")
        if listed == ref:
            if not is_object_id(name.decode("ascii", "replace")):
                raise SourceMisbehaved(f"the list of refs holds {shown(line)}, which is not a ref")
            found = ObjectID(name)
    return found


def read_result(packets: PacketReader, ref: bytes) -> PushDeclined | None:
    """Return why the server did not move the ref; None where it did. Servers without side bands are understood, too."""
    report, said = b"", b""
    while (content := packets.packet()) is not Mark.FLUSH:
        if isinstance(content, Mark) or not content:
            raise SourceMisbehaved("the answer to a push is cut by a packet that does not belong there")
        band = content[0]
        if band == _PROGRESS:
            said = (said + content[1:])[-_SAID_BYTES:]
        elif band == _ERROR:
            raise SourceRefused(f"the server broke off: {shown(content[1:])}", remedy="see the log of the git server")
        else:
            report += content[1:] if band == _REPORT else packet(content)
    lines = PacketReader(BytesIO(report + FLUSH).read, len(report) + len(FLUSH))
    moved, reason = False, b""
    while (line := lines.line()) is not Mark.FLUSH:
        if isinstance(line, Mark):
            raise SourceMisbehaved("the answer to a push holds a packet that does not belong there")
        moved = moved or line == b"ok " + ref
        if line.startswith(b"ng ") or (line.startswith(b"unpack ") and line != b"unpack ok"):
            reason = line.removeprefix(b"ng " + ref).removeprefix(b"unpack").strip()
    if moved:
        return None
    return PushDeclined(
        f"the git server does not take what this device reports: {shown(reason) or 'it does not say why'}",
        why=[shown(each) for each in said.splitlines() if each.strip()][-3:],
        remedy=f"let this device create {ref.decode()} and push to it by force (docs/git-host.md)",
    )
