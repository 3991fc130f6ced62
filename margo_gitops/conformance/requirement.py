"""The numbered requirements, read from the pages that people read: one source, so that page and kit never differ.

In docs/git-subset.md, docs/http.md and docs/conformance.md a requirement is a list item:

    - **G-S-1** (server) The server MUST ...

Its level is the strongest key word in its text (RFC 2119, RFC 8174).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from margo_gitops.values import dataclass

Level: TypeAlias = Literal["MUST", "SHOULD", "MAY"]

GIT_PAGE: Final = "git-subset.md"
HTTP_PAGE: Final = "http.md"
AGENT_PAGE: Final = "conformance.md"

_ITEM: Final = re.compile(
    r"^- \*\*(?P<id>[A-Z](?:-[A-Z]+)?-[0-9]+)\*\* \((?P<who>[^)\n]+)\) (?P<text>.+(?:\n  +\S.*)*)", re.MULTILINE
)
_HEADING: Final = re.compile(r"^#{2,4} (?P<title>.+)$", re.MULTILINE)
_LEVELS: Final[tuple[Level, ...]] = ("MUST", "SHOULD", "MAY")
_OTHER_WORDS: Final[Mapping[str, Level]] = {"SHALL": "MUST", "REQUIRED": "MUST", "RECOMMENDED": "SHOULD"}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that a server or a client has to do.

    Attributes:
        id: such as `G-S-1`; it never changes its meaning.
        text: one sentence or two, in Markdown, on one line.
        level: MUST, SHOULD or MAY.
        who: which side it binds, such as `server`, `client` or `agent`.
        section: heading above it.
        page: file name of the page, below docs/.
    """

    id: str
    text: str
    level: Level
    who: str
    section: str
    page: str


def parse_requirements(text: str, page: str) -> dict[str, Requirement]:
    """Return the requirements in the text of a page, by id, in the page's order; `page` is its file name.

    Raises:
        ValueError: an id occurs twice, or a text has no key word.
    """
    headings = [(match.start(), match["title"].strip()) for match in _HEADING.finditer(text)]
    found: dict[str, Requirement] = {}
    for match in _ITEM.finditer(text):
        if match["id"] in found:
            raise ValueError(f"{page}: {match['id']} occurs twice")
        words = " ".join(match["text"].split())
        section = next((title for start, title in reversed(headings) if start < match.start()), "")
        found[match["id"]] = Requirement(
            match["id"], words, _level(words, f"{page}: {match['id']}"), match["who"].strip(), section, page
        )
    return found


def _level(text: str, where: str) -> Level:
    words = set(re.findall(r"\b[A-Z]{3,}\b", text))
    levels = words.intersection(_LEVELS) | {level for word, level in _OTHER_WORDS.items() if word in words}
    for level in _LEVELS:
        if level in levels:
            return level
    raise ValueError(f"{where} has none of the words MUST, SHOULD and MAY")


@cache
def requirements(page: str) -> Mapping[str, Requirement]:
    """Return the requirements of a page of the documentation (such as `GIT_PAGE`), as installed with this package."""
    packaged = resources.files("margo_gitops") / "_data" / "docs" / page
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:  # a checkout
        text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    return MappingProxyType(parse_requirements(text, page))
