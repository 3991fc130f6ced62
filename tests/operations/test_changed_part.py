"""A render of what changed gives the same commits as a render of everything (CHANGED-1 to CHANGED-4)."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, parameter, write_signing_key
from support.git_cli import Git, GitFailedError
from support.properties import times

from margo_gitops.documents.device_id import client_of
from margo_gitops.errors import FleetInvalid, MargoGitopsError, RenderingRefused, StateTampered
from margo_gitops.operations import fleet_input
from margo_gitops.operations.fleet_input import read_for_device, read_intent, read_signing_key
from margo_gitops.operations.plan.planning import PlanRequest, only_device, plan_fleet
from margo_gitops.operations.render import changed_part, fleet_render
from margo_gitops.operations.render.fleet_render import Rendered, RenderRequest, check_fleet, render_fleet
from margo_gitops.rendering.changes import Plan
from margo_gitops.rendering.desired_state import DocumentWriter
from margo_gitops.rendering.explanation import explain

DEVICES = ("a", "b", "north", "gw", "gw/child", "gw/Child.2")
SITES = ("north", "south")
ON = ["all", ["a"], ["gw/child", "b"], {"matchLabels": {"line": 1}}, {"sites": ["south"]}]


def fleet_in(folder: Path, **spec: object) -> FleetFolder:
    fleet = FleetFolder.empty(folder / "fleet", **spec)
    for version in ("1.0.0", "2.0.0"):
        fleet.application("app", version, parameters={"p": parameter(value=version)})
    for site in SITES:
        fleet.site(site, {"line": 1})
    for device in DEVICES:
        fleet.device(device, site="north")
    fleet.deployment("web")
    fleet.git.init()
    fleet.commit()
    return fleet


def request(fleet: FleetFolder, state: str = "state", cache: str = "cache", key: Path | None = None) -> RenderRequest:
    folder = fleet.root.parent
    signing = read_signing_key(key) if key else None
    return RenderRequest(fleet.root, "HEAD", str(folder / state), folder / cache, signing, allow_older=True)


def render(fleet: FleetFolder, state: str = "state", cache: str = "cache", key: Path | None = None) -> Rendered:
    return render_fleet(request(fleet, state, cache, key))


def refs(fleet: FleetFolder, state: str = "state") -> str:
    return Git(fleet.root.parent / state).run("for-each-ref", "--format=%(objectname) %(refname)")


def seal(fleet: FleetFolder) -> Path:
    (found,) = (fleet.root.parent / "cache/rendered").glob("[0-9a-f]*")
    return found


def edit(fleet: FleetFolder, data: st.DataObject) -> None:
    """Change a fleet; after it, it may be one that cannot be rendered."""
    name, site = data.draw(st.sampled_from(DEVICES)), data.draw(st.sampled_from(SITES))
    labels = data.draw(st.dictionaries(st.just("line"), st.sampled_from([1, 2])))
    value = data.draw(st.sampled_from(["x", "y", "{{ device.id }}", "{{ site.labels.line }}"]))
    rare = ["alias", "move", "copy", "deployment", "deployment", "application", "fleet", "readme", "remove"]
    match data.draw(st.sampled_from([*["device", "site"] * 5, *rare])):
        case "device":
            fleet.device(name, site=data.draw(st.sampled_from([None, *SITES])), labels=labels)
        case "site":
            fleet.site(site, labels, p=value)
        case "alias":
            fleet.device("gw", site=site, properties={"id": "serial"})
            fleet.change("devices/gw.yaml", '"capabilities"', '"alias": "serial", "capabilities"')
        case "move" | "copy" as how:
            for file in [*fleet.root.glob("devices/**/b.yaml")]:
                fleet.put(f"devices/{site}/b.yaml", file.read_bytes())
                if how == "move" and file.parent.name != site:
                    file.unlink()
        case "deployment":
            version = data.draw(st.sampled_from(["1.0.0", "2.0.0"]))
            fleet.deployment(
                data.draw(st.sampled_from(["db", "ui"])), on=data.draw(st.sampled_from(ON)), version=version
            )
        case "application":
            fleet.application(
                "app", data.draw(st.sampled_from(["2.0.0", "3.0.0"])), parameters={"p": parameter(value=site)}
            )
        case "fleet":
            fleet.fleet(namespace=site)
        case "readme":
            fleet.put("docs/README.md", str(labels))
        case "remove":
            path = data.draw(st.sampled_from([f"devices/{name}.yaml", f"sites/{site}.yaml", "deployments/db.yaml"]))
            (fleet.root / path).unlink(missing_ok=True)


def step(fleet: FleetFolder, data: st.DataObject) -> None:
    """Make a commit: of edits, of what a commit before had, or of a branch that is merged."""
    commits = fleet.git.run("rev-list", "HEAD").splitlines()
    kind = data.draw(st.sampled_from([*["edits"] * 6, "back", "merge"]))
    if kind == "back":
        fleet.git.run("read-tree", "--reset", "-u", data.draw(st.sampled_from(commits)))
    elif kind == "merge":
        fleet.git.run("switch", "--quiet", "--detach", data.draw(st.sampled_from(commits)))
        edit(fleet, data)
        fleet.commit()
        side = fleet.git.run("rev-parse", "HEAD")
        fleet.git.run("switch", "--quiet", "main")
        try:
            fleet.git.run("merge", "--quiet", "--strategy-option=theirs", "--no-edit", side)
        except GitFailedError:  # one side removed what the other changed
            fleet.git.run("reset", "--quiet", "--hard")
        return
    else:
        for _ in range(data.draw(st.integers(1, 2))):
            edit(fleet, data)
    fleet.commit()


def upgraded(patch: pytest.MonkeyPatch, version: str) -> None:
    """Be another version of this program, which writes other documents."""
    write = DocumentWriter.write
    patch.setattr(DocumentWriter, "write", lambda *arguments: write(*arguments) + f"# {version}\n".encode())
    for module in (changed_part, fleet_input):
        patch.setattr(module, "RENDERED_BY", f"margo-gitops {version}")


def check_one_device(fleet: FleetFolder, planned: Plan, device: str) -> None:
    """Check what is said of one device, from its own files, against what is said of it from all."""
    state, cache = str(fleet.root.parent / "state"), fleet.root.parent / "cache"
    asked = PlanRequest(fleet.root, "HEAD", None, state, cache, device)
    whole = read_intent(fleet.root, "HEAD")
    known = {device, client_of(device)} & {*whole.devices, *(each.device for each in planned.devices)}
    if known:
        assert plan_fleet(asked) == only_device(planned, device)
    if device in whole.devices:
        part = read_for_device(fleet.root, "HEAD", device)
        assert [*part.devices] == [name for name in whole.devices if client_of(name) == client_of(device)]
        assert explain(part, device, "web") == explain(whole, device, "web")


@times(0.15)
@given(st.data())
def test_the_commits_are_those_of_a_whole_render(data: st.DataObject):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        fleet = fleet_in(Path(folder))
        key = write_signing_key(Path(folder) / "key") if data.draw(st.booleans()) else None
        seals = []
        for number in range(data.draw(st.integers(4, 10))):
            outcomes = []
            planned = plan_fleet(
                PlanRequest(fleet.root, "HEAD", None, str(Path(folder) / "state"), Path(folder) / "no")
            )
            quick = plan_fleet(
                PlanRequest(fleet.root, "HEAD", None, str(Path(folder) / "state"), Path(folder) / "cache")
            )
            assert quick == planned
            if not planned.refused:
                check_one_device(fleet, planned, data.draw(st.sampled_from(DEVICES)))
            for state, cache in (("state", "cache"), ("whole", f"none-{number}")):
                try:
                    done = render(fleet, state, cache, key)
                    outcomes.append(("", done.publication))
                except MargoGitopsError as error:
                    outcomes.append((str(error), None))
            assert outcomes[0] == outcomes[1]
            assert refs(fleet, "state") == refs(fleet, "whole") if (Path(folder) / "state").exists() else True
            if not outcomes[0][0]:
                assert not check_fleet(request(fleet)).differences
                assert not check_fleet(request(fleet, cache="no")).differences
                seals.append(seal(fleet).read_bytes())
            elif number:
                fleet.git.run("reset", "--quiet", "--hard", "HEAD~1")
            if seals and data.draw(st.integers(0, 4)) == 0:
                seal(fleet).write_bytes(data.draw(st.sampled_from([*seals, b"", b"nothing\xff"])))
            if data.draw(st.integers(0, 9)) == 0:
                upgraded(patch, f"{number}.0")
            step(fleet, data)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    made = fleet_in(tmp_path)
    made.deployment("local", on=["b"])
    made.commit()
    render(made)
    return made


def test_what_an_edit_cannot_reach_is_not_rendered(fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch):
    render(fleet, "whole", "none")
    for number, change in enumerate(
        (
            lambda: fleet.device("a", site="south", p="new"),
            lambda: fleet.site("north", p="new"),
            lambda: fleet.device("new", site="south"),
            lambda: fleet.device("gw/child", site="south"),
            lambda: fleet.site("south", p="for the child"),
            lambda: fleet.put("README.md", "for people"),
            lambda: fleet.application("app", "3.0.0", parameters={"p": parameter(value="3.0.0")}),
            lambda: fleet.deployment("local", on=["b", "gw/child"], version="3.0.0"),
            lambda: fleet.deployment("new", on={"sites": ["south"]}),
            lambda: fleet.remove("deployments/local.yaml"),
            lambda: fleet.remove("devices/b.yaml"),
        )
    ):
        change()
        fleet.commit()
        with monkeypatch.context() as patch:
            patch.setattr(fleet_render, "rendered_states", None)
            render(fleet)
        render(fleet, "whole", f"none-{number}")
        assert refs(fleet) == refs(fleet, "whole")


def test_f23_a_new_application_reaches_its_devices_with_the_commit_that_adds_it(fleet: FleetFolder):
    before = refs(fleet).splitlines()
    fleet.application("fresh", "1.0.0")
    fleet.commit()
    render(fleet)
    fleet.deployment("fresh", on=["a"], application="fresh")
    fleet.commit()
    render(fleet)
    moved = [line.split()[1] for line in refs(fleet).splitlines() if line not in before and "/devices/" in line]
    assert moved == ["refs/heads/devices/a"]


def test_the_last_device_of_a_deployment_is_not_taken_from_it(fleet: FleetFolder):
    fleet.deployment("one", on={"matchLabels": {"line": 7}})
    fleet.device("a", site="north", labels={"line": 7})
    fleet.commit()
    render(fleet)
    fleet.device("a", site="north")
    fleet.commit()
    with pytest.raises(RenderingRefused, match="cannot be rendered"):
        render(fleet)


def test_the_copy_of_a_device_is_found_among_files_that_did_not_change(fleet: FleetFolder):
    fleet.put("devices/copy/b.yaml", (fleet.root / "devices/b.yaml").read_bytes())
    fleet.commit()
    with pytest.raises(FleetInvalid, match="1 finding"):
        render(fleet)


def test_branches_that_somebody_moved_are_refused_although_a_seal_is_there(fleet: FleetFolder):
    state = Git(fleet.root.parent / "state")
    state.run("update-ref", "refs/heads/devices/a", state.run("rev-parse", "refs/heads/devices/b"))
    fleet.site("south", p="new")
    fleet.commit()
    with pytest.raises(StateTampered):
        render(fleet)


def test_a_seal_that_the_key_did_not_sign_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fleet = fleet_in(tmp_path)
    ours, theirs = (write_signing_key(tmp_path / name, seed) for seed, name in enumerate(("ours", "theirs"), 1))
    render(fleet, key=ours)
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    render(fleet, state="copy", cache="other", key=theirs)
    (forged,) = (tmp_path / "other/rendered").glob("[0-9a-f]*")
    seal(fleet).write_bytes(forged.read_bytes())
    monkeypatch.setattr(fleet_render, "rendered_states", None)
    with pytest.raises(TypeError):
        render(fleet, key=ours)


def test_a_seal_of_another_library_says_nothing(fleet: FleetFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changed_part, "_LIBRARIES", ("yaml",))
    changed_part._others_part.cache_clear()
    monkeypatch.setattr(fleet_render, "rendered_states", None)
    try:
        with pytest.raises(TypeError):
            render(fleet)
    finally:
        changed_part._others_part.cache_clear()
