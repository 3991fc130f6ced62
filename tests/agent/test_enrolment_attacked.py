"""A device that is enrolled by a hostile server, in vain; and one that is interrupted, and finishes."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.faulty_http import Answer, FaultyServer, Request, listening
from support.trust_documents import ROOTS, STRANGER, document, key, signed

from margo_gitops.agent import enrolment
from margo_gitops.agent.enrolment import enroll
from margo_gitops.agent.settings.invitation import Invitation, read_invitation
from margo_gitops.digests import sha256
from margo_gitops.documents.enrolment import (
    DeviceEnrolment,
    EnrolmentAnswer,
    EnrolmentCode,
    EnrolmentEnvelope,
    EnrolmentRequest,
    read_code,
    secret_digest,
)
from margo_gitops.documents.json_text import write_json
from margo_gitops.documents.records import write
from margo_gitops.documents.yaml_text import read_yaml, write_yaml
from margo_gitops.errors import (
    EnrolmentInvalid,
    EnrolmentRefused,
    EnrolmentUnusable,
    EnrolmentWaits,
    MargoGitopsError,
    SourceMisbehaved,
    SourceMisconfigured,
    SourceUnreachable,
    StorageFull,
    TrustDocumentForeign,
    TrustDocumentInvalid,
    TrustDocumentUnsigned,
)
from margo_gitops.trust.enrolment import read_request, write_request
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trust_document import read_envelope

DOCUMENT = signed(document(), *ROOTS[:2])
TRUST = sha256(read_envelope(DOCUMENT).text.encode())
OTHER = signed(document(roots=(STRANGER,), threshold=1), STRANGER)
SECRET = "s" * 24
RIGHT = EnrolmentAnswer("press-07", "http", DOCUMENT.decode())
BASE = b"stateFolder: state\nappliers: {files: {folder: out}}\n"


@dataclass(kw_only=True)
class Server(FaultyServer):
    """Enrols every device, or answers what a test says."""

    said: EnrolmentAnswer = RIGHT

    def _backend(self, request: Request) -> Answer:  # noqa: ARG002
        return Answer(200, [("Content-Type", "application/json")], write_json(write(self.said)))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with listening(made):
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_bytes(BASE)
    return tmp_path / "device"


def join(server: Server, home: Path, **changes: Any) -> str:
    given = Invitation(server=server.url("").rstrip("/"), device="press-07", secret=SECRET, trust=TRUST)
    made = enroll(replace(given, **changes), home / "agent.yaml", say=lambda _: None, base=home.parent / "base.yaml")
    return made.device


def sent(server: Server, at: int = -1) -> dict[str, Any]:
    return json.loads(json.loads(server.requests[at].body)["request"])


HOSTILE: dict[str, tuple[Callable[[Server], object], type[MargoGitopsError]]] = {
    "another root": (lambda server: answered(server, trust_document=OTHER.decode()), TrustDocumentForeign),
    "a root without signatures": (
        lambda server: answered(server, trust_document=signed(document(), ROOTS[0]).decode()),
        TrustDocumentUnsigned,
    ),
    "no trust document": (lambda server: answered(server, trust_document="{}"), TrustDocumentInvalid),
    "another device": (lambda server: answered(server, device="press-08"), EnrolmentInvalid),
    "a path": (lambda server: faulty(server, b'"device":"press-07"', b'"device":"../x"'), EnrolmentInvalid),
    "no JSON": (lambda server: faulty(server, b"{", b"<"), EnrolmentInvalid),
    "a member more": (lambda server: faulty(server, b'"source"', b'"stateFolder":"/","source"'), EnrolmentInvalid),
    "endless": (lambda server: server.faults.append(lambda _, it: replace(it, repeat=b"x" * 65536)), SourceMisbehaved),
    "cut off": (lambda server: server.faults.append(lambda _, it: replace(it, cut=40)), SourceMisbehaved),
    "broken": (lambda server: server.faults.append(lambda _, it: replace(it, raw=b"\0\0")), SourceMisbehaved),
    "refused": (lambda server: server.faults.append(lambda *_: Answer(403, [], b"")), EnrolmentRefused),
    "waits": (lambda server: server.faults.append(lambda *_: Answer(202, [], b"")), EnrolmentWaits),
    "leads elsewhere": (
        lambda server: server.faults.append(lambda *_: Answer(307, [("Location", "https://evil.example/")], b"")),
        SourceMisbehaved,
    ),
}  # fmt: skip


def answered(server: Server, **changes: Any) -> None:
    server.said = replace(server.said, **changes)


def faulty(server: Server, old: bytes, new: bytes) -> None:
    server.faults.append(lambda _, answer: replace(answer, body=answer.body.replace(old, new, 1)))


@pytest.mark.parametrize("attack", HOSTILE)
def test_h_c_34_what_a_hostile_server_answers_changes_nothing(server: Server, home: Path, attack: str):
    begin, error = HOSTILE[attack]
    begin(server)
    with pytest.raises(error):
        join(server, home)
    assert not (home / "agent.yaml").exists()
    assert not (home / "trust.json").exists()
    # The right server then gets the same request, and so the secret is not lost.
    server.faults.clear()
    server.said = RIGHT
    assert join(server, home) == "press-07"
    assert server.requests[0].body == server.requests[-1].body


def test_h_c_34_what_works_stays_until_the_next_one_is_complete(server: Server, home: Path):
    join(server, home)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    answered(server, trust_document=OTHER.decode())
    with pytest.raises(TrustDocumentForeign):
        join(server, home, secret="t" * 24)
    assert {name: (home / name).read_bytes() for name in before} == before
    answered(server, trust_document=DOCUMENT.decode())
    join(server, home, secret="t" * 24)
    [token] = home.glob("token-*")
    assert secret_digest(token.read_text()) == sent(server)["token"] != sent(server, 0)["token"]


def test_h_c_33_a_device_is_killed_or_its_disk_is_full_at_any_write(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
):
    real, left = enrolment.replace_file, 0

    def write_some(path: Path, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "no space left", str(path))
        real(path, content)

    monkeypatch.setattr(enrolment, "replace_file", write_some)
    failures = 0
    for writes in range(12):
        left = writes
        try:
            join(server, home)
        except StorageFull:
            failures += 1
            assert not (home / "agent.yaml").exists()
            continue
        break
    assert failures == 3
    # A server that heard several of them heard one key and one token.
    assert len({(each["publicKey"], each["token"]) for each in map(sent_body, server.requests)}) == 1


def sent_body(request: Request) -> dict[str, Any]:
    return json.loads(json.loads(request.body)["request"])


def test_what_the_server_saw_is_the_lowest_version_and_git_reports_to_the_server(server: Server, home: Path):
    answered(server, minimum_version=41, source="git")
    join(server, home)
    made = read_yaml((home / "agent.yaml").read_bytes(), "agent.yaml").root.plain()
    assert made["trust"] == {"document": "trust.json", "minimumVersion": 41}
    [token] = home.glob("token-*")
    url = server.url("").rstrip("/")
    assert made["reports"]["http"] == {"url": url, "tokenFile": token.name, "sendBoot": True}
    assert made["receipts"] == {"key": "device-key"}


def test_settings_of_the_device_stay_when_it_is_enrolled_again(server: Server, home: Path):
    home.mkdir()
    (home / "agent.yaml").write_bytes(
        b"apiVersion: margo-gitops/v1\nkind: AgentConfiguration\ndevice: press-07\nstateFolder: there\n"
        b"source: {http: {url: 'https://old.example', wait: 30s, tokenFile: old}}\npoll: {interval: 5m}\n"
        b"trust: {allowedSigners: list, floorCopy: copy.json}\nappliers: {compose: {}}\n"
    )
    given = Invitation(server=server.url("").rstrip("/"), secret=SECRET, trust=TRUST)
    made = enroll(given, home / "agent.yaml", say=lambda _: None)
    assert sent(server)["device"] == "press-07"
    assert made.poll.interval == 300
    assert made.source.http is not None
    assert (made.source.http.wait, made.source.http.url) == (30, server.url("").rstrip("/"))
    assert made.trust.floor_copy == home / "copy.json"
    assert made.trust.allowed_signers is None


def test_a_file_without_a_server_is_enough_and_names_the_authority(home: Path):
    given = Invitation(device="press-07", document=DOCUMENT, http="https://files.example/a", authority=b"PEM")
    made = enroll(given, home / "agent.yaml", say=lambda _: None, base=home.parent / "base.yaml")
    assert made.source.http is not None
    assert (made.source.http.url, made.source.http.ca_file) == ("https://files.example/a", home / "server-ca.pem")
    assert (home / "server-ca.pem").read_bytes() == b"PEM"
    assert sorted(each.name for each in home.iterdir()) == [
        "agent.yaml", "device-key", "enrol.lock", "server-ca.pem", "trust.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "url", ["http://wfm.plant.example", "ftp://wfm", "https://user:secret@wfm", "https://wfm/?x=1"]
)
def test_h_c_35_no_secret_leaves_for_such_a_url(home: Path, url: str):
    with pytest.raises(SourceMisconfigured):
        enroll(Invitation(server=url, secret=SECRET, trust=TRUST), home / "agent.yaml", say=lambda _: None)


def test_a_server_that_is_away_costs_nothing(home: Path):
    with pytest.raises(SourceUnreachable):
        enroll(
            Invitation(server="http://127.0.0.1:1", secret=SECRET, trust=TRUST), home / "agent.yaml", say=lambda _: None
        )


def test_a_key_of_another_kind_is_refused(server: Server, home: Path):
    home.mkdir()
    (home / "bad").write_bytes(b"-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n")
    with pytest.raises(EnrolmentUnusable):
        enroll(
            Invitation(server=server.url(""), secret=SECRET, trust=TRUST),
            home / "agent.yaml",
            say=lambda _: None,
            key=home / "bad",
        )
    assert not server.requests


@pytest.mark.parametrize(
    "changes",
    [{"server": None}, {"git": "file:///x"}, {"server": None, "git": "file:///x"}, {"trust_document": "x" * 600_000}],
)
def test_a_file_that_says_too_little_or_too_much_is_refused(tmp_path: Path, changes: dict[str, Any]):
    good = DeviceEnrolment("press-07", DOCUMENT.decode(), "https://wfm.example", SECRET, "2026-12-01T00:00:00Z")
    file = tmp_path / "file"
    file.write_bytes(write_yaml(write(good)))
    assert read_invitation(file).secret == SECRET
    file.write_bytes(write_yaml(write(replace(good, **changes))))
    with pytest.raises(EnrolmentUnusable):
        read_invitation(file)


@given(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}", fullmatch=True), st.binary(min_size=32, max_size=32))
def test_a_code_is_read_as_it_was_written(device: str, digest: bytes):
    code = EnrolmentCode(device, SECRET, sha256(digest))
    assert read_code(f" {code}\n") == code


@given(st.text(max_size=200))
def test_no_text_makes_the_reader_of_codes_fail_otherwise(text: str):
    with contextlib.suppress(ValueError):
        read_code(text)


def test_a_request_counts_only_with_the_signature_of_its_own_key():
    device, thief = key(1), key(2)
    request = EnrolmentRequest(str(device.public), TRUST, TRUST, "press-07", SECRET)
    good = write_request(request, lambda text: sign(text, device, "margo-gitops-enrolment"))
    assert read_request(good) == (request, device.public)
    forged = [
        write_request(request, lambda text: sign(text, thief, "margo-gitops-enrolment")),
        write_request(request, lambda text: sign(text, device, "git")),
        write_request(request, lambda text: sign(text + b" ", device, "margo-gitops-enrolment")),
        good.replace(b"press-07", b"press-08"),
        write_json(write(EnrolmentEnvelope("{}", ""))),
        b"[" * 5000,
        b"x" * 40_000,
    ]
    for content in forged:
        with pytest.raises(EnrolmentInvalid):
            read_request(content)
