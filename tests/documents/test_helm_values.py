"""Parameters as the values of a Helm chart: HELM-VALUE-1 to HELM-VALUE-5."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.helm_values import PointerMistake, large_numbers, pointer_path, values_of

KEYS = st.text(st.sampled_from("ab0-_ é.[],=\\"), min_size=1, max_size=5)
SCALARS = st.one_of(
    st.text(max_size=8),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
LEAVES = SCALARS | st.lists(SCALARS, max_size=3)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.dictionaries(KEYS, inner, min_size=1, max_size=3),
            st.lists(st.dictionaries(KEYS, inner, min_size=1, max_size=2), min_size=1, max_size=3),
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def escaped(key: str) -> str:
    return re.sub(r"([.\[\],=\\])", r"\\\1", key)


def pairs_of(value, pointer=""):
    """Return the pointers that write a tree."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from pairs_of(child, f"{pointer}.{escaped(key)}" if pointer else escaped(key))
    elif isinstance(value, list) and any(isinstance(child, (dict, list)) for child in value):
        for index, child in enumerate(value):
            yield from pairs_of(child, f"{pointer}[{index}]")
    else:
        yield pointer, tuple(value) if isinstance(value, list) else value


@given(TREES, st.randoms(use_true_random=False))
def test_pointers_write_the_tree_that_they_describe(tree, order):
    """HELM-VALUE-1, HELM-VALUE-2: in any order, and no value changes its type."""
    pairs = list(pairs_of(tree))
    order.shuffle(pairs)
    found = values_of(pairs)
    assert found == tree
    assert repr(sorted(pairs_of(found))) == repr(sorted(pairs_of(tree)))


@given(TREES)
def test_what_set_says_names_each_large_number(tree):
    """HELM-VALUE-5."""
    said = dict(each.rsplit("=", 1) for each in large_numbers(tree))
    for pointer, value in pairs_of(tree):
        whole = [value] if not isinstance(value, tuple) else value
        for index, each in enumerate(whole):
            name = f"{pointer}[{index}]" if isinstance(value, tuple) else pointer
            is_large = isinstance(each, int) and not isinstance(each, bool) and abs(each) >= 1_000_000
            assert said.pop(name, None) == (str(each) if is_large else None)
    assert not said


@given(st.text(max_size=12))
def test_any_pointer_is_a_path_or_a_mistake(pointer):
    with suppress(PointerMistake):
        assert isinstance(pointer_path(pointer)[0], str)


@pytest.mark.parametrize(
    ("pointer", "path"),
    [
        ("image.tag", ("image", "tag")),
        ("hosts[0].name", ("hosts", 0, "name")),
        ("grid[1][2]", ("grid", 1, 2)),
        (r"annotations.example\.com/role", ("annotations", "example.com/role")),
    ],
)
def test_paths(pointer, path):
    assert pointer_path(pointer) == path


@pytest.mark.parametrize(
    "pointer",
    ["", ".a", "a.", "a..b", "[0]", "a[x]", "a[", "a[0]b", "a]", "a,b", "a=b", "a\\", "a[٣]", ".".join("a" * 31)],
)
def test_what_is_no_path_is_refused(pointer):
    with pytest.raises(PointerMistake):
        pointer_path(pointer)


@pytest.mark.parametrize(
    "pointers",
    [("a", "a.b"), ("a.b", "a"), ("a.b", "a[0]"), ("a[0]", "a"), ("a[0]", "a[00]"), ("a.b", r"a.\b"), ("a", "a")],
)
def test_two_that_write_one_place_are_refused_with_both_names(pointers):
    """HELM-VALUE-3."""
    with pytest.raises(PointerMistake) as caught:
        values_of([(pointer, "x") for pointer in pointers])
    assert all(pointer in str(caught.value) for pointer in pointers)


def test_a_list_with_a_gap_is_refused():
    """HELM-VALUE-4: Helm would put null there, and drop what the chart has."""
    with pytest.raises(PointerMistake, match=r"a\[2\] is an item of a list, and nothing writes its item 1"):
        values_of([("a[0]", 1), ("a[2]", 1)])


def test_a_number_that_helm_would_read_as_text_is_refused():
    with pytest.raises(PointerMistake, match="larger"):
        values_of([("a", 2**63)])
