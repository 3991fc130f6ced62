"""What says that a fleet's state is the newest, until when, and what of it concerns one device (docs/freshness.md).

The statement is signed; the proof carries it, with its exact bytes, to the devices of one shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from margo_gitops.documents.constraints import Name
from margo_gitops.documents.declarations import About, OwnKind, Problem, Range, Text
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.manifest import MAX_MANIFEST_VERSION, ManifestDigest
from margo_gitops.documents.records import write
from margo_gitops.values import dataclass

MAX_SHARD_DEPTH: Final = 3
LONGEST_VALID_FOR: Final = timedelta(days=366)
MAX_STATEMENT_CHARACTERS: Final = 4096
SHARD_PATTERN: Final = r"^(all|1-[0-9a-f]|2-[0-9a-f]{2}|3-[0-9a-f]{3})$"
FRESHNESS_PATH: Final = "/api/v1/freshness"
"""Where the HTTP API has the proof of the device that asks; its folder of static files, too."""
FRESHNESS_MEDIA_TYPE: Final = "application/json"
MAX_PROOF_BYTES: Final = 1024 * 1024
MOMENT_PATTERN: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
_MOMENT_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_COMMIT_PATTERN: Final = r"^[0-9a-f]{40}$"

Moment = Annotated[str, Text(pattern=MOMENT_PATTERN, what="a time in UTC to the second, 2026-11-21T09:30:00Z")]
Hash = Annotated[str, Text(pattern=r"^[0-9a-f]{64}$", what="64 lower-case hex digits")]


@dataclass(frozen=True, slots=True)
class FreshnessStatement(OwnKind):
    """What is signed: this fleet's newest state, as one hash over all devices, and until when that may be believed."""

    fleet: Annotated[Name, About("Name of the fleet.")]
    issued: Annotated[Moment, About("When it was made.", ("2026-11-21T09:30:00Z",))]
    expires: Annotated[Moment, About("From then on it proves nothing.", ("2026-11-28T09:30:00Z",))]
    state_commit: Annotated[
        str,
        About("The commit of the branch `fleet` that it was made from."),
        Text(pattern=_COMMIT_PATTERN, what="a commit id, 40 lower-case hex digits"),
    ]
    shards: Annotated[
        int, About("How many shards the devices are spread over: 1, 16, 256 or 4096."), Range(minimum=1, maximum=4096)
    ]
    root: Annotated[Hash, About("Root of the Merkle tree over all shards (RFC 9162, 2.1.1).")]
    trust_version: Annotated[
        int | None,
        About("The fleet's trust document at that time; absent in a fleet without one."),
        Range(minimum=1, maximum=2**31 - 1),
    ] = None

    def problems(self) -> Iterator[Problem]:
        """Yield times that cannot be read, end before they begin, or are more than a year apart."""
        problems = list(moment_problems(issued=self.issued, expires=self.expires))
        yield from problems
        if not problems and parse_moment(self.expires) - parse_moment(self.issued) > LONGEST_VALID_FOR:
            yield Problem(("expires",), f"must be at most {LONGEST_VALID_FOR.days} days after issued")


@dataclass(frozen=True, slots=True)
class FreshnessLeaf:
    """The newest state of one device. No proof names the device's id, only its sha256: proofs are shared."""

    device: Annotated[Hash, About("sha256 of the device id.")]
    version: Annotated[int, About("Its manifestVersion."), Range(minimum=1, maximum=MAX_MANIFEST_VERSION)]
    manifest: ManifestDigest


@dataclass(frozen=True, slots=True)
class FreshnessProof(OwnKind):
    """One shard: the statement, its signature, the shard's devices, and the way from them to the statement's root."""

    statement: Annotated[
        str, About("The exact bytes of the statement, as text."), Text(max_length=MAX_STATEMENT_CHARACTERS)
    ]
    signature: Annotated[str, About("SSH signature over the statement, armored (OpenSSH PROTOCOL.sshsig).")]
    shard: Annotated[
        str,
        About("`all`, or how many hex digits of the device's sha256 name the shard, and which.", ("all", "2-3f")),
        Text(pattern=SHARD_PATTERN, what="a shard: all, 1-3, 2-3f or 3-3fa"),
    ]
    path: Annotated[tuple[Hash, ...], About("Sibling hashes on the way from the shard to the root, lowest first.")]
    leaves: Annotated[tuple[FreshnessLeaf, ...], About("The shard's devices, sorted by `device`.")]


def parse_moment(text: str) -> datetime:
    """Return a time of a statement (ValueError: there is no such time)."""
    return datetime.strptime(text, _MOMENT_FORMAT).replace(tzinfo=UTC)


def moment_problems(**times: str) -> Iterator[Problem]:
    """Yield times of a document, by field, that cannot be read, or expire before they are issued."""
    moments = {}
    for name, text in times.items():
        try:
            moments[name] = parse_moment(text)
        except ValueError:
            yield Problem((name,), f"there is no such time as {text}")
    if {"issued", "expires"} <= moments.keys() and moments["expires"] <= moments["issued"]:
        yield Problem(("expires",), "must be later than issued")


def format_moment(moment: datetime) -> str:
    """Return a time as a statement has it: UTC, to the second, rounded down."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_valid_for(text: str) -> timedelta:
    """Return how long a statement is valid, from `90m`, `36h` or `7d` (ValueError: no such time, or above a year)."""
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    number, unit = text[:-1], units.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdecimal() and len(number) < 5 and int(number)):
        raise ValueError(f"{text!r} is not a time such as 90m, 36h or 7d")
    if int(number) * unit > LONGEST_VALID_FOR:
        raise ValueError(f"{text} is longer than a year")
    return int(number) * unit


def write_statement(
    fleet: str,
    issued: datetime,
    expires: datetime,
    state_commit: str,
    shards: int,
    root: str,
    trust_version: int | None = None,
) -> bytes:
    """Return the exact bytes of a statement (RFC 8785)."""
    moments = format_moment(issued), format_moment(expires)
    statement = FreshnessStatement(fleet, *moments, state_commit, shards, root, trust_version)
    return write_json(write(statement))
