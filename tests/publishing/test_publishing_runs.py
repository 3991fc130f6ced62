"""What `margo-gitops publish` leaves in a folder, whatever was there before and wherever it dies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.published import FIRST, SECOND, Plant

from margo_gitops.digests import sha256
from margo_gitops.errors import PublishBusy, PublishGoesBack, PublishTargetUnusable, StateTampered
from margo_gitops.publishing.folder import LOCK_FILE
from margo_gitops.publishing.layout import MANIFEST_LINK, DatedManifest, PublishedObject, expired, read_manifest
from margo_gitops.publishing.publication import differences, publish

HOUR = 3600.0


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of each file and link below a folder."""
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def assert_consistent(folder: Path) -> None:
    """Assert that every published manifest finds all it leads to, with the right digest."""
    for link in folder.glob(f"*/{MANIFEST_LINK}"):
        device = folder / link.relative_to(folder).parts[0]
        content = link.read_bytes()
        assert link.readlink().name == sha256(content)
        for each in read_manifest(content, str(link)).objects:
            assert sha256((device / each.path).read_bytes()) == each.digest


def test_published_files_are_the_rendered_bytes(plant: Plant):
    published = plant.publish(FIRST)
    assert {(each.device, each.version) for each in published.changed} == {
        ("idle-01", 1),
        ("mixer-01", 1),
        ("press-01", 1),
    }
    assert (published.unchanged, published.left, published.written, published.collected) == (0, (), 7, 0)
    held = plant.renderer.repo.held("press-01", plant.renderer.refs())
    assert held is not None
    assert (plant.folder / "press-01" / MANIFEST_LINK).read_bytes() == held.manifest
    contents = {path.read_bytes() for path in plant.folder.glob("press-01/api/v1/deployments/*/*")}
    assert contents == set(FIRST["press-01"].values())
    assert_consistent(plant.folder)
    assert differences(plant.renderer.repo, plant.target) == []


def test_a_second_run_with_nothing_new_writes_nothing(plant: Plant):
    plant.publish(FIRST)
    before = everything(plant.folder)
    plant.now += HOUR
    published = plant.publish()
    assert (published.changed, published.unchanged, published.written) == ((), 3, 0)
    assert everything(plant.folder) == before


def test_only_what_changed_is_written(plant: Plant):
    plant.publish(FIRST)
    before = everything(plant.folder)
    published = plant.publish(SECOND)
    assert [(each.device, each.version) for each in published.changed] == [("press-01", 2)]
    assert published.written == 2  # the document and the bundle
    after = everything(plant.folder)
    assert {path for path in before if before[path] == after.get(path)} >= {
        path for path in before if Path(path).is_file() and not path.endswith("/manifest")
    }


def test_two_manifests_within_one_second_have_different_times(plant: Plant):
    """Web servers make ETags of time and size; both manifests have the same size."""
    plant.publish(FIRST)
    link = plant.folder / "press-01" / MANIFEST_LINK
    first = link.stat()
    plant.publish(SECOND)
    assert link.stat().st_size == first.st_size
    assert link.stat().st_mtime == first.st_mtime + 1
    plant.now -= HOUR
    plant.publish(FIRST)
    assert link.stat().st_mtime == first.st_mtime + 2


def test_replaced_content_stays_for_the_grace_period(plant: Plant):
    plant.publish(FIRST)
    [old] = [path for path in plant.folder.glob("press-01/api/v1/deployments/*/*") if path.read_bytes() == b"a: 1\n"]
    plant.now += 100 * HOUR
    plant.publish(SECOND)
    plant.now += 24 * HOUR
    assert plant.publish().collected == 0
    assert old.exists()
    plant.now += 1
    assert plant.publish().collected == 2
    assert not old.exists()
    assert len(list((plant.folder / "press-01" / "manifests").iterdir())) == 1
    assert_consistent(plant.folder)


def test_content_that_comes_back_is_not_collected(plant: Plant):
    plant.publish(FIRST)
    plant.publish(SECOND)
    plant.publish(FIRST)
    plant.now += 48 * HOUR
    plant.publish()
    assert_consistent(plant.folder)
    assert differences(plant.renderer.repo, plant.target) == []


def test_a_device_that_left_keeps_its_last_manifest(plant: Plant):
    plant.publish(FIRST)
    plant.render({name: content for name, content in FIRST.items() if name != "mixer-01"})
    plant.now += 1000 * HOUR
    assert plant.publish().changed == ()
    assert read_manifest((plant.folder / "mixer-01" / MANIFEST_LINK).read_bytes(), "").version == 1
    assert_consistent(plant.folder)


def test_a_device_that_the_state_repo_never_knew_keeps_its_last_manifest(plant: Plant, tmp_path: Path):
    plant.publish(FIRST)
    other = Plant(tmp_path / "other")
    other.render({"press-01": FIRST["press-01"]})
    plant.now += 1000 * HOUR
    published = publish(other.renderer.repo, plant.target, plant.keep)
    assert (published.changed, published.left) == ((), ("idle-01", "mixer-01"))
    assert len(list(plant.folder.glob(f"*/{MANIFEST_LINK}"))) == 3
    assert_consistent(plant.folder)


