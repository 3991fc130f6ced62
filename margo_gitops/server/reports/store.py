"""Where the rows of the journal of reports are, as the journal sees it: a file, or a database that servers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, Protocol

from margo_gitops.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Heard:
    """A report that was kept.

    Attributes:
        size: bytes of its content.
        adopted: the highest manifest version that the client's reports say now; 0 for none.
    """

    client: str
    size: int
    adopted: int


class Rows(Protocol):
    """The answer of a database."""

    def fetchone(self) -> Any:  # noqa: ANN401  # a row of any query
        """Return the next row."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """An open transaction; a statement has `?` for each value."""

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Rows:
        """Execute a statement."""
        ...

    def executemany(self, statement: str, rows: Iterable[Sequence[object]], /) -> object:
        """Execute a statement for each row."""
        ...


@dataclass(eq=False)
class Transaction:
    """One transaction of a store; no other writes at the same time.

    Attributes:
        change: the number of the last change; numbers only grow.
        total: bytes of all reports.
        kept: what was kept in it, for those who want to hear of it.
    """

    connection: Connection
    change: int
    total: int
    kept: list[Heard] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Hear:
    """Who wants to know what other servers do.

    Attributes:
        kept: they kept reports.
        state: the mirror of one of them has this commit of the fleet.
    """

    kept: Callable[[Sequence[Heard]], None]
    state: Callable[[str], None]


class ReportStore(ABC):
    """Where the rows of the table `report` are; every method raises a MargoGitopsError where it cannot be used.

    Attributes:
        is_shared: whether several servers use it.
    """

    is_shared: ClassVar[bool] = False

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Transaction]:
        """Return a transaction: on disk when the context ends, undone where it ends with an error."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    # What follows is for a store that several servers use.

    def take_turn(self, journal: Transaction, every: float) -> bool:  # noqa: ARG002
        """Return whether this server commits to the branch now: no other does, and none did in this many seconds."""
        return True

    def end_turn(self, journal: Transaction, *, done: bool) -> None:  # noqa: B027
        """Let another server commit; `done`: something was committed."""

    def say_state(self, journal: Transaction, commit: str) -> None:  # noqa: B027
        """Tell the other servers which commit of the fleet this one has."""

    async def listen(self, hear: Hear) -> None:  # noqa: B027
        """Hear what other servers say, until cancelled."""


@dataclass(slots=True)
class Size:
    """How many rows a client has, and their bytes."""

    count: int = 0
    size: int = 0


BYTES: Final = "coalesce(sum(length(content)), 0)"


def sizes_of(connection: Connection, clients: Collection[str]) -> dict[str, Size]:
    """Return how much each of these clients has."""
    rows = connection.execute(
        f"SELECT client, count(*), {BYTES} FROM report WHERE client IN ({_places(clients)}) GROUP BY client",
        list(clients),
    )
    return {client: Size() for client in clients} | {client: Size(count, int(size)) for client, count, size in rows}


def adopted_by(connection: Connection, clients: Collection[str]) -> dict[str, int]:
    """Return the highest version that each of these clients reported."""
    rows = connection.execute(
        f"SELECT client, max(adopted) FROM report WHERE client IN ({_places(clients)}) GROUP BY client", list(clients)
    )
    return {client: int(version) for client, version in rows}


def _places(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))
