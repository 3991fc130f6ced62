"""A git host says that the state repo moved: WEBHOOK-1 and WEBHOOK-2, and `serve` with a URL as its state repo."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from server.serving import FLEET, ServedFleet, until
from support.command_line import margo_gitops

SECRET = "b5f6c1d0e9a84732"
BODY = b'{"ref": "refs/heads/fleet"}'
_SIGNED = hmac.digest(SECRET.encode(), BODY, "sha256").hex()
HOSTS: Mapping[str, Mapping[str, str]] = {
    "github": {"X-Hub-Signature-256": f"sha256={_SIGNED}"},
    "gitlab": {"X-Gitlab-Token": SECRET},
    "gitea": {"X-Gitea-Signature": _SIGNED},
    "forgejo": {"X-Forgejo-Signature": _SIGNED},
}
OTHERS: Mapping[str, Mapping[str, str | bytes]] = {
    "no signature": {},
    "another secret": {"X-Hub-Signature-256": f"sha256={hmac.digest(b'other', BODY, 'sha256').hex()}"},
    "of another body": {"X-Gitea-Signature": hmac.digest(SECRET.encode(), b"{}", "sha256").hex()},
    "another token": {"X-Gitlab-Token": "other"},
    "an empty token": {"X-Gitlab-Token": ""},
    "not ascii": {"X-Gitlab-Token": b"\xc3\xa4"},
}


def settings(fleet: ServedFleet) -> dict[str, Any]:
    (fleet.folder / "secret").write_text(f"{SECRET}\n")
    mirror = {"fetchSeconds": 3600, "webhookSecretFile": "secret"}
    return {"stateRepo": (fleet.folder / "state.git").as_uri(), "mirror": mirror, "reports": {"folder": "journal"}}


def test_a_device_that_waits_is_answered_when_the_host_says_that_something_moved(fleet: ServedFleet) -> None:
    fleet.start(**settings(fleet))
    with fleet.client("press-01") as client, fleet.client() as host:
        version = client.get("/api/v1/deployments")
        for number, (name, headers) in enumerate(HOSTS.items()):
            fleet.render(FLEET | {"press-01": {"hmi": b"%d\n" % number}})
            for refused in OTHERS.values():
                assert host.post("/api/v1/webhook", content=BODY, headers=refused).status_code == 403
            held = {"If-None-Match": version.headers["ETag"], "Prefer": "wait=30"}
            told = threading.Timer(0.2, host.post, ["/api/v1/webhook"], {"content": BODY, "headers": dict(headers)})
            told.start()
            answer = client.get("/api/v1/deployments", headers=held)
            told.join()
            assert answer.json()["manifestVersion"] == version.json()["manifestVersion"] + 1, name
            version = answer
    fleet.stop()
    (fleet.folder / "state.git").rename(fleet.folder / "gone.git")
    fleet.start(**settings(fleet))
    with fleet.client("press-01") as client:
        assert client.get("/api/v1/deployments").content == version.content, "a restart without the host"
    until(lambda: "served as it was fetched before" in fleet.log.read_text())


def test_without_a_secret_there_is_no_such_resource(fleet: ServedFleet) -> None:
    fleet.start()
    with fleet.client() as host:
        assert host.post("/api/v1/webhook", content=BODY, headers=HOSTS["github"]).status_code == 404


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reports": {}}, "the mirror needs a folder"),
        ({"mirror": {"url": "https://git.example/state.git"}}, "two state repos are named"),
        ({"mirror": {"webhookSecretFile": "nowhere"}}, "the webhook's secret cannot be read"),
        ({"mirror": {"webhookSecretFile": "short"}}, "less than 16 characters"),
        ({"stateRepo": "state.git", "mirror": {}}, "no state repo is named that could be mirrored"),
        ({}, ": ok"),
    ],
)
def test_the_check_and_the_start_agree(fleet: ServedFleet, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (fleet.folder / "short").write_text("short")
    file = fleet.configure(**{**settings(fleet), **change})
    fleet.write_tokens()
    checked = margo_gitops("serve", "--config", file, "--check", cwd=tmp_path)
    assert said in checked.stdout + checked.stderr
    if said != ": ok":
        started = margo_gitops("serve", "--config", file, cwd=tmp_path)
        assert (checked.code, started.code) == (2, 2)
        assert started.stderr == checked.stderr
