"""Evidence of what devices should run, as an in-toto statement has it: who asked for it, who rendered and signed it.

The predicate holds the git objects themselves, so that every id and every signature can be computed again by somebody
who has neither repo. What else it says is for people, and must be what the objects say.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from dulwich.errors import ObjectFormatException
from dulwich.objects import Commit

from margo_gitops.documents.declarations import About, Items, Text, Wire
from margo_gitops.documents.state_layout import DEVICE_REFS
from margo_gitops.trust.git_commit import Ident, trailer_lines
from margo_gitops.trust.git_objects import OBJECT_ID_PATTERN
from margo_gitops.values import dataclass

PREDICATE_TYPE: Final = "urn:margo-gitops:evidence:v1"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
NAMESPACE: Final = "margo-gitops-evidence"
"""What an allowed-signers file calls this use of a key."""

ObjectId: TypeAlias = Annotated[str, Text(pattern=OBJECT_ID_PATTERN, what="an object id")]


@dataclass(frozen=True, slots=True)
class EvidenceTrailer:
    """A trailer of a commit message."""

    name: Annotated[str, About("As it is written.", ("Reviewed-by",))]
    value: Annotated[str, About("Its value.")]


@dataclass(frozen=True, slots=True)
class EvidenceFleetCommit:
    """The commit of the fleet repo that a state was rendered from."""

    id: Annotated[ObjectId, About("Of the commit; the object is below `objects`.")]
    author: Annotated[str, About("Who made the change.")]
    date: Annotated[str, About("The author's date, RFC 3339.")]
    subject: Annotated[str, About("First line of its message.")]
    trailers: Annotated[
        tuple[EvidenceTrailer, ...], About("Of its message, in order: approvals, reviews, sign-offs.")
    ] = ()


@dataclass(frozen=True, slots=True)
class EvidenceState:
    """A state of a device."""

    device: Annotated[str, About("The client's id.")]
    manifest_version: Annotated[str, About("In digits; text, because it may need more than 53 bits.", ("4",))]
    device_commit: Annotated[ObjectId, About("The commit on the device's branch.")]
    state_commit: Annotated[ObjectId, About("The commit of the branch `fleet` that brought this state.")]
    in_force: Annotated[ObjectId, About("The newest commit of the branch `fleet`, up to the time asked for, with it.")]
    place: Annotated[str, About("The folder of the device in the trees of both.", ("devices/north/press-01",))]
    signer: Annotated[str | None, About("Fingerprint of the key that signed the device commit; null: no one did.")]
    rendered_by: Annotated[str, About("The program, and its version.")]
    applications_lock: Annotated[str | None, About("Digest of the fleet commit's `applications.lock`; null: none.")]
    fleet_commit: EvidenceFleetCommit


@dataclass(frozen=True, slots=True)
class EvidenceObject:
    """A git object."""

    id: Annotated[ObjectId, About("sha1 of type, length and content, as git makes it.")]
    type: Annotated[Literal["commit", "tree", "blob"], About("Its type.")]
    content: Annotated[str, About("Its bytes, in base64.")]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The predicate of a statement: states of devices, and the git objects that prove them."""

    fleet: Annotated[str, About("Name of the fleet.")]
    exported_at: Annotated[str, About("When, RFC 3339, in UTC; the time that the envelope's signer is judged at.")]
    exported_by: Annotated[str, About("The program, and its version.")]
    states: Annotated[tuple[EvidenceState, ...], Items(minimum=1), About("Sorted by device, then as on its branch.")]
    objects: Annotated[
        tuple[EvidenceObject, ...],
        Items(minimum=1),
        About("Every object that the states lead to, and no other, by id."),
    ]


@dataclass(frozen=True, slots=True)
class SubjectDigest:
    """Digests of a subject; the names are in-toto's."""

    sha256: Annotated[str | None, About("Of the file's bytes, in hex.")] = None
    git_blob: Annotated[ObjectId | None, About("Id of the file as a git blob.")] = None
    git_tree: Annotated[ObjectId | None, About("Id of the device's tree.")] = None
    git_commit: Annotated[ObjectId | None, About("Id of the device's commit.")] = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A device's state, or one file of it."""

    name: Annotated[str, About("A ref, or a path below the device.", ("press-01/manifest.json",))]
    digest: SubjectDigest


def fleet_commit_of(name: str, raw: bytes) -> EvidenceFleetCommit:
    """Return what a commit of the fleet repo says of itself; commits of people need not be as strict as ours.

    Args:
        name: its id.

    Raises:
        ValueError: it is not a commit.
    """
    try:
        commit = Commit()
        commit.set_raw_string(raw)
        author, time, zone = commit.author, commit.author_time, commit.author_timezone
        message = commit.message
    except (
        ObjectFormatException,
        AssertionError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"{name} is not a commit: {error}") from error
    text = message.decode("utf-8", "replace")
    return EvidenceFleetCommit(
        id=name,
        author=author.decode("utf-8", "replace"),
        date=Ident("", "", time, zone // 60).date,
        subject=text.strip().split("\n")[0],
        trailers=tuple(EvidenceTrailer(each, value) for each, value in trailer_lines(text)),
    )


def content_of(item: EvidenceObject) -> bytes:
    """Return an object's bytes (ValueError: it is not base64)."""
    try:
        return base64.b64decode(item.content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the content of {item.id} is not base64") from error


def subjects_of(encoded: str, commit: str, tree: str, files: Mapping[str, tuple[str, bytes]]) -> Iterator[Subject]:
    """Yield the subjects of a device's state.

    Args:
        encoded: the device's name in refs.
        files: blob id and content by path below the device.
    """
    yield Subject(f"{DEVICE_REFS}{encoded}", SubjectDigest(git_tree=tree, git_commit=commit))
    for path, (blob, content) in files.items():
        yield Subject(f"{encoded}/{path}", SubjectDigest(sha256=hashlib.sha256(content).hexdigest(), git_blob=blob))


def sorted_subjects(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    """Return the subjects of a statement, sorted and each once."""
    found = {(each.name, each.digest.git_commit or each.digest.git_blob or ""): each for each in subjects}
    return tuple(found[key] for key in sorted(found))


@dataclass(frozen=True, slots=True)
class EvidenceStatement:
    """An in-toto statement (v1) about states of devices; the payload of an evidence file's envelope."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Wire("_type"), About("What this is.")]
    subject: Annotated[tuple[Subject, ...], Items(minimum=1), About("What it is about, sorted by name.")]
    predicate_type: Annotated[Literal["urn:margo-gitops:evidence:v1"], About("What the predicate is.")]
    predicate: Evidence
