"""The signed commit of a state over HTTP: carried by the manifest's answer or fetched, judged as git's, attacked."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from device_world import DEVICE, RENDERER, STRANGER, World, deployment_bytes, snapshot_of
from support.faulty_http import Answer, only
from support.margo_server import MargoServer, margo_server

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import COMMIT_HEADER, COMMIT_MEDIA_TYPE, COMMITS_PATH
from margo_gitops.errors import (
    CommitInvalid,
    DigestMismatch,
    ForeignDevice,
    HistoryRewritten,
    SignatureInvalid,
    SignatureMissing,
    SignerUnknown,
    SourceMisbehaved,
    SourceUnreachable,
    VersionRollback,
)
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.trust.allowed_signers import AllowedSigner, AllowedSigners
from margo_gitops.trust.floor import Floor
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.snapshot import Snapshot
from margo_gitops.trust.ssh_signature import sign
from margo_gitops.trust.trusted_state import TrustedState, TrustPolicy, judge

POLICY = TrustPolicy(DEVICE, AllowedSigners((AllowedSigner("renderer@example.com", RENDERER.public, "git"),), "list"))
FIRST = snapshot_of(1, {1: deployment_bytes(1)})
SECOND = snapshot_of(2, {1: deployment_bytes(1, values={"GREETING": "bye"})}, parents=(FIRST.revision,))


@pytest.fixture
def server() -> Iterator[MargoServer]:
    with margo_server() as made:
        yield made


@pytest.fixture(params=["carried", "fetched"])
def carried(request: pytest.FixtureRequest) -> bool:
    return request.param == "carried"


def serve(server: MargoServer, state: Snapshot, commit: bytes | None, *, carried: bool) -> None:
    """Serve a state with a commit, on the manifest's answer or as a resource of its own."""
    server.faults.clear()
    manifest = server.publish(parse_version(state), state.deployments, sizes=False)
    assert manifest == state.manifest
    if commit is None:
        return
    if carried:
        header = (COMMIT_HEADER, base64.b64encode(commit).decode())
        server.faults.append(only("/api/v1/deployments", lambda answer: with_header(answer, header)))
    else:
        server.resources[f"{COMMITS_PATH}/{sha256(manifest)}"] = (COMMIT_MEDIA_TYPE, commit)


def parse_version(state: Snapshot) -> int:
    assert state.commit is not None
    return int(parse_commit(state.commit).trailers["Manifest-Version"])


def with_header(answer: Answer, header: tuple[str, str]) -> Answer:
    return replace(answer, headers=[*answer.headers, header]) if answer.status == 200 else answer


def poll(server: MargoServer, held: TrustedState | None = None, **settings: float) -> TrustedState | None:
    """Poll once as a device does that asks for signatures."""
    transport = HttpTransport(HttpSource(server.base(), **settings), signed=True)  # type: ignore[arg-type]
    try:
        snapshot = transport.pull(held.snapshot if held else None).snapshot
        return judge(snapshot, POLICY, held.floor if held else None) if snapshot else None
    finally:
        transport.close()


def test_a_signed_state_is_trusted_and_an_idle_poll_asks_for_nothing_more(server: MargoServer, carried: bool) -> None:
    serve(server, FIRST, FIRST.commit, carried=carried)
    first = poll(server)
    assert first is not None
    assert first.snapshot.commit == FIRST.commit
    assert first.floor == Floor(1, sha256(FIRST.manifest), FIRST.revision)
    assert (first.signer, first.fleet) == (f"renderer@example.com {RENDERER.public.fingerprint}", "plant")
    assert len(server.asked("commits")) == (0 if carried else 1)
    before = len(server.requests)
    assert poll(server, first) is None
    assert len(server.requests) == before + 1
    serve(server, SECOND, SECOND.commit, carried=carried)
    second = poll(server, first)
    assert second is not None
    assert second.floor.version == 2


def test_a_device_that_asks_for_no_signature_asks_for_no_commit(server: MargoServer) -> None:
    serve(server, FIRST, FIRST.commit, carried=False)
    transport = HttpTransport(HttpSource(server.base()))
    snapshot = transport.pull(None).snapshot
    transport.close()
    assert snapshot is not None
    assert (snapshot.commit, server.asked("commits")) == (None, [])


def made(**options: object) -> bytes:
    commit = snapshot_of(2, {1: deployment_bytes(1, values={"GREETING": "bye"})}, **options).commit  # type: ignore[arg-type]
    assert commit is not None
    return commit


def for_another_use() -> bytes:
    """Return the commit with a signature of the renderer that was made for statements of freshness."""
    payload = made(parents=(FIRST.revision,), key=None)
    armor = sign(payload, RENDERER, "margo-gitops-freshness").removesuffix("\n").encode()
    return payload.replace(b"\n\n", b"\ngpgsig " + armor.replace(b"\n", b"\n ") + b"\n\n", 1)


