"""Whatever is edited under whatever policy: a plan refuses what a render refuses, and a policy changes no byte."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations.policy_world import NOON, PolicyWorld
from operations.test_plan_is_what_render_does import Edit, changed_files, device_files, edits, fleet_in
from support.properties import times

from margo_gitops.errors import MargoGitopsError, RenderingRefused

selectors = st.sampled_from([{"all": True}, {"sites": ["north"]}, {"devices": ["a"]}, {"sites": ["south"]}])
freezes = st.builds(
    lambda match, on: {
        "reason": "Stop",
        "begins": "2026-12-20T00:00Z",
        "ends": "2026-12-31T00:00Z" if on else "2026-12-20T00:01Z",
        "match": match,
    },
    selectors,
    st.booleans(),
)
versions = st.sampled_from(["", "1", "<2", ">=2"])
applications = st.builds(lambda text: {"default": [{"id": "app", "versions": text}]}, versions)
registries = st.sampled_from(
    [{"default": ["registry.example.com"]}, {"sites": {"north": ["registry.example.com/other"]}}]
)
reviews = st.sampled_from([{"default": {"count": 1}}, {"sites": {"south": {"count": 1}}}])
policies = st.fixed_dictionaries(
    {},
    optional={
        "freezes": st.lists(freezes, max_size=2),
        "applications": applications,
        "registries": registries,
        "reviews": reviews,
    },
)
messages = st.sampled_from(["Change", "Change\n\nReviewed-by: Bob <bob@plant.example>"])


def set_policy(world: PolicyWorld, policy: dict[str, Any]) -> None:
    world.fleet.fleet(**({"policy": policy} if policy else {}))


@times(0.2)
@given(policies, st.lists(st.tuples(st.lists(edits(), min_size=1, max_size=2), messages), min_size=1, max_size=3))
def test_a_render_is_refused_exactly_if_the_plan_says_so(policy: dict[str, Any], steps: list[tuple[list[Edit], str]]):
    with TemporaryDirectory() as folder:
        world = PolicyWorld(fleet_in(Path(folder)))
        world.commit("Start", at=NOON - 2 * 86_400 * 30)
        world.render()
        set_policy(world, policy)
        for made, message in [([], "Change\n\nReviewed-by: Bob <bob@plant.example>"), *steps]:
            for edit in made:
                edit(world.fleet)
            before_commit = world.head()
            world.commit(message, at=NOON)
            planned = world.plan()
            files = device_files(world.fleet)
            if planned.refused:
                with pytest.raises(MargoGitopsError) as caught:
                    world.render()
                if isinstance(caught.value, RenderingRefused) and not planned.refusals:
                    assert {each.code for each in caught.value.errors} == {each.rule for each in planned.breaches}
                assert device_files(world.fleet) == files
                world.fleet.git.run("reset", "--quiet", "--hard", before_commit)
                continue
            world.render()
            named = {each.device: set(each.files()) for each in planned.devices}
            changed = changed_files(files, device_files(world.fleet))
            assert changed == {name: paths for name, paths in named.items() if paths}
            assert world.plan().empty


@times(0.6)
@given(policies)
def test_no_policy_changes_a_rendered_byte(policy: dict[str, Any]):
    with TemporaryDirectory() as folder:
        fleet = fleet_in(Path(folder))
        plain = fleet.render()
        set_policy(PolicyWorld(fleet), policy)
        assert fleet.render() == plain
