"""Making a bundle for a site: what is in it, what it leaves out, and where it may be written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from support.deployments import deployment
from support.published import FIRST, SECOND, Plant

from margo_gitops.digests import sha256
from margo_gitops.documents.deployment import OWN_EXTENSION
from margo_gitops.documents.site_bundle import BLOBS, blob_path, manifest_path
from margo_gitops.documents.yaml_text import write_yaml
from margo_gitops.errors import BundleNotMade
from margo_gitops.publishing.site_bundle import BundleRequest, MadeBundle, make_bundle
from margo_gitops.transport.stick.files import opened_blob
from margo_gitops.transport.stick.stick_transport import StickTransport
from margo_gitops.web.metering import Deadline

NORTH = BundleRequest(site="north")


def made_of(plant: Plant, place: Path, request: BundleRequest, *fetched: Path) -> MadeBundle:
    files = iter(fetched)
    return make_bundle(plant.renderer.repo, place, request, lambda _artifact: next(files))


def names(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_a_device_gets_from_it_what_it_would_pull(plant: Plant, tmp_path: Path) -> None:
    plant.render(FIRST)
    for place in (tmp_path / "stick", tmp_path / "bundle.tar"):
        made = made_of(plant, place, NORTH)
        assert (made.devices, made.blobs) == (("idle-01", "mixer-01", "press-01"), 5)
        for device, documents in FIRST.items():
            snapshot = StickTransport(place, device).pull(None).snapshot
            assert snapshot is not None
            assert sorted(snapshot.deployments.values()) == sorted(documents.values())


def test_the_same_state_gives_the_same_bytes(plant: Plant, tmp_path: Path) -> None:
    plant.render(FIRST)
    first, again = (tmp_path / name for name in ("first.tar", "again.tar"))
    for place in (first, again):
        made_of(plant, place, NORTH)
    assert first.read_bytes() == again.read_bytes()
    made_of(plant, tmp_path / "stick", NORTH)
    with tarfile.open(first) as archive:
        assert set(archive.getnames()) == names(tmp_path / "stick")


def test_a_stick_is_brought_up_to_date_with_what_changed(plant: Plant, tmp_path: Path) -> None:
    plant.render(FIRST)
    before = made_of(plant, tmp_path / "stick", NORTH)
    (tmp_path / "stick/reports").mkdir()
    (tmp_path / "stick/reports/press-01.json").write_bytes(b"{}")
    assert made_of(plant, tmp_path / "stick", NORTH).written == 0
    plant.render(SECOND)
    assert made_of(plant, tmp_path / "stick", NORTH).written == 3  # document, manifest, bundle.json
    assert len([name for name in names(tmp_path / "stick") if name.startswith(BLOBS)]) == before.blobs
    assert (tmp_path / "stick/reports/press-01.json").exists()


def test_since_leaves_out_what_each_device_has(plant: Plant, tmp_path: Path) -> None:
    plant.render(FIRST)
    since = made_of(plant, tmp_path / "first", NORTH).state_commit
    held = StickTransport(tmp_path / "first", "press-01").pull(None).snapshot
    plant.render({**SECOND, "new-01": {"hmi": b"a: 1\n"}})
    made = made_of(plant, tmp_path / "second", BundleRequest(site="north", since=since))
    assert (made.blobs, made.left_out) == (2, 4)  # what press-01 had as `hmi` is new for new-01
    newer = StickTransport(tmp_path / "second", "press-01").pull(held).snapshot
    assert newer is not None
    assert sorted(newer.deployments.values()) == sorted(SECOND["press-01"].values())
    with pytest.raises(BundleNotMade, match="is not a commit of"):
        made_of(plant, tmp_path / "third", BundleRequest(site="north", since="0" * 40))


def test_only_the_devices_that_are_asked_for(plant: Plant, tmp_path: Path) -> None:
    plant.renderer.publish(FIRST, elsewhere={"mixer-01": "south"})
    assert made_of(plant, tmp_path / "all", NORTH).devices == ("idle-01", "press-01")
    made_of(plant, tmp_path / "one", BundleRequest(devices={"mixer-01"}))
    assert manifest_path("mixer-01") in names(tmp_path / "one")
    assert manifest_path("press-01") not in names(tmp_path / "one")
    for wrong in (
        BundleRequest(site="nort"),
        BundleRequest(site="north", devices={"mixer-01"}),
        BundleRequest(devices={"press-99"}),
    ):
        with pytest.raises(BundleNotMade):
            made_of(plant, tmp_path / "wrong", wrong)


def test_a_folder_with_other_things_is_refused_and_no_link_is_followed(plant: Plant, tmp_path: Path) -> None:
    plant.render(FIRST)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("mine")
    with pytest.raises(BundleNotMade, match="a folder of its own"):
        made_of(plant, tmp_path / "mine", NORTH)
    made_of(plant, tmp_path / "stick", NORTH)
    (tmp_path / "stick/devices").rename(tmp_path / "aside")
    (tmp_path / "stick/devices").symlink_to(tmp_path / "mine")
    with pytest.raises(BundleNotMade, match="devices is a link"):
        made_of(plant, tmp_path / "stick", NORTH)
    assert names(tmp_path / "mine") == {"letter.txt"}


def test_archives_travel_with_it_and_only_to_who_lacks_them(plant: Plant, tmp_path: Path) -> None:
    archive = tmp_path / "web.tar.gz"
    archive.write_bytes(b"an archive")
    digest = sha256(archive.read_bytes())

    def document(greeting: str) -> bytes:
        content = {"component": "web", "url": "https://files.example.com/web.tar.gz", "digest": digest}
        local = {**content, "component": "local", "url": "file:///srv/local", "digest": sha256(b"local")}
        own = {"deployment": greeting, "applicationVersion": "1.0.0", "profile": "only", "artifacts": [content, local]}
        made = deployment()
        made["spec"][OWN_EXTENSION] = own
        return write_yaml(made)

    plant.render({"press-01": {"web": document("one")}, "mixer-01": {"web": document("one")}})
    first = made_of(plant, tmp_path / "first", NORTH, archive)
    assert (tmp_path / "first" / blob_path(digest)).read_bytes() == b"an archive"
    with opened_blob(tmp_path / "first", digest, Deadline(9, 9)) as read:
        assert read is not None
        assert read(99) == b"an archive"
    with opened_blob(tmp_path / "first", sha256(b"local"), Deadline(9, 9)) as read:
        assert read is None
    plant.render({"press-01": {"web": document("two")}, "mixer-01": {"web": document("one")}})
    made = made_of(plant, tmp_path / "second", BundleRequest(site="north", since=first.state_commit))
    assert (made.blobs, made.left_out) == (1, 2)
