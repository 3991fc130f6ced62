"""An edit is checked like a merge request, written whole or not at all, or committed without touching anything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.fleet import FleetFolder, parameter, rules, write_signing_key
from support.git_cli import GIT_ENVIRONMENT
from support.real import require_program

from margo_gitops.catalog.fleet_repo import FleetRepo
from margo_gitops.documents.constraints import DeviceSelector
from margo_gitops.editing.deploy import DeployRequest, deploy
from margo_gitops.editing.devices import DeviceRequest, add_device, read_capabilities_file
from margo_gitops.editing.edit import Edit, EditedTree, FileChange, make_edit, read_base, unified_diff
from margo_gitops.editing.landing import branch_start, check_edit, commit_edit, write_edit
from margo_gitops.editing.round_trip import schema_line
from margo_gitops.errors import (
    CommitNotMade,
    EditImpossible,
    EditRefused,
    FilesNotWritten,
    ParameterNotTyped,
    ReferenceUnknown,
)

ALL = DeviceSelector(all=True)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetFolder:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in GIT_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    fleet = FleetFolder.empty(tmp_path / "fleet")
    fleet.site("north")
    fleet.device("press-01", site="north", labels={"line": 1})
    fleet.application(
        parameters={"setting": parameter(value=1)}, configuration=rules({"dataType": "integer", "maxValue": 9})
    )
    fleet.deployment("app", on=["press-01"])
    fleet.commit("Start")
    return fleet


def on_disk(fleet: FleetFolder) -> dict[str, bytes]:
    files = [path for path in fleet.root.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(fleet.root).as_posix(): path.read_bytes() for path in files}


def test_a_deployment_is_created_as_people_would_write_it(fleet: FleetFolder):
    base = read_base(fleet.root)
    request = DeployRequest("app", name="second", placement=DeviceSelector(sites=("north",)), parameters={"setting": 2})
    edit = deploy(base, request)
    assert (edit.title, edit.branch) == ("Deploy second 1.0.0", "deploy-second-1.0.0")
    assert check_edit(base, edit) == []
    write_edit(base, edit)
    assert (fleet.root / "deployments/second.yaml").read_text() == (
        "apiVersion: margo-gitops/v1\n"
        "kind: Deployment\n"
        "metadata:\n"
        "  name: second\n"
        "spec:\n"
        "  application:\n"
        "    id: app\n"
        "    version: 1.0.0\n"
        "  placement:\n"
        "    sites: [north]\n"
        "  parameters:\n"
        "    setting: 2\n"
    )
    assert fleet.read().deployments["second"].value.spec.parameters == {"setting": 2}


def test_a_change_that_is_there_already_changes_nothing(fleet: FleetFolder):
    base = read_base(fleet.root)
    assert deploy(base, DeployRequest("app", "1.0.0", placement=DeviceSelector(devices=("press-01",)))).changes == ()


def test_parameters_are_set_and_taken_out(fleet: FleetFolder):
    for request in (DeployRequest("app", parameters={"setting": 2}), DeployRequest("app", unset=("setting",))):
        base = read_base(fleet.root)
        write_edit(base, deploy(base, request))
        assert fleet.read().deployments["app"].value.spec.parameters == request.parameters
    with pytest.raises(EditImpossible, match="does not set setting"):
        deploy(read_base(fleet.root), DeployRequest("app", unset=("setting",)))


IMPOSSIBLE = {
    "unknown application": (DeployRequest("ap", placement=ALL), ReferenceUnknown, "did you mean app"),
    "unknown version": (
        DeployRequest("app", "2.0.0", placement=ALL),
        ReferenceUnknown,
        "versions in this fleet repo: 1.0.0",
    ),
    "unknown parameter": (DeployRequest("app", parameters={"seting": 1}), ParameterNotTyped, "did you mean setting"),
    "value out of bounds": (DeployRequest("app", parameters={"setting": 10}), ParameterNotTyped, "at most 9"),
    "new without a place": (DeployRequest("app", name="new"), EditImpossible, "say where it goes"),
    "no name": (DeployRequest("app", name="New!", placement=ALL), EditImpossible, "not a name for a deployment"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_deployed_is_refused(fleet: FleetFolder, case: str):
    request, error, said = IMPOSSIBLE[case]
    with pytest.raises(error, match=said):
        deploy(read_base(fleet.root), request)


def test_several_deployments_of_an_application_must_be_told_apart(fleet: FleetFolder):
    fleet.deployment("other", on=["press-01"])
    with pytest.raises(EditImpossible, match="app, other"):
        deploy(read_base(fleet.root), DeployRequest("app", parameters={"setting": 2}))
    fleet.application("second")
    with pytest.raises(EditImpossible, match="is of the application app"):
        deploy(read_base(fleet.root), DeployRequest("second", name="other"))


def test_an_edit_that_breaks_the_fleet_is_refused_with_the_findings(fleet: FleetFolder):
    base = read_base(fleet.root)
    edit = deploy(base, DeployRequest("app", placement=DeviceSelector(devices=("press-09",))))
    with pytest.raises(EditRefused) as refused:
        check_edit(base, edit)
    assert "deployments/app.yaml" in str(refused.value)
    assert "press-09 is not a device" in str(refused.value)


def test_an_error_that_was_there_before_does_not_stop_another_edit(fleet: FleetFolder):
    fleet.deployment("broken", on=["press-09"])
    base = read_base(fleet.root)
    notes = check_edit(base, deploy(base, DeployRequest("app", name="app", parameters={"setting": 2})))
    assert len(notes) == 1
    assert "1 error already" in notes[0]


def test_a_file_that_changed_meanwhile_is_not_overwritten(fleet: FleetFolder):
    base = read_base(fleet.root)
    edit = deploy(base, DeployRequest("app", parameters={"setting": 2}))
    fleet.change("deployments/app.yaml", "press-01", "press-02")
    before = on_disk(fleet)
    with pytest.raises(FilesNotWritten, match="not what the change was made for"):
        write_edit(base, edit)
    assert on_disk(fleet) == before


def test_if_one_file_cannot_be_written_the_others_are_put_back(fleet: FleetFolder):
    fleet.put("blocked", "a file where a folder is needed")
    before = on_disk(fleet)
    base = read_base(fleet.root)
    old = base.intent.deployments["app"].content
    changes = [FileChange("deployments/app.yaml", old, b"other"), FileChange("blocked/new.yaml", None, b"new")]
    for order in (changes, changes[::-1]):
        with pytest.raises(FilesNotWritten):
            write_edit(base, Edit("t", "b", tuple(order)))
        assert on_disk(fleet) == before


def test_nothing_is_written_through_a_link(fleet: FleetFolder, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (fleet.root / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(FilesNotWritten, match="a link is in the way"):
        write_edit(read_base(fleet.root), Edit("t", "b", (FileChange("linked/x.yaml", None, b"x"),)))
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_commit_touches_no_file_index_or_branch_of_the_person(fleet: FleetFolder):
    fleet.put("devices/draft.yaml", "not: ready")
    fleet.change("deployments/app.yaml", "1.0.0", "9.9.9")
    fleet.git.run("add", "deployments/app.yaml")
    status, head, before = fleet.git.run("status", "--porcelain"), fleet.git.run("rev-parse", "HEAD"), on_disk(fleet)
    index = (fleet.root / ".git/index").read_bytes()
    base = read_base(fleet.root, branch_start(read_base(fleet.root).repo, None))
    edit = deploy(base, DeployRequest("app", parameters={"setting": 2}))
    check_edit(base, edit)
    branch, commit = commit_edit(base, edit, None)
    assert branch == "deploy-app-1.0.0"
    assert (fleet.root / ".git/index").read_bytes() == index
    assert (fleet.git.run("status", "--porcelain"), fleet.git.run("rev-parse", "HEAD"), on_disk(fleet)) == (
        status,
        head,
        before,
    )
    assert fleet.git.run("symbolic-ref", "HEAD") == "refs/heads/main"
    assert fleet.git.run("diff", "--name-status", head, commit) == "M\tdeployments/app.yaml"
    assert fleet.git.run("log", "-1", "--format=%an <%ae> %s %P", branch) == (
        f"Ada Author <ada@example.com> Deploy app 1.0.0 {head}"
    )
    assert fleet.git.run("fsck", "--strict") == ""


def committed(fleet: FleetFolder, setting: int, branch: str | None) -> tuple[str, str]:
    base = read_base(fleet.root, branch_start(read_base(fleet.root).repo, branch))
    return commit_edit(base, deploy(base, DeployRequest("app", parameters={"setting": setting})), branch)


def test_a_branch_that_is_named_gets_one_commit_more(fleet: FleetFolder):
    _, first = committed(fleet, 2, "mine")
    _, second = committed(fleet, 3, "mine")
    assert fleet.git.run("rev-parse", "mine", "mine~1") == f"{second}\n{first}"


def test_branches_are_not_overwritten(fleet: FleetFolder):
    committed(fleet, 2, None)
    with pytest.raises(CommitNotMade, match=r"deploy-app-1\.0\.0 already"):
        committed(fleet, 3, None)
    with pytest.raises(CommitNotMade, match="is checked out"):
        committed(fleet, 3, "main")
    for name in ("-x", "a..b", "a b", ""):
        with pytest.raises(CommitNotMade, match="not a name for a branch"):
            committed(fleet, 3, name)


def test_a_branch_that_moved_meanwhile_is_not_moved_back(fleet: FleetFolder):
    committed(fleet, 2, "mine")
    base = read_base(fleet.root, "refs/heads/mine")
    edit = deploy(base, DeployRequest("app", parameters={"setting": 3}))
    _, other = committed(fleet, 4, "mine")
    with pytest.raises(CommitNotMade, match="cannot be set"):
        commit_edit(base, edit, "mine")
    assert fleet.git.run("rev-parse", "mine") == other


def test_a_commit_is_signed_as_git_is_told_to(fleet: FleetFolder, tmp_path: Path):
    require_program("ssh-keygen", "openssh-client")
    key = write_signing_key(tmp_path / "key")
    signers = f"* {key.with_name('key.allowed').read_text().partition(' ')[2]}"
    key.with_name("key.allowed").write_text(signers)
    for name, value in (
        ("commit.gpgSign", "true"),
        ("gpg.format", "ssh"),
        ("user.signingKey", str(key)),
        ("gpg.ssh.allowedSignersFile", f"{key}.allowed"),
    ):
        fleet.git.run("config", name, value)
    _, commit = committed(fleet, 2, None)
    assert fleet.git.run("log", "-1", "--format=%G?", commit) == "G"


def test_git_must_know_who_commits(fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch):
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.delenv(f"GIT_{name}")
    with pytest.raises(CommitNotMade, match="who you are") as refused:
        committed(fleet, 2, None)
    assert "git config --global user.name" in refused.value.remedy
    assert fleet.git.run("branch", "--list", "deploy-*") == ""


def test_a_device_is_added_from_any_shape_of_its_capabilities(fleet: FleetFolder, tmp_path: Path):
    file = tmp_path / "capabilities.json"
    file.write_text(
        '{"apiVersion": "device.margo/v1", "kind": "DeviceCapabilitiesManifest", "properties": {"id": "Press/B.2",'
        ' "vendor": "N", "modelNumber": "1", "serialNumber": "2", "own": {"kept": true},'
        ' "memory": "8 Gi", "supportedDeploymentTypes": ["compose"]}}'
    )
    fleet.device("Press")
    base = read_base(fleet.root)
    edit = add_device(base, DeviceRequest("Press/B.2", read_capabilities_file(file), "north", {"line": 1}))
    check_edit(base, edit)
    assert [change.path for change in edit.changes] == ["devices/_50ress_2f_42.2.yaml"]
    write_edit(base, edit)
    device = fleet.read().devices["Press/B.2"].value
    assert device.spec.site == "north"
    assert "own:\n" in (fleet.root / edit.changes[0].path).read_text()


def test_a_device_is_updated_in_place(fleet: FleetFolder):
    text = (
        "# Hall 3\napiVersion: margo-gitops/v1\nkind: Device\nmetadata: {name: press-07}\nspec:\n"
        "  # as delivered\n  capabilities:\n    properties:\n      id: press-07\n      vendor: Northstar\n"
        "      modelNumber: A   # old\n      serialNumber: '1'\n"
    )
    fleet.put("devices/press-07.yaml", text)
    base = read_base(fleet.root)
    properties = {"id": "press-07", "vendor": "Northstar", "modelNumber": "B", "serialNumber": "1", "memory": "8 Gi"}
    request = DeviceRequest("press-07", {"properties": dict(properties)}, "north", {"line": 2}, update=True)
    write_edit(base, add_device(base, request))
    made = (fleet.root / "devices/press-07.yaml").read_text()
    assert made == (
        "# Hall 3\napiVersion: margo-gitops/v1\nkind: Device\nmetadata: {name: press-07, labels: {line: 2}}\nspec:\n"
        "  # as delivered\n  capabilities:\n    properties:\n      id: press-07\n      vendor: Northstar\n"
        "      modelNumber: B   # old\n      serialNumber: '1'\n      memory: \"8 Gi\"\n  site: north\n"
    )


def test_devices_that_are_there_or_not_are_told_apart(fleet: FleetFolder):
    base = read_base(fleet.root)
    with pytest.raises(EditImpossible, match="--update"):
        add_device(base, DeviceRequest("press-01", {}))
    with pytest.raises(EditImpossible, match="leave out --update"):
        add_device(base, DeviceRequest("press-02", {}, update=True))
    with pytest.raises(EditImpossible, match="not a device id"):
        add_device(base, DeviceRequest("a b", {}))
    with pytest.raises(EditImpossible, match="--capabilities"):
        add_device(base, DeviceRequest("press-02", None))


@pytest.mark.parametrize("device", ["../x", "a/../../x", ".hidden", "Con", "con/x"])
def test_no_device_id_leads_out_of_its_folder(fleet: FleetFolder, device: str):
    edit = add_device(read_base(fleet.root), DeviceRequest(device, {}))
    assert [Path(change.path).parent for change in edit.changes] == [Path("devices")]


SCHEMA = "# yaml-language-server: $schema=../.schemas/{}.schema.json\n"


@pytest.mark.parametrize("example", ["devices/a.yaml", "devices/hall/b.yaml", "margo-gitops.yaml"])
def test_a_new_file_names_its_schema_as_the_other_files_do(fleet: FleetFolder, example: str):
    kind = "fleet" if example == "margo-gitops.yaml" else "device"
    up = "../" * example.count("/") or "./"
    fleet.put(example, f"# yaml-language-server: $schema={up}.schemas/{kind}.schema.json\n{{}}\n")
    tree = FleetRepo.find(fleet.root).working_tree()
    assert schema_line(tree, "device", "devices/new.yaml") == SCHEMA.format("device")
    assert (
        schema_line(tree, "device", "devices/gateway/new.yaml")
        == "# yaml-language-server: $schema=../../.schemas/device.schema.json\n"
    )
    if kind == "fleet":
        assert schema_line(tree, "deployment", "deployments/new.yaml") == SCHEMA.format("deployment")


def test_an_edited_tree_is_the_tree_with_the_edit(fleet: FleetFolder):
    base = read_base(fleet.root)
    changes = (
        FileChange("deployments/app.yaml", b"", None),
        FileChange("devices/press-01.yaml", b"", b"new"),
        FileChange("notes/x.md", None, b"x"),
    )
    tree = EditedTree(base.tree, changes)
    assert tree.file("deployments/app.yaml") is None
    assert [file.path for file in tree.files("deployments")] == []
    assert [file.read() for file in tree.files("devices")] == [b"new"]
    assert "notes" in tree.names()
    assert {file.path for file in tree.files("")} >= {"notes/x.md", "devices/press-01.yaml", "sites/north.yaml"}


def test_a_diff_shows_text_and_tells_the_rest():
    edit = make_edit(
        "t", ["t"], [FileChange("b", None, b"\xff"), FileChange("a", b"1\n2", b"1\n3\n"), FileChange("c", b"x", b"x")]
    )
    assert (
        unified_diff(edit)
        == "--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n 1\n-2\n\\ No newline at end of file\n+3\nadded b (no text)\n"
    )


def test_branches_have_names_that_git_takes(fleet: FleetFolder):
    for words in (["deploy", "a", "1.0.0+x..y"], ["x", "~^:?*[ \\"], ["a.lock"], ["-.a."], ["a" * 300]):
        branch = make_edit("t", words, []).branch
        assert fleet.git.run("check-ref-format", "--branch", branch) == branch
