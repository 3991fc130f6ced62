"""A plan never lies where policies judge, commands edit, and devices report what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations.policy_world import PolicyWorld, make_world
from support.properties import times

from margo_gitops.documents.fleet_kinds import DeviceSelector
from margo_gitops.editing.deploy import DeployRequest, deploy
from margo_gitops.editing.edit import read_base
from margo_gitops.editing.landing import check_edit, write_edit
from margo_gitops.errors import EditRefused, MargoGitopsError, RenderingRefused
from margo_gitops.operations.plan.planning import exit_code

DEVICES = ("north-1", "south-1")
PERIOD = {"begins": "2020-01-01T00:00+00:00", "ends": "2099-01-01T00:00+00:00"}
POLICIES = {
    "none": {},
    "frozen north": {"freezes": [{"reason": "Audit", **PERIOD, "match": {"sites": ["north"]}}]},
    "version 1 only": {"applications": {"default": [{"id": "app", "versions": "<2"}]}},
    "reviewed": {"reviews": {"sites": {"south": {"count": 1}}}},
}

Step = Callable[[PolicyWorld], None]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Return one change, as a person, a command or `device refresh` makes it."""
    kind = draw(st.sampled_from(["policy", "deploy", "deploy", "value", "reported"]))
    site = draw(st.sampled_from(["north", "south"]))
    value = draw(st.sampled_from(["x", "y", "{{ device.properties.memory }}"]))
    if kind == "policy":
        policy = POLICIES[draw(st.sampled_from(sorted(POLICIES)))]
        return lambda world: world.policy(**policy)
    if kind == "value":
        return lambda world: world.fleet.site(site, p=value)
    if kind == "reported":
        offered = draw(
            st.sampled_from([{"memory": "8 Gi"}, {"memory": "16 Gi"}, {"supportedDeploymentTypes": ["helm"]}])
        )
        return lambda world: world.fleet.device(
            f"{site}-1", site=site, labels={"line": site}, properties=offered, **({"p": value} if value == "y" else {})
        )
    placement = draw(st.sampled_from([None, DeviceSelector(all=True), DeviceSelector(sites=(site,))]))
    version = draw(st.sampled_from(["1.0.0", "2.0.0"]))
    request = DeployRequest("app", version=version, name="web", placement=placement, parameters={"p": value})
    return lambda world: edited(world, request)


def edited(world: PolicyWorld, request: DeployRequest) -> None:
    base = read_base(world.fleet.root)
    edit = deploy(base, request)
    try:
        check_edit(base, edit)
    except EditRefused:
        return
    write_edit(base, edit)


def trees(world: PolicyWorld) -> dict[str, dict[str, str]]:
    """Return the blobs of each device's branch."""
    prefix = "refs/heads/devices/"
    git, state = world.fleet.git, str(world.fleet.root.parent / "state.git")
    names = [ref for ref in world.state() if ref.startswith(prefix)]
    return {
        name.removeprefix(prefix): {
            line.split("\t")[1]: line.split()[2] for line in git.run("-C", state, "ls-tree", "-r", name).splitlines()
        }
        for name in names
    }


@times(0.5)
@given(st.lists(st.lists(steps(), min_size=1, max_size=2), min_size=1, max_size=3))
def test_a_render_does_what_the_plan_said_or_is_refused_as_it_said(history: list[list[Step]]):
    with TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        world.commit("Start", at=1_700_000_000)
        world.render()
        for changes in history:
            for change in changes:
                change(world)
            world.commit("Change", at=1_790_000_000)
            planned, before, refs = world.plan(), trees(world), world.state()
            assert planned.refused == (exit_code(planned) == 2)
            if planned.refused:
                with pytest.raises(MargoGitopsError) as caught:
                    world.render()
                if planned.breaches:
                    assert isinstance(caught.value, RenderingRefused)
                    assert {each.code for each in caught.value.errors} == {each.rule for each in planned.breaches}
                assert world.state() == refs, "a refused render writes nothing"
                world.fleet.git.run("reset", "--quiet", "--hard", "HEAD~1")
                continue
            world.render()
            after = trees(world)
            changed = {
                device: {path for path in {*old, *new} if old.get(path) != new.get(path)}
                for device in DEVICES
                if (old := before.get(device, {})) != (new := after.get(device, {}))
            }
            named = {each.device: set(each.files()) for each in planned.devices}
            assert changed == {device: files for device, files in named.items() if files}
            assert world.plan().empty
