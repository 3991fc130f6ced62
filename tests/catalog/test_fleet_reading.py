"""Reading a whole fleet repo: every finding in one run, each with file, line and column."""

import os
import subprocess
from pathlib import Path

import pytest
from support.fleet import FleetFolder, profile

from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet import find_fleet, read_fleet
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.package import LOCK_FILE
from margo_gitops.errors import FleetInvalid, NoFleetRepo, UnreadableDocument


@pytest.fixture
def sound(fleet: FleetFolder) -> FleetFolder:
    fleet.site("north")
    fleet.device("press-01", site="north")
    fleet.application()
    fleet.deployment("web")
    fleet.read()
    return fleet


def findings(fleet: FleetFolder) -> list[str]:
    with pytest.raises(FleetInvalid) as caught:
        fleet.read()
    return [str(finding) for finding in caught.value.findings]


def test_the_template_of_init_is_a_sound_fleet(tmp_path: Path):
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    intent = fleet.read()
    assert sorted(intent.devices) == ["cell-01", "mixer-01", "press-01", "sensor-01"]
    assert sorted(intent.deployments) == ["greeting", "line-monitor"]
    states = fleet.render()
    assert {name: len(state.deployments) for name, state in states.items()} == {
        "cell-01": 1,
        "mixer-01": 2,
        "press-01": 2,
        "sensor-01": 1,
    }


def test_all_findings_of_all_files_come_in_one_run(sound: FleetFolder):
    sound.put("sites/south.yaml", "a: [\n")
    sound.put("devices/x.yaml", "apiVersion: margo-gitops/v1\nkind: Device\nmetadata: {name: x}\n")
    sound.change("deployments/web.yaml", '"placement"', '"placment"')
    sound.put("applications/app/1.0.0/more.txt", "changed")
    text = "\n".join(findings(sound))
    assert "sites/south.yaml:" in text
    assert "devices/x.yaml:" in text
    assert "deployments/web.yaml:" in text
    assert "did you mean placement?" in text
    assert "applications/app/1.0.0: app 1.0.0 is not what applications.lock pins" in text


@pytest.mark.parametrize(
    ("path", "content", "place", "problem"),
    [
        ("sites/a.yaml", "kind: Site\n  x: 1\n", "sites/a.yaml:2:", ""),
        ("sites/a.yaml", "kind: Site\nkind: Site\n", "sites/a.yaml:2:1", "twice"),
        ("sites/a.yaml", "kind: !!python/none Site\n", "sites/a.yaml:1:", "tag"),
        ("sites/a.yaml", "x: &a [1]\ny: *a\n", "sites/a.yaml:1:", ""),
        ("sites/a.yaml", "\ufeff", "sites/a.yaml", ""),
        ("sites/a.yaml", b"\xff\xfe\x00", "sites/a.yaml", ""),
        ("sites/a.yaml", "", "sites/a.yaml", ""),
        ("sites/a.yaml", "[" * 5000, "sites/a.yaml", ""),
        ("sites/a.yaml", b"x" * 5_000_000, "sites/a.yaml", "are possible"),
        ("sites/a.yml", "", "sites/a.yml", "rename it to sites/a.yaml"),
        ("devices/a.json", "{}", "devices/a.json", "rename it to devices/a.yaml"),
        ("margo-gitops.yaml", "kind: Other\n", "margo-gitops.yaml", ""),
        (LOCK_FILE, "kind: Other\n", LOCK_FILE, ""),
        (LOCK_FILE, "[", LOCK_FILE, ""),
    ],
)
def test_a_broken_file_is_a_finding_with_its_place(
    sound: FleetFolder, path: str, content: str | bytes, place: str, problem: str
):
    sound.put(path, content)
    assert any(each.startswith(place) and problem in each for each in findings(sound)), findings(sound)


def test_f25_features_that_do_not_exist_are_errors_and_never_ignored(sound: FleetFolder):
    """F25: what looks accepted and does nothing is worse than an error."""
    for key in ("rollout", "windows", "suspend", "rollback"):
        sound.deployment("web", **{key: {"maxUnavailable": 1}})
        (finding,) = findings(sound)
        assert f"{key}" in finding
        assert finding.startswith("deployments/web.yaml:")
    sound.deployment("web")
    sound.fleet(windows=[])
    (finding,) = findings(sound)
    assert "windows" in finding


