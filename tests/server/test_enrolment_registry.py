"""Who is enrolled, in a file and in PostgreSQL: one key for a secret, one credential for an id, other servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.trust_documents import key
from testbed.postgresql_server import PostgresqlServer

from margo_gitops.digests import sha256
from margo_gitops.documents.enrolment import EnrolmentRequest, secret_digest
from margo_gitops.server.reports.postgresql_store import PostgresqlStore
from margo_gitops.server.reports.store import Connection
from margo_gitops.server.resources.enrolment_registry import (
    ENROLMENT_SCHEMA,
    WAIT_SECONDS,
    EnrolmentFile,
    EnrolmentRegistry,
    Outcome,
)

SECRET = "s" * 24
Opened = Callable[[], EnrolmentRegistry]


class Time:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["file", "database"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> Iterator[Opened]:
    """Opens the registry, each time as another server does."""
    with contextlib.ExitStack() as ending:
        url = ""
        if request.param == "database":
            server: PostgresqlServer = request.getfixturevalue("postgresql_server")
            url = server.url(server.add_database())

        def opened() -> EnrolmentRegistry:
            if not url:
                return EnrolmentRegistry(
                    ending.enter_context(contextlib.closing(EnrolmentFile(tmp_path / "e"))).begin, time
                )
            store, one = ending.enter_context(contextlib.closing(PostgresqlStore(url))), threading.Lock()
            store.make_table("enrolment", ENROLMENT_SCHEMA)

            @contextlib.contextmanager
            def begin() -> Iterator[Connection]:
                with one, store.transaction() as transaction:
                    yield transaction.connection

            return EnrolmentRegistry(begin, time)

        yield opened


def asks(seed: int, secret: str | None = SECRET, device: str | None = None, token: str = "") -> EnrolmentRequest:
    digest = sha256((token or f"token of {seed}").encode())
    return EnrolmentRequest(str(key(seed).public), digest, digest, device, secret)


def enrol(registry: EnrolmentRegistry, request: EnrolmentRequest, approval: str = "secret", most: int = 9) -> Outcome:
    return registry.enrol(request, approval, most)  # type: ignore[arg-type]


def offer(registry: EnrolmentRegistry, device: str = "press-07", secret: str = SECRET, named: str = "") -> None:
    registry.offer(device, secret=secret_digest(secret) if secret else None, key=named, seconds=60)


def test_of_many_devices_with_one_secret_one_wins(opened: Opened):
    servers = [opened() for _ in range(3)]
    offer(servers[0])
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda seed: enrol(servers[seed % 3], asks(seed)), range(1, 13)))
    winners = [seed for seed, outcome in enumerate(found, 1) if outcome.device]
    assert len(winners) == 1
    assert {outcome.reason for outcome in found if not outcome.device} == {"of press-07: used by another key or token"}
    # The winner may ask again, at any server; and all of them know its token.
    for server in servers:
        assert enrol(server, asks(winners[0])).device == "press-07"
        server.refresh()
        assert server.holder(asks(winners[0]).token) == ("press-07", "enrolled")
        assert server.holder(asks(winners[0] % 12 + 1).token) is None


def test_a_secret_that_ended_or_was_never_made_is_refused(opened: Opened, time: Time):
    registry = opened()
    offer(registry)
    assert "not known" in enrol(registry, asks(1, "u" * 24)).reason
    assert "for press-07, not for press-08" in enrol(registry, asks(1, device="press-08")).reason
    time.now += 60
    assert "ended" in enrol(registry, asks(1)).reason
    offer(registry, "press-08", "v" * 24)  # what ended is forgotten with the next one
    assert [each.device for each in registry.listed()] == ["press-08"]


def test_the_next_enrolment_ends_the_token_before_it_everywhere(opened: Opened):
    one, other = opened(), opened()
    offer(one)
    enrol(one, asks(1))
    offer(one, secret="t" * 24)
    enrol(other, asks(2, "t" * 24))
    one.refresh()
    assert one.holder(asks(1).token) == ("press-07", "replaced")
    assert one.holder(asks(2).token) == ("press-07", "enrolled")
    assert "replaced" in enrol(one, asks(1)).reason
    assert one.revoke("press-07") == 1
    assert one.revoke("press-07") == 0
    assert "revoked" in enrol(one, asks(2, "t" * 24)).reason
    assert opened().holder(asks(2).token) == ("press-07", "revoked")


def test_a_token_of_another_key_cannot_be_claimed(opened: Opened):
    registry = opened()
    offer(registry)
    enrol(registry, asks(1))
    offer(registry, "press-08", "t" * 24)
    claimed = enrol(registry, asks(2, "t" * 24, token="token of 1"))
    assert claimed.reason == "the token is one of press-07"
    assert registry.holder(asks(1).token) == ("press-07", "enrolled")
    assert enrol(registry, asks(2, "t" * 24)).device == "press-08"


def test_a_secret_for_one_key_is_for_no_other(opened: Opened):
    registry = opened()
    offer(registry, named=str(key(3).public))
    assert "another key" in enrol(registry, asks(1)).reason
    assert enrol(registry, asks(3)).device == "press-07"


def test_what_waits_is_bounded_and_ends(opened: Opened, time: Time):
    registry = opened()
    assert enrol(registry, asks(1, None)).reason == "no secret"
    for seed in (1, 2, 1):
        assert enrol(registry, asks(seed, None), "person", 2).waits
    assert "too many" in enrol(registry, asks(3, None), "person", 2).reason
    assert not registry.expects(asks(3, None))
    assert registry.expects(asks(1, None))
    time.now += WAIT_SECONDS
    assert not registry.approve("press-07", key(1).public.fingerprint)
    assert enrol(registry, asks(3, None), "person", 2).waits
    assert registry.approve("press-07", key(3).public.fingerprint)
    assert enrol(registry, asks(3, None)).device == "press-07"
    assert registry.holder(asks(3).token) == ("press-07", "enrolled")


def test_a_transaction_that_is_cut_off_leaves_the_secret_unused(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    registry = opened()
    offer(registry)
    with monkeypatch.context() as cut:
        cut.setattr("margo_gitops.server.resources.enrolment_registry._put", lambda *_: 1 / 0)
        with pytest.raises(Exception):  # noqa: B017, PT011  # the store may wrap it
            enrol(registry, asks(1))
    assert enrol(opened(), asks(2)).device == "press-07"
