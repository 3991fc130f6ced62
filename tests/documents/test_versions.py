"""Versions: the order of Semantic Versioning and what extends it; ranges, where a pre-release must be named."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.versions import in_range, newest, read_range, version_key

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
    assert version_key(lower) < version_key(higher)
    assert in_range(higher, f">{lower}") or "-" in higher


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


def test_the_newest_version_is_the_one_that_people_would_choose():
    assert newest(["1.9.0", "1.10.0", "1.2.0"]) == "1.10.0"
    assert newest(["2.0.0-rc.1", "2.0.0", "2.0.0-rc.10"]) == "2.0.0"
    assert newest(["2.0.0-rc.2", "2.0.0-rc.10", "2.0.0-alpha"]) == "2.0.0-rc.10"
    assert newest(["2025.11", "2025.9"]) == "2025.11"


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["1.0.0-rc10", "1.0.0-rc9"], "1.0.0-rc9"),
        (["1.0.0-1a", "1.0.0-2"], "1.0.0-1a"),
        (["1.0.0", "1.0"], "1.0.0"),
        (["1.2.3", "1.2.3.1"], "1.2.3.1"),
        (["2025.01.9", "v2025.1.10"], "v2025.1.10"),
        (["build 9", "build 10"], "build 10"),
        (["stable", "0.0.1-alpha"], "0.0.1-alpha"),
        (["1.0.0_build.2", "1.0.1-alpha"], "1.0.1-alpha"),
        (["9" * 30 + ".0.0", "1" + "0" * 30 + ".0.0"], "1" + "0" * 30 + ".0.0"),
    ],
    ids=str,
)
def test_the_newest_of_unusual_versions(versions: list[str], expected: str):
    assert newest(versions) == newest(reversed(versions)) == expected


def test_versions_of_equal_precedence_are_in_the_same_ranges():
    for other in ("1.0.0", "1", "1.0.0+linux", "1.0.0_linux"):
        assert version_key(other) == version_key("1.0")
        assert in_range(other, "=1.0")


identifiers = st.from_regex(r"(0|[1-9][0-9]{0,2}|[0-9]{0,2}[a-c-][0-9a-c]{0,2})", fullmatch=True)
semver = st.builds(
    lambda parts, before: ".".join(map(str, parts)) + ("-" + ".".join(before) if before else ""),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.lists(identifiers, max_size=3),
)
anything = semver | st.text(max_size=8) | st.from_regex(r"v?[0-9.]{1,6}([-+_][0-9a-c.-]{1,4})?", fullmatch=True)


@given(anything, anything, anything)
def test_the_order_is_total(first: str, second: str, third: str):
    one, two, three = sorted(map(version_key, (first, second, third)))
    assert one <= two <= three
    assert one <= three
    assert version_key(first) == version_key(first)
    assert newest([first, second, third]) == newest([third, first, second])


@given(semver, semver)
def test_ranges_agree_with_the_order(version: str, bound: str):
    left, right = version_key(version), version_key(bound)
    # A pre-release is in a range only where a pre-release of the same version is named; name its own.
    named = f">={version.partition('-')[0]}-0 " if left.before else ""
    assert in_range(version, f"{named}>={bound}") == (left >= right)
    assert in_range(version, f"{named}<{bound}") == (left < right)
    assert in_range(version, f"{named}={bound}") == (left == right)
