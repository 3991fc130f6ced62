"""The page docs/git-subset.md: its ids, and its examples as bytes, played against the server and the device's code."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server.git_requests import REPOSITORY, V2, post
from server.serving import served_fleet
from transport.device_repository import FIRST, MANIFEST, REF, DeviceRepository

from margo_gitops.server.resources.git_wire import CAPABILITIES
from margo_gitops.transport.git.pack import ObjectID, read_pack
from margo_gitops.transport.git.pktline import PacketReader
from margo_gitops.transport.git.protocol_v2 import fetch_request, ls_refs_request, read_fetch, read_refs
from margo_gitops.transport.git.source import GitLimits

PAGE = (Path(__file__).parents[2] / "docs" / "git-subset.md").read_text(encoding="utf-8")
SECOND_MANIFEST = b'{"manifestVersion": 2}\n'
DEPLOYMENT = b"id: hmi\n"

_EXAMPLE = re.compile(r"<!-- example: (?P<name>[^>]+) -->\n\n```text\n(?P<lines>.*?)```\n", re.DOTALL)
_REQUIREMENT = re.compile(
    r"^- \*\*(?P<id>G-[A-Z]-[0-9]+)\*\* \((?P<who>[a-z]+)\) (?P<text>.+(?:\n  .+)*)", re.MULTILINE
)
_CHAPTERS = "SCTMVFKAXRP"


def example(name: str) -> bytes:
    """Return the bytes of an example; those that stand for a choice of zlib's are cut off with what follows."""
    (lines,) = [match["lines"] for match in _EXAMPLE.finditer(PAGE) if match["name"] == name]
    text = "".join(lines.splitlines()).partition("....")[0]
    return text.encode().decode("unicode_escape").encode("latin-1")


class TestRequirements:
    def test_every_chapter_numbers_its_requirements_without_a_gap(self) -> None:
        numbers: dict[str, list[int]] = {}
        for match in _REQUIREMENT.finditer(PAGE):
            _, chapter, number = match["id"].split("-")
            numbers.setdefault(chapter, []).append(int(number))
        assert {chapter: sorted(found) for chapter, found in numbers.items()} == {
            chapter: list(range(1, len(numbers[chapter]) + 1)) for chapter in _CHAPTERS
        }

    def test_every_requirement_binds_somebody_to_something(self) -> None:
        for match in _REQUIREMENT.finditer(PAGE):
            assert match["who"] in {"server", "client", "renderer"}, match["id"]
            assert re.search(r"\b(MUST|SHOULD|MAY)\b", match["text"]), match["id"]

    def test_every_line_that_starts_as_a_requirement_is_one(self) -> None:
        started = Counter(re.findall(r"^- \*\*(G-[A-Z]-[0-9]+)\*\*", PAGE, re.MULTILINE))
        assert started == Counter(match["id"] for match in _REQUIREMENT.finditer(PAGE))
        assert set(started.values()) == {1}

    def test_every_id_that_is_referred_to_exists(self) -> None:
        known = {match["id"] for match in _REQUIREMENT.finditer(PAGE)}
        assert set(re.findall(r"G-[A-Z]-[0-9]+", PAGE)) <= known


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The device of the examples, at a server that serves the two commits of the examples."""
    folder = tmp_path_factory.mktemp("page")
    with served_fleet(folder) as fleet:
        repository = DeviceRepository(folder / "state.git")
        repository.commit(MANIFEST, {})
        repository.commit(SECOND_MANIFEST, {FIRST: DEPLOYMENT})
        fleet.token("press-07")
        fleet.start()
        with fleet.client("press-07") as client:
            yield client


class TestExamples:
    @pytest.mark.parametrize("name", ["ls-refs", "unknown want"])
    def test_the_server_answers_a_request_of_the_page_with_the_answer_of_the_page(
        self, device: httpx.Client, name: str
    ) -> None:
        assert post(device, example(f"{name} request")).content == example(f"{name} answer")

    def test_the_server_sends_the_sections_and_the_objects_of_the_page(self, device: httpx.Client) -> None:
        held = post(device, example("fetch request").replace(_tip(), _held(), 1).replace(*_without_have()))
        known = _objects(held.content)
        found = post(device, example("fetch request")).content
        head = example("fetch answer")
        assert found.startswith(head)
        assert found[len(head) + 4 :].startswith(b"\1PACK\0\0\0\2\0\0\0\5")
        fetched = _objects(found, known)
        assert {len(fetched), _tip() in fetched} == {5, True}

    def test_the_server_advertises_the_capabilities_of_the_page(self, device: httpx.Client) -> None:
        found = device.get(f"{REPOSITORY}/info/refs?service=git-upload-pack", headers=V2)
        assert found.content == example("capabilities answer") == CAPABILITIES

    def test_the_lengths_in_the_http_example_are_right(self) -> None:
        lengths = [int(length) for length in re.findall(r"^Content-Length: ([0-9]+)$", PAGE, re.MULTILINE)]
        assert lengths == [len(example("ls-refs request")), len(example("ls-refs answer"))]

    def test_the_device_writes_the_requests_of_the_page(self) -> None:
        assert ls_refs_request(REF.encode()) == example("ls-refs request")
        assert fetch_request(_tip(), _held()) == example("fetch request")

    def test_the_device_reads_the_answer_of_the_page(self) -> None:
        content = example("ls-refs answer")
        assert read_refs(PacketReader(io.BytesIO(content).read, len(content)), (REF.encode(),))[REF.encode()] == _tip()


def test_the_size_that_the_page_gives_for_an_idle_poll_is_the_size(device: httpx.Client) -> None:
    size = len(post(device, ls_refs_request(REF.encode())).content)
    assert f"One request and one answer of {size} bytes" in PAGE


def _tip() -> ObjectID:
    return ObjectID(example("ls-refs answer")[4:44])


def _held() -> ObjectID:
    found = re.search(rb"have ([0-9a-f]{40})", example("fetch request"))
    assert found
    return ObjectID(found[1])


def _without_have() -> tuple[bytes, bytes]:
    content = example("fetch request")
    start, end = content.index(b"000ethin-pack"), content.index(b"0009done")
    return content[start:end], b""


def _objects(content: bytes, held: dict[ObjectID, object] | None = None) -> dict[ObjectID, object]:
    pieces = read_fetch(PacketReader(io.BytesIO(content).read, len(content)))
    return dict(read_pack(pieces, (held or {}).get, GitLimits()))  # type: ignore[arg-type]
