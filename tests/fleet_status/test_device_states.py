"""A device's state, from what it should run and what it says."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.status import State
from margo_gitops.fleet_status.status import DEVICE_STATES, judge_device
from margo_gitops.state_repo.reported import ReportedStatus


def reported(**states: tuple[State, int | None]) -> dict[str, ReportedStatus]:
    return {name: ReportedStatus(name, state, adopted, None, "") for name, (state, adopted) in states.items()}


@pytest.mark.parametrize(
    ("wanted", "statuses", "state", "adopted"),
    [
        ("ab", {}, "silent", None),
        ("", {}, "installed", None),
        ("ab", {"a": ("installed", 3), "b": ("installed", 3)}, "installed", 3),
        # A device reports what changed: the older number on b is not an older b.
        ("ab", {"a": ("installed", 3), "b": ("installed", 1)}, "installed", 3),
        ("ab", {"a": ("installed", 2), "b": ("installed", 2)}, "behind", 2),
        ("ab", {"a": ("installed", 3)}, "applying", 3),
        ("ab", {"a": ("installing", 3), "b": ("installed", 3)}, "applying", 3),
        ("a", {"a": ("removed", 3)}, "applying", 3),
        ("a", {"a": ("installed", 3), "old": ("removing", 3)}, "applying", 3),
        ("a", {"a": ("installed", 3), "old": ("removed", 3)}, "installed", 3),
        ("a", {"a": ("installed", 3), "old": ("failed", 3)}, "failed", 3),
        ("ab", {"a": ("failed", 2), "b": ("installed", 2)}, "failed", 2),
        ("a", {"a": ("installed", 4)}, "ahead", 4),
        ("a", {"a": ("installed", None)}, "installed", None),
        ("", {"old": ("removed", 2)}, "behind", 2),
    ],
    ids=lambda value: str(value).replace(" ", "") if not isinstance(value, dict) else "+".join(value) or "nothing",
)
def test_the_state_of_a_device(
    wanted: str, statuses: dict[str, tuple[State, int | None]], state: str, adopted: int | None
):
    assert judge_device(3, wanted, reported(**statuses)) == (state, adopted)


@given(
    st.sets(st.sampled_from("abc")),
    st.dictionaries(
        st.sampled_from("abcd"), st.tuples(st.sampled_from(get_args(State)), st.none() | st.integers(1, 5)), max_size=4
    ),
)
def test_installed_means_that_nothing_is_missing_or_unwell(
    wanted: set[str], statuses: dict[str, tuple[State, int | None]]
):
    state, adopted = judge_device(3, wanted, reported(**statuses))
    assert state in DEVICE_STATES
    if state == "installed":
        assert all(statuses[each][0] == "installed" for each in wanted)
        assert all(statuses[each][0] == "removed" for each in statuses.keys() - wanted)
        assert adopted in (None, 3)
    if state == "failed":
        assert any(each[0] == "failed" for each in statuses.values())
