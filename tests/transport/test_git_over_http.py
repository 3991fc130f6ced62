"""Pulling by git over HTTP, against the real `git http-backend`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_repository import DEVICE, FIRST, MANIFEST, REF, SECOND, DeviceRepository, files_of, git
from git_http_server import Answer, GitHttpServer, Request, is_fetch, only, serve

from margo_gitops.errors import (
    SourceBusy,
    SourceMisbehaved,
    SourceMisconfigured,
    SourceRefused,
    SourceUnreachable,
)
from margo_gitops.transport import GitLimits, GitSource, GitTransport
from margo_gitops.trust.snapshot import Snapshot


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttpServer]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as running:
        yield running


@pytest.fixture
def repository(server: GitHttpServer) -> DeviceRepository:
    repository = DeviceRepository.create(server.root / "state.git")
    repository.commit(MANIFEST, {FIRST: b"kind: ApplicationDeployment\n"})
    return repository


@pytest.fixture
def transport(server: GitHttpServer, repository: DeviceRepository) -> Iterator[GitTransport]:
    made = GitTransport(source_of(server))
    yield made
    made.close()


def source_of(server: GitHttpServer, **settings: object) -> GitSource:
    return dataclasses.replace(GitSource(server.url("state.git"), device=DEVICE, pull_seconds=20), **settings)


def pulled(transport: GitTransport, held: Snapshot | None = None) -> Snapshot:
    found = transport.pull(held).snapshot
    assert isinstance(found, Snapshot)
    return found


class TestPull:
    def test_yields_the_exact_bytes_of_the_branch(self, transport: GitTransport, repository: DeviceRepository) -> None:
        snapshot = pulled(transport)
        assert snapshot.manifest == MANIFEST
        assert snapshot.deployments == {FIRST: b"kind: ApplicationDeployment\n"}
        assert snapshot.revision == repository.tip()
        assert snapshot.commit is not None
        assert snapshot.commit.startswith(b"tree ")

    def test_is_unchanged_where_the_tip_is_what_is_held(self, transport: GitTransport) -> None:
        assert transport.pull(pulled(transport)).snapshot is None

    def test_a_new_commit_comes_as_a_difference(self, transport: GitTransport, repository: DeviceRepository) -> None:
        large = os.urandom(100_000)
        repository.commit(MANIFEST, {FIRST: large})
        held = pulled(transport)
        repository.commit(MANIFEST, {FIRST: large, SECOND: b"new\n"})

        before = transport.cost
        after = pulled(transport, held)
        assert after.deployments == {FIRST: large, SECOND: b"new\n"}
        assert (transport.cost - before).bytes_down < 3_000

    def test_a_small_change_of_a_large_file_comes_as_a_delta_against_what_is_held(
        self, transport: GitTransport, repository: DeviceRepository
    ) -> None:
        large = os.urandom(100_000).hex().encode()
        repository.commit(MANIFEST, {FIRST: large})
        held = pulled(transport)
        repository.commit(MANIFEST, {FIRST: large + b"one more line\n"})

        before = transport.cost
        assert pulled(transport, held).deployments[FIRST] == large + b"one more line\n"
        assert (transport.cost - before).bytes_down < 3_000

    def test_history_that_was_rewritten_is_fetched_all_the_same(
        self, transport: GitTransport, repository: DeviceRepository
    ) -> None:
        held = pulled(transport)
        repository.commit(b"{}", {}, ref="refs/heads/else")
        repository.point(REF, repository.tip("refs/heads/else") or "")
        assert pulled(transport, held).manifest == b"{}"

    def test_a_device_that_runs_nothing_has_a_manifest_alone(
        self, transport: GitTransport, repository: DeviceRepository
    ) -> None:
        repository.commit(b"{}", {})
        assert pulled(transport).deployments == {}

    def test_what_is_held_but_damaged_is_fetched_again(self, transport: GitTransport) -> None:
        whole = pulled(transport)
        damaged = dataclasses.replace(whole, manifest=b"half")
        assert transport.pull(damaged).snapshot == whole

    def test_what_another_transport_brought_is_fetched_again(self, transport: GitTransport) -> None:
        whole = pulled(transport)
        assert transport.pull(dataclasses.replace(whole, commit=None, revision='"etag"')).snapshot == whole

    def test_a_device_whose_name_begins_like_another_gets_its_own(
        self, transport: GitTransport, repository: DeviceRepository
    ) -> None:
        repository.commit(b"{}", {}, ref=f"{REF}0")
        assert pulled(transport).manifest == MANIFEST

    def test_a_ref_that_vanished_is_refused_and_never_an_empty_state(
        self, transport: GitTransport, repository: DeviceRepository
    ) -> None:
        held = pulled(transport)
        repository.remove()
        with pytest.raises(SourceRefused, match=f"no ref {REF}") as caught:
            transport.pull(held)
        assert caught.value.remedy

    def test_nothing_is_written_and_nothing_grows(
        self, transport: GitTransport, repository: DeviceRepository, tmp_path: Path
    ) -> None:
        held = None
        before = {path for path in tmp_path.rglob("*") if "served" not in path.parts}
        for version in range(10):
            repository.commit(b"%d" % version, {FIRST: b"%d" % version})
            held = pulled(transport, held)
        assert {path for path in tmp_path.rglob("*") if "served" not in path.parts} == before


class TestCost:
    """Measured with git's own headers alone; a web server adds its own (some 90 bytes for each answer of nginx)."""

    @pytest.mark.parametrize("others", [0, 5_000])
    def test_an_idle_poll_is_one_request_and_under_400_bytes_whatever_the_number_of_refs(
        self, server: GitHttpServer, repository: DeviceRepository, others: int
    ) -> None:
        repository.add_refs(others)
        first = GitTransport(source_of(server))
        held = pulled(first)
        first.close()

        polling = GitTransport(source_of(server))
        assert polling.pull(held).snapshot is None
        assert polling.cost.requests == 1
        assert polling.cost.bytes_down < 400
        polling.close()

    @pytest.mark.parametrize("others", [0, 5_000])
    def test_a_further_idle_poll_is_one_request_on_the_kept_connection(
        self, transport: GitTransport, repository: DeviceRepository, others: int
    ) -> None:
        repository.add_refs(others)
        held = pulled(transport)
        before = transport.cost
        assert transport.pull(held).snapshot is None
        spent = transport.cost - before
        assert (spent.requests, spent.connections) == (1, 0)
        assert spent.bytes_down < 400

    def test_one_connection_serves_all_pulls(self, transport: GitTransport, server: GitHttpServer) -> None:
        held = pulled(transport)
        for _ in range(3):
            assert transport.pull(held).snapshot is None
        assert len({request.connection for request in server.requests}) == 1
        assert transport.cost.connections == 1

    def test_bytes_are_counted_as_they_pass(self, transport: GitTransport, server: GitHttpServer) -> None:
        pulled(transport)
        bodies = sum(len(request.body) for request in server.requests)
        assert bodies < transport.cost.bytes_up < bodies + 3 * 400

    def test_a_connection_that_the_server_closed_meanwhile_is_opened_once_more(
        self, transport: GitTransport, server: GitHttpServer
    ) -> None:
        def close(request: Request, answer: Answer) -> None:
            answer.close = True

        server.faults.append(close)
        held = pulled(transport)
        server.faults.clear()
        assert transport.pull(held).snapshot is None
        assert transport.cost.connections > 1


