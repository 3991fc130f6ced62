"""Each fault of a server is found: a sound one on the loopback, and one fault at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.command_line import margo_gitops

from margo_gitops.conformance.agents.hosts import MANIFEST_PATH, PREFIX, REPOSITORY, GitHost, MargoApi
from margo_gitops.conformance.agents.loopback import Answer, HostileServer, Request
from margo_gitops.conformance.agents.offered_commits import ROOTS, Keys, git_state
from margo_gitops.conformance.agents.state_cases import tampered
from margo_gitops.conformance.agents.states import (
    DEVICE,
    OTHER_DEVICE,
    OddEntry,
    State,
    base_state,
    documents,
    make_signing_key,
    make_state,
    next_state,
)
from margo_gitops.conformance.agents.trust_documents import version
from margo_gitops.conformance.report import ConformanceReport
from margo_gitops.conformance.servers.client import ServerTarget
from margo_gitops.conformance.servers.git_checks import GIT_CHECKS, check_git
from margo_gitops.conformance.servers.http_checks import check_http
from margo_gitops.conformance.wire import TAG, entry, pack, packet
from margo_gitops.documents.state_layout import device_ref

TOKEN = "a-token-of-the-device-that-is-long-enough"
NOW = "2026-11-21T00:00:00Z"

Fault = Callable[[Request, Answer], Answer | None]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with closing(HostileServer(TOKEN)) as running:
        yield running


def host() -> GitHost:
    keys = Keys(make_signing_key(), make_signing_key())
    first = git_state(make_state(4, documents(hmi="zero")), keys, None)
    made = GitHost({}, {})
    made.add(device_ref(DEVICE), first)
    made.add(device_ref(DEVICE), git_state(base_state(), keys, first.tip))
    return made


def serve(server: HostileServer, respond: Callable[[Request], Answer], fault: Fault) -> None:
    def answer(request: Request, _elsewhere: bool) -> Answer:
        if server.authorized(request.headers.get("authorization", "")):
            sound = respond(request)
        else:
            sound = Answer(401, [("WWW-Authenticate", 'Basic realm="state"')])
        return fault(request, sound) or sound

    server.respond = answer


def checked_git(server: HostileServer, git: GitHost, fault: Fault) -> ConformanceReport:
    serve(server, git.respond, fault)
    return check_git(ServerTarget(f"{server.url}{REPOSITORY}", DEVICE, TOKEN, OTHER_DEVICE), NOW)


def checked_http(server: HostileServer, fault: Fault) -> ConformanceReport:
    serve(server, MargoApi(base_state()).respond, fault)
    return check_http(ServerTarget(f"{server.url}{PREFIX}", DEVICE, TOKEN, OTHER_DEVICE, reports="all"), NOW)


def no_fault(_request: Request, _answer: Answer) -> None:
    """Change nothing."""


def failures(report: ConformanceReport) -> set[str]:
    return {name for name, verdict in report.verdicts().items() if verdict == "fail"}


def with_header(name: str, value: str | None, *, path: str = "", status: int = 0) -> Fault:
    def fault(request: Request, answer: Answer) -> Answer:
        if path in request.target and status in (0, answer.status):
            answer.headers = [each for each in answer.headers if each[0] != name]
            answer.headers += [(name, value)] if value is not None else []
        return answer

    return fault


def instead(path: str, make: Callable[[Answer], Answer]) -> Fault:
    return lambda request, answer: make(answer) if path in request.target and answer.status != 401 else None


def _body(answer: Answer) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


def _more_refs(_request: Request, answer: Answer) -> Answer:
    if b" refs/heads/devices/" in _body(answer) or answer.body == b"0000":
        answer.body = packet(f"{'7' * 40} refs/heads/devices/of-another\n".encode()) + _body(answer)
    return answer


def _tagged(objects: dict[str, tuple[int, bytes]]) -> bytes:
    return pack([*(entry(kind, content) for kind, content in objects.values()), entry(TAG, b"object x\n")])


def _truncated(objects: dict[str, tuple[int, bytes]]) -> bytes:
    return pack(entry(kind, content) for kind, content in objects.values())[:-40]


def _incomplete(objects: dict[str, tuple[int, bytes]]) -> bytes:
    return pack(entry(kind, content) for kind, content in list(objects.values())[1:])


def _wants_its_cookie(request: Request, _answer: Answer) -> Answer | None:
    return None if request.headers.get("cookie") == "session=1" else Answer(403, [("Set-Cookie", "session=1; Secure")])


UNTRIED_GIT = {"G-A-8", "G-R-8", "G-S-19", "G-S-20"}
UNTRIED_HTTP = {"H-S-15", "H-S-16", "H-S-17", "H-S-18", "H-S-19"}


def test_the_sound_servers_of_the_kit_fail_only_what_they_do_not_try(server: HostileServer) -> None:
    # They are made for agents: they do not look into reports, and take any object as want.
    assert failures(checked_git(server, host(), no_fault)) == UNTRIED_GIT
    assert failures(checked_http(server, no_fault)) == UNTRIED_HTTP


GIT_FAULTS = {
    "G-S-1": instead("git-upload-pack", lambda answer: Answer(404) if "agent" not in answer.note else answer),
    "G-S-2": instead("info/refs", lambda answer: Answer(200, answer.headers, packet(b"# service=git-upload-pack\n"))),
    "G-S-3": with_header("Cache-Control", "max-age=600"),
    "G-S-4": _more_refs,
    "G-S-13": with_header("Connection", "close"),
    "G-S-14": _more_refs,
    "G-A-4": with_header("WWW-Authenticate", "Bearer", status=401),
    "G-A-5": _more_refs,
    "G-R-2": instead("git-receive-pack", lambda _answer: Answer(503)),
    "G-X-3": instead(
        "info/refs?service=git-upload-pack",
        lambda answer: Answer(
            200, answer.headers, _body(answer).replace(b"0012fetch=shallow\n", packet(b"fetch=shallow filter\n"))
        ),
    ),
    "G-X-6": instead("git-receive-pack", lambda _answer: Answer(200)),
    "G-X-7": _wants_its_cookie,
    "G-X-8": instead("/HEAD", lambda _answer: Answer(200, [], b"ref: refs/heads/main\n")),
}


def _challenges_those_without_credentials_alone(request: Request, answer: Answer) -> Answer:
    if request.headers.get("authorization"):
        answer.headers = [each for each in answer.headers if each[0] != "WWW-Authenticate"]
    return answer


REVALIDATED = "max-age=0, private, must-revalidate"


@pytest.mark.parametrize(
    "habit",
    [
        pytest.param(with_header("Set-Cookie", "session=1; HttpOnly"), id="a cookie that nobody needs"),
        pytest.param(with_header("Cache-Control", REVALIDATED), id="no-cache in other words"),
        pytest.param(_challenges_those_without_credentials_alone, id="401 for a made-up token"),
    ],
)
def test_the_habits_of_git_hosts_are_no_faults(server: HostileServer, habit: Fault) -> None:
    assert failures(checked_git(server, host(), habit)) == UNTRIED_GIT


def test_another_word_for_no_cache_is_no_fault_over_http(server: HostileServer) -> None:
    assert failures(checked_http(server, with_header("Cache-Control", REVALIDATED))) == UNTRIED_HTTP


def test_a_remedy_says_what_a_user_of_the_host_can_do() -> None:
    for check in GIT_CHECKS:
        if "config" in check.configure or "proxy" in check.configure or "hook" in check.configure:
            assert "host" in check.configure, check.name


@pytest.mark.parametrize("requirement", sorted(GIT_FAULTS))
def test_a_faulty_git_server_is_found_out(server: HostileServer, requirement: str) -> None:
    assert requirement in failures(checked_git(server, host(), GIT_FAULTS[requirement])) - UNTRIED_GIT


@pytest.mark.parametrize(
    ("requirement", "make"),
    [
        pytest.param("G-S-6", _incomplete, id="G-S-6"),
        pytest.param("G-S-8", _truncated, id="G-S-8"),
        pytest.param("G-X-2", _tagged, id="G-X-2"),
    ],
)
def test_a_git_server_with_faulty_packs_is_found_out(
    server: HostileServer, requirement: str, make: Callable[[dict[str, tuple[int, bytes]]], bytes]
) -> None:
    git = host()
    git.pack_of = make
    assert requirement in failures(checked_git(server, git, no_fault))


def test_g_s_7_progress_that_nobody_asked_for_is_found_out(server: HostileServer) -> None:
    git = host()
    git.side_band = lambda: [packet(b"\x02counting objects\r")]
    assert "G-S-7" in failures(checked_git(server, git, no_fault))


def _written(state: State) -> GitHost:
    keys = Keys(make_signing_key(), make_signing_key())
    first = git_state(make_state(4, documents(hmi="zero")), keys, None)
    made = GitHost({}, {})
    made.add(device_ref(DEVICE), first)
    made.add(device_ref(DEVICE), git_state(state, keys, first.tip))
    return made


@pytest.mark.parametrize(
    ("requirement", "state"),
    [
        pytest.param("G-T-4", next_state().with_commit(root=(OddEntry(b"run.sh", 0o100644, b"true"),)), id="G-T-4"),
        pytest.param("G-T-5", next_state().with_commit(folder=(OddEntry(b"x.txt", 0o100644, b"x"),)), id="G-T-5"),
        pytest.param("G-T-6", next_state().with_commit(documents_mode=0o100755), id="G-T-6"),
        pytest.param("G-T-6", next_state().with_commit(reversed=True), id="G-T-6-order"),
        pytest.param("G-T-9", tampered(), id="G-T-9"),
        pytest.param("G-M-1", next_state().with_commit(signatures=2), id="G-M-1"),
        pytest.param("G-M-3", next_state().with_commit(device=OTHER_DEVICE), id="G-M-3-device"),
        pytest.param("G-M-3", next_state().with_commit(version="7"), id="G-M-3-version"),
        pytest.param("G-M-3", next_state().with_commit(again="Device: x"), id="G-M-3-twice"),
        pytest.param("G-M-4", next_state().with_commit(signer="nobody"), id="G-M-4"),
    ],
)
def test_what_was_wrongly_written_is_found_out(server: HostileServer, requirement: str, state: State) -> None:
    assert failures(checked_git(server, _written(state), no_fault)) - UNTRIED_GIT == {requirement}


def _changed(request: Request, answer: Answer) -> Answer | None:
    if MANIFEST_PATH in request.path and not request.path.endswith("deployments") and answer.status == 200:
        answer.body = _body(answer).replace(b"value: one", b"value: six")
    return answer


def _never_304(request: Request, answer: Answer) -> Answer | None:
    return Answer(200, answer.headers, b"{}") if answer.status == 304 else None


def _takes_any_device(request: Request, _answer: Answer) -> Answer | None:
    return Answer(202) if "/enrolment" in request.target else None


def _tells_devices(request: Request, _answer: Answer) -> Answer | None:
    if "/trust/1.json" in request.target:
        roots = {letter: make_signing_key() for letter in ROOTS}
        return Answer(200, [], version(Keys(make_signing_key(), make_signing_key(), roots=roots), 1))
    if "/enrolment" not in request.target:
        return None
    return Answer(422) if request.body == b"{}" else Answer(403, [], request.body)


HTTP_FAULTS = {
    "H-S-1": instead(MANIFEST_PATH, lambda answer: Answer(answer.status, answer.headers, b"{}")),
    "H-S-2": with_header("ETag", 'W/"1"', path=MANIFEST_PATH),
    "H-S-3": _never_304,
    "H-S-4": lambda _request, answer: Answer(200, [], b"{}") if answer.status == 406 else None,
    "H-S-5": _changed,
    "H-S-6": instead("/bundles/", lambda answer: Answer(answer.status, answer.headers, b"no archive")),
    "H-S-7": lambda _request, answer: Answer(200) if answer.status == 404 else None,
    "H-S-8": lambda request, _answer: Answer(200, [], b"{}") if "//api" in request.target else None,
    "H-S-27": _takes_any_device,
    "H-S-28": _takes_any_device,
    "H-S-29": _tells_devices,
    "H-S-9": with_header("Cache-Control", "max-age=60"),
    "H-S-10": lambda request, answer: (
        Answer(answer.status, [*answer.headers, ("Content-Encoding", "gzip")], b"no gzip")
        if "gzip" in request.headers.get("accept-encoding", "")
        else None
    ),
    "H-S-12": with_header("Content-Type", "text/plain", status=404),
    "H-S-14": lambda _request, answer: Answer(200, [], b"{}") if answer.status == 401 else None,
    "H-S-20": lambda request, _answer: Answer(503) if request.method == "DELETE" else None,
    "H-S-22": with_header("Preference-Applied", "wait=2"),
}


@pytest.mark.parametrize("requirement", sorted(HTTP_FAULTS))
def test_a_faulty_http_server_is_found_out(server: HostileServer, requirement: str) -> None:
    assert requirement in failures(checked_http(server, HTTP_FAULTS[requirement])) - UNTRIED_HTTP


def test_the_token_is_in_no_report(server: HostileServer) -> None:
    serve(server, lambda _request: Answer(200, [("X", TOKEN), ("ETag", f'"{TOKEN}"')], TOKEN.encode()), no_fault)
    for report in (
        check_git(ServerTarget(f"{server.url}{REPOSITORY}", DEVICE, TOKEN), NOW),
        check_http(ServerTarget(f"{server.url}{PREFIX}", DEVICE, TOKEN), NOW),
    ):
        assert TOKEN not in repr(report)


def test_a_server_that_is_not_there_ends_with_3(tmp_path: Path) -> None:
    for kind in ("git", "http"):
        outcome = margo_gitops("conformance", kind, "http://127.0.0.1:1/x", "--device", DEVICE, cwd=tmp_path)
        assert (outcome.code, outcome.stdout, "MG2302" in outcome.stderr) == (3, "", True), outcome


@pytest.mark.parametrize(
    ("url", "options"),
    [
        pytest.param("ftp://127.0.0.1/x", [], id="kind"),
        pytest.param("http://me:secret@127.0.0.1/x", [], id="credentials"),
        pytest.param("http://127.0.0.1/x?y=1", [], id="query"),
        pytest.param("http://127.0.0.1/x", ["--other-device", DEVICE], id="same-device"),
        pytest.param("http://127.0.0.1/x", ["--token-file", "missing"], id="token-file"),
        pytest.param("http://127.0.0.1:99999/x", [], id="port"),
    ],
)
def test_settings_that_cannot_work_end_with_2(tmp_path: Path, url: str, options: list[str]) -> None:
    outcome = margo_gitops("conformance", "git", url, "--device", DEVICE, *options, cwd=tmp_path)
    assert (outcome.code, "MG2303" in outcome.stderr, "secret" in outcome.stderr) == (2, True, False), outcome


def test_what_is_found_is_json_for_other_programs(server: HostileServer, tmp_path: Path) -> None:
    serve(server, host().respond, no_fault)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    command = ("conformance", "git", f"{server.url}{REPOSITORY}", "--device", DEVICE, "--token-file", str(token))
    outcome = margo_gitops(*command, "--output", "json", cwd=tmp_path)
    assert outcome.code == 1
    assert json.loads(outcome.stdout)["profile"] == "git"
