"""Git commits as bytes: read strictly, built and signed as git does (gitformat-signature, git-interpret-trailers).

COMMIT-1  A commit is at most 64 KiB, UTF-8 without NUL, and declares no other encoding.
COMMIT-2  Its headers are one `tree`, any number of `parent`, one `author`, one `committer`, in this order; then
          others.
COMMIT-3  At most one signature, in `gpgsig`; each further line of it starts with a space. No other `gpgsig...` header.
COMMIT-4  The signature covers every byte of the commit except that header.
COMMIT-5  Trailers are the last paragraph of the message, if a blank line is before it and every line in it is a
          trailer.
COMMIT-6  No trailer is there twice (case is ignored): two readers could otherwise believe two values.

Git is laxer in each of these. What passes here, git reads the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Final

from margo_gitops.trust.git_objects import is_object_id
from margo_gitops.trust.ssh_key import SigningKey
from margo_gitops.trust.ssh_signature import GIT_NAMESPACE, sign
from margo_gitops.values import dataclass, field

MAX_COMMIT_BYTES: Final = 64 * 1024
MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999, beyond which no calendar of ours goes."""

_SIGNATURE_HEADER: Final = b"gpgsig"
_SPACE: Final = " \t"
"""White space around a trailer's value. No trailer holds a carriage return: git keeps some and drops others."""

_HEADER_NAME: Final = re.compile(rb"[A-Za-z0-9-]+")
_IDENT: Final = re.compile(
    r"(?:(?P<name>[^<>\n]*) )?<(?P<email>[^<>\n]*)> (?P<time>[0-9]{1,12}) "
    r"(?P<sign>[+-])(?P<hours>[0-9]{2})(?P<minutes>[0-5][0-9])"
)
_TRAILER: Final = re.compile(r"(?P<key>[A-Za-z0-9-]+)[ \t]*:(?P<value>[^\r\n]*)")
_TRAILER_KEY: Final = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Ident:
    """Who, and when (git's word for what is behind `author` and `committer`).

    Attributes:
        name: a person or program; without `<`, `>` and line ends.
        email: without these, too; may be empty.
        time: seconds since 1970-01-01 UTC.
        offset: minutes by which the writer's clock was ahead of UTC.
    """

    name: str
    email: str
    time: int
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"

    @property
    def date(self) -> str:
        """The time as RFC 3339 text, in the writer's own time zone; in words where no calendar has it."""
        try:
            return datetime.fromtimestamp(self.time, timezone(timedelta(minutes=self.offset))).isoformat()
        except (ValueError, OverflowError, OSError):
            return f"{self.time} s after 1970-01-01 UTC"


@dataclass(frozen=True, slots=True)
class GitCommit:
    """A commit that follows COMMIT-1 to COMMIT-6; nothing in it is verified.

    Attributes:
        tree: id of its tree, 40 lower-case hex digits.
        parents: ids of its parents, in order.
        message: the whole message, trailers included.
        trailers: the message's trailers, in order, with their names as written.
        signature: the armor of its signature, or None.
        payload: the exact bytes that a signature covers (COMMIT-4).
    """

    tree: str
    parents: tuple[str, ...]
    author: Ident
    committer: Ident
    message: str
    trailers: Mapping[str, str]
    signature: str | None = field(repr=False)
    payload: bytes = field(repr=False)

    @property
    def committed_at(self) -> int:
        """When the commit was made, as its committer says: seconds since 1970-01-01 UTC."""
        return self.committer.time


@dataclass(frozen=True, slots=True)
class _Header:
    """A header: its value with further lines joined on, and all its bytes."""

    name: bytes
    value: bytes
    raw: bytes


