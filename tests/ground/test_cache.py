"""The cache: never larger than its bound, and what was used last stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.cache import SizedCache


def test_what_was_not_used_for_longest_leaves_first() -> None:
    cache: SizedCache[str, bytes] = SizedCache(4, len)
    cache.put("a", b"12")
    cache.put("b", b"34")
    assert cache.get("a") == b"12"
    cache.put("c", b"5")
    assert [cache.get(key) for key in "abc"] == [b"12", None, b"5"]


def test_a_value_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache: SizedCache[str, bytes] = SizedCache(4, len)
    cache.put("a", b"12")
    cache.put("b", b"12345")
    assert cache.get("a") == b"12"
    assert cache.get("b") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=6))), st.integers(0, 12))
def test_all_that_is_kept_together_fits(puts: list[tuple[int, bytes]], limit: int) -> None:
    cache: SizedCache[int, bytes] = SizedCache(limit, len)
    last: dict[int, bytes] = {}
    for key, value in puts:
        cache.put(key, value)
        last[key] = value
        kept = {each: found for each in range(6) if (found := cache.get(each)) is not None}
        assert sum(map(len, kept.values())) <= limit
        assert all(last[each] == found for each, found in kept.items())
        if len(value) <= limit:
            assert kept[key] == value
