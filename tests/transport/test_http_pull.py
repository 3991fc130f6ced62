"""Pull over HTTP: the client algorithm of Margo's desired state, and what its negative cases must not do."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support.faulty_http import Answer, Request, only
from support.margo_server import MargoServer, margo_server, problem

from margo_gitops.digests import sha256
from margo_gitops.documents.manifest import write_bundle
from margo_gitops.errors import (
    DigestMismatch,
    SourceBusy,
    SourceMisbehaved,
    SourceRefused,
    SourceUnreachable,
    StateDocumentInvalid,
    TransportError,
    TrustRefused,
    VersionReused,
    VersionRollback,
)
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpLimits, HttpSource
from margo_gitops.trust.snapshot import Snapshot

ONE, TWO, THREE = (f"{number:08d}-1111-5111-8111-111111111111" for number in (1, 2, 3))


def document(name: str, text: str = "hello", size: int = 40_000) -> bytes:
    """Return content of a deployment; this side of trust nobody reads it."""
    return f"id: {name}\ntext: {text}\n".encode() + b"# padding\n" * (size // 10)


STATE = {ONE: document(ONE), TWO: document(TWO), THREE: document(THREE)}


@pytest.fixture
def server() -> Iterator[MargoServer]:
    with margo_server() as made:
        made.publish(1, STATE)
        yield made


@pytest.fixture
def transport(server: MargoServer) -> Iterator[HttpTransport]:
    made = HttpTransport(HttpSource(server.base()))
    yield made
    made.close()


def pulled(transport: HttpTransport, held: Snapshot | None = None) -> Snapshot:
    snapshot = transport.pull(held).snapshot
    assert isinstance(snapshot, Snapshot)
    return snapshot


def refused(transport: HttpTransport, held: Snapshot | None = None) -> TransportError | TrustRefused:
    with pytest.raises((TransportError, TrustRefused)) as caught:
        transport.pull(held)
    return caught.value


class TestAPull:
    def test_yields_the_exact_bytes_of_the_server(self, transport: HttpTransport, server: MargoServer) -> None:
        snapshot = pulled(transport)
        assert snapshot.manifest == server.manifest
        assert snapshot.deployments == STATE
        assert (snapshot.commit, snapshot.revision) == (None, f'"{sha256(server.manifest)}"')

    def test_is_unchanged_where_the_tag_is_that_of_what_is_held(self, transport: HttpTransport) -> None:
        held = pulled(transport)
        before = transport.cost
        assert transport.pull(held).snapshot is None
        spent = transport.cost - before
        assert (spent.requests, spent.connections) == (1, 0), "one request on the kept connection"
        assert spent.bytes_down < 250

    def test_of_what_git_brought_is_known_by_its_digest(self, transport: HttpTransport, server: MargoServer) -> None:
        held = Snapshot(server.manifest, STATE, b"tree ...", "0" * 40)
        assert transport.pull(held).snapshot is None
        assert transport.cost.requests == 1

    def test_asks_for_the_media_type_of_a_manifest(self, transport: HttpTransport, server: MargoServer) -> None:
        pulled(transport)
        assert server.requests[0].headers["accept"] == "application/vnd.margo.manifest.v1+json"

    def test_of_a_state_without_deployments_is_a_state(self, transport: HttpTransport, server: MargoServer) -> None:
        held = pulled(transport)
        server.publish(2, {})
        assert pulled(transport, held).deployments == {}
        assert server.asked() == ["deployments", "bundles", "deployments"]

    def test_f3_versions_of_64_bits_are_exact(self, transport: HttpTransport, server: MargoServer) -> None:
        server.publish(2**64 - 2, STATE)
        held = pulled(transport)
        server.publish(2**64 - 1, {ONE: STATE[ONE]})
        assert b"18446744073709551615" in pulled(transport, held).manifest

    @pytest.mark.parametrize("prefixed", [False, True])
    def test_works_below_a_prefix_whether_or_not_the_manifest_names_it(self, prefixed: bool) -> None:
        with margo_server("/v1alpha2/margo") as server:
            server.publish(1, STATE, prefixed=prefixed)
            transport = HttpTransport(HttpSource(server.base() + "/"))
            held = pulled(transport)
            server.publish(2, {**STATE, ONE: document(ONE, "changed")}, prefixed=prefixed)
            assert pulled(transport, held).deployments[ONE] == document(ONE, "changed")
            transport.close()

    def test_the_prefix_of_a_static_folder_is_one_device(self) -> None:
        with margo_server("/fleet/gw_2fpress-07") as server:
            server.publish(1, STATE)
            transport = HttpTransport(HttpSource(server.base()))
            assert pulled(transport).deployments == STATE
            transport.close()

    def test_content_that_the_server_compressed_is_what_it_was_before(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        def compress(_: Request, answer: Answer) -> Answer:
            return Answer(answer.status, [*answer.headers, ("Content-Encoding", "gzip")], gzip.compress(answer.body))

        server.faults.append(compress)
        assert pulled(transport).deployments == STATE
        assert transport.cost.bytes_down < 5_000


class TestChoosing:
    def test_the_first_sync_takes_the_bundle(self, transport: HttpTransport, server: MargoServer) -> None:
        pulled(transport)
        assert server.asked() == ["deployments", "bundles"]

    def test_one_change_is_fetched_alone_and_the_rest_is_kept(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        held = pulled(transport)
        server.requests.clear()
        server.publish(2, {**STATE, TWO: document(TWO, "changed")})
        snapshot = pulled(transport, held)
        assert server.asked() == ["deployments", f"deployments/{TWO}"]
        assert snapshot.deployments == {**STATE, TWO: document(TWO, "changed")}

    def test_many_small_changes_take_the_bundle(self, transport: HttpTransport, server: MargoServer) -> None:
        many = {f"{number:08d}-2222-5222-8222-222222222222": document(str(number), size=500) for number in range(20)}
        server.publish(2, many)
        held = pulled(transport)
        server.requests.clear()
        server.publish(
            3, {name: content + b"# changed\n" for name, content in list(many.items())[1:]} | {ONE: STATE[ONE]}
        )
        pulled(transport, held)
        assert server.asked() == ["deployments", "bundles"]

    @pytest.mark.parametrize("sizes", [True, False])
    def test_what_is_held_under_another_id_is_not_fetched_again(
        self, transport: HttpTransport, server: MargoServer, sizes: bool
    ) -> None:
        held = pulled(transport)
        server.requests.clear()
        server.publish(2, {THREE: STATE[ONE], TWO: STATE[TWO]}, sizes=sizes)
        assert pulled(transport, held).deployments == {THREE: STATE[ONE], TWO: STATE[TWO]}
        assert server.asked() == ["deployments"]

    def test_what_is_held_but_damaged_is_fetched_again(self, transport: HttpTransport, server: MargoServer) -> None:
        held = pulled(transport)
        damaged = Snapshot(held.manifest, {**held.deployments, ONE: b"damaged"}, None, held.revision)
        server.publish(2, {ONE: STATE[ONE], TWO: STATE[TWO]})
        assert pulled(transport, damaged).deployments == {ONE: STATE[ONE], TWO: STATE[TWO]}


class TestABundle:
    def test_files_are_found_by_digest_whatever_their_names(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            link = tarfile.TarInfo("../../etc/passwd")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
            archive.addfile(link)
            for number, content in enumerate([b"something else", *STATE.values()]):
                member = tarfile.TarInfo(f"folder/{'ü' * 150}-{number}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        server.publish(1, STATE, bundle=packed.getvalue())
        assert pulled(transport).deployments == STATE
        assert server.asked() == ["deployments", "bundles"]

    def test_with_another_digest_refuses_the_update(self, transport: HttpTransport, server: MargoServer) -> None:
        server.publish(1, STATE, bundle=write_bundle(STATE))
        server.faults.append(only("", lambda answer: _changed(answer, "tar+gzip")))
        assert isinstance(refused(transport), DigestMismatch)

    @pytest.mark.parametrize(
        "bundle",
        [
            pytest.param(b"no archive", id="no archive"),
            pytest.param(gzip.compress(b"x" * 700), id="no tar"),
            pytest.param(write_bundle(STATE)[:-700], id="cut off"),
            pytest.param(gzip.compress(gzip.decompress(write_bundle(STATE))[:60_000]), id="tar cut off"),
            pytest.param(write_bundle({ONE: STATE[ONE]}), id="not all"),
            pytest.param(gzip.compress(b"\0" * 1024), id="empty"),
        ],
    )
    def test_that_cannot_be_used_is_made_up_for_singly(
        self, transport: HttpTransport, server: MargoServer, bundle: bytes
    ) -> None:
        server.publish(1, STATE, bundle=bundle)
        assert pulled(transport).deployments == STATE
        assert server.asked(TWO)

    @pytest.mark.parametrize("status", [403, 404, 500])
    def test_that_the_server_does_not_have_is_made_up_for_singly(
        self, transport: HttpTransport, server: MargoServer, status: int
    ) -> None:
        server.faults.append(lambda request, _: problem(status, "no") if "/bundles/" in request.path else None)
        assert pulled(transport).deployments == STATE

    def test_that_explodes_is_not_unpacked(self, server: MargoServer) -> None:
        bomb = gzip.compress(b"\0" * 50_000_000)
        server.publish(1, STATE, bundle=bomb)
        transport = HttpTransport(HttpSource(server.base()), HttpLimits(total_bytes=1_000_000))
        assert pulled(transport).deployments == STATE
        transport.close()


class TestNegativeCases:
    """The cases that the conformance suite of the standard has for devices, and those of the field."""

    @pytest.mark.parametrize("digest", ["sha512:" + "a" * 128, "sha256:" + "A" * 64, "sha256:abc", "md5:" + "a" * 32])
    def test_another_digest_algorithm_makes_the_whole_manifest_invalid(
        self, transport: HttpTransport, server: MargoServer, digest: str
    ) -> None:
        held = pulled(transport)
        server.requests.clear()
        reference = {"deploymentId": ONE, "digest": digest, "url": f"/api/v1/deployments/{ONE}/{digest}"}
        server.publish(2, STATE, listed=[reference])
        assert isinstance(refused(transport, held), StateDocumentInvalid)
        assert server.asked() == ["deployments"], "nothing of it is fetched"

    def test_a_deployment_with_another_digest_refuses_the_update(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        held = pulled(transport)
        server.publish(2, {**STATE, ONE: document(ONE, "changed")})
        server.faults.append(only("", lambda answer: _changed(answer, "application/yaml")))
        error = refused(transport, held)
        assert isinstance(error, DigestMismatch)
        assert ONE in str(error)

    def test_f3_a_version_that_is_not_greater_is_refused_before_anything_is_fetched(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        server.publish(7, STATE)
        held = pulled(transport)
        server.requests.clear()
        server.publish(7, {ONE: STATE[ONE]})
        assert isinstance(refused(transport, held), VersionReused)
        server.publish(6, {ONE: STATE[ONE]})
        assert isinstance(refused(transport, held), VersionRollback)
        assert server.asked() == ["deployments", "deployments"]

    def test_a_wrong_size_with_the_right_digest_is_accepted(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        held = pulled(transport)
        for size in (0, 7, 2**60):
            version = 2 + (7, 0, 2**60).index(size)
            changed = document(ONE, f"size {size}")
            reference = {
                "deploymentId": ONE,
                "digest": sha256(changed),
                "url": f"/api/v1/deployments/{ONE}/{sha256(changed)}",
                "sizeBytes": size,
            }
            server.publish(version, {ONE: changed}, listed=[reference])
            assert pulled(transport, held).deployments == {ONE: changed}

    @pytest.mark.parametrize("status", [403, 404, 410, 500])
    def test_a_listed_deployment_that_is_not_there_is_taken_from_the_bundle(
        self, transport: HttpTransport, server: MargoServer, status: int
    ) -> None:
        held = pulled(transport)
        changed = {**STATE, ONE: document(ONE, "changed"), TWO: document(TWO, "changed", size=900_000)}
        server.publish(2, changed)
        server.requests.clear()
        server.faults.append(
            lambda request, _: problem(status, "no") if f"/deployments/{ONE}" in request.path else None
        )
        assert pulled(transport, held).deployments == changed
        assert server.asked().count("bundles") == 1

    def test_f2_a_listed_deployment_that_answers_404_fails_the_pull_and_removes_nothing(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        held = pulled(transport)
        server.publish(2, {**STATE, ONE: document(ONE, "changed")})
        server.resources = {
            path: kept for path, kept in server.resources.items() if ONE not in path and "/bundles/" not in path
        }
        error = refused(transport, held)
        assert isinstance(error, SourceRefused)
        assert "nothing is removed" in str(error)
        assert server.requests[-1].headers.get("if-none-match") is None
        # The tag of what did not come whole is never sent: the next poll asks again from what is held.
        server.publish(2, {**STATE, ONE: document(ONE, "changed")})
        assert pulled(transport, held).deployments[ONE] == document(ONE, "changed")

    def test_a_render_in_the_middle_of_a_pull_is_followed(self, transport: HttpTransport, server: MargoServer) -> None:
        held = pulled(transport)
        server.publish(2, {**STATE, ONE: document(ONE, "second")})
        newest = {**STATE, ONE: document(ONE, "third")}

        def render(request: Request, _: Answer) -> None:
            if ONE in request.path:
                server.faults.clear()
                server.publish(3, newest)

        server.faults.append(
            lambda request, answer: render(request, answer) or (problem(404, "gone") if ONE in request.path else None)
        )
        assert pulled(transport, held).deployments == newest

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_no_redirect_is_followed(self, transport: HttpTransport, server: MargoServer, status: int) -> None:
        server.faults.append(
            lambda *_: Answer(status, [("Location", "http://elsewhere.example/api/v1/deployments")], b"")
        )
        error = refused(transport)
        assert isinstance(error, SourceMisbehaved)
        assert "http://elsewhere.example" in str(error)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, SourceRefused),
            (401, SourceRefused),
            (403, SourceRefused),
            (404, SourceRefused),
            (406, SourceRefused),
            (429, SourceBusy),
            (500, SourceRefused),
            (502, SourceRefused),
            (503, SourceBusy),
            (204, SourceRefused),
        ],
    )
    def test_every_status_has_its_error_and_says_what_the_server_says(
        self, transport: HttpTransport, server: MargoServer, status: int, error: type[TransportError]
    ) -> None:
        held = pulled(transport)
        server.faults.append(
            lambda *_: problem(status, "ask\x1b[31m somebody") if status != 204 else Answer(204, [], b"")
        )
        caught = refused(transport, held)
        assert type(caught) is error
        assert status == 204 or "ask?[31m somebody" in str(caught)

    def test_nothing_new_to_a_device_that_holds_nothing_is_refused(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        server.faults.append(lambda *_: Answer(304, [], b""))
        assert isinstance(refused(transport), SourceMisbehaved)

    def test_a_web_page_instead_of_a_manifest_is_no_attack(self, transport: HttpTransport, server: MargoServer) -> None:
        server.faults.append(lambda *_: Answer(200, [("Content-Type", "text/html; charset=utf-8")], b"<html>log in"))
        error = refused(transport)
        assert isinstance(error, SourceMisbehaved)
        assert "text/html" in str(error)


class TestEntityTags:
    @pytest.mark.parametrize("tag", ['"7"', 'W/"65a-7"', '""'])
    def test_a_foreign_tag_is_told_back_as_it_came(
        self, transport: HttpTransport, server: MargoServer, tag: str
    ) -> None:
        server.tag = tag
        held = pulled(transport)
        assert transport.pull(held).snapshot is None
        assert server.requests[-1].headers["if-none-match"] == tag

    def test_a_foreign_tag_means_nothing_to_another_server(self, transport: HttpTransport, server: MargoServer) -> None:
        server.tag = '"7"'
        held = pulled(transport)
        with margo_server() as other:
            other.tag = '"7"'
            other.publish(2, {ONE: STATE[ONE]})
            moved = HttpTransport(HttpSource(other.base()))
            assert pulled(moved, held).deployments == {ONE: STATE[ONE]}
            moved.close()

    @pytest.mark.parametrize("tag", ["7", '"a"b"', '"' + "x" * 5000 + '"', '"\x80"'])
    def test_a_tag_that_is_none_counts_as_the_digest(
        self, transport: HttpTransport, server: MargoServer, tag: str
    ) -> None:
        server.tag = tag
        held = pulled(transport)
        assert held.revision == f'"{sha256(server.manifest)}"'
        assert transport.pull(held).snapshot is None, "200 with equal bytes is nothing new either"


class TestHostileAnswers:
    @pytest.mark.parametrize("word", ["manifest.v1", "tar+gzip", "application/yaml"])
    def test_f2_a_truncated_answer_is_no_state(self, transport: HttpTransport, server: MargoServer, word: str) -> None:
        if word == "application/yaml":
            server.faults.append(lambda request, _: problem(404, "no") if "/bundles/" in request.path else None)
        server.faults.append(only("", lambda answer: _cut(answer, word)))
        if word == "tar+gzip":
            assert pulled(transport).deployments == STATE, "the rest of a cut bundle comes singly"
        else:
            assert isinstance(refused(transport), SourceMisbehaved | SourceUnreachable)

    def test_an_answer_that_drips_ends_with_the_time_of_the_pull(self, server: MargoServer) -> None:
        server.faults.append(only("", lambda answer: _dripped(answer, 0.05)))
        transport = HttpTransport(HttpSource(server.base(), pull_seconds=0.5))
        assert isinstance(refused(transport), SourceUnreachable)
        transport.close()

    def test_a_huge_manifest_is_not_taken_in(self, transport: HttpTransport, server: MargoServer) -> None:
        server.manifest = b'{"deployments": [' + b" " * 20_000_000
        error = refused(transport)
        assert isinstance(error, SourceMisbehaved)
        assert transport.cost.bytes_down < 4_000_000

    def test_a_manifest_that_explodes_is_not_unpacked(self, transport: HttpTransport, server: MargoServer) -> None:
        def bomb(_: Request, answer: Answer) -> Answer:
            return Answer(200, [*answer.headers, ("Content-Encoding", "gzip")], gzip.compress(b" " * 100_000_000))

        server.faults.append(bomb)
        assert "holds more than" in str(refused(transport))

    @pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
    def test_an_encoding_that_nobody_asked_for_is_refused(
        self, transport: HttpTransport, server: MargoServer, encoding: str
    ) -> None:
        server.faults.append(
            lambda _, answer: Answer(200, [*answer.headers, ("Content-Encoding", encoding)], answer.body)
        )
        assert isinstance(refused(transport), SourceMisbehaved)

    def test_more_deployments_than_a_device_takes_are_refused(self, server: MargoServer) -> None:
        transport = HttpTransport(HttpSource(server.base()), HttpLimits(deployments=2))
        assert "takes 2" in str(refused(transport))
        transport.close()

    def test_more_bytes_than_a_device_takes_are_refused(self, server: MargoServer) -> None:
        server.faults.append(lambda request, _: problem(404, "no") if "/bundles/" in request.path else None)
        for limits in (HttpLimits(total_bytes=100_000), HttpLimits(deployment_bytes=1000)):
            transport = HttpTransport(HttpSource(server.base()), limits)
            assert isinstance(refused(transport), SourceMisbehaved)
            transport.close()

    @pytest.mark.parametrize("url", ["/a#b", "/ä", "/a\x7f"])
    def test_a_path_that_is_none_is_never_sent(self, transport: HttpTransport, server: MargoServer, url: str) -> None:
        held = pulled(transport)
        server.requests.clear()
        reference = {"deploymentId": ONE, "digest": "sha256:" + "0" * 64, "url": url}
        server.publish(2, STATE, listed=[reference])
        server.faults.append(lambda request, _: problem(404, "no") if "/bundles/" in request.path else None)
        assert isinstance(refused(transport, held), SourceMisbehaved)

    def test_f2_a_failed_pull_leaves_a_connection_that_works(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        server.faults.append(only("", lambda answer: _cut(answer, "manifest.v1")))
        refused(transport)
        server.faults.clear()
        assert pulled(transport).deployments == STATE


class TestWaitingForAChange:
    def test_f12_a_change_arrives_at_once_and_a_change_before_the_request_is_not_missed(self) -> None:
        with margo_server(honours_wait=True) as server:
            server.publish(1, STATE)
            transport = HttpTransport(HttpSource(server.base()))
            held = pulled(transport)
            # The change comes while nobody is connected: F12, events lost on reconnect.
            transport.close()
            server.publish(2, {**STATE, ONE: document(ONE, "second")})
            answer = transport.pull(held, 600)
            assert answer.hints.waited
            assert answer.snapshot is not None
            assert answer.snapshot.deployments[ONE] == document(ONE, "second")
            transport.close()

    def test_a_wait_that_ends_without_a_change_is_unchanged(self) -> None:
        with margo_server(honours_wait=True) as server:
            server.publish(1, STATE)
            transport = HttpTransport(HttpSource(server.base(), read_seconds=0.5, pull_seconds=0.5))
            held = pulled(transport)
            answer = transport.pull(held, 1)
            assert answer.snapshot is None
            assert answer.hints.waited, "the wait does not count as silence"
            transport.close()

    def test_f16_a_server_that_says_it_waits_and_does_not_is_not_asked_at_once(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        held = pulled(transport)
        server.faults.append(lambda *_: Answer(304, [("Preference-Applied", "wait=60")], b""))
        answer = transport.pull(held, 60)
        assert answer.snapshot is None
        assert not answer.hints.waited

    def test_a_server_that_ends_and_says_how_long_it_waited_is_asked_again_at_once(
        self, transport: HttpTransport, server: MargoServer
    ) -> None:
        held = pulled(transport)
        server.faults.append(lambda *_: time.sleep(0.6) or Answer(304, [("Preference-Applied", "wait=1")], b""))
        assert transport.pull(held, 60).hints.waited

    def test_a_server_that_cannot_wait_is_polled_as_ever(self, transport: HttpTransport, server: MargoServer) -> None:
        held = pulled(transport)
        answer = transport.pull(held, 60)
        assert answer.snapshot is None
        assert server.requests[-1].headers["prefer"] == "wait=60"
        assert not answer.hints.waited

    def test_a_device_that_holds_nothing_does_not_wait(self, transport: HttpTransport, server: MargoServer) -> None:
        transport.pull(None, 60)
        assert all("prefer" not in request.headers for request in server.requests)


class TestHints:
    def test_f16_the_wishes_of_a_server_are_handed_on(self, transport: HttpTransport, server: MargoServer) -> None:
        first = transport.pull(None)
        held = first.snapshot
        assert (first.hints.interval, first.hints.pause) == (None, None)
        server.faults.append(lambda *_: Answer(304, [("X-Poll-Interval", "300"), ("Retry-After", "120")], b""))
        answer = transport.pull(held)
        assert answer.snapshot is None
        assert (answer.hints.interval, answer.hints.pause) == (300, 120)

    @pytest.mark.parametrize(
        ("answer", "seconds"),
        [
            (problem(503, "busy", retryAfterSeconds=7), 7),
            (problem(500, "busy", retryAfterSeconds=7), 7),
            (Answer(429, [("Retry-After", "30")], b""), 30),
            (problem(429, "busy", retryAfterSeconds="soon"), None),
            (problem(503, "busy", retryAfterSeconds=-1), None),
            (problem(503, "busy", retryAfterSeconds=10**9), 86_400),
        ],
    )
    def test_f16_a_server_that_is_busy_says_when_to_come_back(
        self, transport: HttpTransport, server: MargoServer, answer: Answer, seconds: float | None
    ) -> None:
        server.faults.append(lambda *_: answer)
        error = refused(transport)
        assert isinstance(error, SourceBusy)
        assert error.retry_after == seconds

    def test_f18_a_device_says_who_it_is_with_every_request(self, server: MargoServer, tmp_path: Path) -> None:
        """A limit can then count per device, and never needs the address that a whole plant shares."""
        (tmp_path / "token").write_text("hunter2\n")
        transport = HttpTransport(HttpSource(server.base(), token_file=tmp_path / "token"))
        pulled(transport)
        assert {request.headers.get("authorization") for request in server.requests} == {"Bearer hunter2"}
        transport.close()


def _changed(answer: Answer, word: str) -> Answer | None:
    return _if(answer, word, lambda: Answer(200, answer.headers, answer.body[:-1] + b"x"))


def _cut(answer: Answer, word: str) -> Answer | None:
    return _if(answer, word, lambda: Answer(200, answer.headers, answer.body, cut=len(answer.body) // 2))


def _dripped(answer: Answer, seconds: float) -> Answer:
    return Answer(answer.status, answer.headers, answer.body, drip_seconds=seconds)


def _if(answer: Answer, word: str, make: Callable[[], Answer]) -> Answer | None:
    headers: Mapping[str, str] = dict(answer.headers)
    return make() if answer.status == 200 and word in headers.get("Content-Type", "") else None
