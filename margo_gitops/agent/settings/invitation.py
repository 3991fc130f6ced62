"""What a person gives to a device so that it can be enrolled: a code, a file, or a few options (D-37)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from margo_gitops.digests import Digest
from margo_gitops.disk.files import disk_errors, read_bounded
from margo_gitops.documents.enrolment import MAX_FILE_BYTES, DeviceEnrolment, read_code
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import EnrolmentUnusable, InvalidDocument, Location, StorageFull, UnreadableDocument
from margo_gitops.values import dataclass, replace

NEW_ONE: Final = "make a new one: margo-gitops device enroll"
_BOUNDS: Final = Bounds(size=MAX_FILE_BYTES, depth=12, nodes=2_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a device was given.

    Attributes:
        server: where `serve` is; None: the device pulls from `git` or `http`.
        device: its id; None: the server says it.
        secret: for the server; None: a person or a list approves its key.
        trust: sha256 of the text of the first trust document; None: `document` is there.
        document: the envelope of that document.
        authority: certificates (PEM) to trust for TLS; None: the system's.
    """

    server: str | None = None
    device: str | None = None
    secret: str | None = None
    trust: Digest | None = None
    document: bytes | None = None
    authority: bytes | None = None
    git: str | None = None
    http: str | None = None

    def with_code(self, code: str) -> Invitation:
        """Return it with what a code says (EnrolmentUnusable: it cannot be read, or is for another device)."""
        try:
            said = read_code(code)
        except ValueError as error:
            raise EnrolmentUnusable("this is not a code of `device enroll`", why=[str(error)], remedy=NEW_ONE) from None
        if self.device not in (None, said.device):
            raise EnrolmentUnusable(f"the code is for {said.device}, not for {self.device}", remedy=NEW_ONE)
        return replace(self, device=said.device, secret=said.secret, trust=said.trust)


def read_given(file: Path) -> bytes:
    """Return the content of a small file that a person names (EnrolmentUnusable: it cannot be read)."""
    with agent_files(file):
        return read_bounded(file, MAX_FILE_BYTES)


def read_invitation(file: Path) -> Invitation:
    """Return what a file for this device says (EnrolmentUnusable: it cannot be read)."""
    content = read_given(file)
    try:
        found = read(DeviceEnrolment, read_yaml(content, str(file), _BOUNDS))
    except (UnreadableDocument, InvalidDocument) as error:
        raise EnrolmentUnusable(
            "the file cannot be used", where=Location(str(file)), why=str(error).splitlines(), remedy=NEW_ONE
        ) from error
    authority = found.certificate_authority.encode() if found.certificate_authority else None
    return Invitation(
        server=found.server,
        device=found.device,
        secret=found.secret,
        document=found.trust_document.encode(),
        authority=authority,
        git=found.git,
        http=found.http,
    )


def agent_files(path: Path) -> AbstractContextManager[None]:
    """Turn every `OSError` inside into `StorageFull` or `EnrolmentUnusable` at `path`."""
    return disk_errors(
        path,
        what="the agent's files cannot be read or written",
        error=EnrolmentUnusable,
        full=StorageFull,
        remedy="check owner, mode and mount of the folder",
    )
