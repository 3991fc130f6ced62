"""What the git subset costs on the wire, to the byte: requests and bytes do not vary between machines.

The server is `margo-gitops serve`; the device is the agent's transport; every byte of HTTP counts, headers too.
"""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.git_requests import command, post
from server.serving import FLEET, HMI, ServedFleet, served_fleet

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.transport import GitSource, GitTransport
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.web.metering import Cost

DEVICE = "press-01"
REF = device_ref(DEVICE)
BODY = len(f"0000{'0' * 40} {REF}\n0000")
"""Bytes of the body of an idle poll's answer: one line and the end."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ServedFleet]:
    """A rendered fleet, and tokens for its devices."""
    with served_fleet(tmp_path) as fleet:
        fleet.render(FLEET)
        for device in FLEET:
            fleet.token(device)
        yield fleet


def transport(fleet: ServedFleet) -> GitTransport:
    """Return the transport of an agent that has just started."""
    token = fleet.folder / "token"
    token.write_text(fleet.tokens[DEVICE])
    return GitTransport(GitSource(f"{fleet.url}/git/state.git", device=DEVICE, token_file=token))


def pull(fleet: ServedFleet, held: Snapshot | None, *, unchanged: bool = False) -> tuple[Snapshot, Cost]:
    """Pull as a new process would; return what is held then, and what it cost."""
    agent = transport(fleet)
    answer = agent.pull(held)
    agent.close()
    assert answer.cost == agent.cost
    assert (answer.snapshot is None) == unchanged
    return answer.snapshot or held, answer.cost


def add_others(fleet: ServedFleet, count: int) -> None:
    """Add the branches of so many other devices, as a render leaves them: in `packed-refs`."""
    git = fleet.renderer.git
    tip = git.run("rev-parse", device_ref("press-02"))
    git.run("pack-refs", "--all")
    file = fleet.folder / "state.git" / "packed-refs"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    lines += [f"{tip} refs/heads/devices/other-{number:06}" for number in range(count)]
    lines.sort(key=lambda line: line.partition(" ")[2])
    file.write_text("\n".join(["# pack-refs with: peeled fully-peeled sorted ", *lines, ""]))
    assert int(git.run("rev-list", "--count", "refs/heads/devices/other-000000")) > 0


def test_an_idle_poll_is_one_request_and_the_same_bytes_among_1_and_100000_refs(fleet: ServedFleet) -> None:
    fleet.start()
    held, _ = pull(fleet, None)
    _, alone = pull(fleet, held, unchanged=True)
    add_others(fleet, 100_000)
    pull(fleet, held, unchanged=True)  # the server reads the refs anew
    _, crowded = pull(fleet, held, unchanged=True)
    assert alone == crowded
    assert (alone.requests, alone.connections) == (1, 1)
    with fleet.client(DEVICE) as client:
        assert len(post(client, command("ls-refs", f"ref-prefix {REF}")).content) == BODY < 80
    assert alone.bytes_down <= 170 + BODY


def test_f28_memory_does_not_grow_with_the_repository(fleet: ServedFleet) -> None:
    def peak() -> int:
        tracemalloc.start()
        try:
            pull(fleet, None)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    fleet.start()
    peak()  # what is loaded once
    small = peak()
    big = {f"other-{number}": {"hmi": os.urandom(400_000)} for number in range(20)}
    fleet.render({**FLEET, **big})
    add_others(fleet, 10_000)
    assert peak() < small + 50_000


def test_every_further_poll_is_one_request_on_the_same_connection(fleet: ServedFleet) -> None:
    fleet.start()
    agent = transport(fleet)
    held = agent.pull(None).snapshot
    assert isinstance(held, Snapshot)
    costs = []
    for _ in range(3):
        answer = agent.pull(held)
        assert answer.snapshot is None
        costs.append(answer.cost)
    agent.close()
    assert len(set(costs)) == 1
    assert (costs[0].requests, costs[0].connections) == (1, 0)
    assert costs[0].bytes_up <= 450


def test_a_change_of_one_file_is_two_requests_and_less_than_one_and_a_half_kilobytes(fleet: ServedFleet) -> None:
    fleet.start()
    held, first = pull(fleet, None)
    assert (first.requests, first.connections) == (2, 1)
    fleet.render({**FLEET, DEVICE: {"hmi": HMI.replace(b"long", b"LONG", 1), "mes": b"b: 1\n"}})
    changed, cost = pull(fleet, held)
    assert changed.revision != held.revision
    assert (cost.requests, cost.connections) == (2, 1)
    assert cost.bytes_down < 1_500


def test_another_devices_commit_changes_no_byte_of_the_answer(fleet: ServedFleet) -> None:
    fleet.start()
    poll = command("ls-refs", f"ref-prefix {REF}")
    with fleet.client(DEVICE) as client:
        before = post(client, poll)
        others = fleet.renderer.git.run("rev-parse", device_ref("press-02"))
        fleet.render({**FLEET, "press-02": {"hmi": b"id: another\n"}})
        assert fleet.renderer.git.run("rev-parse", device_ref("press-02")) != others
        after = post(client, poll)
    assert after.content == before.content
    assert _undated(after.headers.raw) == _undated(before.headers.raw)


def _undated(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if not re.fullmatch(rb"(?i)date", name)]
