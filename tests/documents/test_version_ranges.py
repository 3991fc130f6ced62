"""Ranges of versions: the order of Semantic Versioning, pre-releases only where they are named."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.version_ranges import in_range, read_range, read_version

# Semantic Versioning 2.0.0, section 11.
ORDERED = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.1.0",
    "2.0.0",
    "10.0.0",
]


@pytest.mark.parametrize(("lower", "higher"), list(itertools.pairwise(ORDERED)))
def test_versions_are_ordered_as_semver_says(lower: str, higher: str):
    first, second = read_version(lower), read_version(higher)
    assert first is not None
    assert second is not None
    assert first.precedence() < second.precedence()


@pytest.mark.parametrize(
    ("version", "versions", "inside"),
    [
        ("1.4.2", "1.4.2", True),
        ("1.4.3", "1.4.2", False),
        ("1.4.0", "1.4", True),
        ("1.4.2", ">=1.2 <2", True),
        ("2.0.0", ">=1.2 <2", False),
        ("1.2.0", ">= 1.2", True),
        ("3.0.1", ">=1.2 <2 || 3.0.1", True),
        ("3.0.0", ">=1.2 <2 || 3.0.1", False),
        ("2.0.0-rc.1", "<2.0.0", False),
        ("2.0.0-rc.1", ">=2.0.0-beta <2.0.0", True),
        ("2.1.0-rc.1", ">=2.0.0-beta", False),
        ("1.0.0+build.7", "1.0.0", True),
        ("1.0.0_build.7", "1.0.0", True),
        ("2024-spring", "2024-spring", True),
        ("spring", "=spring", True),
        ("spring", ">=0", False),
        ("1.0", "=1.0.0", True),
    ],
    ids=str,
)
def test_what_lies_in_a_range(version: str, versions: str, inside: bool):
    assert in_range(version, versions) is inside


@pytest.mark.parametrize("versions", ["", "||", "1 ||", "~1.2", "^1", ">=spring", "1.2.x", ">", "=> 1", "1,2"])
def test_what_is_no_range(versions: str):
    with pytest.raises(ValueError, match="is"):
        read_range(versions)


numbers = st.integers(0, 30)
releases = st.builds("{}.{}.{}".format, numbers, numbers, numbers)


@given(releases, releases, releases)
def test_a_release_lies_between_two_others_exactly_if_it_is_neither_smaller_nor_greater(low: str, high: str, it: str):
    def order(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    assert in_range(it, f">={low} <={high}") == (order(low) <= order(it) <= order(high))
    assert in_range(it, f"<{low} || >{low} || {low}")


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_text_is_anything_but_a_range_or_a_value_error(version: str, versions: str):
    try:
        assert in_range(version, versions) in (True, False)
    except ValueError:
        return
