"""A scaffold: what it holds, what its answers change, and what it never touches."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.fleet import FleetFolder
from support.git_cli import Git

from margo_gitops import __version__
from margo_gitops.catalog.file_tree import DiskTree, HeldTree
from margo_gitops.catalog.fleet import read_fleet
from margo_gitops.catalog.package_check import fleet_content_findings
from margo_gitops.editing.edit import read_base
from margo_gitops.editing.landing import write_edit
from margo_gitops.editing.places import add_site
from margo_gitops.errors import ScaffoldRefused
from margo_gitops.rendering.render import render
from margo_gitops.scaffolding.record import RECORD_FILE, read_record
from margo_gitops.scaffolding.scaffold import scaffold
from margo_gitops.scaffolding.template import Answers, CiKind, FirstSettings, fleet_files, tooling_files

SETTINGS = FirstSettings("../state.git", "https://artifacts.plant.example/applications/")


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    scaffold(tmp_path / "plant", Answers("plant"))
    return FleetFolder(tmp_path / "plant")


def test_its_fleet_is_the_templates(fleet: FleetFolder, tmp_path: Path) -> None:
    template = FleetFolder.from_template(tmp_path / "template")
    rendered = {name: state.manifest for name, state in fleet.render().items()}
    assert sorted(rendered) == ["cell-01", "mixer-01", "press-01", "sensor-01"]
    assert {device: fleet.read().devices[device].value for device in rendered} == {
        device: template.read().devices[device].value for device in rendered
    }


def test_every_document_names_its_schema_in_its_first_line_and_obeys_it(fleet: FleetFolder) -> None:
    documents = [path for each in ("sites", "devices", "deployments") for path in (fleet.root / each).glob("*.yaml")]
    assert len(documents) == 8
    for path in [*documents, fleet.root / "margo-gitops.yaml"]:
        first = path.read_text().split("\n")[0]
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        assert match, path
        schema = json.loads((path.parent / match[1]).read_text())
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_the_editors_schemas_are_there_and_need_no_network(fleet: FleetFolder) -> None:
    settings = json.loads((fleet.root / ".vscode/settings.json").read_text())
    for schema, pattern in settings["yaml.schemas"].items():
        text = (fleet.root / schema).read_text()
        assert not re.search(r'"\$ref": "[^#]', text), "a schema that is elsewhere"
        documents = [path for path in fleet.root.glob(pattern.removeprefix("/")) if path.is_file()]
        assert documents, pattern
        for path in documents:
            jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(text))


def test_nothing_is_left_to_fill_in(fleet: FleetFolder) -> None:
    for path in fleet.root.rglob("*"):
        if path.is_file() and ".git" not in path.relative_to(fleet.root).parts:
            assert not re.search(r"@(version|name|site|branch)@", path.read_text()), path
    assert (fleet.root / "README.md").read_text().startswith("# plant\n")


NAMES, SITES = ["plant", "1e3"], ["north", "no"]
STATES = ["../state #1: here.git", "ssh://git@git.plant.example:2222/state.git"]
URLS = ["file:///srv/a%20b/applications/", "https://[::1]:8443/"]


def test_it_renders_as_it_is_whatever_is_asked_for() -> None:
    for name, site, state, url, sign in product(NAMES, SITES, STATES, URLS, [False, True]):
        answers = Answers(name, site=site)
        answers.check()
        intent = read_fleet(HeldTree(fleet_files(answers, FirstSettings(state, url, sign))))
        assert sorted(each.device for each in render(intent, lambda _device: None)) == [
            *("cell-01", "mixer-01", "press-01", "sensor-01")
        ]
        spec = intent.fleet.value.spec
        assert (intent.fleet.value.metadata.name, spec.state_repo) == (name, state)
        assert spec.artifacts is not None
        assert spec.artifacts.base_url == url
        assert bool(spec.signing and spec.signing.required) is sign


@pytest.mark.parametrize("url", URLS)
def test_without_examples_it_renders_nothing_and_is_valid(url: str, tmp_path: Path) -> None:
    files = fleet_files(Answers("plant"), FirstSettings("../state.git", url, empty=True))
    assert sorted(files) == ["applications.lock", "margo-gitops.yaml"]
    assert [*render(read_fleet(HeldTree(files)), lambda _device: None)] == []
    made = scaffold(tmp_path / "plant", Answers("plant"), artifacts_url=url, empty=True)
    base = read_base(made.folder)
    write_edit(base, add_site(base, "east", {}, {}))
    assert sorted(FleetFolder(made.folder).read().sites) == ["east"]


@pytest.mark.parametrize("url", URLS)
def test_its_content_is_what_devices_can_fetch(url: str) -> None:
    tree = HeldTree(fleet_files(Answers("plant"), FirstSettings("../state.git", url)))
    intent = read_fleet(tree)
    kinds = {content.is_folder for each in intent.applications.values() for content in each.contents.values()}
    assert kinds == {url.startswith("file:")}
    assert [each for app in intent.applications.values() for each in fleet_content_findings(tree, app)] == []


@pytest.mark.parametrize(
    ("ci", "there"),
    [
        ("github", [True, False, True]),
        ("gitlab", [False, True, True]),
        ("gitea", [True, False, True]),
        ("both", [True] * 3),
        ("none", [False] * 3),
    ],
)
def test_only_the_pipelines_that_are_asked_for_are_there(ci: CiKind, there: list[bool]) -> None:
    files = tooling_files(Answers("plant", ci))
    paths = (".github/workflows/review.yml", ".gitlab-ci.yml", ".margo-gitops/ci/render.sh")
    assert [path in files for path in paths] == there
    paths = (".github/workflows/freshness.yml", ".gitlab-ci.yml", ".margo-gitops/ci/freshness.sh")
    assert [path in files for path in paths] == there
    assert "CODEOWNERS" in files


@pytest.mark.parametrize("site", ["basel", "no", "north-2", "007"])
def test_the_first_site_has_the_name_that_is_asked_for(site: str, tmp_path: Path) -> None:
    scaffold(tmp_path / "plant", Answers("plant", site=site))
    intent = read_fleet(DiskTree(tmp_path / "plant"))
    assert sorted(intent.sites) == sorted([site, "south"])
    at = [name for name, device in intent.devices.items() if device.value.spec.site == site]
    assert sorted(at) == ["press-01", "sensor-01"]
    assert f"/sites/{site}.yaml" in (tmp_path / "plant/CODEOWNERS").read_text()


@pytest.mark.parametrize("site", ["South", "south", "", "a b", "-a", "../x"])
def test_names_that_cannot_be_leave_nothing_behind(site: str, tmp_path: Path) -> None:
    with pytest.raises(ScaffoldRefused):
        scaffold(tmp_path / "plant", Answers("plant", site=site))
    assert list(tmp_path.iterdir()) == []


def test_a_clones_own_branch_is_the_one_that_pipelines_render(tmp_path: Path) -> None:
    Git(tmp_path / "plant").init().run("symbolic-ref", "HEAD", "refs/heads/trunk")
    scaffold(tmp_path / "plant", Answers("plant"))
    workflow = yaml.safe_load((tmp_path / "plant/.github/workflows/render.yml").read_text())
    assert workflow[True]["push"]["branches"] == ["trunk"]  # YAML 1.1 takes "on" for a boolean; GitHub does not
    assert workflow["jobs"]["render"]["if"] == "github.ref == 'refs/heads/trunk'"
    assert read_record((tmp_path / "plant" / RECORD_FILE).read_bytes()).answers.branch == "trunk"


def test_a_fleet_that_signs_says_so() -> None:
    text = fleet_files(Answers("plant"), FirstSettings("../s.git", "file:///a/", sign=True))["margo-gitops.yaml"]
    assert yaml.safe_load(text)["spec"]["signing"] == {"required": True}
    assert "signing" not in yaml.safe_load(fleet_files(Answers("plant"), SETTINGS)["margo-gitops.yaml"])["spec"]


def test_git_keeps_every_file(fleet: FleetFolder) -> None:
    git = Git(fleet.root)
    tracked = set(git.run("ls-files").splitlines())
    there = {
        path.relative_to(fleet.root).as_posix()
        for path in fleet.root.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(fleet.root).parts
    }
    assert tracked == there
    assert {".gitignore", ".editorconfig", ".gitattributes", ".vscode/settings.json"} <= tracked


def test_the_record_holds_what_the_scaffold_wrote(fleet: FleetFolder) -> None:
    record = read_record((fleet.root / RECORD_FILE).read_bytes())
    assert (record.version, record.answers) == (__version__, Answers("plant"))
    files = tooling_files(Answers("plant"))
    assert sorted(record.by_path()) == sorted(files)
    for path, file in record.by_path().items():
        assert file.text == (None if "/schemas/" in path else files[path].decode())
        assert (fleet.root / path).read_bytes() == files[path]
