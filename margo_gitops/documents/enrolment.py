"""What a device and its server say to each other once: the device's key becomes known, and the device learns who it is.

The request is signed: its envelope carries it as exact text (docs/enrolment.md, D-37).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias

from margo_gitops.digests import DIGEST_PATTERN, Digest, sha256
from margo_gitops.documents.constraints import DeviceName
from margo_gitops.documents.declarations import About, OwnKind, Problem, Range, Text
from margo_gitops.documents.freshness import Moment, moment_problems
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION
from margo_gitops.documents.trust_document import MAX_ENVELOPE_BYTES, KeyText
from margo_gitops.values import dataclass

ENROLMENT_PATH: Final = "/api/v1/enrolment"
ENROLMENT_NAMESPACE: Final = "margo-gitops-enrolment"
MAX_REQUEST_BYTES: Final = 32 * 1024
MAX_ANSWER_BYTES: Final = 4 * MAX_ENVELOPE_BYTES
MAX_FILE_BYTES: Final = 512 * 1024

SourceKind: TypeAlias = Literal["http", "git"]
Secret = Annotated[str, Text(pattern=r"^[A-Za-z0-9_-]{22,128}$", what="a secret of 22 to 128 letters, digits, _ and -")]
HashText = Annotated[str, Text(pattern=DIGEST_PATTERN, what="sha256: and 64 hex digits")]

_CODE = re.compile(r"(?P<device>[^.].*)\.(?P<secret>[A-Za-z0-9_-]{22,128})\.(?P<trust>[A-Za-z0-9_-]{43})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EnrolmentRequest(OwnKind):
    """What the device signs with its key."""

    public_key: Annotated[KeyText, About("The device's key. It signs this text.")]
    token: Annotated[HashText, About("sha256 of the token that the device made and will send.")]
    trust: Annotated[HashText, About("sha256 of the text of the trust document that the device begins with.")]
    device: Annotated[DeviceName | None, About("The id that the device expects, or asks for.")] = None
    secret: Annotated[Secret | None, About("The one-time secret; absent: a person approves the key.")] = None


@dataclass(frozen=True, slots=True)
class StickRequest(OwnKind):
    """What a device without a line signs, and a person carries to who approves it (docs/sticks.md)."""

    public_key: Annotated[KeyText, About("The device's key. It signs this text.")]
    device: Annotated[DeviceName, About("The id that the device asks for.")]


@dataclass(frozen=True, slots=True)
class EnrolmentEnvelope:
    """A request as it is sent."""

    request: Annotated[str, About("The exact text of the request."), Text(max_length=MAX_REQUEST_BYTES)]
    signature: Annotated[
        str, About("SSH signature over that text, armored, for the namespace `margo-gitops-enrolment`.")
    ]


@dataclass(frozen=True, slots=True)
class EnrolmentAnswer(OwnKind):
    """What an enrolled device learns: nothing in it is secret."""

    device: Annotated[DeviceName, About("The device's id.")]
    source: Annotated[SourceKind, About("How it pulls from this server: `http`, or `git` at /git/state.git.")]
    trust_document: Annotated[str, About("The envelope whose text has the digest that was asked for.")]
    minimum_version: Annotated[
        int | None,
        About("The highest manifest version that a device of this id has reported; absent: none."),
        Range(minimum=1, maximum=MAX_MANIFEST_VERSION),
    ] = None


@dataclass(frozen=True, slots=True)
class DeviceEnrolment(OwnKind):
    """A file for one device that is carried to it; it is a secret if it holds one."""

    device: Annotated[DeviceName, About("The device's id.")]
    trust_document: Annotated[str, About("The trust document that it begins with: the content of keys/<version>.json.")]
    server: Annotated[str | None, About("Where `margo-gitops serve` is.", ("https://wfm.plant.example",))] = None
    secret: Annotated[Secret | None, About("The one-time secret for the server.")] = None
    expires: Annotated[Moment | None, About("When the secret ends.")] = None
    certificate_authority: Annotated[str | None, About("Certificates (PEM) that the device trusts for TLS.")] = None
    git: Annotated[str | None, About("Without a server: the state repo that the device pulls from by git.")] = None
    http: Annotated[str | None, About("Without a server: where the device pulls from over HTTP.")] = None
    stick: Annotated[str | None, About("Without a line: where the device finds the stick.", ("/media/margo",))] = None
    public_key: Annotated[KeyText | None, About("The one key that it is for; absent: for any.")] = None

    def problems(self) -> Iterator[Problem]:
        """Yield a place that is missing or named twice, and a secret for no server."""
        if sum(each is not None for each in (self.server, self.git, self.http, self.stick)) != 1:
            yield Problem((), "must name exactly one of server, git, http and stick")
        if self.secret is not None and self.server is None:
            yield Problem(("secret",), "there is no server that it is for")
        if self.expires is not None:
            yield from moment_problems(expires=self.expires)


ENROLMENT_FOLDER: Final = "enrolment"
"""On a stick: requests, and what answers them."""


def request_name(key: str) -> str:
    """Return the name of a device's request on a stick: the same device asks under the same name."""
    return f"{sha256(key.encode()).removeprefix('sha256:')[:16]}.json"


def approval_name(key: str) -> str:
    """Return the name of what answers the request of a key."""
    return request_name(key).replace(".json", ".yaml")


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """What a person types or pastes on a device: `<device>.<secret>.<digest of the trust document's text>`."""

    device: str
    secret: str
    trust: Digest

    def __str__(self) -> str:
        digest = base64.urlsafe_b64encode(bytes.fromhex(self.trust.removeprefix("sha256:"))).decode().rstrip("=")
        return f"{self.device}.{self.secret}.{digest}"


def read_code(text: str) -> EnrolmentCode:
    """Return what a code says (ValueError: it cannot be read; the message does not show it)."""
    match = _CODE.fullmatch(text.strip())
    if match is None:
        raise ValueError("it is not of the form <device>.<secret>.<digest>")
    try:
        digest = base64.urlsafe_b64decode(match["trust"] + "=")
    except binascii.Error:
        raise ValueError("its last part is not a digest") from None
    return EnrolmentCode(match["device"], match["secret"], Digest(f"sha256:{digest.hex()}"))


def secret_digest(secret: str) -> Digest:
    """Return what a server keeps of a secret or a token: both cannot be guessed, so a fast hash is enough."""
    return sha256(secret.encode())