def parse_commit(raw: bytes) -> GitCommit:
    """Return the commit in a raw commit object.

    Args:
        raw: headers, signature and message, without git's own `commit <size>` in front.

    Raises:
        ValueError: one of COMMIT-1 to COMMIT-6 is broken; the message says which.
    """
    if len(raw) > MAX_COMMIT_BYTES:
        raise ValueError(f"the commit has {len(raw)} bytes; {MAX_COMMIT_BYTES} are possible")
    if b"\0" in raw:
        raise ValueError("the commit holds a NUL")
    head, blank, body = raw.partition(b"\n\n")
    if not blank:
        raise ValueError("no empty line ends the commit's headers")

    headers = _read_headers(head)
    tree, parents, author, committer = _required_headers(headers)
    message = _decode(body, "message")
    return GitCommit(
        tree=_object_id(tree, "tree"),
        parents=tuple(_object_id(parent, "parent") for parent in parents),
        author=_parse_ident(author, "author"),
        committer=_parse_ident(committer, "committer"),
        message=message,
        trailers=parse_trailers(message),
        signature=_signature(headers),
        payload=b"".join([*(header.raw for header in headers if header.name != _SIGNATURE_HEADER), b"\n", body]),
    )


def _read_headers(head: bytes) -> list[_Header]:
    headers: list[_Header] = []
    lines: list[bytes] = []

    def close() -> None:
        if lines:
            name, _, first = lines[0].partition(b" ")
            value = b"\n".join([first, *(line[1:] for line in lines[1:])])
            headers.append(_Header(name, value, b"".join(line + b"\n" for line in lines)))
            lines.clear()

    for line in head.split(b"\n"):
        if line.startswith(b" ") and lines:
            lines.append(line)
            continue
        name, space, _ = line.partition(b" ")
        if not space or not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{line[:40]!r} is not a header of a commit")
        close()
        lines.append(line)
    close()
    return headers


def _required_headers(headers: list[_Header]) -> tuple[bytes, list[bytes], bytes, bytes]:
    """Return tree, parents, author and committer (COMMIT-2); no encoding other than UTF-8 may be declared."""
    names = [header.name for header in headers]
    parents = names.count(b"parent")
    expected = [b"tree", *[b"parent"] * parents, b"author", b"committer"]
    if names[: len(expected)] != expected or not set(expected).isdisjoint(names[len(expected) :]):
        raise ValueError("the headers are not one tree, the parents, one author and one committer, in this order")
    for header in headers:
        if header.name == b"encoding" and header.value.upper() not in (b"UTF-8", b"UTF8"):
            raise ValueError(f"the commit is in {header.value[:40]!r}; only UTF-8 is read")
    values = [header.value for header in headers[: len(expected)]]
    return values[0], values[1:-2], values[-2], values[-1]


def _signature(headers: list[_Header]) -> str | None:
    found = [header for header in headers if header.name.startswith(_SIGNATURE_HEADER)]
    for header in found:
        if header.name != _SIGNATURE_HEADER:
            raise ValueError(f"the header {header.name.decode()} is not known; signatures are in gpgsig")
    if len(found) > 1:
        raise ValueError(f"the commit has {len(found)} signatures, not one")
    return _decode(found[0].value, "signature") if found else None


def _decode(content: bytes, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the commit's {what} is not UTF-8, at its byte {error.start}") from None


def _object_id(value: bytes, header: str) -> str:
    text = value.decode("ascii", "replace")
    if not is_object_id(text):
        raise ValueError(f"{text[:80]!r} in the header {header} is not an object id")
    return text


def _parse_ident(value: bytes, header: str) -> Ident:
    text = _decode(value, header)
    match = _IDENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} in the header {header} is not a name, address, time and offset")
    time = int(match["time"])
    if time > MAX_TIME:
        raise ValueError(f"the time {time} in the header {header} is beyond the year 9999")
    offset = int(match["hours"]) * 60 + int(match["minutes"])
    return Ident(match["name"] or "", match["email"], time, -offset if match["sign"] == "-" else offset)


def parse_trailers(message: str) -> Mapping[str, str]:
    """Return the trailers of a commit message, in order (COMMIT-5); folded lines are joined by a space.

    Raises:
        ValueError: a trailer is there twice (COMMIT-6).
    """
    trailers: dict[str, str] = {}
    seen: set[str] = set()
    for key, value in trailer_lines(message):
        if key.lower() in seen:
            raise ValueError(f"the trailer {key} is there twice")
        seen.add(key.lower())
        trailers[key] = value
    return MappingProxyType(trailers)


