"""A plan never lies: after it, a render changes exactly the devices and files that it named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fleet import FleetFolder, parameter, profile, write_signing_key
from support.git_cli import Git
from support.properties import times

from margo_gitops.documents.device_id import decode_device_id
from margo_gitops.errors import FleetCommitUnknown, MargoGitopsError, ReferenceUnknown, StateTampered
from margo_gitops.operations.fleet_input import read_signing_key
from margo_gitops.operations.plan.planning import PlanRequest, exit_code, plan_fleet
from margo_gitops.operations.render.fleet_render import RenderRequest, render_fleet
from margo_gitops.rendering.changes import Plan

DEVICES = ("a", "b", "gw", "gw/child")
SITES = (None, "north", "south")
DEPLOYMENTS = ("web", "db")
VALUES = st.sampled_from(["x", "y", "{{ device.id }}", 1, True])


def fleet_in(folder: Path) -> FleetFolder:
    fleet = FleetFolder.empty(folder / "fleet")
    for version in ("1.0.0", "2.0.0"):
        fleet.application(
            "app",
            version,
            deploymentProfiles=[profile(), profile("other")],
            parameters={"p": parameter("compose", "other", value=version), "q": parameter("other", value="q")},
        )
    for name in ("north", "south"):
        fleet.site(name)
    for name in DEVICES:
        fleet.device(name, site="north")
    fleet.deployment("web", profiles=["compose"])
    fleet.git.init()
    return fleet


def request(fleet: FleetFolder, **more: str | None) -> PlanRequest:
    given = {"revision": None, "base": None, "state": None, **more}
    return PlanRequest(fleet.root, cache=fleet.root.parent / "cache", **given)


def plan(fleet: FleetFolder, **more: str | None) -> Plan:
    return plan_fleet(request(fleet, **more))


def render(fleet: FleetFolder) -> None:
    render_fleet(RenderRequest(fleet.root, "HEAD", None, fleet.root.parent / "cache"))


Files = dict[str, dict[str, str]]


def device_files(fleet: FleetFolder) -> Files:
    """Return the blob ids of every device's branch, by device and path."""
    git = Git(fleet.root.parent / "state.git")
    if not git.path.exists():
        return {}
    prefix = "refs/heads/devices/"
    names = git.run("for-each-ref", "--format=%(refname)", prefix).splitlines()
    return {
        decode_device_id(name.removeprefix(prefix)): {
            line.split("\t")[1]: line.split()[2] for line in git.run("ls-tree", "-r", name).splitlines()
        }
        for name in names
    }


def devices_by_site(fleet: FleetFolder) -> set[tuple[str, str]]:
    """Return (site, device) of what the fleet branch holds."""
    git = Git(fleet.root.parent / "state.git")
    if not git.path.exists():
        return set()
    listed = git.run("ls-tree", "-r", "-d", "--name-only", "refs/heads/fleet").splitlines()
    split = [line.split("/") for line in listed]
    return {(parts[1], decode_device_id(parts[2])) for parts in split if len(parts) == 3 and parts[0] == "devices"}


def changed_files(before: Files, after: Files) -> dict[str, set[str]]:
    return {
        device: paths
        for device in {*before, *after}
        if (
            paths := {
                path
                for path in {*before.get(device, {}), *after.get(device, {})}
                if before.get(device, {}).get(path) != after.get(device, {}).get(path)
            }
        )
    }


def changed_devices(before: set[tuple[str, str]], after: set[tuple[str, str]]) -> set[str]:
    return {device for _, device in before ^ after}


