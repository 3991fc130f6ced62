"""An S3-compatible bucket as the target, against moto's server."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.bucket_store import BUCKET, URL, environment, keys, store_client
from support.command_line import margo_gitops
from support.fleet import FleetFolder, write_signing_key
from support.published import FIRST, SECOND, Plant

from margo_gitops.digests import sha256
from margo_gitops.errors import PublishBusy, PublishTargetUnusable
from margo_gitops.publishing.layout import read_manifest
from margo_gitops.publishing.publication import Published, differences, publish
from margo_gitops.state_repo.freshness_refs import Renewal, device_proof, renew
from margo_gitops.trust.ssh_key import parse_signing_key

pytest.importorskip("boto3")

from margo_gitops.publishing.bucket import LOCK_KEY, BucketTarget  # needs boto3

pytestmark = pytest.mark.real


def test_no_checksum_header_is_sent_that_a_store_may_not_know(endpoint: str) -> None:
    sent: list[dict[str, str]] = []
    target = BucketTarget(URL)
    target.bucket._client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.append(dict(request.headers))
    )  # type: ignore[attr-defined]
    with target.exclusive():
        pass
    target.close()
    assert sent
    names = {name.lower() for headers in sent for name in headers}
    assert not {name for name in names if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))}


@pytest.fixture
def target(endpoint: str) -> Iterator[BucketTarget]:
    with closing(BucketTarget(URL)) as target:
        yield target


def to_bucket(plant: Plant, target: BucketTarget, devices: dict | None = None, keep: float = 86_400.0) -> Published:
    if devices is not None:
        plant.render(devices)
    return publish(plant.renderer.repo, target, keep)


def get(endpoint: str, path: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)) as connection:
        connection.request("GET", path, headers={"Authorization": "AWS4-HMAC-SHA256 Credential=test/x/us-east-1/s3/y"})
        answer = connection.getresponse()
        return answer.status, {name.title(): value for name, value in answer.getheaders()}, answer.read()


def test_every_url_is_a_key_with_the_right_headers(plant: Plant, target: BucketTarget, endpoint: str):
    published = to_bucket(plant, target, FIRST)
    assert (len(published.changed), published.written) == (3, 7)
    base = f"/{BUCKET}/state/press-01"
    status, headers, content = get(endpoint, f"{base}/api/v1/deployments")
    assert (status, headers["Content-Type"]) == (200, "application/vnd.margo.manifest.v1+json")
    assert headers["Cache-Control"] == "private, no-cache"
    manifest = json.loads(content)
    for each in (manifest["bundle"], *manifest["deployments"]):
        status, headers, body = get(endpoint, base + each["url"])
        assert (status, sha256(body)) == (200, each["digest"])
        assert headers["Content-Type"] == each.get("mediaType", "application/yaml")
        assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert differences(plant.renderer.repo, target) == []


def test_a_second_run_writes_nothing(plant: Plant, target: BucketTarget):
    to_bucket(plant, target, FIRST)
    before = keys()
    published = to_bucket(plant, target)
    assert (published.changed, published.unchanged, published.written) == ((), 3, 0)
    assert keys() == before
    assert f"state/{LOCK_KEY}" not in before


def test_a_proof_of_freshness_is_a_key_of_each_device_and_written_when_it_is_new(
    plant: Plant, target: BucketTarget, endpoint: str, tmp_path: Path
):
    plant.render(FIRST)
    key = parse_signing_key(write_signing_key(tmp_path / "key").read_bytes())
    renew(plant.renderer.repo, plant.renderer.refs(), Renewal(key, datetime(2026, 11, 21, tzinfo=UTC)))
    assert to_bucket(plant, target).proofs == 3
    status, headers, content = get(endpoint, f"/{BUCKET}/state/press-01/api/v1/freshness")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "private, no-cache")
    assert content == device_proof(plant.renderer.repo, plant.renderer.refs(), "press-01")
    assert to_bucket(plant, target).proofs == 0
    assert differences(plant.renderer.repo, target) == []


def test_only_what_changed_is_written_and_replaced_content_goes_after_its_time(plant: Plant, target: BucketTarget):
    to_bucket(plant, target, FIRST)
    before = keys()
    time.sleep(1.1)  # the store's times have whole seconds
    assert to_bucket(plant, target, SECOND).written == 2
    after = keys()
    assert set(before) < set(after)
    assert [key for key in before if before[key] != after[key]] == ["state/press-01/api/v1/deployments"]
    later = datetime.now(tz=UTC) + timedelta(hours=25)
    with closing(BucketTarget(URL, later.timestamp)) as tomorrow:
        assert to_bucket(plant, tomorrow).collected == 2
    assert len(keys()) == len(before)
    assert differences(plant.renderer.repo, target) == []


def test_what_was_removed_by_hand_is_found_and_written_again(plant: Plant, target: BucketTarget):
    to_bucket(plant, target, FIRST)
    manifest = target.manifest("mixer-01")
    assert manifest is not None
    path = read_manifest(manifest, "").objects[0].path
    with store_client() as client:
        client.delete_object(Bucket=BUCKET, Key=f"state/mixer-01/{path}")
    assert differences(plant.renderer.repo, target) == [f"mixer-01: {path} is missing"]
    assert to_bucket(plant, target).written == 1
    assert differences(plant.renderer.repo, target) == []


def test_one_publisher_at_a_time(plant: Plant, target: BucketTarget):
    with target.exclusive(), closing(BucketTarget(URL)) as other, pytest.raises(PublishBusy):
        to_bucket(plant, other, FIRST)
    to_bucket(plant, target)


def test_the_lock_of_a_publisher_that_died_is_taken_over(
    plant: Plant, target: BucketTarget, monkeypatch: pytest.MonkeyPatch
):
    with store_client() as client:
        client.put_object(Bucket=BUCKET, Key=f"state/{LOCK_KEY}", Body=b"elsewhere 1\n")
    with pytest.raises(PublishBusy, match="another publisher"):
        to_bucket(plant, target, FIRST)
    monkeypatch.setattr("margo_gitops.publishing.bucket.STALE_SECONDS", -5)
    assert len(to_bucket(plant, target).changed) == 3
    assert f"state/{LOCK_KEY}" not in keys()


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "https://plant/x", "s3://key:secret@plant/x", "s3://plant?x"])
def test_a_url_that_names_no_bucket_is_refused(url: str):
    with pytest.raises(PublishTargetUnusable, match="is not a bucket"):
        BucketTarget(url)


def test_the_command_publishes_into_a_bucket(endpoint: str, tmp_path: Path):
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit("Make the fleet")
    assert margo_gitops("render", cwd=fleet.root).code == 0
    outcome = margo_gitops("publish", URL, cwd=fleet.root, environment=environment(endpoint))
    assert outcome.code == 0, outcome
    assert "4 devices changed" in outcome.stdout
    checked = margo_gitops("publish", URL, "--check", cwd=fleet.root, environment=environment(endpoint))
    assert checked.code == 0, checked
    missing = margo_gitops("publish", "s3://nowhere", cwd=fleet.root, environment=environment(endpoint))
    assert (missing.code, "MG1901" in missing.stderr) == (2, True), missing