def moved_signature() -> bytes:
    """Return the commit with the signature of the one before."""
    assert FIRST.commit is not None
    armor = (parse_commit(FIRST.commit).signature or "").encode()
    return made(key=None).replace(b"\n\n", b"\ngpgsig " + armor.replace(b"\n", b"\n ") + b"\n\n", 1)


@pytest.mark.parametrize(
    ("commit", "refusal"),
    [
        (lambda: made(parents=(FIRST.revision,), key=None), SignatureMissing),
        (lambda: made(parents=(FIRST.revision,), key=STRANGER), SignerUnknown),
        (lambda: made(parents=(FIRST.revision,), device="press-08"), ForeignDevice),
        (lambda: FIRST.commit, DigestMismatch),
        (for_another_use, SignatureInvalid),
        (moved_signature, SignatureInvalid),
        (lambda: made(parents=("1" * 40,)), HistoryRewritten),
        (lambda: b"\0 no commit at all", CommitInvalid),
    ],
    ids=["unsigned", "stranger", "other device", "older", "other namespace", "moved", "rewritten", "garbage"],
)
def test_a_commit_that_does_not_sign_this_state_refuses_it(
    server: MargoServer, carried: bool, commit: Callable[[], bytes], refusal: type[Exception]
) -> None:
    serve(server, FIRST, FIRST.commit, carried=carried)
    held = poll(server)
    serve(server, SECOND, commit(), carried=carried)
    with pytest.raises(refusal):
        poll(server, held)
    serve(server, SECOND, SECOND.commit, carried=carried)
    after = poll(server, held)
    assert after is not None
    assert after.floor.version == 2


def test_a_state_without_a_commit_is_refused_as_by_git(server: MargoServer) -> None:
    serve(server, FIRST, None, carried=False)
    with pytest.raises(SignatureMissing):
        poll(server)


def test_a_manifest_that_the_commit_does_not_sign_is_refused(server: MargoServer, carried: bool) -> None:
    forged = snapshot_of(2, {2: deployment_bytes(2)}, key=None)
    serve(server, forged, SECOND.commit, carried=carried)
    with pytest.raises(DigestMismatch):
        poll(server)


def test_an_older_state_with_its_own_commit_is_refused(server: MargoServer, carried: bool) -> None:
    serve(server, SECOND, SECOND.commit, carried=carried)
    held = poll(server)
    serve(server, FIRST, FIRST.commit, carried=carried)
    with pytest.raises(VersionRollback):
        poll(server, held)


def test_a_header_that_is_no_base64_means_that_the_commit_is_fetched(server: MargoServer) -> None:
    serve(server, FIRST, FIRST.commit, carried=False)
    server.faults.append(only("/api/v1/deployments", lambda answer: with_header(answer, (COMMIT_HEADER, "?!"))))
    assert poll(server) is not None
    assert len(server.asked("commits")) == 1


def huge(answer: Answer) -> Answer:
    return replace(answer, body=b"tree " + b"a" * 200_000)


def slow(answer: Answer) -> Answer:
    return replace(answer, drip_seconds=0.05)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (huge, SourceMisbehaved),
        (slow, (SourceUnreachable, SourceMisbehaved)),
        (lambda answer: replace(answer, status=302, headers=[("Location", "/elsewhere")]), SourceMisbehaved),
        (lambda answer: replace(answer, cut=20), (SourceUnreachable, SourceMisbehaved)),
    ],
    ids=["huge", "slow", "elsewhere", "cut"],
)
def test_an_answer_that_is_no_commit_is_bounded(
    server: MargoServer, fault: Callable[[Answer], Answer], error: type[Exception] | tuple[type[Exception]]
) -> None:
    serve(server, FIRST, FIRST.commit, carried=False)
    server.faults.append(only(sha256(FIRST.manifest), fault))
    begin = time.monotonic()
    with pytest.raises(error):
        poll(server, pull_seconds=0.5, read_seconds=0.3)
    assert time.monotonic() - begin < 10


def test_the_agent_means_the_same_by_allowed_signers_for_every_source(server: MargoServer, tmp_path) -> None:
    world = World(tmp_path / "world")
    world.configure(source={"http": {"url": server.base()}})
    serve(server, FIRST, FIRST.commit, carried=False)
    taken = world.agent("once")
    assert (taken.returncode, world.value(1)) == (0, 'GREETING="hello"\n'), taken.stderr
    assert world.agent("verify").returncode == 0
    assert "unchanged" in world.agent("once").stdout