Edit = Callable[[FleetFolder], None]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """Return one change of the fleet; it may make a fleet that cannot be rendered."""
    kind = draw(st.sampled_from(["device", "site", "deployment", "remove device", "remove deployment", "namespace"]))
    if kind == "device":
        name, site = draw(st.sampled_from(DEVICES)), draw(st.sampled_from(SITES))
        values = draw(st.dictionaries(st.sampled_from("pq"), VALUES, max_size=1))
        return lambda fleet: fleet.device(name, site=site, **values)
    if kind == "site":
        name, values = draw(st.sampled_from(SITES[1:])), draw(st.dictionaries(st.just("p"), VALUES))
        return lambda fleet: fleet.site(name, **values)
    if kind == "deployment":
        name = draw(st.sampled_from(DEPLOYMENTS))
        on = draw(st.just("all") | st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3, unique=True))
        spec = {
            "profiles": [draw(st.sampled_from(["compose", "other"]))],
            "version": draw(st.sampled_from(["1.0.0", "2.0.0"])),
            "parameters": draw(st.dictionaries(st.sampled_from("pq"), VALUES, max_size=1)),
        }
        return lambda fleet: fleet.deployment(name, on=on, **spec)
    if kind == "namespace":
        name = draw(st.sampled_from(["margo", "line"]))
        return lambda fleet: fleet.fleet(namespace=name)
    folder, names = ("devices", DEVICES) if kind == "remove device" else ("deployments", DEPLOYMENTS)
    path = f"{folder}/{draw(st.sampled_from(names))}.yaml"
    return lambda fleet: fleet.remove(path) if (fleet.root / path).exists() else None