def trailer_lines(message: str) -> list[tuple[str, str]]:
    """Return the trailers of a commit message (COMMIT-5), in order, also those that are there more than once."""
    lines = message.split("\n")
    end = len(lines)
    while end and not lines[end - 1].strip(_SPACE):
        end -= 1
    start = end
    while start and lines[start - 1].strip(_SPACE):
        start -= 1
    if not start:
        return []  # the first paragraph is the title, whatever it looks like

    found: list[tuple[str, str]] = []
    for line in lines[start:end]:
        match = _TRAILER.fullmatch(line)
        if match:
            found.append((match["key"], match["value"].strip(_SPACE)))
        elif line[0] in _SPACE and "\r" not in line and found:
            key, value = found[-1]
            found[-1] = (key, f"{value} {line.strip(_SPACE)}".strip(_SPACE))
        else:
            return []
    return found


def format_trailers(trailers: Mapping[str, str]) -> str:
    """Return trailers as the last paragraph of a message: one `Name: value` per line.

    Raises:
        ValueError: a name that git does not take for a trailer's, a value that is empty or more than one plain line, or
            a name that is there twice in different case.
    """
    if len({key.lower() for key in trailers}) != len(trailers):
        raise ValueError("a trailer is there twice")
    for key, value in trailers.items():
        if not _TRAILER_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a name of a trailer")
        if not value or value != value.strip() or _CONTROL.search(value):
            raise ValueError(f"{value!r} of {key} is not a line of text")
    return "".join(f"{key}: {value}\n" for key, value in trailers.items())


def build_commit(tree: str, parents: Sequence[str], author: Ident, committer: Ident, message: str) -> bytes:
    """Return the raw bytes of an unsigned commit: what `sign_commit` takes, and what a signature covers.

    Args:
        tree: id of its tree.
        parents: ids of its parents, in order.
        message: the whole message, trailers included; it should end with a newline.

    Raises:
        ValueError: an id, ident or message that `parse_commit` would refuse.
    """
    for object_id in (tree, *parents):
        if not is_object_id(object_id):
            raise ValueError(f"{object_id!r} is not an object id")
    if "\0" in message:
        raise ValueError("the message holds a NUL")
    lines = [
        f"tree {tree}",
        *(f"parent {parent}" for parent in parents),
        f"author {_format_ident(author)}",
        f"committer {_format_ident(committer)}",
        "",
        message,
    ]
    raw = "\n".join(lines).encode()
    if len(raw) > MAX_COMMIT_BYTES:
        raise ValueError(f"the commit has {len(raw)} bytes; {MAX_COMMIT_BYTES} are possible")
    return raw


def _format_ident(ident: Ident) -> str:
    hours, minutes = divmod(abs(ident.offset), 60)
    text = f"{ident} {ident.time} {'-' if ident.offset < 0 else '+'}{hours:02}{minutes:02}"
    if not _IDENT.fullmatch(text) or "\0" in text or not 0 <= ident.time <= MAX_TIME:
        raise ValueError(f"{text!r} is not a name, address, time and offset")
    return text


def sign_commit(payload: bytes, key: SigningKey) -> bytes:
    """Return the raw bytes of the signed commit; `git verify-commit` accepts it with `gpg.format=ssh`.

    The same commit and key always give the same bytes.

    Args:
        payload: an unsigned commit, as `build_commit` returns it.

    Raises:
        ValueError: the payload is not an unsigned commit.
    """
    commit = parse_commit(payload)
    if commit.signature is not None:
        raise ValueError("the commit is signed already")
    armor = sign(payload, key, GIT_NAMESPACE).removesuffix("\n").encode()
    head, blank, body = payload.partition(b"\n\n")
    return b"".join([head, b"\n", _SIGNATURE_HEADER, b" ", armor.replace(b"\n", b"\n "), blank, body])
