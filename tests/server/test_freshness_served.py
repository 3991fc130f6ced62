"""The proof of freshness over HTTP and by git, and a server that renews it with a key of its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from server.serving import FLEET, ServedFleet
from support.command_line import Outcome, margo_gitops
from support.fleet import write_signing_key
from support.trust_documents import ROOTS, STRANGER, carry, signed
from support.trust_documents import document as trusted

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import FRESHNESS_REFS
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.rendering.resolution import deployment_id
from margo_gitops.server.resources.renewal import FreshnessRenewal
from margo_gitops.state_repo.freshness_refs import Renewal, device_proof, renew
from margo_gitops.state_repo.state_repo import StateRepo
from margo_gitops.transport.git.git_transport import GitTransport
from margo_gitops.transport.git.source import GitSource
from margo_gitops.transport.http.http_transport import HttpTransport
from margo_gitops.transport.http.source import HttpSource
from margo_gitops.trust.allowed_signers import parse_allowed_signers
from margo_gitops.trust.freshness import FreshnessPolicy, HeldVersion, assess, read_freshness
from margo_gitops.trust.ssh_key import parse_signing_key

PATH = "/api/v1/freshness"
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_signing_key(tmp_path / "key")


def repo_of(fleet: ServedFleet) -> StateRepo:
    return StateRepo.open(fleet.renderer.git.path)


def renewed(fleet: ServedFleet, key: Path, moment: datetime = NOW) -> bytes:
    """Renew the statement and return the proof of press-01."""
    repo = repo_of(fleet)
    renew(repo, repo.refs.read(), Renewal(parse_signing_key(key.read_bytes()), moment))
    return device_proof(repo, repo.refs.read(), "press-01")


def get(fleet: ServedFleet, device: str = "press-01", **headers: str) -> httpx.Response:
    authorization = {"Authorization": f"Bearer {fleet.tokens[device]}"} if device else {}
    return httpx.get(f"{fleet.url}{PATH}", headers={**authorization, **headers}, timeout=20)


def until(fleet: ServedFleet, status: int) -> httpx.Response:
    deadline = time.monotonic() + 20
    while (answer := get(fleet)).status_code != status:
        assert time.monotonic() < deadline, fleet.log.read_text()
        time.sleep(0.02)
    return answer


def test_a_device_gets_the_bytes_that_git_has_and_304_for_them(fleet: ServedFleet, key: Path) -> None:
    fleet.start()
    assert get(fleet).status_code == 404
    proof = renewed(fleet, key)
    answer = get(fleet)
    assert (answer.status_code, answer.content) == (200, proof)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["etag"] == f'"{sha256(proof)}"'
    assert get(fleet, **{"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert get(fleet, "").status_code == 403
    assert (
        httpx.post(f"{fleet.url}{PATH}", headers={"Authorization": f"Bearer {fleet.tokens['idle-01']}"}).status_code
        == 405
    )


def test_both_transports_bring_the_same_bytes(fleet: ServedFleet, key: Path, tmp_path: Path) -> None:
    fleet.start()
    proof = renewed(fleet, key)
    token = tmp_path / "token"
    token.write_text(fleet.tokens["press-01"])
    token.chmod(0o600)
    sources = [
        HttpTransport(HttpSource(url=fleet.url, token_file=token)),
        GitTransport(GitSource(url=f"{fleet.url}/git/state.git", device="press-01", token_file=token)),
        GitTransport(GitSource(url=f"file://{fleet.renderer.git.path}", device="press-01")),
    ]
    for source in sources:
        assert source.freshness("press-01", None) == proof
        assert source.freshness("press-01", proof) is None
        source.close()


def test_g_k_10_trust_documents_come_by_every_way_with_the_same_bytes(fleet: ServedFleet, tmp_path: Path) -> None:
    first = signed(trusted(1), *ROOTS[:2])
    second = signed(trusted(2, render=(STRANGER,)), *ROOTS[:2])
    carry(fleet.renderer.git, {1: first, 2: second})
    fleet.start()
    token = tmp_path / "token"
    token.write_text(fleet.tokens["press-01"])
    token.chmod(0o600)
    sources = [
        HttpTransport(HttpSource(url=fleet.url, token_file=token)),
        GitTransport(GitSource(url=f"{fleet.url}/git/state.git", device="press-01", token_file=token)),
        GitTransport(GitSource(url=f"file://{fleet.renderer.git.path}", device="press-01")),
    ]
    for source in sources:
        assert [source.trust_document(version) for version in (1, 2, 3)] == [first, second, None]
        source.close()
    headers = {"Authorization": f"Bearer {fleet.tokens['press-01']}"}
    for path, status in (("2.json", 200), ("02.json", 404), ("2", 404), ("..", 404), ("9999999999.json", 404)):
        assert httpx.get(f"{fleet.url}/api/v1/trust/{path}", headers=headers).status_code == status, path
    assert httpx.get(f"{fleet.url}/api/v1/trust/2.json").status_code == 403


def test_a_renewal_leaves_manifest_and_waiting_polls_alone(fleet: ServedFleet, key: Path) -> None:
    fleet.start()
    headers = {"Authorization": f"Bearer {fleet.tokens['press-01']}"}
    before = httpx.get(f"{fleet.url}/api/v1/deployments", headers=headers)
    renewed(fleet, key)
    begin = time.monotonic()
    waited = {**headers, "If-None-Match": before.headers["etag"], "Prefer": "wait=1"}
    assert httpx.get(f"{fleet.url}/api/v1/deployments", headers=waited).status_code == 304
    assert time.monotonic() - begin >= 1


def test_a_server_with_a_key_renews_by_itself(fleet: ServedFleet, key: Path) -> None:
    fleet.start(freshness={"signingKey": str(key), "validFor": "2h", "lookSeconds": 0.1})
    first = until(fleet, 200).content
    signers = parse_allowed_signers(key.with_name("key.allowed").read_bytes(), "allowed_signers")
    fleet.render({**FLEET, "press-01": {"hmi": b"another\n"}})
    deadline = time.monotonic() + 20
    while get(fleet).content == first:
        assert time.monotonic() < deadline, fleet.log.read_text()
        time.sleep(0.02)
    proof = read_freshness(get(fleet).content, FreshnessPolicy("press-01", signers, "plant"))
    manifest = fleet.renderer.git.run_bytes("cat-file", "blob", "devices/press-01:manifest.json")
    held = HeldVersion(2, sha256(manifest), signed=False)
    assert assess(proof, held, datetime.now(UTC)).verdict == "fresh"
    assert proof.expires - proof.issued == timedelta(hours=2)
    assert "3 devices: fresh until" in fleet.log.read_text()


def test_a_server_that_cannot_read_its_key_does_not_start(fleet: ServedFleet, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="MG1305"):
        fleet.start(freshness={"signingKey": str(tmp_path / "nowhere")})


class TestRenewal:
    """RENEW-1 to RENEW-3, without a server."""

    @pytest.fixture
    def clock(self) -> list[datetime]:
        return [NOW]

    @pytest.fixture
    def renewal(self, fleet: ServedFleet, key: Path, clock: list[datetime]) -> FreshnessRenewal:
        return FreshnessRenewal(
            fleet.renderer.git.path,
            parse_signing_key(key.read_bytes()),
            valid_for=timedelta(days=7),
            every=60,
            healthy=lambda: True,
            clock=lambda: clock[0],
        )

    def test_it_renews_what_is_due_and_nothing_else(self, renewal: FreshnessRenewal, clock: list[datetime]) -> None:
        made = []
        for days in (0, 1, 3, 4, 5, 7, 8):
            clock[0] = NOW + timedelta(days=days)
            made.append(renewal.renew_if_due())
        assert made == [True, False, False, True, False, False, True]

    def test_it_renews_after_a_render(self, fleet: ServedFleet, renewal: FreshnessRenewal) -> None:
        assert renewal.renew_if_due()
        fleet.render({**FLEET, "press-01": {}})
        assert renewal.renew_if_due()
        assert not renewal.renew_if_due()

    def test_what_was_tampered_with_is_not_spoken_for_and_told_once(
        self, fleet: ServedFleet, renewal: FreshnessRenewal, caplog: pytest.LogCaptureFixture
    ) -> None:
        fleet.renderer.git.run("update-ref", "refs/heads/devices/press-01", "refs/heads/devices/press-02")
        with caplog.at_level("ERROR", "margo_gitops.server"):
            assert not renewal.renew_if_due()
            assert not renewal.renew_if_due()
        assert len(caplog.records) == 1
        assert not [name for name in repo_of(fleet).refs.read() if name.startswith(FRESHNESS_REFS)]


def document(greeting: str) -> bytes:
    """Return a deployment for the device press-09, in a shape that a device takes."""
    return write_yaml(
        {
            "id": deployment_id("plant", "press-09", "web"),
            "metadata": {"name": "web", "namespace": "margo", "deviceId": "press-09"},
            "spec": {
                "applicationId": "com-example-app",
                "deploymentProfile": {
                    "type": "compose",
                    "components": [
                        {"name": "web", "properties": {"repository": "oci://r.example.com/app", "revision": "1.0.0"}}
                    ],
                },
                "parameters": {
                    "greeting": {"value": greeting, "targets": [{"pointer": "GREETING", "components": ["web"]}]}
                },
            },
        }
    )


class TestUnsignedDevice:
    """State over HTTP is unsigned; the statement is what a device can believe of it."""

    @pytest.fixture
    def device(self, fleet: ServedFleet, key: Path, tmp_path: Path) -> Path:
        fleet.render({**FLEET, "press-09": {"web": document("one")}})
        token = tmp_path / "token"
        token.write_text(fleet.token("press-09"))
        token.chmod(0o600)
        fleet.start()
        configuration = {
            "apiVersion": "margo-gitops/v1",
            "kind": "AgentConfiguration",
            "device": "press-09",
            "stateFolder": "agent",
            "source": {"http": {"url": fleet.url, "tokenFile": "token", "reportStatus": False}},
            "trust": {"unsigned": True},
            "freshness": {"onExpiry": "hold", "allowedSigners": f"{key.name}.allowed"},
            "appliers": {"files": {"folder": str(tmp_path / "output")}},
        }
        file = tmp_path / "agent.yaml"
        file.write_bytes(write_yaml(configuration))
        return file

    def once(self, file: Path) -> Outcome:
        return margo_gitops("agent", "once", "--config", file, cwd=file.parent)

    def test_it_takes_only_what_a_statement_lists(self, fleet: ServedFleet, key: Path, device: Path) -> None:
        values = device.parent / "output" / deployment_id("plant", "press-09", "web") / "web" / "values.env"
        first = self.once(device)
        assert (first.code, "MG1524" in first.stderr) == (4, True), first
        assert not values.exists()

        renewed(fleet, key, datetime.now(UTC))
        taken = self.once(device)
        assert taken.code == 0, taken
        assert values.read_text() == 'GREETING="one"\n'

        # Whoever can write the state repo, or the server, puts something else there: nobody signed that.
        fleet.render({**FLEET, "press-09": {"web": document("forged")}})
        refused = self.once(device)
        assert (refused.code, "MG1524" in refused.stderr) == (4, True), refused
        assert values.read_text() == 'GREETING="one"\n'

        renewed(fleet, key, datetime.now(UTC))
        assert self.once(device).code == 0
        assert values.read_text() == 'GREETING="forged"\n'
