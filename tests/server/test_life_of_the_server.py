"""The server as a process: what survives a kill, what it refuses to start with, what it does when things go back."""

import asyncio
import contextlib
import signal
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import httpx
import pytest
from server.git_requests import command, post
from server.serving import FLEET, ServedFleet, capabilities, status, until
from starlette.types import Message, Receive, Scope
from support.command_line import margo_gitops
from support.fleet import write_signing_key

from margo_gitops.server.application import WorkloadManagementApi
from margo_gitops.server.reports.commits import ReportCommits
from margo_gitops.trust.ssh_key import parse_signing_key

MANY = {"requestsPerMinute": 10_000_000, "burst": 10_000_000}


def test_kill_9_in_the_middle_of_10000_posts_keeps_every_acknowledged_report(fleet: ServedFleet) -> None:
    """Ten devices send 10,000 reports; the server is killed while they do, and started again."""
    devices = {f"cell-{number}": {f"app-{n}": b"%d\n" % n for n in range(20)} for number in range(10)}
    fleet.render(devices)
    for device in devices:
        fleet.token(device)
    fleet.start(limits=MANY)
    acknowledged: dict[tuple[str, str], int] = {}
    sent: dict[tuple[str, str], int] = {}
    enough = threading.Event()

    def report(device: str) -> None:
        ids = [each["deploymentId"] for each in fleet.manifest(device)["deployments"]]
        with fleet.client(device) as client:
            for number in range(1000):
                deployment = ids[number % len(ids)]
                sent[device, deployment] = number + 1
                try:
                    answer = client.post(
                        f"/api/v1/deployments/{deployment}/status", json=status(deployment, version=number + 1)
                    )
                except httpx.TransportError:
                    return
                if answer.status_code in {200, 201}:
                    acknowledged[device, deployment] = number + 1
                if sum(1 for _ in acknowledged) >= 150 and number > 30:
                    enough.set()

    with ThreadPoolExecutor(10) as pool:
        reporting = [pool.submit(report, device) for device in devices]
        assert enough.wait(60)
        fleet.stop(signal.SIGKILL)
        for each in reporting:
            each.result()

    fleet.start(limits=MANY)
    until(fleet.reports)

    def all_there() -> bool:
        held = fleet.reports()
        return all(
            version <= held[f"{device}/status/{deployment}.json"]["adoptedManifestVersion"] <= sent[device, deployment]
            for (device, deployment), version in acknowledged.items()
        )

    assert len(acknowledged) >= 150
    assert until(all_there)


def test_where_the_journal_cannot_be_written_nothing_is_acknowledged_and_reading_goes_on(fleet: ServedFleet) -> None:
    fleet.start()
    with contextlib.closing(sqlite3.connect(fleet.folder / "state.git" / "margo-gitops" / "reports.sqlite")) as other:
        other.execute("DROP TABLE report")
    with fleet.client("press-01") as client:
        refused = client.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
        assert refused.status_code == 503
        assert refused.json()["retryable"] is True
        assert int(refused.headers["Retry-After"]) >= 30
        assert client.get("/api/v1/deployments").status_code == 200
    assert "MG1803" in fleet.log.read_text()


def test_a_server_that_ends_commits_what_waits(fleet: ServedFleet) -> None:
    fleet.start(reports={"commitSeconds": 3600})
    with fleet.client("press-01") as client:
        client.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
    assert fleet.stop() == 0
    assert "press-01/capabilities/press-01.json" in fleet.reports()


def test_enough_reports_are_committed_before_their_time(fleet: ServedFleet) -> None:
    fleet.start(reports={"commitSeconds": 3600, "commitReports": 2})
    with fleet.client("press-01") as client:
        client.put("/api/v1/capabilities/press-01", json=capabilities("press-01"))
        client.put("/api/v1/capabilities/press-01/a", json=capabilities("press-01/a"))
        until(lambda: len(fleet.reports()) == 2)


def test_one_journal_has_one_server(fleet: ServedFleet) -> None:
    fleet.start()
    done = margo_gitops("serve", "--config", fleet.folder / "server.yaml", cwd=fleet.folder)
    assert done.code == 75, done
    assert "MG1802" in done.stderr


def test_a_render_is_visible_at_once_and_whole(fleet: ServedFleet) -> None:
    fleet.start(limits=MANY)
    with fleet.client("press-01") as client:
        for version in range(2, 22):
            fleet.render(FLEET | {"press-01": {"hmi": b"%d\n" % version, "mes": b"m%d\n" % version}})
            manifest = client.get("/api/v1/deployments").json()
            assert manifest["manifestVersion"] == version
            for reference in [*manifest["deployments"], manifest["bundle"]]:
                assert client.get(reference["url"]).status_code == 200


