"""Application packages: what is checked before one is used, and how one is vendored and pinned."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.fleet import FleetFolder, profile
from support.git_cli import Git

from margo_gitops.appliers.archives import unpack
from margo_gitops.catalog import package as package_module
from margo_gitops.catalog.file_tree import DiskTree
from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.catalog.package import LOCK_FILE, Package, locked_digests, read_package
from margo_gitops.catalog.vendor import add_package
from margo_gitops.digests import folder_digest, sha256
from margo_gitops.errors import MargoGitopsError, NoFleetRepo, PackageExists, PackageInvalid


@pytest.fixture
def supplier(tmp_path: Path) -> FleetFolder:
    """A folder in which a supplier writes packages, `applications/app/1.0.0`."""
    return FleetFolder(tmp_path / "supplier")


def with_artifact(artifact: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    result = profile(**more)
    result["components"][0]["x-margo-gitops-extensions"] = {"artifact": artifact}
    return [result]


def read(supplier: FleetFolder) -> Package:
    return read_package(DiskTree(supplier.root / "applications/app/1.0.0"), "app/")


def refusal(supplier: FleetFolder) -> str:
    with pytest.raises(PackageInvalid) as caught:
        read(supplier)
    return str(caught.value)


def test_the_digest_of_a_package_is_that_of_its_file_list(supplier: FleetFolder):
    supplier.application(pin=False)
    supplier.put("applications/app/1.0.0/resources/icon.png", b"\x89PNG")
    description = (supplier.root / "applications/app/1.0.0/margo.yaml").read_bytes()
    expected = folder_digest({"margo.yaml": sha256(description), "resources/icon.png": sha256(b"\x89PNG")})
    assert read(supplier).application.digest == expected


@pytest.mark.parametrize("key", ["descriptionFile", "icon", "licenseFile", "releaseNotes"])
def test_a_resource_that_is_named_must_be_there(supplier: FleetFolder, key: str):
    catalog = {"organization": [{"name": "E"}], "application": {key: "./resources/file"}}
    supplier.application(pin=False, metadata={"name": "App", "version": "1.0.0", "catalog": catalog})
    text = refusal(supplier)
    assert "the package has no file ./resources/file" in text
    assert "app/margo.yaml:" in text
    supplier.put("applications/app/1.0.0/resources/file", "x")
    read(supplier)


def test_a_resource_may_lie_at_a_url(supplier: FleetFolder):
    catalog = {"organization": [{"name": "E"}], "application": {"icon": "https://example.com/icon.png"}}
    supplier.application(pin=False, metadata={"name": "App", "version": "1.0.0", "catalog": catalog})
    read(supplier)


def test_a_folder_without_description_is_no_package(supplier: FleetFolder):
    supplier.put("applications/app/1.0.0/readme.md", "x")
    assert "holds no margo.yaml" in refusal(supplier)


@pytest.mark.parametrize("content", ["[", "kind: Site\n", "", "apiVersion: v1\n"])
def test_a_description_that_is_none_is_refused_with_its_place(supplier: FleetFolder, content: str):
    supplier.put("applications/app/1.0.0/margo.yaml", content)
    with pytest.raises(MargoGitopsError) as caught:
        read(supplier)
    assert "app/margo.yaml" in str(caught.value)


@pytest.mark.parametrize("version", ["1.0.0+5", "v 1", "-1"])
def test_a_version_must_be_possible_as_an_oci_tag(supplier: FleetFolder, version: str):
    supplier.application(version=version, pin=False)
    with pytest.raises(PackageInvalid, match="is not an OCI tag"):
        read_package(DiskTree(supplier.root / f"applications/app/{version}"))


def test_links_in_a_package_are_refused(supplier: FleetFolder, tmp_path: Path):
    supplier.application(pin=False)
    (supplier.root / "applications/app/1.0.0/secret").symlink_to(tmp_path / "anything")
    assert "app/secret: app/secret" in refusal(supplier) or "secret is a symbolic link" in refusal(supplier)


def test_a_package_has_bounds(supplier: FleetFolder, monkeypatch: pytest.MonkeyPatch):
    supplier.application(pin=False)
    monkeypatch.setattr(package_module, "MAX_FILES", 3)
    for number in range(2):
        supplier.put(f"applications/app/1.0.0/{number}", "")
    read(supplier)
    supplier.put("applications/app/1.0.0/3", "")
    assert "may hold 3 files" in refusal(supplier)
    monkeypatch.setattr(package_module, "MAX_FILES", 4)
    monkeypatch.setattr(package_module, "MAX_BYTES", 100)
    assert "100 bytes together" in refusal(supplier)


def test_a_component_may_bring_its_content_as_a_folder(supplier: FleetFolder):
    supplier.put("applications/app/1.0.0/files/compose.yaml", "services: {}\n")
    supplier.application(pin=False, deploymentProfiles=with_artifact({"path": "files"}))
    content = read(supplier).application.contents["compose", "compose"]
    assert (content.location, content.is_folder) == ("app/1.0.0/files", True)
    assert content.digest == folder_digest({"compose.yaml": sha256(b"services: {}\n")})


def test_a_component_may_bring_its_content_as_an_archive(supplier: FleetFolder):
    place = supplier.put("applications/app/1.0.0/files.tar.gz", "")
    with tarfile.open(place, "w:gz"):
        pass
    supplier.application(pin=False, deploymentProfiles=with_artifact({"path": "files.tar.gz"}))
    content = read(supplier).application.contents["compose", "compose"]
    assert (content.digest, content.is_folder) == (sha256(place.read_bytes()), False)


def test_a_component_may_name_its_content_by_url_and_digest(supplier: FleetFolder):
    artifact = {"url": "https://files.example.com/a.tar.gz", "digest": "sha256:" + "0" * 64}
    supplier.application(pin=False, deploymentProfiles=with_artifact(artifact))
    assert read(supplier).application.contents["compose", "compose"].location == artifact["url"]


@pytest.mark.parametrize(
    ("artifact", "problem"),
    [
        ({"path": "nosuch"}, "the package has no nosuch"),
        ({"path": "empty"}, "empty holds no compose.yaml"),
        ({"path": "margo.yaml"}, "neither a folder nor a tar.gz"),
        ({"path": "../other"}, "relative path"),
        ({"path": "/etc"}, "relative path"),
        ({"path": "a/../../b"}, "relative path"),
        ({}, "exactly one of path and url"),
        ({"path": "empty", "url": "https://e.example.com/a"}, "exactly one of path and url"),
        ({"url": "https://e.example.com/a"}, "url and digest go together"),
        ({"url": "http://e.example.com/a", "digest": "sha256:" + "0" * 64}, "https://"),
        ({"url": "https://e.example.com/a", "digest": "md5:0"}, "digest"),
        ({"paht": "files"}, "did you mean path?"),
    ],
)
def test_content_that_leads_nowhere_is_refused_with_its_place(
    supplier: FleetFolder, artifact: dict[str, Any], problem: str
):
    supplier.put("applications/app/1.0.0/empty/readme.md", "")
    supplier.application(pin=False, deploymentProfiles=with_artifact(artifact))
    text = refusal(supplier)
    assert problem in text
    assert "app/margo.yaml:" in text


def test_profiles_that_share_a_component_name_the_same_content(supplier: FleetFolder):
    for folder in ("one", "two"):
        supplier.put(f"applications/app/1.0.0/{folder}/compose.yaml", folder)
    profiles = with_artifact({"path": "one"}) + with_artifact({"path": "two"})
    profiles[1]["id"] = "second"
    supplier.application(pin=False, deploymentProfiles=profiles)
    assert "must name the same content" in refusal(supplier)
    profiles[1]["type"] = "helm"
    supplier.application(pin=False, deploymentProfiles=profiles)
    contents = read(supplier).application.contents
    assert {kind: each.location for (kind, _), each in contents.items()} == {
        "compose": "app/1.0.0/one",
        "helm": "app/1.0.0/two",
    }
    del profiles[1]["components"][0]["x-margo-gitops-extensions"]
    supplier.application(pin=False, deploymentProfiles=profiles)
    assert {each.location for each in read(supplier).application.contents.values()} == {"app/1.0.0/one"}


def test_only_a_component_of_a_custom_profile_has_a_format(supplier: FleetFolder):
    supplier.put("applications/app/1.0.0/web/web.yaml", "{}\n")
    profiles = with_artifact({"path": "web"})
    profiles[0] |= {"type": "custom"}
    profiles[0]["components"][0]["x-margo-gitops-extensions"]["format"] = "kubernetes"
    supplier.application(pin=False, deploymentProfiles=profiles)
    assert read(supplier).findings == ()
    profiles[0] |= {"type": "helm"}
    supplier.application(pin=False, deploymentProfiles=profiles)
    assert "the profile's type is helm, which says what the content is" in refusal(supplier)
    profiles[0]["components"][0]["x-margo-gitops-extensions"] = {}
    supplier.application(pin=False, deploymentProfiles=profiles)
    assert "names no artifact" in refusal(supplier)


# app add


@pytest.fixture
def source(supplier: FleetFolder) -> Path:
    supplier.put("applications/app/1.0.0/resources/readme.md", "hello")
    supplier.application(pin=False)
    return supplier.root / "applications/app/1.0.0"


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_adding_copies_the_package_and_pins_it(fleet: FleetFolder, source: Path):
    vendored = add_package(source, FleetRepo.find(fleet.root))
    assert (vendored.outcome, vendored.folder) == ("added", "applications/app/1.0.0")
    assert everything(fleet.root / vendored.folder) == everything(source)
    assert locked_digests((fleet.root / LOCK_FILE).read_bytes()) == {
        ("app", "1.0.0"): vendored.package.application.digest
    }
    assert ("app", "1.0.0") in fleet.read().applications


def test_adding_the_same_again_changes_nothing(fleet: FleetFolder, source: Path):
    add_package(source, FleetRepo.find(fleet.root))
    before = everything(fleet.root)
    assert add_package(source, FleetRepo.find(fleet.root)).outcome == "unchanged"
    assert everything(fleet.root) == before


def test_a_vendored_package_can_be_added_onto_itself_to_pin_it(fleet: FleetFolder, source: Path):
    add_package(source, FleetRepo.find(fleet.root))
    fleet.remove(LOCK_FILE)
    assert add_package(fleet.root / "applications/app/1.0.0", FleetRepo.find(fleet.root)).outcome == "unchanged"
    fleet.read()


def test_folders_of_content_become_archives_that_are_the_same_everywhere(fleet: FleetFolder, source: Path):
    """In any style of YAML, for a component in two profiles, and for content that is an archive already."""
    head = "apiVersion: v1\r\nid: app\r\nmetadata: {name: A, version: 1.0.0, catalog: {organization: [{name: E}]}}\r\n"
    profile = (
        "- type: compose\r\n  id: a\r\n  components:\r\n  - name: hmi\r\n"
        "    properties: {repository: 'oci://r.example.com/hmi', revision: 1.0.0}\r\n"
        '    x-margo-gitops-extensions: {artifact: {path: "components/hmi"}}  # components/hmi\r\n'
    )
    other = profile.replace("compose", "custom").replace("id: a", "id: b")
    files = other.replace("id: b", "id: c").replace("hmi", "files")
    text = f"{head}deploymentProfiles:\r\n{profile}{other}{files}"
    (source / "margo.yaml").write_bytes(text.encode())
    shutil.rmtree(source / "resources")
    for path, content in {
        "hmi/compose.yaml": "services: {a: {image: b}}\n",
        "hmi/sub/Über": "x",
        "files/data.csv": "1",
    }.items():
        place = source / "components" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    vendored = add_package(source, FleetRepo.find(fleet.root), pack=True)
    there = fleet.root / vendored.folder
    assert sorted(everything(there / "components")) == ["files.tar.gz", "hmi.tar.gz"]
    changed = text.replace('components/hmi"', 'components/hmi.tar.gz"')
    assert (there / "margo.yaml").read_bytes().decode() == changed.replace('/files"', '/files.tar.gz"')
    for name, inside in {"hmi": ["hmi/compose.yaml", "hmi/sub/Über"], "files": ["data.csv"]}.items():
        place = fleet.root / f"unpacked-{name}"
        place.mkdir()
        with (there / f"components/{name}.tar.gz").open("rb") as archive:
            unpack(archive, place)
        assert sorted(everything(place)) == inside
    digest = "sha256:9b086839e05a84a0f85101414fdae17a586eaf4e869fdf3f61addfd2dd40ed98"
    assert sha256((there / "components/files.tar.gz").read_bytes()) == digest
    assert add_package(there, FleetRepo.find(fleet.root), pack=True).outcome == "unchanged"
    assert (source / "components/hmi/compose.yaml").exists(), "the supplier's folder stays as it is"


def test_a_version_is_published_once(fleet: FleetFolder, source: Path):
    add_package(source, FleetRepo.find(fleet.root))
    before = everything(fleet.root)
    (source / "resources/readme.md").write_text("other")
    with pytest.raises(PackageExists) as caught:
        add_package(source, FleetRepo.find(fleet.root))
    assert "raise the version" in caught.value.remedy
    assert everything(fleet.root) == before
    assert add_package(source, FleetRepo.find(fleet.root), replace=True).outcome == "replaced"
    assert (fleet.root / "applications/app/1.0.0/resources/readme.md").read_text() == "other"
    fleet.read()


def test_replacing_removes_files_that_the_new_content_lacks(fleet: FleetFolder, source: Path):
    add_package(source, FleetRepo.find(fleet.root))
    (source / "resources/readme.md").unlink()
    add_package(source, FleetRepo.find(fleet.root), replace=True)
    assert everything(fleet.root / "applications") == {"app/1.0.0/margo.yaml": (source / "margo.yaml").read_bytes()}


def test_a_package_with_findings_leaves_the_fleet_untouched(fleet: FleetFolder, source: Path):
    (source / "margo.yaml").write_text("kind: nothing\n")
    before = sorted(fleet.root.rglob("*"))
    with pytest.raises(MargoGitopsError):
        add_package(source, FleetRepo.find(fleet.root))
    assert sorted(fleet.root.rglob("*")) == before


def test_a_lock_that_cannot_be_read_leaves_the_fleet_untouched(fleet: FleetFolder, source: Path):
    for broken in (lambda: fleet.put(LOCK_FILE, "["), lambda: (fleet.root / LOCK_FILE).mkdir()):
        (fleet.root / LOCK_FILE).unlink(missing_ok=True)
        broken()
        before = sorted(fleet.root.rglob("*"))
        with pytest.raises(MargoGitopsError):
            add_package(source, FleetRepo.find(fleet.root))
        assert sorted(fleet.root.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(fleet: FleetFolder, source: Path):
    fleet.put("applications", "a file where a folder belongs")
    before = everything(fleet.root)
    with pytest.raises(PackageInvalid):
        add_package(source, FleetRepo.find(fleet.root))
    assert everything(fleet.root) == before


def test_a_package_goes_into_a_fleet_repo_only(source: Path, tmp_path: Path):
    with pytest.raises(NoFleetRepo):
        add_package(source, FleetRepo.find(Git(tmp_path / "nowhere").init().path))


@pytest.mark.parametrize("name", ["nosuch", "supplier/applications/app/1.0.0/margo.yaml"])
def test_the_source_must_be_a_folder(fleet: FleetFolder, source: Path, tmp_path: Path, name: str):
    with pytest.raises(PackageInvalid, match="is not a folder"):
        add_package(tmp_path / name, FleetRepo.find(fleet.root))
