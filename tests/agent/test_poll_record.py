"""What is kept of polls: the rules POLL-1 to POLL-4 of margo_gitops.agent.memory.poll_record."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from device_world import World, deployment_bytes

from margo_gitops.agent.agent import working_agent
from margo_gitops.agent.memory.journal import Journal
from margo_gitops.agent.memory.poll_record import KEPT_EVERY, PollRecord
from margo_gitops.agent.service.loop import Interruptions
from margo_gitops.agent.settings.environment import read_environment
from margo_gitops.agent.settings.loading import load_configuration
from margo_gitops.errors import MargoGitopsError, SourceUnreachable, StateFolderUnusable, StorageFull
from margo_gitops.web.metering import Cost

MINUTE = 60.0
UNREACHABLE = SourceUnreachable("no route to the source")


@dataclass
class Polls:
    """A device that polls, and the times at which something was written."""

    journal: Journal
    monkeypatch: pytest.MonkeyPatch
    now: float = 1_000_000.0
    written: list[float] = field(default_factory=list)
    trouble: MargoGitopsError | None = None

    def __post_init__(self) -> None:
        real = self.journal.set_facts

        def set_facts(facts: dict[str, str]) -> None:
            if self.trouble:
                raise self.trouble
            self.written.append(self.now)
            real(facts)

        self.monkeypatch.setattr(self.journal, "set_facts", set_facts)
        self.record = self.start()

    def start(self) -> PollRecord:
        return PollRecord(self.journal, lambda: self.now)

    def poll(self, after: float, error: MargoGitopsError | None = None, requests: int = 1) -> bool:
        self.now += after
        self.record.spent(Cost(requests, 400, 300, 0))
        return self.record.ended("failed" if error else "unchanged", error)

    @property
    def facts(self) -> dict[str, str]:
        return self.journal.facts()


@pytest.fixture
def polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Polls]:
    with Journal.open(tmp_path / "journal.sqlite3", 0) as journal:
        yield Polls(journal, monkeypatch)


def test_the_first_poll_is_kept_with_what_it_cost(polls: Polls) -> None:
    polls.poll(0, requests=2)
    assert polls.facts == {
        "poll.at": repr(polls.now),
        "poll.answered_at": repr(polls.now),
        "poll.result": "unchanged",
        "poll.code": "",
        "poll.error": "",
        "poll.requests": "2",
        "poll.bytes_up": "400",
        "poll.bytes_down": "300",
    }
    assert len(polls.written) == 1, "one poll is one write"


def test_a_day_of_polls_that_end_alike_is_one_write_in_five_minutes(polls: Polls) -> None:
    for _ in range(24 * 60):
        polls.poll(MINUTE)
    assert len(polls.written) == 24 * 12
    assert polls.now - float(polls.facts["poll.at"]) < KEPT_EVERY


def test_polls_rarer_than_that_are_each_kept(polls: Polls) -> None:
    for _ in range(10):
        polls.poll(KEPT_EVERY)
    assert len(polls.written) == 10


def test_a_poll_that_ends_otherwise_is_kept_at_once(polls: Polls) -> None:
    ends: list[MargoGitopsError | None] = [None, UNREACHABLE, SourceUnreachable("no name"), None]
    for error in ends:
        polls.poll(1, error)
        assert polls.facts["poll.error"] == (str(error) if error else "")
        assert polls.facts["poll.at"] == repr(polls.now)


def test_an_answer_after_failures_is_told_once_even_if_the_agent_was_restarted(polls: Polls) -> None:
    assert [polls.poll(1, error) for error in (None, UNREACHABLE, UNREACHABLE)] == [False, False, False]
    polls.record = polls.start()
    assert [polls.poll(1), polls.poll(1)] == [True, False]


def test_an_orderly_end_keeps_the_last_poll_and_an_end_without_one_writes_nothing(polls: Polls) -> None:
    polls.poll(0)
    polls.poll(1)
    assert polls.facts["poll.at"] != repr(polls.now)
    polls.record.close()
    assert polls.facts["poll.at"] == repr(polls.now)
    polls.start().close()
    assert len(polls.written) == 2


def test_a_restarted_agent_goes_on_where_the_last_one_was(polls: Polls) -> None:
    polls.poll(0)
    polls.record = polls.start()
    polls.poll(1)
    assert len(polls.written) == 1


def test_a_clock_that_goes_back_does_not_silence_the_record(polls: Polls) -> None:
    polls.poll(0)
    polls.poll(-100 * MINUTE)
    assert polls.facts["poll.at"] == repr(polls.now)


def test_a_full_disk_stops_no_poll_and_what_was_missed_is_kept_later(polls: Polls) -> None:
    polls.trouble = StorageFull("the disk is full")
    polls.poll(0)
    polls.record.close()
    assert polls.facts == {}
    polls.trouble = None
    polls.poll(1)
    assert polls.facts["poll.at"] == repr(polls.now)


def test_a_journal_that_cannot_be_written_is_told_but_not_at_the_end(polls: Polls) -> None:
    polls.trouble = StateFolderUnusable("the folder is gone")
    with pytest.raises(StateFolderUnusable):
        polls.poll(0)
    polls.record.close()


def test_an_idle_poll_leaves_every_file_of_the_device_as_it_is(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    world.publish({1: deployment_bytes(1), 2: deployment_bytes(2)})
    configuration = load_configuration(world.config, read_environment({}))
    with Interruptions() as interruptions, working_agent(configuration, "text", interruptions) as parts:
        assert [parts.cycle.run().poll for _ in range(2)] == ["new", "unchanged"]
        before = files_below(world.folder)
        assert [parts.cycle.run().poll for _ in range(3)] == ["unchanged"] * 3
        assert files_below(world.folder) == before
    assert "poll     unchanged at" in world.agent("status").stdout
    assert "(noted every 5 minutes while polls end alike)" in world.agent("status").stdout


def files_below(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return when each file and folder was last changed, and its size."""
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}
