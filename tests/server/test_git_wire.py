"""Git's requests as bytes, and packs: any bytes are read or refused, packs are built once and memory is bounded."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.git_requests import command
from support.state_publishing import Renderer

from margo_gitops.documents.state_layout import device_ref
from margo_gitops.errors import StateTampered
from margo_gitops.server.resources.git import visible
from margo_gitops.server.resources.git_packs import Packs, plan_fetch
from margo_gitops.server.resources.git_wire import (
    MAX_LINES,
    Fetch,
    LsRefs,
    NotGitError,
    RefusedError,
    old_acknowledgments,
    read_old_request,
    read_request,
    refs_answer,
    side_band,
)
from margo_gitops.state_repo.objects import StateObjects
from margo_gitops.transport.git.pack import read_pack
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, packet
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.trust.freshness_tree import possible_shards

COMMITS = 12
IDS = st.text("0123456789abcdef", min_size=40, max_size=40)
WORDS = ["want", "have", "shallow", "deepen", "done", "thin-pack", "ref-prefix", "symrefs", "command=fetch", "0" * 40]
LINES = st.lists(st.sampled_from(WORDS) | IDS, max_size=3).map(lambda words: packet(" ".join(words).encode() + b"\n"))
ALMOST = st.lists(LINES | st.sampled_from([FLUSH, DELIMITER, b"0002", b"0004"]), max_size=12).map(b"".join)


class TestRequests:
    @given(st.binary(max_size=300) | ALMOST | ALMOST.map(lambda rest: packet(b"command=fetch\n") + DELIMITER + rest))
    def test_any_bytes_are_read_or_refused(self, body: bytes) -> None:
        for read in (read_request, read_old_request):
            with contextlib.suppress(NotGitError, RefusedError):
                read(body)

    @given(st.lists(IDS, min_size=1, unique=True), st.lists(IDS, unique=True), st.sets(IDS), st.booleans())
    def test_what_a_device_asks_for_is_read(
        self, wants: list[str], haves: list[str], shallow: set[str], thin: bool
    ) -> None:
        lines = [f"want {name}" for name in wants] + [f"have {name}" for name in haves]
        lines += [f"shallow {name}" for name in shallow] + ["deepen 1", "done", *(["thin-pack"] if thin else [])]
        assert read_request(command("fetch", *lines)) == Fetch(
            tuple(wants), tuple(haves), frozenset(shallow), depth=1, done=True, thin=thin
        )

    def test_the_lone_flush_packet_by_which_git_tries_a_connection_is_no_request(self) -> None:
        assert read_request(FLUSH) is None
        assert read_old_request(FLUSH) is None

    def test_the_number_of_lines_is_bounded(self) -> None:
        with pytest.raises(RefusedError, match="too many"):
            read_request(command("ls-refs", *["ref-prefix x"] * MAX_LINES))


class TestAnswers:
    @given(st.binary(min_size=1, max_size=200_000))
    def test_a_pack_is_split_into_packets_that_git_takes(self, pack: bytes) -> None:
        answer, at, found = side_band(pack), 0, b""
        while size := int(answer[at : at + 4], 16):
            assert size <= 65_520
            assert answer[at + 4 : at + 5] == b"\1"
            found += answer[at + 5 : at + size]
            at += size
        assert found == pack
        assert at + 4 == len(answer)

    def test_symbolic_refs_are_told_only_where_they_are_asked_for(self) -> None:
        refs = {"refs/heads/devices/a": "1" * 40}
        told = refs_answer(LsRefs(symrefs=True), refs, "refs/heads/devices/a")
        assert b"HEAD symref-target:refs/heads/devices/a\n" in told
        assert b"symref" not in refs_answer(LsRefs(), refs, "refs/heads/devices/a")

    @pytest.mark.parametrize(
        ("multi_ack", "done", "expected"),
        [
            ("", False, ["ACK a"]),
            ("", True, ["ACK a"]),
            ("continue", False, ["ACK a continue", "ACK b continue", "NAK"]),
            ("continue", True, ["ACK a continue", "ACK b continue", "NAK", "ACK b"]),
            ("common", True, ["ACK a common", "ACK b common", "ACK b ready", "NAK", "ACK b"]),
        ],
    )
    def test_version_0_acknowledges_what_both_hold(self, multi_ack: str, done: bool, expected: list[str]) -> None:
        request = Fetch(("w",), done=done, multi_ack=multi_ack)
        said = old_acknowledgments(request, ("x", "a", "b", None), ("a", "b"))
        assert said == b"".join(packet(f"{line}\n".encode()) for line in expected)

    def test_version_0_says_that_nothing_is_held_in_common(self) -> None:
        assert old_acknowledgments(Fetch(("w",), done=True), ("x",), ()) == packet(b"NAK\n")


class TestVisibility:
    def test_g_a_5_a_device_sees_its_branch_and_the_freshness_ref_that_covers_it(self) -> None:
        mine, others = (f"refs/heads/freshness/{possible_shards(device)[2]}" for device in ("press-01", "press-02"))
        branch = device_ref("press-01")
        names = [branch, device_ref("press-02"), "refs/heads/fleet", "refs/heads/reports", mine, others]
        seen = visible("press-01", branch, dict.fromkeys(names, "1" * 40))
        assert seen.refs.keys() == {branch, mine}
        assert seen.head == branch


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """A state repo with some history."""
    renderer = Renderer(tmp_path_factory.mktemp("state") / "state.git")
    for number in range(COMMITS):
        renderer.publish({"press-01": {"app": b"number: %d\n" % number + b"# the same\n" * 40}})
    return renderer


@pytest.fixture
def objects(renderer: Renderer) -> StateObjects:
    """The objects of the state repo."""
    return StateObjects(renderer.git.path)


class TestPacks:
    def commit(self, renderer: Renderer, back: int = 0) -> str:
        return renderer.git.run("rev-parse", f"{device_ref('press-01')}~{back}")

    def test_a_pack_that_devices_ask_for_is_built_once(self, renderer: Renderer, objects: StateObjects) -> None:
        packs = Packs(objects)
        plan = plan_fetch(objects, Fetch((self.commit(renderer),), depth=1, done=True))
        assert packs.kept(plan) is None
        assert packs.build(plan) == packs.kept(plan)
        again = plan_fetch(objects, Fetch((self.commit(renderer),), haves=("5" * 40,), depth=1, done=True))
        assert packs.kept(again) is not None
        assert packs.built == 1

    def test_what_is_kept_is_bounded_and_the_oldest_goes_first(self, renderer: Renderer, objects: StateObjects) -> None:
        plans = [plan_fetch(objects, Fetch((self.commit(renderer, back),), depth=1)) for back in range(3)]
        size = len(Packs(objects).build(plans[0]))
        packs = Packs(objects, cache_bytes=2 * size + size // 2)
        for plan in plans:
            packs.build(plan)
        assert [packs.kept(plan) is not None for plan in plans] == [False, True, True]

    def test_histories_are_not_kept(self, renderer: Renderer, objects: StateObjects) -> None:
        packs = Packs(objects)
        plan = plan_fetch(objects, Fetch((self.commit(renderer),)))
        assert len(read_pack(iter([packs.build(plan)]), lambda _: None, GitLimits())) == 5 * COMMITS
        assert packs.kept(plan) is None

    def test_a_pack_against_every_commit_that_is_held_gives_the_whole_state(
        self, renderer: Renderer, objects: StateObjects
    ) -> None:
        packs = Packs(objects)
        whole = read_pack(
            iter([packs.build(plan_fetch(objects, Fetch((self.commit(renderer),), depth=1)))]),
            lambda _: None,
            GitLimits(),
        )
        for back in range(1, COMMITS):
            held = self.commit(renderer, back)
            old = read_pack(
                iter([packs.build(plan_fetch(objects, Fetch((held,), depth=1)))]), lambda _: None, GitLimits()
            )
            request = Fetch((self.commit(renderer),), (held,), frozenset({held}), depth=1, thin=True)
            pack = packs.build(plan_fetch(objects, request))
            assert {**old, **read_pack(iter([pack]), old.get, GitLimits())}.items() >= whole.items()

    @pytest.mark.parametrize("depth", [1, 2, 5, COMMITS - 1, COMMITS, COMMITS + 1])
    def test_history_ends_where_it_is_asked_to(self, renderer: Renderer, objects: StateObjects, depth: int) -> None:
        plan = plan_fetch(objects, Fetch((self.commit(renderer),), depth=depth))
        assert len(plan.send) == min(depth, COMMITS)
        assert plan.shallow == ((self.commit(renderer, depth - 1),) if depth < COMMITS else ())

    def test_a_missing_object_is_named(self, objects: StateObjects) -> None:
        with pytest.raises(StateTampered, match="5" * 40):
            plan_fetch(objects, Fetch(("5" * 40,), depth=1))
