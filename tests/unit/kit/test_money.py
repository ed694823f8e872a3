"""Dollars at the edge and nano-dollars inside: not one of them is lost on the way."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.kit.money import MAX_USD, NANO_USD, nano_to_decimal, nano_to_usd, usd_text, usd_to_nano

AMOUNTS = st.integers(min_value=0, max_value=MAX_USD * NANO_USD)


@pytest.mark.parametrize(
    ("value", "nano"),
    [
        (0, 0),
        (12, 12 * NANO_USD),
        (0.1, 100_000_000),
        (0.1 + 0.2, None),
        ("0.000000001", 1),
        ("1e-9", 1),
        (1e-09, 1),
        ("1.50", 1_500_000_000),
        (Decimal("2.000000000000"), 2 * NANO_USD),
        (MAX_USD, MAX_USD * NANO_USD),
    ],
)
def test_dollars_are_nano_dollars_exactly(value: float | str | Decimal, nano: int | None) -> None:
    if nano is None:
        with pytest.raises(ValueError, match="at most 9 decimals"):
            usd_to_nano(value)
    else:
        assert usd_to_nano(value) == nano


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (-1, "between 0 and 9,000,000"),
        ("9000000.000000001", "between 0 and 9,000,000"),
        ("1e999999999", "between 0 and 9,000,000"),
        ("0.0000000001", "at most 9 decimals"),
        ("1.0000000000000000000000000000000000001", "at most 9 decimals"),
        ("1e-999999", "at most 9 decimals"),
        ("NaN", "finite"),
        (float("inf"), "finite"),
        ("ten", "must be a number"),
        ("", "must be a number"),
        (True, "must be a number"),
        (None, "must be a number"),
        ([1], "must be a number"),
        ("1_000", "plain decimal"),
        (" 1", "plain decimal"),
        ("\u0661", "plain decimal"),
        ("0" * 65, "plain decimal"),
    ],
)
def test_what_is_no_amount_is_refused_with_the_rule(value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        usd_to_nano(value)  # type: ignore[arg-type]


@given(AMOUNTS)
def test_text_leads_back_to_the_amount(nano: int) -> None:
    assert usd_to_nano(usd_text(nano)) == nano
    assert usd_to_nano(nano_to_decimal(nano)) == nano


@given(st.integers(min_value=0, max_value=2**23 * NANO_USD))
def test_a_number_for_json_is_the_amount_as_far_as_doubles_reach(nano: int) -> None:
    assert usd_to_nano(f"{Decimal(repr(nano_to_usd(nano))):f}") == nano


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (NANO_USD, "1"),
        (1_230_000_000, "1.23"),
        (-500_000_000, "-0.5"),
        (10**19, "10000000000"),
    ],
)
def test_dollars_are_printed_in_plain_digits(nano: int, text: str) -> None:
    assert usd_text(nano) == text
