"""The commits that sign the published manifests: where they are, how long they stay, and what serves them."""

from __future__ import annotations

import ssl

import httpx
import pytest
from support.fleet import write_signing_key
from support.published import FIRST, SECOND, Plant
from support.static_server import caddy, nginx

from margo_gitops.digests import sha256
from margo_gitops.documents.state_layout import COMMIT_MEDIA_TYPE, COMMITS_PATH, device_ref
from margo_gitops.publishing.layout import COMMITS
from margo_gitops.publishing.publication import differences
from margo_gitops.trust.git_commit import parse_commit
from margo_gitops.trust.ssh_key import SigningKey, parse_signing_key


@pytest.fixture
def key(tmp_path) -> SigningKey:
    return parse_signing_key(write_signing_key(tmp_path / "key").read_bytes())


def render(plant: Plant, devices: dict[str, dict[str, bytes]], key: SigningKey) -> bytes:
    """Render, publish, and return the signed commit of press-01."""
    plant.renderer.publish(devices, key=key)
    plant.publish()
    return plant.renderer.git.run_bytes("cat-file", "commit", device_ref("press-01"))


def test_each_device_finds_the_commit_of_its_manifest(plant: Plant, key: SigningKey):
    commit = render(plant, FIRST, key)
    manifest = (plant.folder / "press-01/api/v1/deployments/manifest").read_bytes()
    file = plant.folder / "press-01" / COMMITS / sha256(manifest)
    assert file.read_bytes() == commit
    assert parse_commit(commit).trailers["Manifest-Digest"] == sha256(manifest)
    assert differences(plant.renderer.repo, plant.target) == []
    assert plant.publish().written == 0
    file.write_bytes(b"another")
    assert differences(plant.renderer.repo, plant.target) == [f"press-01: {COMMITS}/{file.name} holds other bytes"]


def test_a_commit_stays_as_long_as_its_manifest(plant: Plant, key: SigningKey):
    render(plant, FIRST, key)
    render(plant, SECOND, key)
    folder = plant.folder / "press-01" / COMMITS
    assert len(list(folder.iterdir())) == 2
    plant.now += plant.keep + 2
    plant.publish()
    manifest = (plant.folder / "press-01/api/v1/deployments/manifest").read_bytes()
    assert [path.name for path in folder.iterdir()] == [sha256(manifest)]


def test_a_state_without_signatures_has_no_commits(plant: Plant):
    plant.publish(FIRST)
    assert not list(plant.folder.glob(f"*/{COMMITS}/*"))


@pytest.mark.real
@pytest.mark.parametrize("program", [nginx, caddy])
def test_a_web_server_serves_a_commit_to_its_device_alone(plant: Plant, key: SigningKey, program):
    commit = render(plant, FIRST, key)
    manifest = (plant.folder / "press-01/api/v1/deployments/manifest").read_bytes()
    with program(plant.folder.parent / "server", plant.folder) as server:
        for device, expected in (
            ("press-01", (200, COMMIT_MEDIA_TYPE)),
            ("mixer-01", (404, "application/problem+json")),
        ):
            answer = httpx.get(
                f"{server.https}{COMMITS_PATH}/{sha256(manifest)}",
                headers={"Authorization": f"Bearer {server.tokens[device]}"},
                verify=ssl.create_default_context(cafile=str(server.folder / "authority.pem")),
            )
            assert (answer.status_code, answer.headers["Content-Type"]) == expected
            assert (answer.content == commit) == (device == "press-01")
