"""Packets, capabilities, ls-refs and fetch: what a server may answer, and what it may not."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.errors import SourceMisbehaved, SourceRefused
from margo_gitops.transport.git.pack import ObjectID
from margo_gitops.transport.git.pktline import DELIMITER, FLUSH, Mark, PacketReader, packet
from margo_gitops.transport.git.protocol_v2 import (
    check_capabilities,
    fetch_request,
    ls_refs_request,
    read_fetch,
    read_refs,
)
from margo_gitops.transport.git.source import GitLimits
from margo_gitops.web.refusal import shown

REF = b"refs/heads/devices/press-07"
ONE, TWO = ObjectID(b"1" * 40), ObjectID(b"2" * 40)


def packets(content: bytes, limit: int = 100_000) -> PacketReader:
    return PacketReader(io.BytesIO(content).read, limit)


def lines(*texts: bytes, end: bytes = FLUSH) -> bytes:
    return b"".join(packet(text + b"\n") for text in texts) + end


class TestPackets:
    @given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(Mark)), max_size=20))
    def test_what_was_written_is_read(self, sent: list[bytes | Mark]) -> None:
        content = b"".join(b"%04x" % part.value if isinstance(part, Mark) else packet(part) for part in sent)
        reader = packets(content)
        assert [reader.packet() for _ in sent] == sent

    @given(st.binary(max_size=100))
    def test_any_bytes_are_read_or_refused(self, content: bytes) -> None:
        reader = packets(content)
        for _ in range(30):
            try:
                reader.packet()
            except SourceMisbehaved:
                return

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"0",
            b"000",
            b"0003",
            b"0005",
            b"0009hell",
            b"fff1",
            b"ffff",
            b"-001",
            b"+00a",
            b"0x0a",
            b" 00a",
            b"00_a",
            b"<htm",
        ],
    )
    def test_a_packet_that_is_none_is_refused(self, content: bytes) -> None:
        with pytest.raises(SourceMisbehaved):
            packets(content).packet()

    def test_more_than_the_bound_is_refused(self) -> None:
        reader = packets(packet(b"12345") * 2, limit=17)
        reader.packet()
        with pytest.raises(SourceMisbehaved, match="longer than"):
            reader.packet()

    def test_an_error_of_the_server_is_told_in_its_own_words(self) -> None:
        with pytest.raises(SourceRefused, match="access denied"):
            packets(packet(b"ERR access denied\x1b[31m\n")).line()

    @given(st.binary(max_size=2000))
    def test_what_a_server_says_is_bounded_and_printable(self, said: bytes) -> None:
        text = shown(said)
        assert len(text) <= 200
        assert not text or text.isprintable()


class TestCapabilities:
    @pytest.mark.parametrize("service", [b"", packet(b"# service=git-upload-pack\n") + FLUSH])
    def test_what_git_says(self, service: bytes) -> None:
        said = lines(
            b"version 2", b"agent=git/2.39.5", b"ls-refs=unborn", b"fetch=shallow wait-for-done", b"object-format=sha1"
        )
        check_capabilities(packets(service + said))

    def test_what_a_small_server_says(self) -> None:
        said = lines(b"version 2", b"ls-refs", b"fetch=shallow")
        check_capabilities(packets(said))

    @pytest.mark.parametrize(
        "said",
        [
            lines(ONE + b" HEAD\0multi_ack thin-pack"),
            lines(b"version 1", ONE + b" HEAD"),
            lines(b"version 2"),
            lines(b"version 2", b"ls-refs", b"fetch"),
            lines(b"version 2", b"ls-refs", b"fetch=shallows"),
            lines(b"version 2", b"fetch=shallow"),
            lines(b"version 2", b"ls-refs", b"fetch=shallow", b"object-format=sha256"),
        ],
    )
    def test_what_lacks_something_is_refused_with_a_remedy(self, said: bytes) -> None:
        with pytest.raises(SourceRefused) as caught:
            check_capabilities(packets(said))
        assert caught.value.remedy

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            lines(b"version 2", end=DELIMITER),
            lines(b"version 2", end=b""),
            lines(b"# service=git-upload-pack")[:-4] + packet(b"x"),
        ],
    )
    def test_what_is_no_advertisement_is_refused(self, said: bytes) -> None:
        with pytest.raises(SourceMisbehaved):
            check_capabilities(packets(said))


class TestLsRefs:
    def test_one_ref_is_asked_for_and_nothing_else(self) -> None:
        assert ls_refs_request(REF) == (
            packet(b"command=ls-refs\n") + DELIMITER + packet(b"ref-prefix " + REF + b"\n") + FLUSH
        )

    def test_the_exact_ref_is_taken(self) -> None:
        assert read_refs(packets(lines(TWO + b" " + REF + b"0", ONE + b" " + REF)), (REF,)).get(REF) == ONE

    def test_a_ref_whose_name_begins_100_000_others_is_found(self) -> None:
        others = b"".join(packet(b"%s %s-%06d\n" % (TWO, REF, number)) for number in range(100_000))
        answer = packet(ONE + b" " + REF + b"\n") + others + FLUSH
        assert read_refs(packets(answer, GitLimits().listing_bytes), (REF,)).get(REF) == ONE

    @pytest.mark.parametrize("answer", [FLUSH, lines(TWO + b" " + REF + b"0"), lines(TWO + b" " + REF + b"/x")])
    def test_a_ref_that_is_not_there_is_none(self, answer: bytes) -> None:
        assert read_refs(packets(answer), (REF,)).get(REF) is None

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            lines(ONE + b" " + REF, end=b""),
            lines(ONE + b" " + REF, end=DELIMITER),
            lines(ONE + b" " + REF, TWO + b" " + REF),
            lines(b"unborn HEAD"),
            lines(ONE[:-1] + b" " + REF),
            lines(b"A" * 40 + b" " + REF),
            lines(ONE + b" " + REF + b" peeled:" + TWO),
            lines(ONE + b" " + REF + b"\0x"),
        ],
    )
    def test_an_answer_of_another_form_is_refused(self, answer: bytes) -> None:
        with pytest.raises(SourceMisbehaved):
            read_refs(packets(answer), (REF,)).get(REF)


class TestFetch:
    def test_one_commit_is_asked_for_without_its_history(self) -> None:
        request = fetch_request(ONE, None)
        assert packet(b"deepen 1\n") in request
        assert packet(b"want " + ONE + b"\n") in request
        assert request.endswith(packet(b"done\n") + FLUSH)
        assert b"have" not in request
        assert b"thin-pack" not in request

    def test_what_is_held_is_named_as_the_base(self) -> None:
        request = fetch_request(ONE, TWO)
        for line in (b"thin-pack", b"have " + TWO, b"shallow " + TWO):
            assert packet(line + b"\n") in request

    def test_the_pack_comes_out_of_its_side_band(self) -> None:
        answer = (
            lines(b"shallow-info", b"shallow " + ONE, b"unshallow " + TWO, end=DELIMITER)
            + packet(b"packfile\n")
            + packet(b"\x01PA")
            + packet(b"\x02counting")
            + packet(b"\x01CK")
            + FLUSH
        )
        assert b"".join(read_fetch(packets(answer))) == b"PACK"

    def test_an_error_in_the_middle_is_told(self) -> None:
        answer = packet(b"packfile\n") + packet(b"\x01PACK") + packet(b"\x03out of memory") + FLUSH
        with pytest.raises(SourceRefused, match="out of memory"):
            list(read_fetch(packets(answer)))

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            FLUSH,
            lines(b"acknowledgments", b"NAK"),
            lines(b"wanted-refs", end=DELIMITER),
            lines(b"packfile-uris", end=DELIMITER),
            lines(b"shallow-info", b"shallow x", end=DELIMITER),
            lines(b"shallow-info"),
            packet(b"packfile\n"),
            packet(b"packfile\n") + packet(b"\x01PACK"),
            packet(b"packfile\n") + packet(b"") + FLUSH,
            packet(b"packfile\n") + packet(b"\x04x") + FLUSH,
            packet(b"packfile\n") + DELIMITER,
        ],
    )
    def test_an_answer_of_another_form_is_refused(self, answer: bytes) -> None:
        with pytest.raises(SourceMisbehaved):
            list(read_fetch(packets(answer)))
