"""Text that is cut to a length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.wording import abridged


@given(st.text(), st.integers(9, 100))
def test_what_is_cut_keeps_its_beginning_and_its_end(text: str, most: int) -> None:
    found = abridged(text, most)
    assert len(found) <= most
    if len(text) <= most:
        assert found == text
    else:
        head, _, tail = found.partition(" … ") if " … " not in text else (text[: most // 3], "", text[-most // 3 :])
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(tail) >= len(head)


def test_the_reason_at_the_end_of_an_engines_words_is_not_cut_off() -> None:
    said = f"driver failed on endpoint {'office-' * 200}: listen tcp4 0.0.0.0:8080: bind: address already in use"
    assert abridged(said, 300).endswith("listen tcp4 0.0.0.0:8080: bind: address already in use")
