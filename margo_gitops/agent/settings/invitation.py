"""What a person gives to a device so that it can be enrolled: a code, a file, or a few options (D-37)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from margo_gitops.digests import Digest
from margo_gitops.disk.files import disk_errors, read_bounded
from margo_gitops.documents.enrolment import (
    ENROLMENT_FOLDER,
    MAX_FILE_BYTES,
    DeviceEnrolment,
    StickRequest,
    approval_name,
    read_code,
    request_name,
)
from margo_gitops.documents.nodes import Bounds
from margo_gitops.documents.records import read
from margo_gitops.documents.yaml_text import read_yaml
from margo_gitops.errors import (
    EnrolmentUnusable,
    EnrolmentWaits,
    InvalidDocument,
    Location,
    StorageFull,
    UnreadableDocument,
)
from margo_gitops.trust.ssh_key import SshPublicKey
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
        stick: where the stick is, for a device without a line.
        key: the one key that it is for; None: any.
        asks: whether the request goes home on the stick first.
    """

    server: str | None = None
    device: str | None = None
    secret: str | None = None
    trust: Digest | None = None
    document: bytes | None = None
    authority: bytes | None = None
    git: str | None = None
    http: str | None = None
    stick: Path | None = None
    key: str | None = None
    asks: bool = False

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
    return parse_invitation(read_given(file), str(file))


def parse_invitation(content: bytes, file: str) -> Invitation:
    """Return what these bytes of a file say (EnrolmentUnusable: it cannot be used)."""
    try:
        found = read(DeviceEnrolment, read_yaml(content, file, _BOUNDS))
    except (UnreadableDocument, InvalidDocument) as error:
        raise EnrolmentUnusable(
            "the file cannot be used", where=Location(file), why=str(error).splitlines(), remedy=NEW_ONE
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
        stick=Path(found.stick) if found.stick else None,
        key=found.public_key,
    )


def ask_on_stick(asked: Invitation, key: SshPublicKey, sign: Callable[[bytes], str]) -> Invitation:
    """Return what answers this device's request on the stick; without an answer, the request is on it.

    Args:
        asked: the device's id, where the stick is, and its trust document, if it has one.
        sign: signs a request with the key.

    Raises:
        EnrolmentWaits: nothing answers it yet.
        EnrolmentUnusable: the stick cannot be used, or the answer is for another device or another key.
    """
    from margo_gitops.transport.stick.files import read_home, write_home
    from margo_gitops.trust.enrolment import write_request

    if asked.stick is None or asked.device is None:
        raise EnrolmentUnusable("nothing says which device this is", remedy="name it with --device")
    name = approval_name(str(key))
    content = read_home(asked.stick, ENROLMENT_FOLDER, name, MAX_FILE_BYTES)
    if content is None:
        request = write_request(StickRequest(str(key), asked.device), sign)
        with agent_files(asked.stick):
            write_home(asked.stick, ENROLMENT_FOLDER, request_name(str(key)), request)
        raise EnrolmentWaits(
            f"the request of the key {key.fingerprint} is on the stick",
            remedy=f"carry it home: margo-gitops device approve {asked.device} --fingerprint {key.fingerprint} "
            "--stick FOLDER. Then run this command again, with the stick",
        )
    answer = parse_invitation(content, f"{ENROLMENT_FOLDER}/{name}")
    if answer.device != asked.device or answer.stick is None:
        raise EnrolmentUnusable(
            f"the answer on the stick is not for {asked.device}",
            where=Location(str(asked.stick)),
            remedy="find out who wrote it; let the request be approved again",
        )
    return replace(answer, stick=asked.stick, document=asked.document or answer.document)


def agent_files(path: Path) -> AbstractContextManager[None]:
    """Turn every `OSError` inside into `StorageFull` or `EnrolmentUnusable` at `path`."""
    return disk_errors(
        path,
        what="the agent's files cannot be read or written",
        error=EnrolmentUnusable,
        full=StorageFull,
        remedy="check owner, mode and mount of the folder",
    )
