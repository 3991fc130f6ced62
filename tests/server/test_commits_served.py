"""The signed commit of a manifest over HTTP: on the answer with the manifest, and as a resource of the device alone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from server.serving import FLEET, HMI, ServedFleet, served_fleet
from support.fleet import write_signing_key

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import COMMIT_HEADER, COMMIT_MEDIA_TYPE, COMMITS_PATH, device_ref
from margo_gitops.server.resources.desired_state import carried_commit
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key

MANIFEST = "/api/v1/deployments"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return parse_signing_key(write_signing_key(tmp_path_factory.mktemp("key") / "key").read_bytes())


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Iterator[ServedFleet]:
    with served_fleet(tmp_path_factory.mktemp("signed")) as fleet:
        fleet.render(FLEET, key=key)
        yield fleet.start()


def commit_of(fleet: ServedFleet, device: str = "press-01") -> bytes:
    return fleet.renderer.git.run_bytes("cat-file", "commit", device_ref(device))


def test_a_manifest_carries_its_commit_and_an_idle_poll_does_not(signed: ServedFleet) -> None:
    with signed.client("press-01") as client:
        answer = client.get(MANIFEST)
        assert base64.b64decode(answer.headers[COMMIT_HEADER]) == commit_of(signed)
        idle = client.get(MANIFEST, headers={"If-None-Match": answer.headers["ETag"]})
    assert (idle.status_code, COMMIT_HEADER in idle.headers) == (304, False)


def test_the_commit_is_a_resource_of_its_own_for_its_device_alone(signed: ServedFleet) -> None:
    with signed.client("press-01") as client:
        path = f"{COMMITS_PATH}/{sha256(client.get(MANIFEST).content)}"
        answer = client.get(path)
        assert (answer.content, answer.headers["Content-Type"]) == (commit_of(signed), COMMIT_MEDIA_TYPE)
        assert client.get(f"{COMMITS_PATH}/{sha256(b'other')}").status_code == 404
    with signed.client("press-02") as other:
        assert other.get(path).status_code == 404


def test_the_commit_of_a_manifest_from_before_a_render_is_still_there(signed: ServedFleet, key: SigningKey) -> None:
    with signed.client("press-01") as client:
        path = f"{COMMITS_PATH}/{sha256(client.get(MANIFEST).content)}"
        commit = commit_of(signed)
        signed.render({**FLEET, "press-01": {"hmi": HMI}}, key=key)
        assert commit_of(signed) != commit
        assert client.get(path).content == commit


def test_a_commit_that_is_not_signed_proves_nothing_and_is_not_offered(tmp_path: Path) -> None:
    with served_fleet(tmp_path) as fleet:
        fleet.render(FLEET)
        fleet.start()
        with fleet.client("press-01") as client:
            answer = client.get(MANIFEST)
            assert COMMIT_HEADER not in answer.headers
            assert client.get(f"{COMMITS_PATH}/{sha256(answer.content)}").status_code == 404


def test_a_long_commit_is_left_to_its_own_resource() -> None:
    assert carried_commit(b"c" * 2_000).keys() == {COMMIT_HEADER}
    assert carried_commit(b"c" * 3_000) == {}