def test_a_file_must_be_named_after_what_it_holds(sound: FleetFolder):
    (sound.root / "devices/press-01.yaml").rename(sound.root / "devices/press-02.yaml")
    (finding,) = findings(sound)
    assert finding.startswith("devices/press-02.yaml:")
    assert "not named after what it holds, press-01" in finding


def test_one_name_may_stand_in_one_file_only(sound: FleetFolder):
    sound.put("devices/hall/press-01.yaml", (sound.root / "devices/press-01.yaml").read_bytes())
    (finding,) = findings(sound)
    assert "press-01 is in" in finding


@pytest.mark.parametrize("path", ["devices/gw/press.yaml", "devices/gw_2fpress.yaml", "devices/hall/gw/press.yaml"])
def test_a_child_of_a_gateway_lies_in_a_folder_or_under_its_encoded_name(sound: FleetFolder, path: str):
    sound.device("gw")
    sound.device("gw/press")
    content = (sound.root / "devices/gw/press.yaml").read_bytes()
    sound.remove("devices/gw/press.yaml")
    sound.put(path, content)
    assert "gw/press" in sound.read().devices


def test_files_of_other_kinds_are_left_alone(sound: FleetFolder):
    sound.put("devices/README.md", "x")
    sound.put("sites/.gitkeep", "")
    sound.put("docs/a.yaml", "[")
    sound.read()


@pytest.mark.parametrize(
    "path", ["devices/press-01.yaml", "margo-gitops.yaml", LOCK_FILE, "applications/app/1.0.0/l.txt"]
)
def test_links_are_never_followed(sound: FleetFolder, path: str, tmp_path: Path):
    outside = tmp_path / "outside"
    place = sound.root / path
    outside.write_bytes(place.read_bytes() if place.exists() else b"secret")
    place.unlink(missing_ok=True)
    place.symlink_to(outside)
    assert len(findings(sound)) >= 1
    assert findings(sound)[0].startswith(path)


@pytest.mark.parametrize(
    "linked",
    ["devices", "devices/hall", "applications", "applications/app", "applications/app/1.0.0", "sites/north.yaml"],
)
def test_the_working_tree_is_read_like_a_commit_where_links_are(sound: FleetFolder, linked: str, tmp_path: Path):
    if linked == "devices/hall":
        (sound.root / linked).mkdir()
        (sound.root / "devices/press-01.yaml").rename(sound.root / linked / "press-01.yaml")
    place = sound.root / linked
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    sound.commit()
    repo = FleetRepo.find(sound.root)
    (_, found), (_, of_commit) = find_fleet(repo.working_tree()), find_fleet(repo.tree("HEAD"))
    assert [str(each) for each in found] == [str(each) for each in of_commit]
    assert (linked, "R101") in [(each.location.file, each.rule) for each in found if each.location]
    for path in ("devices/press-01.yaml", "devices/hall/press-01.yaml", "applications/app/1.0.0/margo.yaml"):
        ours, theirs = repo.working_tree().file(path), repo.tree("HEAD").file(path)
        assert (ours is None) == (theirs is None)


def test_a_package_with_a_link_is_one_finding_with_the_path_from_the_root(sound: FleetFolder):
    (sound.root / "applications/app/1.0.0/link").symlink_to("margo.yaml")
    (finding,) = findings(sound)
    assert finding.startswith("applications/app/1.0.0/link: ")
    assert "symbolic link" in finding


def test_pipes_and_other_special_files_are_findings_and_block_nothing(sound: FleetFolder):
    os.mkfifo(sound.root / "sites/pipe.yaml")
    (finding,) = findings(sound)
    assert finding.startswith("sites/pipe.yaml")


def test_an_application_must_be_pinned(sound: FleetFolder):
    sound.application("other", pin=False)
    (finding,) = findings(sound)
    assert "other 1.0.0 is not pinned" in finding
    sound.remove(LOCK_FILE)
    assert len(findings(sound)) == 2