def test_f16_a_storm_of_polls_is_answered_with_304_and_with_a_time_to_come_back(fleet: ServedFleet) -> None:
    """Polls cost nothing but their headers; whoever polls too fast hears when to come back."""
    fleet.start(limits={"requestsPerMinute": 120, "burst": 50})
    with fleet.client("press-01") as client:
        etag = client.get("/api/v1/deployments").headers["ETag"]
        answers = [client.get("/api/v1/deployments", headers={"If-None-Match": etag}) for _ in range(80)]
    codes = [answer.status_code for answer in answers]
    assert codes[:40] == [304] * 40
    assert set(codes[60:]) <= {304, 429}
    assert 429 in codes
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 429)


def test_f17_devices_that_are_sent_away_together_do_not_come_back_together(fleet: ServedFleet) -> None:
    devices = [f"new-{number}" for number in range(40)]
    for device in devices:
        fleet.token(device)
    fleet.start()
    back = {}
    for _ in range(2):
        for device in devices:
            with fleet.client(device) as client:
                seconds = int(client.get("/api/v1/deployments").headers["Retry-After"])
                assert back.setdefault(device, seconds) == seconds, "a device always gets its own time"
    assert len(set(back.values())) > 20


def test_f18_devices_behind_one_address_have_limits_of_their_own(fleet: ServedFleet) -> None:
    fleet.start(limits={"requestsPerMinute": 1, "burst": 3})
    with fleet.client("press-01") as greedy:
        assert [greedy.get("/api/v1/deployments").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    with fleet.client("press-02") as modest:
        assert [modest.get("/api/v1/deployments").status_code for _ in range(3)] == [200, 200, 200]


def test_f26_a_state_repo_restored_from_an_old_backup_is_not_pushed_to_devices(fleet: ServedFleet) -> None:
    """The device said what it has adopted: an older state is not served, until the repository is ahead again."""
    old = fleet.renderer.refs()
    fleet.render(FLEET | {"press-01": {"hmi": b"two\n"}})
    fleet.start()
    deployment = fleet.manifest("press-01")["deployments"][0]["deploymentId"]
    with fleet.client("press-01") as client:
        client.post(f"/api/v1/deployments/{deployment}/status", json=status(deployment, version=2))
        newer = fleet.renderer.refs()
        fleet.renderer.repo.refs.reset("refs/heads/devices/", devices_of(old))
        answer = client.get("/api/v1/deployments")
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        with fleet.client("press-02") as other:
            assert other.get("/api/v1/deployments").status_code == 200
        fleet.stop(signal.SIGKILL)
        fleet.start()
        with fleet.client("press-01") as again:
            assert again.get("/api/v1/deployments").status_code == 503, "the journal remembers"
            fleet.renderer.repo.refs.reset("refs/heads/devices/", devices_of(newer))
            assert again.get("/api/v1/deployments").status_code == 200


def devices_of(refs: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in refs.items() if name.startswith("refs/heads/devices/")}


def test_a_damaged_branch_concerns_its_device_alone(fleet: ServedFleet) -> None:
    fleet.start()
    fleet.renderer.git.run("update-ref", "refs/heads/devices/press-01", fleet.renderer.refs()["refs/heads/fleet"])
    with fleet.client("press-01") as hurt, fleet.client("press-02") as well:
        assert hurt.get("/api/v1/deployments").status_code == 503
        assert well.get("/api/v1/deployments").status_code == 200
    assert "MG1303" in fleet.log.read_text()


def test_refs_that_cannot_be_read_leave_what_was_served_and_turn_readiness_off(fleet: ServedFleet) -> None:
    fleet.start()
    # At once: the server looks all the time, and an empty file has no refs.
    (fleet.folder / "broken").write_text("no ref\n")
    (fleet.folder / "broken").replace(fleet.folder / "state.git" / "packed-refs")
    with fleet.client("press-01") as client:
        assert client.get("/api/v1/deployments").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"identity": {}}, "exactly one"),
        ({"identity": {"none": {}, "bearer": {"tokens": "t"}}}, "exactly one"),
        ({"identity": {"none": {}}, "listen": {"address": "0.0.0.0"}}, "loopback only"),
        ({"listen": {"address": "0.0.0.0"}}, "clear text"),
        ({"listen": {"address": "localhost"}}, "not an IP address"),
        ({"listen": {"basePath": "/a/"}}, "slash at its end"),
        ({"identity": {"mutualTls": {"accepted": "a"}}}, "clientTrust"),
        ({"identity": {"clientCert": {"accepted": "a", "proxies": ["10.0.0.1/8"]}}}, "host bits"),
        ({"reprots": {}}, "did you mean reports"),
        ({"limits": {"burst": 0}}, "burst"),
        ({"stateRepo": "nothing.git"}, "no state repo"),
        ({"identity": {"bearer": {"tokens": "missing"}}}, "cannot be read"),
        ({"tls": {"certificate": "c.pem", "key": "k.pem"}}, "certificate"),
        ({"allowedSigners": "missing"}, "allowed signers"),
        ({"freshness": {"signingKey": "missing"}}, "signing key"),
        ({"reports": {"folder": "device-tokens/sub"}}, "reports"),
        ({"log": "some"}, "log"),
        (
            {"identity": {"signatures": {"accepted": "missing", "publicUrls": ["https://wfm.example"]}}},
            "accepted certificates",
        ),
    ],
)
@pytest.mark.parametrize("check", [("--check",), ()], ids=["check", "serve"])
def test_a_configuration_that_cannot_be_meant_is_refused(
    fleet: ServedFleet, change: dict[str, object], words: str, check: tuple[str, ...]
) -> None:
    done = margo_gitops("serve", *check, "--config", fleet.configure(**change), cwd=fleet.folder)
    assert done.code == 2, done
    assert words in done.stderr


