"""Proofs of freshness as static files: where they are, that only new ones are written, what web servers hand out."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from support.fleet import write_signing_key
from support.published import FIRST, Plant
from support.static_server import caddy, nginx
from support.trust_documents import ROOTS, carry, document, signed

from margo_gitops.publishing.folder import FolderTarget
from margo_gitops.publishing.layout import FRESHNESS, TRUST
from margo_gitops.publishing.publication import differences
from margo_gitops.state_repo.freshness_refs import Renewal, device_proof, renew
from margo_gitops.trust.ssh_key import parse_signing_key

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
GROWN = {**FIRST, **{f"d{number}": {} for number in range(70)}}


@pytest.fixture
def renewal(tmp_path: Path) -> Renewal:
    return Renewal(parse_signing_key(write_signing_key(tmp_path / "key").read_bytes()), NOW)


def make(plant: Plant, renewal: Renewal, days: int = 0) -> bytes:
    """Renew the statement and return the proof of press-01."""
    refs = plant.renderer.refs
    renew(plant.renderer.repo, refs(), Renewal(renewal.key, NOW + timedelta(days=days)))
    return device_proof(plant.renderer.repo, refs(), "press-01")


def shown(plant: Plant, device: str = "press-01") -> bytes:
    return (plant.folder / device / FRESHNESS).read_bytes()


def test_every_device_finds_its_proof_where_the_api_has_it(plant: Plant, renewal: Renewal):
    plant.render(FIRST)
    proof = make(plant, renewal)
    assert plant.publish().proofs == 3
    assert {shown(plant, device) for device in FIRST} == {proof}
    assert differences(plant.renderer.repo, plant.target) == []
    assert plant.publish().proofs == 0


def test_a_renewal_writes_one_file_for_a_shard_and_no_manifest(plant: Plant, renewal: Renewal):
    plant.render(FIRST)
    make(plant, renewal)
    plant.publish()
    before = {
        path: path.lstat().st_mtime_ns for path in plant.folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    proof = make(plant, renewal, days=1)
    published = plant.publish()
    assert (published.changed, published.written) == ((), 0)
    after = {path: path.lstat().st_mtime_ns for path in before}
    assert [path.name for path in before if before[path] != after[path]] == ["all.json"]
    assert shown(plant) == proof


def test_each_device_finds_the_trust_documents_and_they_are_written_once(plant: Plant):
    plant.render(FIRST)
    documents = {1: signed(document(1), *ROOTS[:2]), 2: signed(document(2), *ROOTS[:2])}
    carry(plant.renderer.git, documents)
    plant.publish()
    for device in FIRST:
        for version, content in documents.items():
            assert (plant.folder / device / f"api/v1/trust/{version}.json").read_bytes() == content
    assert plant.publish().written == 0
    (plant.folder / "press-01/api/v1/trust/1.json").write_bytes(b"{}")
    assert [found.partition(":")[0] for found in differences(plant.renderer.repo, plant.target)] == ["press-01"]
    carry(plant.renderer.git, {**documents, 3: signed(document(3), *ROOTS[:2])})
    assert (plant.publish().written, plant.publish().written) == (len(FIRST), 0)


def test_a_fleet_that_grows_leads_its_devices_to_new_shards(plant: Plant, renewal: Renewal):
    plant.render(FIRST)
    make(plant, renewal)
    plant.publish()
    plant.render(GROWN)
    make(plant, renewal, days=1)
    plant.publish()
    for device in GROWN:
        assert shown(plant, device) == device_proof(plant.renderer.repo, plant.renderer.refs(), device)


def test_an_older_statement_never_replaces_a_newer_one(plant: Plant, renewal: Renewal):
    plant.render(FIRST)
    newer = make(plant, renewal, days=3)
    plant.publish()
    make(plant, renewal)
    plant.publish()
    assert shown(plant) == newer
    assert "press-01: another proof of freshness than that of the state repo" in differences(
        plant.renderer.repo, plant.target
    )


def test_a_proof_that_somebody_damaged_is_written_again(plant: Plant, renewal: Renewal):
    plant.render(FIRST)
    proof = make(plant, renewal)
    plant.publish()
    (plant.folder / "_freshness" / "all.json").write_bytes(b"{")
    plant.publish()
    assert shown(plant) == proof


def test_the_folder_of_proofs_is_no_device(plant: Plant, renewal: Renewal):
    plant.render(FIRST)
    make(plant, renewal)
    assert plant.publish().left == ()
    assert set(FolderTarget(plant.folder).devices()) == FIRST.keys()


@pytest.mark.real
@pytest.mark.parametrize("program", [nginx, caddy])
def test_a_web_server_hands_a_device_its_proof_and_the_trust_documents(plant: Plant, renewal: Renewal, program):
    plant.render(FIRST)
    made = make(plant, renewal)
    documents = {1: signed(document(1), *ROOTS[:2]), 2: signed(document(2), *ROOTS[:2])}
    carry(plant.renderer.git, documents)
    plant.publish()
    expected = {FRESHNESS: made, **{f"{TRUST}/{version}.json": content for version, content in documents.items()}}
    with program(plant.folder.parent / "server", plant.folder) as server:
        trusted = ssl.create_default_context(cafile=str(server.folder / "authority.pem"))
        token = {"Authorization": f"Bearer {server.tokens['press-01']}"}
        for path, content in expected.items():
            answer = httpx.get(f"{server.https}/{path}", headers=token, verify=trusted)
            assert (answer.status_code, answer.content) == (200, content), path
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Cache-Control"] == "private, no-cache"
            assert httpx.get(f"{server.https}/{path}", verify=trusted).status_code == 401
        for path in (f"{TRUST}/3.json", f"{TRUST}/", f"{TRUST}/..%2f{FRESHNESS}"):
            assert httpx.get(f"{server.https}/{path}", headers=token, verify=trusted).status_code == 404