def test_f26_a_state_repo_from_an_old_backup_publishes_nothing(plant: Plant, tmp_path: Path):
    plant.render(FIRST)
    shutil.copytree(plant.renderer.repo.folder, tmp_path / "backup.git")
    plant.publish()
    plant.publish(SECOND)
    before = everything(plant.folder)
    restored = type(plant.renderer)(tmp_path / "backup.git")
    with pytest.raises(PublishGoesBack, match="ahead of the state repo") as refusal:
        publish(restored.repo, plant.target, plant.keep)
    assert list(refusal.value.why) == ["press-01: version 2 is published, the state repo holds version 1"]
    assert everything(plant.folder) == before


def test_f26_another_manifest_of_the_same_version_is_not_published(plant: Plant, tmp_path: Path):
    plant.publish(FIRST)
    other = Plant(tmp_path / "other")
    other.render(SECOND)
    with pytest.raises(PublishGoesBack):
        publish(other.renderer.repo, plant.target, plant.keep)


def test_a_tampered_state_repo_publishes_nothing(plant: Plant):
    plant.publish(FIRST)
    plant.render(SECOND)
    old = plant.renderer.git.run("rev-parse", "refs/heads/devices/press-01~1")
    plant.renderer.git.run("update-ref", "refs/heads/devices/press-01", old)
    before = everything(plant.folder)
    with pytest.raises(StateTampered):
        plant.publish()
    assert everything(plant.folder) == before


def test_one_publisher_at_a_time(plant: Plant):
    plant.publish(FIRST)
    with plant.target.exclusive(), pytest.raises(PublishBusy):
        plant.publish(SECOND)
    plant.publish(SECOND)
    assert_consistent(plant.folder)


def test_a_folder_of_somebody_else_is_refused(plant: Plant):
    plant.folder.mkdir()
    (plant.folder / "index.html").write_text("hello")
    with pytest.raises(PublishTargetUnusable, match="other files"):
        plant.publish(FIRST)
    assert [path.name for path in plant.folder.iterdir()] == ["index.html"]


def test_what_was_removed_by_hand_is_written_again(plant: Plant):
    plant.publish(FIRST)
    [bundle] = plant.folder.glob("mixer-01/api/v1/bundles/*")
    bundle.unlink()
    (plant.folder / "press-01" / MANIFEST_LINK).unlink()
    assert sorted(differences(plant.renderer.repo, plant.target)) == [
        f"mixer-01: api/v1/bundles/{bundle.name} is missing",
        "press-01: not published",
    ]
    published = plant.publish()
    assert (published.written, [each.device for each in published.changed]) == (1, ["press-01"])
    assert differences(plant.renderer.repo, plant.target) == []


def test_check_compares_every_byte(plant: Plant):
    plant.publish(FIRST)
    [bundle] = plant.folder.glob("mixer-01/api/v1/bundles/*")
    bundle.write_bytes(b"x")
    assert differences(plant.renderer.repo, plant.target) == [
        f"mixer-01: api/v1/bundles/{bundle.name} holds other bytes"
    ]
    plant.render(SECOND)
    assert "press-01: another manifest than version 2 of the state repo" in differences(
        plant.renderer.repo, plant.target
    )


class Died(BaseException):
    """What a killed process does: nothing more."""


def test_wherever_a_publisher_dies_every_manifest_finds_its_content(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    plant.publish(FIRST)
    calls = {"left": 0}

    def counted(original):
        def call(*arguments, **options):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise Died
            return original(*arguments, **options)

        return call

    for owner, name in ((os, "open"), (os, "fsync"), (os, "write"), (Path, "replace"), (Path, "symlink_to")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    plant.keep = 0.0
    deaths = 0
    while True:
        # Everything changes each time, and everything old is due for collection.
        content = {name: {"hmi": b"%d\n" % deaths, "new": b"%s %d\n" % (name.encode(), deaths)} for name in FIRST}
        calls["left"] = 0
        plant.render(content)
        plant.now += HOUR
        calls["left"] = deaths + 1
        try:
            plant.publish()
        except Died:
            deaths += 1
        else:
            break
        finally:
            calls["left"] = 0
            assert_consistent(plant.folder)
    assert deaths > 50
    plant.now += HOUR
    plant.publish()
    assert differences(plant.renderer.repo, plant.target) == []
    left = [path for path in plant.folder.rglob(".*") if path.name != LOCK_FILE]
    assert left == []
    assert len(list(plant.folder.glob("*/manifests/*"))) == 3


def test_an_object_is_named_by_what_it_is(plant: Plant):
    plant.publish(FIRST)
    content = read_manifest((plant.folder / "mixer-01" / MANIFEST_LINK).read_bytes(), "")
    deployment, bundle = content.objects
    assert isinstance(deployment, PublishedObject)
    assert deployment.path == f"api/v1/deployments/{deployment.deployment_id}/{deployment.digest}"
    assert (bundle.deployment_id, bundle.path) == (None, f"api/v1/bundles/{bundle.digest}")


@pytest.mark.parametrize(
    ("now", "gone"),
    [(40.0, set()), (130.0, set()), (131.0, {"a"}), (141.0, {"a", "b"}), (10_000.0, {"a", "b"})],
)
def test_a_manifest_expires_when_its_successor_is_old_enough(now: float, gone: set[str]):
    manifests = [DatedManifest("c", 40.0), DatedManifest("a", 20.0), DatedManifest("b", 30.0)]
    assert expired(manifests, "c", now, 100.0) == gone
