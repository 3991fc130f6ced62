"""Small records that outlive the agent, each a fact of the journal under a name of its own.

FACT-1  A record that this agent cannot read counts as one that was never kept: an older or a newer agent wrote it.
FACT-2  Only a record that is new is written, and one that says nothing is an empty text: an idle cycle writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Protocol, TypeVar, cast

from margo_gitops.documents.json_text import read_json, write_json
from margo_gitops.documents.records import read, write
from margo_gitops.errors import MargoGitopsError
from margo_gitops.values import dataclass, field

_MOST_KNOWN: Final = 16
"""Records that are not read again: a cycle asks for the same ones several times."""


class Fact(Protocol):
    """A record in which every member has a default; `FACT` is its name in the journal."""

    FACT: ClassVar[str]


F = TypeVar("F", bound=Fact)


@dataclass(eq=False)
class Facts:
    """Reads and keeps records.

    Attributes:
        recall: returns the facts of the journal.
        keep: keeps facts in the journal; raises StorageFull and StateFolderUnusable.
    """

    recall: Callable[[], Mapping[str, str]]
    keep: Callable[[dict[str, str]], None]
    _known: dict[tuple[str, str], Fact] = field(default_factory=dict, init=False)

    def get(self, kind: type[F]) -> F:
        """Return a record as it was kept last; one with all its defaults where it never was (FACT-1)."""
        text = self.recall().get(kind.FACT, "")
        if (kind.FACT, text) not in self._known:
            try:
                found = read(kind, read_json(text.encode(), kind.FACT)) if text else kind()
            except MargoGitopsError:
                found = kind()
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[kind.FACT, text] = found
        return cast("F", self._known[kind.FACT, text])

    def put(self, fact: Fact) -> None:
        """Keep a record (StorageFull, StateFolderUnusable: it cannot be written; FACT-2)."""
        kind = type(fact)
        if fact != self.get(kind):
            self.keep({kind.FACT: "" if fact == kind() else write_json(write(fact)).decode()})
