"""Bring a content into the store: from the places that have it, from where it stopped, no faster than it may.

FETCH-1  The beginning that is on the disk is never fetched again, regardless of what interrupted it.
FETCH-2  With an index, chunks that other files of the store hold are copied, and ranges are asked for the rest; each
         chunk is compared when it comes. Where no place gives ranges, all of the rest comes in one answer.
FETCH-3  A place that breaks off is asked again as long as it brings something, then the next one is. One that gives
         wrong bytes is not asked again.
FETCH-4  Nothing is used before the digest of the whole file was compared.
FETCH-5  It ends after its time with `ContentComing`, and continues the next time: a device polls in between.
FETCH-6  A limit of bytes in a second holds for all that is fetched together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import BinaryIO, Final

from margo_gitops.content.chunks import INDEX_SUFFIX, LARGEST_INDEX, Chunk, ChunkIndex, Copy, Get, plan, read_index
from margo_gitops.content.sources import Incoming, Reach, Source
from margo_gitops.content.store import ContentStore, Incomplete
from margo_gitops.digests import Digest, sha256
from margo_gitops.errors import (
    ContentComing,
    ContentRefused,
    ContentUnavailable,
    SourceMisbehaved,
    StepInterrupted,
    TransportError,
)
from margo_gitops.values import KW_ONLY, dataclass, field
from margo_gitops.web.metering import Deadline
from margo_gitops.wording import byte_count

_PIECE: Final = 64 * 1024
_SILENCE_SECONDS: Final = 30.0
_NAP: Final = 0.5
_FRUITLESS: Final = 3
"""How often in a row a place may break off without having brought a byte."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A content to bring into the store.

    Attributes:
        name: for people.
        urls: https, file or oci, best first.
        index: digest and size of its chunk index, which is next to it; None: it has no index.
    """

    name: str
    digest: Digest
    size: int
    urls: Sequence[str]
    index: tuple[Digest, int] | None = None


class _NoRanges(Exception):  # it never leaves this module
    """A place gives only whole files."""


class _Lied(Exception):  # it never leaves this module
    """A place gave bytes that are not those of the content."""


@dataclass(eq=False)
class Pace:
    """Limits the bytes that pass in a second (FETCH-6).

    Attributes:
        limit: returns the bytes in a second that may pass now; None for any number, 0 for none.
        timer: seconds since some moment; never jumps.
    """

    limit: Callable[[], float | None] = lambda: None
    timer: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _free_at: float = field(default=0.0, init=False)

    def wait(self) -> float | None:
        """Return the seconds until the next bytes may come; None where nothing may come for now."""
        rate = self.limit()
        if rate is None:
            return 0.0
        return max(0.0, self._free_at - self.timer()) if rate else None

    def passed(self, count: int) -> None:
        """Note that bytes came."""
        if rate := self.limit():
            self._free_at = max(self._free_at, self.timer()) + count / rate


@dataclass(eq=False)
class Fetcher:
    """Fetches contents into a store.

    Attributes:
        interrupted: whether the agent was asked to do something else; it ends with `StepInterrupted` then.
        alive: called while something is fetched.
        fetched: bytes that came in all, also those that were wrong.
    """

    store: ContentStore
    reach: Reach = field(default_factory=Reach)
    _: KW_ONLY
    pace: Pace = field(default_factory=Pace)
    interrupted: Callable[[], bool] = lambda: False
    alive: Callable[[], None] = lambda: None
    fetched: int = field(default=0, init=False)

    def fetch(self, wanted: Wanted, *, seconds: float) -> Path:
        """Return where a content is in the store, after it was fetched if it was not there.

        Args:
            seconds: how long it may take.

        Raises:
            ContentComing: the time is over; what came stays.
            ContentUnavailable: no place has it.
            ContentRefused: all places that have it have something else.
            ContentNoRoom: it has no room.
            StorageFailed: the disk refuses.
            StepInterrupted: the agent was asked to stop.
        """
        if self.store.has(wanted.digest):
            return self.store.place(wanted.digest)
        run = _Run(self, wanted, self.pace.timer() + seconds, Deadline(seconds, min(_SILENCE_SECONDS, seconds)))
        return run.fetch()


@dataclass(eq=False)
class _Run:
    """One attempt at a content."""

    fetcher: Fetcher
    wanted: Wanted
    end: float
    deadline: Deadline
    problems: dict[str, str] = field(default_factory=dict, init=False)
    lied: bool = field(default=False, init=False)

    def fetch(self) -> Path:
        wanted, store = self.wanted, self.fetcher.store
        index = self._index()
        sources = self.fetcher.reach.sources(wanted.digest, wanted.size, wanted.urls)
        with ExitStack() as ending:
            for source in sources:
                ending.callback(source.close)
            while sources:
                with store.begin(wanted.digest, wanted.size, index) as incomplete:
                    while sources:
                        source = sources.pop(0)
                        if not self._from(source, incomplete, index):
                            continue
                        try:
                            return incomplete.finish()
                        except ContentRefused as error:
                            # It is gone, and it is not known which place gave what: the next is asked for all.
                            self.lied = True
                            self._note(source, error.what)
                            break
        if self.lied:
            raise ContentRefused(self._said("is not what the deployment promises"), why=self._why())
        raise ContentUnavailable(
            self._said("cannot be fetched"),
            why=self._why(),
            remedy="check that it is there and that this device may reach it; what runs keeps running",
        )

    def _from(self, source: Source, incomplete: Incomplete, index: ChunkIndex | None) -> bool:
        """Continue from one place; return whether all is there (FETCH-3)."""
        fruitless = 0
        in_one = index is None
        while incomplete.length < incomplete.size:
            before = incomplete.length
            try:
                if in_one or index is None:
                    self._whole(source, incomplete, index)
                else:
                    self._in_chunks(source, incomplete, index)
            except _NoRanges:
                in_one = True
            except _Lied as error:
                self.lied = True
                self._note(source, str(error))
                return False
            except TransportError as error:
                self._check_time(incomplete)
                fruitless = fruitless + 1 if incomplete.length == before else 0
                self._note(source, error.what)
                if fruitless >= _FRUITLESS or not _is_passing(error):
                    return False
        return True

    def _whole(self, source: Source, incomplete: Incomplete, index: ChunkIndex | None) -> None:
        """Take the rest in one answer."""
        with self._opened(source, incomplete, incomplete.length, incomplete.size) as incoming:
            rest = iter(each for each in index or () if each.start >= incomplete.length)
            while incomplete.length < incomplete.size:
                left = incomplete.size - incomplete.length
                chunk = next(rest, None)
                data = self._take(incoming, incomplete, chunk.end - chunk.start if chunk else min(_PIECE, left))
                if chunk is not None:
                    _compare(chunk, data)
                incomplete.append(data)

    def _in_chunks(self, source: Source, incomplete: Incomplete, index: ChunkIndex) -> None:
        """Copy what is here and fetch the rest in ranges (FETCH-2)."""
        bases = self.fetcher.store.bases()
        with ExitStack() as open_files:
            files = [open_files.enter_context(path.open("rb")) for path, _ in bases]
            for step in plan(index, [each for _, each in bases], incomplete.length):
                if isinstance(step, Copy):
                    data = _copied(step, files[step.file])
                    if data is not None:
                        self._check_time(incomplete)
                        incomplete.append(data)
                        continue
                    step = Get([step.chunk])  # it is damaged here
                with self._opened(source, incomplete, step.start, step.end) as incoming:
                    if incoming.start != step.start:
                        raise _NoRanges
                    for chunk in step.chunks:
                        data = self._take(incoming, incomplete, chunk.end - chunk.start)
                        _compare(chunk, data)
                        incomplete.append(data)

    @contextmanager
    def _opened(self, source: Source, incomplete: Incomplete, start: int, end: int) -> Iterator[Incoming]:
        """Yield what comes from `start` on, or the beginning of a shorter way to it."""
        self._wait(incomplete)
        with source.open(start, end, self.deadline) as incoming:
            if incoming.start != start and (start, end) == (incomplete.length, incomplete.size):
                skip = start - incoming.start
                while skip:
                    skip -= len(self._take(incoming, incomplete, min(_PIECE, skip)))
            yield incoming

    def _take(self, incoming: Incoming, incomplete: Incomplete, count: int) -> bytes:
        """Return exactly `count` bytes, at the pace that is allowed."""
        self._wait(incomplete)
        data = incoming.read(count)
        self.fetcher.fetched += len(data)
        self.fetcher.pace.passed(len(data))
        if len(data) < count:
            # What came is right as far as it goes; with an index, only whole chunks count.
            if incomplete.index is None and incoming.start <= incomplete.length:
                incomplete.append(data)
            raise SourceMisbehaved("the answer ends early")
        return data

    def _wait(self, incomplete: Incomplete) -> None:
        self._check_time(incomplete)
        while pause := self.fetcher.pace.wait():
            self.fetcher.pace.sleep(min(pause, _NAP))
            self._check_time(incomplete)
        if pause is None:
            raise self.coming(incomplete.length, later=True)

    def _check_time(self, incomplete: Incomplete) -> None:
        self.fetcher.alive()
        if self.fetcher.interrupted():
            raise StepInterrupted(f"fetching {self.wanted.name} was interrupted")
        if self.fetcher.pace.timer() >= self.end:
            raise self.coming(incomplete.length)

    def coming(self, length: int, *, later: bool = False) -> ContentComing:
        """Return the error that says how much is here, in tenths: a device reports each."""
        share = 10 * (10 * length // max(self.wanted.size, 1))
        text = f"the artifact {self.wanted.name} is being fetched: {share} % of {byte_count(self.wanted.size)} are here"
        why = ["this device's limits (`artifacts.limits`) let nothing be fetched now"] if later else []
        return ContentComing(text, why=why, later=later)

    def _index(self) -> ChunkIndex | None:
        """Return the index of what is wanted; None where it has none, or none can be had."""
        wanted, store = self.wanted, self.fetcher.store
        if wanted.index is None:
            return None
        known = store.index(wanted.digest, wanted.size)
        if known is not None:
            return known
        digest, size = wanted.index
        if size > LARGEST_INDEX:
            return None
        for source in self.fetcher.reach.sources(digest, size, list(map(index_url, wanted.urls))):
            try:
                with source.open(0, size, self.deadline) as incoming:
                    content = incoming.read(size)
                if sha256(content) == digest:
                    self.fetcher.fetched += len(content)
                    index = read_index(content, wanted.size)
                    store.keep_index(wanted.digest, content)
                    return index
            except (TransportError, ValueError):
                continue  # the whole file does as well
            finally:
                source.close()
        return None

    def _note(self, source: Source, why: str) -> None:
        self.problems[source.name] = why

    def _said(self, what: str) -> str:
        return f"the artifact {self.wanted.name} {what}"

    def _why(self) -> list[str]:
        return [f"{name}: {why}" for name, why in self.problems.items()] or ["it has no place"]


def index_url(url: str) -> str:
    """Return where the index of the file at a URL is: next to it, or another blob of the repository."""
    return url if url.startswith("oci:") else f"{url}{INDEX_SUFFIX}"


def _is_passing(error: TransportError) -> bool:
    """Return whether asking the same place again at once makes sense: a connection broke, an answer ended early."""
    from margo_gitops.errors import SourceUnreachable

    return isinstance(error, (SourceUnreachable, SourceMisbehaved))


def _compare(chunk: Chunk, data: bytes) -> None:
    if sha256_of(data).digest() != chunk.digest:
        raise _Lied(f"the bytes at {chunk.start} are not those of its index")


def _copied(step: Copy, file: BinaryIO) -> bytes | None:
    file.seek(step.at)
    data = file.read(step.chunk.end - step.chunk.start)
    return data if sha256_of(data).digest() == step.chunk.digest else None
