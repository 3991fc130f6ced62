"""The notes that a document's declaration is made of, inside `Annotated[...]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from margo_gitops.digests import DIGEST_PATTERN, Digest
from margo_gitops.documents.nodes import FieldPath, Json
from margo_gitops.values import dataclass

if TYPE_CHECKING:
    _JsonMapping = Mapping[str, Json]
else:  # Json is recursive, which annotations read at run time cannot follow
    _JsonMapping = Mapping

API_VERSION: Final = "margo-gitops/v1"
EXTENSION_PATTERN = r"^x-[a-z][a-z0-9-]*-extensions$"
EXTENSION_KEY = re.compile(EXTENSION_PATTERN[1:-1])
UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
"""The units of durations."""


def span_seconds(text: str) -> int:
    """Return a span that a document has, a whole number and a unit such as `90m`, in seconds."""
    return int(text[:-1]) * UNIT_SECONDS[text[-1]]


@dataclass(frozen=True, slots=True)
class About:
    """What a field is for, for people and for editors; with examples."""

    text: str
    examples: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """What a string must look like; `what` says it in words ("a SemVer version")."""

    pattern: str = ""
    what: str = ""
    min_length: int = 0
    max_length: int | None = None
    format: str = ""


DigestText = Annotated[Digest, Text(pattern=DIGEST_PATTERN, what="a digest")]


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both inclusive."""

    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Items:
    """How many items a list has, and which of their fields no two may share.

    Attributes:
        minimum: how many items there must be.
        unique: the field's name in the file, "name"; empty where items may be alike.
        noun: what messages call an item, "component".
        any_case: whether values that differ only in case are the same.
        maximum: how many there may be; None where nothing but the size of the file bounds them.
    """

    minimum: int = 0
    unique: str = ""
    noun: str = ""
    any_case: bool = False
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """What the keys of a mapping must look like."""

    pattern: str
    what: str


@dataclass(frozen=True, slots=True)
class Wire:
    """The name in the file, where it is not the camelCase of the attribute."""

    name: str


@dataclass(frozen=True, slots=True)
class Spelled:
    """A value that a file spells in its own way, such as a path or a duration.

    Attributes:
        hint: what the file holds, with its notes.
        read: returns the value of what the file holds; also gets the file's folder, or "" where it is not known.
        write: returns what the file holds for a value.
    """

    hint: object
    read: Callable[[Any, str], object]
    write: Callable[[Any], Json]


@dataclass(frozen=True, slots=True)
class ExtensionSlot:
    """Marks the attribute that takes the `x-<name>-extensions` keys of a record (Margo specification extensions)."""


Extensions = Annotated[_JsonMapping, ExtensionSlot()]
"""Vendor extensions by key; each value is a mapping, copied unchanged."""


@dataclass(frozen=True, slots=True)
class OtherKeysSlot:
    """Marks the attribute that keeps the keys a record does not know, where the standard leaves the record open."""


OtherKeys = Annotated[_JsonMapping, OtherKeysSlot()]
"""Keys that the standard allows but does not name; kept, so that nothing is lost when the record is written again."""


class OwnKind:
    """The base of this project's documents: `apiVersion` and `kind`, the name of the class, come first in the file."""

    __slots__ = ()
    api_version = API_VERSION

    @property
    def kind(self) -> str:
        """The document's kind."""
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class Problem:
    """What `problems()` of a record yields: a path below the record, and the parts of a finding."""

    path: FieldPath
    message: str
    remedy: str = ""
    severity: str = "error"