class TestCredentials:
    @pytest.mark.usefixtures("repository")
    def test_go_out_with_the_first_request(self, server: GitHttpServer, tmp_path: Path) -> None:
        server.authorization = "Bearer s3cret"
        (tmp_path / "token").write_text("s3cret\n")
        transport = GitTransport(source_of(server, token_file=tmp_path / "token"))
        pulled(transport)
        assert [request.headers.get("authorization") for request in server.requests] == ["Bearer s3cret"] * 2
        transport.close()

    @pytest.mark.usefixtures("repository")
    def test_a_username_makes_them_basic(self, server: GitHttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server.authorization = "Basic ZGV2aWNlOnMzY3JldA=="
        monkeypatch.setenv("STATE_TOKEN", "s3cret")
        transport = GitTransport(source_of(server, token_variable="STATE_TOKEN", username="device"))
        pulled(transport)
        transport.close()

    @pytest.mark.usefixtures("repository")
    def test_a_token_file_is_read_again_when_it_changes(self, server: GitHttpServer, tmp_path: Path) -> None:
        server.authorization = "Bearer old"
        (tmp_path / "token").write_text("old")
        transport = GitTransport(source_of(server, token_file=tmp_path / "token"))
        held = pulled(transport)

        server.authorization = "Bearer renewed"
        with pytest.raises(SourceRefused, match="401") as caught:
            transport.pull(held)
        assert "old" not in str(caught.value)
        assert "renew" in caught.value.remedy
        (tmp_path / "token").write_text("renewed")
        assert transport.pull(held).snapshot is None
        transport.close()

    @pytest.mark.usefixtures("repository")
    @pytest.mark.parametrize("content", ["", "  \n", "two words", "a\nb", "käse", "x" * 20_000])
    def test_a_token_file_without_a_token_is_a_misconfiguration(
        self, server: GitHttpServer, tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "token").write_text(content, encoding="utf-8")
        transport = GitTransport(source_of(server, token_file=tmp_path / "token"))
        with pytest.raises(SourceMisconfigured) as caught:
            transport.pull(None)
        assert not content.strip() or content not in str(caught.value)
        assert not server.requests

    @pytest.mark.usefixtures("repository")
    def test_a_token_that_is_nowhere_is_a_misconfiguration(
        self, server: GitHttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("STATE_TOKEN", raising=False)
        for settings in ({"token_file": tmp_path / "none"}, {"token_variable": "STATE_TOKEN"}):
            with pytest.raises(SourceMisconfigured, match=r"none|STATE_TOKEN"):
                GitTransport(source_of(server, **settings)).pull(None)
        assert not server.requests


def status(code: int, **headers: str) -> object:
    def fault(request: Request, answer: Answer) -> Answer:
        return Answer(code, [(name.replace("_", "-"), value) for name, value in headers.items()], b"")

    return fault


class TestRefusals:
    @pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 500, 502])
    def test_a_status_that_is_no_success_is_refused_with_a_remedy(
        self, transport: GitTransport, server: GitHttpServer, code: int
    ) -> None:
        server.faults.append(status(code))
        with pytest.raises(SourceRefused, match=str(code)) as caught:
            transport.pull(None)
        assert caught.value.remedy

    def test_a_repository_that_is_not_there_is_refused(self, server: GitHttpServer) -> None:
        source = GitSource(server.url("other.git"), device=DEVICE)
        with pytest.raises(SourceRefused, match="404"):
            GitTransport(source).pull(None)

    @pytest.mark.parametrize("code", [429, 503])
    def test_a_busy_server_says_when_to_come_back(
        self, transport: GitTransport, server: GitHttpServer, code: int
    ) -> None:
        server.faults.append(status(code, Retry_After="17"))
        with pytest.raises(SourceBusy) as caught:
            transport.pull(None)
        assert caught.value.retry_after == 17

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_no_redirect_is_followed(self, transport: GitTransport, server: GitHttpServer, code: int) -> None:
        server.faults.append(status(code, Location="https://user:pw@elsewhere.example/x.git/info/refs?service=y"))
        with pytest.raises(SourceMisbehaved, match=r"https://elsewhere\.example/x\.git \[MG1403\]") as caught:
            transport.pull(None)
        assert "pw" not in str(caught.value)
        assert len(server.requests) == 1

    def test_a_web_page_instead_of_git_is_refused(self, transport: GitTransport, server: GitHttpServer) -> None:
        server.faults.append(status(200, Content_Type="text/html"))
        with pytest.raises(SourceMisbehaved, match="text/html"):
            transport.pull(None)

    @pytest.mark.usefixtures("repository")
    def test_a_server_without_protocol_version_2_is_refused_with_what_to_enable(self, server: GitHttpServer) -> None:
        with serve(server.root) as old:
            genuine = old._backend
            old._backend = lambda request: genuine(  # type: ignore[method-assign]
                dataclasses.replace(request, headers={**request.headers, "git-protocol": ""})
            )
            with pytest.raises(SourceRefused, match="version 2") as caught:
                GitTransport(source_of(old)).pull(None)
            assert "GIT_PROTOCOL" in caught.value.remedy

    def test_g_c_15_a_repository_of_sha256_is_refused_by_name(self, server: GitHttpServer) -> None:
        git(server.root, "init", "--quiet", "--bare", "--object-format=sha256", "sha256.git")
        transport = GitTransport(GitSource(server.url("sha256.git"), device=DEVICE))
        with pytest.raises(SourceRefused, match="sha256 objects"):
            transport.pull(None)
        assert [request.method for request in server.requests] == ["POST", "GET"]

    def test_g_c_3_what_a_server_can_do_is_asked_for_only_where_it_does_not_answer(
        self, transport: GitTransport, server: GitHttpServer, repository: DeviceRepository
    ) -> None:
        held = pulled(transport)
        repository.commit(b"{}", {})
        assert pulled(transport, held).revision == repository.tip()
        assert [request.method for request in server.requests] == ["POST"] * 4

    def test_nobody_at_the_port_is_unreachable(self, server: GitHttpServer) -> None:
        with serve(server.root) as gone:
            url = gone.url("state.git")
        with pytest.raises(SourceUnreachable, match="no connection"):
            GitTransport(GitSource(url, device=DEVICE)).pull(None)

    def test_a_host_without_a_name_is_unreachable(self) -> None:
        with pytest.raises(SourceUnreachable, match="cannot be resolved"):
            GitTransport(GitSource("https://nowhere.invalid/state.git", device=DEVICE)).pull(None)