@times(0.6)
@given(st.lists(st.lists(edits(), min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_render_changes_exactly_the_devices_and_files_that_the_plan_named(steps: list[list[Edit]]):
    with TemporaryDirectory() as folder:
        fleet = fleet_in(Path(folder))
        for step in [[], *steps]:
            for edit in step:
                edit(fleet)
            planned = plan(fleet)
            base = Git(fleet.root).run("rev-parse", "HEAD") if step else None
            fleet.commit()
            assert plan(fleet, revision="HEAD").devices == planned.devices, "a commit of the files has the same plan"
            files, sites = device_files(fleet), devices_by_site(fleet)
            if planned.refusals:
                with pytest.raises(MargoGitopsError):
                    render(fleet)
                assert (device_files(fleet), devices_by_site(fleet)) == (files, sites)
                assert exit_code(planned) == 2
                fleet.git.run("reset", "--quiet", "--hard", "HEAD~1")
                continue
            if base:
                rendered = {(each.device, each.change) for each in planned.devices}
                against = {(each.device, each.change) for each in plan(fleet, base=base).devices}
                assert against == rendered, "the state repo is the render of the base"
            render(fleet)
            named = {each.device: set(each.files()) for each in planned.devices}
            assert changed_files(files, device_files(fleet)) == {name: paths for name, paths in named.items() if paths}
            moved = changed_devices(sites, devices_by_site(fleet))
            assert moved == {
                each.device for each in planned.devices if each.change != "changed" or each.site != each.site_before
            }
            assert planned.empty == (not named)
            assert plan(fleet).empty
            versions = {each.device: each.version_after for each in planned.devices if each.change != "removed"}
            state = Git(fleet.root.parent / "state.git")
            for device, version in versions.items():
                manifest = state.run("show", f"refs/heads/devices/{device}:manifest.json")
                assert f'"manifestVersion":{version}}}' in manifest


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    fleet = fleet_in(tmp_path)
    fleet.commit()
    return fleet


def test_before_the_first_render_everything_is_new_and_no_state_repo_is_made(fleet: FleetFolder):
    first = plan(fleet)
    assert {each.change for each in first.devices} == {"added"}
    assert any("no state repo" in note for note in first.notes)
    assert not (fleet.root.parent / "state.git").exists()


def test_a_plan_against_a_commit_needs_no_state_repo(fleet: FleetFolder):
    fleet.site("south", p="new")
    fleet.device("a", site="south")
    compared = plan(fleet, base="HEAD")
    assert [(each.device, each.change) for each in compared.devices] == [("a", "changed")]
    assert not (fleet.root.parent / "state.git").exists()


def test_an_unplaceable_device_is_named_with_every_other_reason(fleet: FleetFolder):
    fleet.device("a", site="north", properties={"supportedDeploymentTypes": ["helm"], "supportedRuntimes": ["oci"]})
    fleet.site("north", p="{{ nothing }}")
    refused = plan(fleet)
    assert refused.devices == ()
    assert {(each.rule, each.device) for each in refused.refusals} >= {("MG1201", "a")}
    assert all(each.file and each.line for each in refused.refusals)


def test_a_state_that_this_branch_does_not_contain_is_noted(fleet: FleetFolder):
    fleet.git.run("switch", "--quiet", "--create", "mine")
    fleet.git.run("switch", "--quiet", "main")
    fleet.site("north", p="theirs")
    fleet.commit("Their change")
    render(fleet)
    fleet.git.run("switch", "--quiet", "mine")
    (note,) = plan(fleet).notes
    assert "does not contain" in note
    fleet.git.run("merge", "--quiet", "main")
    assert plan(fleet).notes == ()


def test_a_tampered_state_repo_is_refused_as_render_refuses_it(fleet: FleetFolder):
    render(fleet)
    state = Git(fleet.root.parent / "state.git")
    state.run("update-ref", "refs/heads/devices/a", state.run("rev-parse", "refs/heads/devices/b"))
    with pytest.raises(StateTampered):
        plan(fleet)


def test_the_state_repo_of_another_fleet_is_refused_as_render_refuses_it(fleet: FleetFolder):
    render(fleet)
    fleet.change("margo-gitops.yaml", '"plant"', '"factory"')
    with pytest.raises(MargoGitopsError, match="not the fleet factory's"):
        plan(fleet)


def test_what_nobody_signed_gets_a_new_version_where_the_fleet_wants_signed_state(fleet: FleetFolder):
    render(fleet)
    fleet.fleet(signing={"required": True})
    fleet.commit("Want signed state")
    planned = plan(fleet)
    assert {(each.version_before, each.version_after) for each in planned.devices} == {(1, 2)}
    assert {path for each in planned.devices for path in each.files()} == {"manifest.json"}
    files = device_files(fleet)
    key = read_signing_key(write_signing_key(fleet.root.parent / "key"))
    render_fleet(RenderRequest(fleet.root, "HEAD", None, fleet.root.parent / "cache", key))
    changed = changed_files(files, device_files(fleet))
    assert changed == {each.device: {"manifest.json"} for each in planned.devices}
    assert plan(fleet).empty


def test_a_base_that_cannot_be_rendered_is_an_error_and_no_plan(fleet: FleetFolder):
    fleet.put("sites/north.yaml", "nonsense: [")
    fleet.commit("Break it")
    fleet.site("north")
    with pytest.raises(FleetCommitUnknown, match="cannot be rendered"):
        plan(fleet, base="HEAD")
    with pytest.raises(FleetCommitUnknown):
        plan(fleet, base="no-such-branch")


def test_one_device_is_shown_alone_and_an_unknown_one_is_an_error(fleet: FleetFolder):
    render(fleet)
    fleet.site("north", p="new")
    alone = plan_fleet(PlanRequest(fleet.root, None, None, None, fleet.root.parent / "cache", "gw/child"))
    assert [each.device for each in alone.devices] == ["gw"]
    with pytest.raises(ReferenceUnknown, match="press-99"):
        plan_fleet(PlanRequest(fleet.root, None, None, None, fleet.root.parent / "cache", "press-99"))


def test_files_that_git_ignores_are_not_planned_and_tracked_ones_are(fleet: FleetFolder):
    fleet.device("mine", site="north")
    fleet.put(".gitignore", "devices/mine.yaml\n")
    assert "mine" not in {each.device for each in plan(fleet).devices}
    fleet.git.run("add", "--force", "devices/mine.yaml")
    assert "mine" in {each.device for each in plan(fleet).devices}
