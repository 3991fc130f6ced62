"""Amounts in binary units, and time-outs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_gitops.documents.capabilities import parse_quantity, parse_timeout


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1Ki", 1024),
        ("512Mi", 512 * 1024**2),
        ("8Gi", 8 * 1024**3),
        ("8 Gi", 8 * 1024**3),
        ("1.5Gi", 1536 * 1024**2),
        ("59 Gi", 59 * 1024**3),
        ("2Ti", 2 * 1024**4),
        ("1Pi", 1024**5),
        ("1Ei", 1024**6),
        ("0Mi", 0),
    ],
)
def test_an_amount_with_or_without_a_space_is_a_number_of_bytes(text, amount):
    assert parse_quantity(text) == amount


@given(st.integers(0, 10**18 - 1), st.sampled_from(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]))
def test_amounts_are_exact_however_large(number, unit):
    power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].index(unit) + 1
    assert parse_quantity(f"{number}{unit}") == number * 1024**power


@pytest.mark.parametrize(
    "text", ["", "8", "8G", "8GB", "8 gi", "-8Gi", "8  Gi", "8,5Gi", "Gi", "1e3Mi", "9" * 30 + "Mi", "٨Gi"]
)
def test_anything_else_is_no_amount(text):
    with pytest.raises(ValueError, match="not an amount"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("8m30s", 510), ("0m0s", 0), ("0m5s", 5), ("90m0s", 5400), ("1m90s", 150)]
)
def test_a_timeout_is_minutes_and_seconds(text, seconds):
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize("text", ["5m", "30s", "8m 30s", "8m30", "-1m0s", "1h0m0s", "8m30s\n", "9999999m0s"])
def test_anything_else_is_no_timeout(text):
    with pytest.raises(ValueError, match="does not have the form 8m30s"):
        parse_timeout(text)