class TestMisbehaviour:
    def test_f2_a_truncated_pack_never_counts_and_the_next_pull_fetches_again(
        self, transport: GitTransport, server: GitHttpServer, repository: DeviceRepository
    ) -> None:
        held = pulled(transport)
        repository.commit(b"{}", {FIRST: os.urandom(5_000)})

        def cut(request: Request, answer: Answer) -> None:
            if is_fetch(request):
                answer.cut = len(answer.body) // 2

        server.faults.append(cut)
        with pytest.raises(SourceMisbehaved):
            transport.pull(held)
        with pytest.raises(SourceMisbehaved):
            transport.pull(held)
        server.faults.clear()
        assert pulled(transport, held).revision == repository.tip()

    @pytest.mark.usefixtures("repository")
    @pytest.mark.parametrize("fraction", range(20))
    def test_f2_an_answer_cut_anywhere_is_an_error(self, server: GitHttpServer, fraction: int) -> None:
        def cut(request: Request, answer: Answer) -> None:
            # With its length corrected: nothing but git's own framing tells that something is missing.
            if is_fetch(request):
                answer.body = answer.body[: len(answer.body) * fraction // 20]

        server.faults.append(cut)
        with pytest.raises(SourceMisbehaved):
            GitTransport(source_of(server)).pull(None)

    def test_a_byte_that_was_changed_is_found(self, transport: GitTransport, server: GitHttpServer) -> None:
        def change(request: Request, answer: Answer) -> None:
            if is_fetch(request):
                answer.body = answer.body[:-12] + bytes([answer.body[-12] ^ 1]) + answer.body[-11:]

        server.faults.append(change)
        with pytest.raises(SourceMisbehaved):
            transport.pull(None)

    def test_the_pack_of_another_commit_is_refused(
        self, transport: GitTransport, server: GitHttpServer, repository: DeviceRepository
    ) -> None:
        answers: list[bytes] = []

        def swap(request: Request, answer: Answer) -> None:
            if is_fetch(request):
                answers.append(answer.body)
                answer.body = answers[0]

        server.faults.append(swap)
        pulled(transport)
        repository.commit(b"{}", {})
        with pytest.raises(SourceMisbehaved, match="did not send object"):
            transport.pull(None)

    @pytest.mark.usefixtures("repository")
    def test_a_source_that_drips_is_left_when_the_time_of_the_pull_is_over(self, server: GitHttpServer) -> None:
        server.faults.append(only("/git-upload-pack", lambda answer: dataclasses.replace(answer, drip_seconds=0.05)))
        transport = GitTransport(source_of(server, pull_seconds=0.5, read_seconds=5))
        with pytest.raises(SourceUnreachable, match="did not finish"):
            transport.pull(None)

    @pytest.mark.usefixtures("repository")
    def test_a_source_that_is_silent_is_left_when_the_time_of_a_read_is_over(self, server: GitHttpServer) -> None:
        server.faults.append(only("/git-upload-pack", lambda answer: dataclasses.replace(answer, drip_seconds=30)))
        transport = GitTransport(source_of(server, read_seconds=0.2))
        with pytest.raises(SourceUnreachable, match="silent"):
            transport.pull(None)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + b"0" * 20_000_000,
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n-5\r\n0000"
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n"
                b"Content-Length: 99999999999999\r\n\r\nfffe"
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n"
                b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n0000"
            ),
        ],
    )
    def test_whatever_is_no_answer_is_an_error_of_the_transport(
        self, transport: GitTransport, server: GitHttpServer, raw: bytes
    ) -> None:
        server.faults.append(only("/git-upload-pack", lambda answer: dataclasses.replace(answer, raw=raw)))
        with pytest.raises((SourceMisbehaved, SourceUnreachable)):
            transport.pull(None)
        server.faults.clear()
        pulled(transport)

    def test_an_answer_that_breaks_off_on_a_kept_connection_is_not_asked_for_again(
        self, transport: GitTransport, server: GitHttpServer
    ) -> None:
        held = pulled(transport)
        asked = len(server.requests)
        server.faults.append(only("", lambda answer: dataclasses.replace(answer, raw=b"HTTP/1.1 200 OK\r\nContent-")))
        with pytest.raises((SourceMisbehaved, SourceUnreachable)):
            transport.pull(held)
        assert len(server.requests) == asked + 1

    def test_bytes_after_the_answer_are_refused(self, transport: GitTransport, server: GitHttpServer) -> None:
        server.faults.append(
            only("/git-upload-pack", lambda answer: dataclasses.replace(answer, body=answer.body + b"0000"))
        )
        with pytest.raises(SourceMisbehaved, match="follow the end"):
            transport.pull(None)

    def test_a_pack_beyond_the_bounds_is_refused(self, server: GitHttpServer, repository: DeviceRepository) -> None:
        repository.commit(MANIFEST, {FIRST: os.urandom(20_000)})
        for limits in (GitLimits(pack_bytes=10_000), GitLimits(object_bytes=10_000), GitLimits(objects=2)):
            with pytest.raises(SourceMisbehaved, match="larger than"):
                GitTransport(source_of(server), limits).pull(None)


