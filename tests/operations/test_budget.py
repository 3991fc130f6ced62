"""`margo-gitops budget`: the sums, and what a person reads. benchmarks/budget.py compares them with real programs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command_line import margo_gitops
from support.fleet import FleetFolder

from margo_gitops.operations.budget import COSTS, HOSTS, Layout, budget, budget_lines

LAYOUT = Layout(devices=10_000, sites=100, deployments=20_000, way="git", interval=60, edits=10, changed=100)
LAYOUTS = st.builds(
    Layout,
    devices=st.integers(1, 10**6),
    sites=st.integers(1, 10**4),
    deployments=st.integers(0, 10**7),
    way=st.sampled_from([*COSTS]),
    interval=st.integers(1, 30 * 86_400),
    edits=st.floats(0, 10_000),
    changed=st.integers(1, 10**6),
)


@given(LAYOUTS)
def test_more_devices_and_shorter_intervals_never_cost_less(layout: Layout) -> None:
    found = budget(layout)
    for more in (replace(layout, devices=2 * layout.devices), replace(layout, interval=max(1, layout.interval // 2))):
        other = budget(more)
        assert other.requests_per_second >= found.requests_per_second
        assert other.server_bytes >= found.server_bytes
        assert other.state_bytes_per_year >= found.state_bytes_per_year
    assert found.peak_requests_per_second >= found.requests_per_second
    assert all(verdict.fits is not bool(verdict.why) for verdict in found.hosts)
    assert "inf" not in "\n".join(budget_lines(found))


def test_a_host_is_asked_as_often_as_it_allows_when_the_advice_is_followed() -> None:
    github = HOSTS[0]
    (verdict, _) = budget(LAYOUT).hosts
    assert not verdict.fits
    assert "poll every 11 min or more" in verdict.why[0]
    slower = budget(replace(LAYOUT, interval=12 * 60))
    assert slower.requests_per_second <= github.reads
    branches, shards = slower.hosts[0].why
    assert "branches" in branches
    assert shards == "3 shards would fit (docs/shards.md)"
    assert budget(replace(LAYOUT, interval=12 * 60, devices=math.ceil(10_000 / 3), changed=33)).hosts[0].fits


def test_a_kept_connection_costs_less_than_one_for_each_poll() -> None:
    kept, new = (budget(replace(LAYOUT, interval=seconds)).device_bytes_per_month * seconds for seconds in (120, 121))
    assert 2 < new / kept < 4


@pytest.mark.parametrize("way", [*COSTS])
def test_the_command_counts_the_fleet_repo(tmp_path: Path, way: str) -> None:
    fleet = FleetFolder.from_template(tmp_path / "fleet")
    fleet.commit("Start")
    found = margo_gitops("budget", "--way", way, "--output", "json", cwd=fleet.root)
    assert found.code == 0, found
    layout = json.loads(found.stdout)["layout"]
    assert {name: layout[name] for name in ("devices", "sites", "deployments", "changed")} == {
        "devices": 4,
        "sites": 2,
        "deployments": 6,
        "changed": 2,
    }
    said = margo_gitops("budget", "--way", way, cwd=fleet.root).stdout
    assert said.startswith("4 devices at 2 sites, 6 deployments; ")
    assert ("GitHub: fits" in said) is (way == "git")


def test_an_interval_of_nothing_is_refused(tmp_path: Path) -> None:
    found = margo_gitops("budget", "--devices", "10", "--interval", "0s", cwd=tmp_path)
    assert found.code == 2
    assert "the shortest is 1s" in found.stderr