def test_a_configuration_can_be_checked_without_serving(fleet: ServedFleet) -> None:
    checked = margo_gitops("serve", "--check", "--config", fleet.configure(), cwd=fleet.folder)
    assert checked.code == 0
    assert "name a folder at reports.folder" in checked.stdout
    (fleet.folder / "broken.yaml").write_text("a: [")
    assert margo_gitops("serve", "--check", "--config", "broken.yaml", cwd=fleet.folder).code == 2
    assert margo_gitops("serve", "--check", "--config", "none.yaml", cwd=fleet.folder).code == 2


def test_an_address_in_use_is_said(fleet: ServedFleet) -> None:
    fleet.start()
    file = fleet.configure(listen={"port": fleet.port}, reports={"folder": "elsewhere"})
    done = margo_gitops("serve", "--config", file, cwd=fleet.folder)
    assert done.code == 2, done
    assert "MG1801" in done.stderr


def test_only_signed_state_is_served_where_asked_for(fleet: ServedFleet) -> None:
    key = parse_signing_key(write_signing_key(fleet.folder / "key").read_bytes())
    fleet.start(allowedSigners="key.allowed")
    fleet.render(FLEET | {"idle-02": {}}, key=key)
    with fleet.client("idle-01") as unsigned, fleet.client("idle-02") as signed:
        assert unsigned.get("/api/v1/deployments").status_code == 503
        assert signed.get("/api/v1/deployments").status_code == 200
    assert "MG1501" in fleet.log.read_text()


def test_the_list_of_allowed_signers_is_watched(fleet: ServedFleet) -> None:
    key = parse_signing_key(write_signing_key(fleet.folder / "key").read_bytes())
    write_signing_key(fleet.folder / "other", seed=2)
    allowed = fleet.folder / "allowed"

    def allow(content: bytes) -> None:
        fresh = fleet.folder / "allowed.new"
        fresh.write_bytes(content)
        fresh.replace(allowed)

    allow((fleet.folder / "key.allowed").read_bytes())
    fleet.start(allowedSigners="allowed")
    fleet.render(FLEET | {"idle-02": {}}, key=key)
    with fleet.client("idle-02") as client:

        def answers() -> tuple[int, int]:
            return client.get("/api/v1/deployments").status_code, post(client, command("ls-refs")).status_code

        assert answers() == (200, 200)
        allow((fleet.folder / "other.allowed").read_bytes())
        assert answers() == (503, 503)
        allow(b"renderer@example ssh-ed25519 ")
        assert answers() == (503, 503), "a typing error changes nothing"
        assert "stays in force" in fleet.log.read_text()
        allow((fleet.folder / "key.allowed").read_bytes())
        assert answers() == (200, 200)
        allow(b"renderer@example ssh-ed25519 ")
        assert answers() == (200, 200), "a typing error changes nothing"
        allowed.unlink()
        assert answers() == (503, 503)


def test_a_head_that_grows_without_end_is_cut_off(fleet: ServedFleet) -> None:
    fleet.start()
    with socket.create_connection((fleet.host, fleet.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for _ in range(4000):
                connection.sendall(b"X-Filler: " + b"x" * 1000 + b"\r\n")
        with contextlib.suppress(OSError):
            assert connection.recv(100) == b""
    with fleet.client("press-01") as client:
        assert client.get("/api/v1/deployments").status_code == 200


def test_a_base_path_is_in_front_of_every_resource(fleet: ServedFleet) -> None:
    fleet.start(listen={"port": 0, "basePath": "/v1alpha2/margo"})
    with fleet.client("press-01") as client:
        assert client.get("/v1alpha2/margo/api/v1/deployments").status_code == 200
        assert client.get("/api/v1/deployments").status_code == 404


def test_a_request_that_takes_longer_than_the_end_of_the_server_hears_when_to_come_back() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def endless(_scope: Scope, _receive: Receive) -> None:
        await asyncio.Event().wait()

    async def end() -> None:
        api = WorkloadManagementApi([endless], commits=cast("ReportCommits", None))
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "raw_path": b"/",
            "headers": [],
            "client": ("127.0.0.1", 1),
        }
        request = asyncio.create_task(api(scope, receive, send))
        await asyncio.sleep(0)
        request.cancel()
        await request

    asyncio.run(end())
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