class TestProxy:
    def test_plain_http_is_asked_from_the_proxy_by_its_whole_url(
        self, server: GitHttpServer, repository: DeviceRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{server.port}")
        monkeypatch.setenv("no_proxy", "")
        source = GitSource("http://git.example.com/state.git", device=DEVICE, proxy_from_environment=True)
        transport = GitTransport(source)
        assert pulled(transport).revision == repository.tip()
        transport.close()
        assert server.requests[0].path == "http://git.example.com/state.git/git-upload-pack"
        assert server.requests[0].headers["host"] == "git.example.com"
        assert server.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="


class TestDeviceTree:
    @pytest.mark.parametrize(
        ("name", "mode", "content", "says"),
        [
            ("deployments/link.yaml", "120000", b"/etc/passwd", "symbolic link"),
            (f"deployments/{SECOND}.yaml", "120000", b"/etc/passwd", "symbolic link"),
            (f"deployments/{SECOND}.yaml", "100755", b"x", "executable"),
            (f"deployments/{SECOND}.yaml", "160000", b"1" * 40, "submodule"),
            (f"deployments/{SECOND}.yaml/x", "100644", b"x", "folder"),
            (f"deployments/{SECOND.replace('2', 'A')}.yaml", "100644", b"x", "plain files named"),
            ("deployments/readme.md", "100644", b"x", "plain files named"),
            ("README.md", "100644", b"x", "README.md"),
            (".gitattributes", "100644", b"x", ".gitattributes"),
            ("sub/file", "100644", b"x", "sub is a folder"),
        ],
    )
    def test_what_no_renderer_writes_is_refused(
        self, transport: GitTransport, repository: DeviceRepository, name: str, mode: str, content: bytes, says: str
    ) -> None:
        repository.commit_files(files_of(MANIFEST, {FIRST: b"x"}) | {name: (mode, content)})
        with pytest.raises(SourceMisbehaved, match=says):
            transport.pull(None)

    @pytest.mark.parametrize(
        ("files", "says"),
        [
            ({f"deployments/{FIRST}.yaml": ("100644", b"x")}, "no manifest.json"),
            ({"manifest.json": ("120000", b"x")}, "symbolic link"),
            ({"manifest.json": ("100755", b"x")}, "executable"),
            ({"manifest.json": ("100644", b"x"), "deployments": ("100644", b"x")}, "deployments is a file"),
            ({"manifest.json/x": ("100644", b"x")}, "folder"),
        ],
    )
    def test_a_tree_without_its_manifest_is_refused(
        self, transport: GitTransport, repository: DeviceRepository, files: dict[str, tuple[str, bytes]], says: str
    ) -> None:
        repository.commit_files(files)
        with pytest.raises(SourceMisbehaved, match=says):
            transport.pull(None)

    def test_too_many_deployments_are_refused(self, server: GitHttpServer, repository: DeviceRepository) -> None:
        repository.commit(MANIFEST, {FIRST: b"x", SECOND: b"y"})
        with pytest.raises(SourceMisbehaved, match="1 to 1 are allowed"):
            GitTransport(source_of(server), GitLimits(deployments=1)).pull(None)

    def test_a_ref_to_something_else_than_a_commit_is_refused(
        self, transport: GitTransport, repository: DeviceRepository
    ) -> None:
        (repository.path / "refs/heads/devices/press-07").write_bytes((repository.tip_tree() + "\n").encode())
        with pytest.raises((SourceMisbehaved, SourceRefused)):
            transport.pull(None)