@pytest.mark.parametrize("change", ["content", "added", "removed"])
def test_an_application_must_be_what_is_pinned(sound: FleetFolder, change: str):
    sound.put("applications/app/1.0.0/files/readme.txt", "x")
    sound.pin()
    sound.read()
    place = sound.root / "applications/app/1.0.0/files"
    if change == "removed":
        (place / "readme.txt").unlink()
    else:
        (place / ("readme.txt" if change == "content" else "more.txt")).write_text("y")
    (finding,) = findings(sound)
    assert "is not what applications.lock pins" in finding
    assert "app add" in finding


def test_what_is_pinned_must_be_there(sound: FleetFolder):
    sound.application("gone")
    sound.remove("applications/gone")
    (finding,) = findings(sound)
    assert finding.startswith(LOCK_FILE)
    assert "gone 1.0.0 is locked, but not in applications/" in finding


def test_a_package_lies_in_the_folder_of_its_id_and_version(sound: FleetFolder):
    (sound.root / "applications/app/1.0.0").rename(sound.root / "applications/app/1.0")
    assert any("must be applications/app/1.0.0" in each for each in findings(sound))


def test_no_fleet_file_means_no_fleet_repo(tmp_path: Path):
    with pytest.raises(NoFleetRepo) as caught:
        FleetFolder(tmp_path).read()
    assert "margo-gitops init" in caught.value.remedy


def test_a_name_that_is_no_utf_8_is_a_finding_that_can_be_printed(sound: FleetFolder):
    Path(os.fsdecode(bytes(sound.root / "sites") + b"/\xff.yaml")).write_bytes(b"[")
    (finding,) = findings(sound)
    assert "sites/" in finding.encode("utf-8", "backslashreplace").decode()


def test_a_deep_folder_is_no_crash(sound: FleetFolder):
    descriptor = os.open(sound.root / "sites", os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=descriptor)
            inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
    finally:
        os.close(descriptor)
    with pytest.raises(UnreadableDocument, match="more than 100 folders"):
        sound.read()
    # pytest's own cleaning would recurse as deep as it is.
    subprocess.run(["rm", "-rf", sound.root / "sites"], check=True)


def test_a_profile_without_a_type_is_a_finding_in_the_package(sound: FleetFolder):
    sound.application(deploymentProfiles=[{**profile(), "type": "docker"}], pin=False)
    (finding,) = findings(sound)
    assert "applications/app/1.0.0/margo.yaml:" in finding
    assert "type" in finding


@pytest.mark.parametrize("tree", ["disk", "commit"])
@pytest.mark.parametrize("folder", ["deployments", "devices", "sites", "applications"])
@pytest.mark.parametrize("as_what", ["link", "file", "submodule", "other case"])
def test_a_folder_that_is_none_is_a_finding_and_never_an_empty_fleet(
    sound: FleetFolder, tree: str, folder: str, as_what: str
):
    if as_what == "submodule" and tree == "disk":
        pytest.skip("on disk a submodule is a folder")
    place = sound.root / folder
    moved = sound.root / ("moved" if as_what != "other case" else folder.capitalize())
    if place.exists():
        place.rename(moved)
    if as_what == "link":
        place.symlink_to("moved")
    elif as_what == "file":
        place.write_text("")
    elif as_what == "other case":
        moved.mkdir(exist_ok=True)
        (moved / "x.yaml").write_text("")
    sound.git.init()
    if as_what == "submodule":
        sound.git.run("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{folder}")
        sound.git.run("commit", "--quiet", "--message", "x", "--allow-empty")
        sound.git.run("add", "margo-gitops.yaml")
    else:
        sound.git.run("add", "--all")
    sound.git.run("commit", "--quiet", "--message", "x", "--allow-empty")
    with pytest.raises(FleetInvalid) as caught:
        read_fleet(DiskTree(sound.root) if tree == "disk" else FleetRepo.find(sound.root).tree("HEAD"))
    names = {finding.location.file for finding in caught.value.findings if finding.location}
    assert names & {folder, folder.capitalize()}
