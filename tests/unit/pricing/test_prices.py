"""What a call costs: whole numbers all the way, rounded up once."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.pricing.prices import (
    Band,
    Price,
    PriceList,
    PricePeriod,
    cost_nano,
    exact_pico_per_token,
    highest,
    pico_per_token,
    usd_per_million,
)

TOKENS = st.integers(min_value=0, max_value=10**7)
PICO = st.integers(min_value=0, max_value=10**9)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def price(tokens_in: int, tokens_out: int, cached: int | None = None) -> Price:
    return Price(input_pico=tokens_in, output_pico=tokens_out, cached_input_pico=cached, source="test", version="1")


def test_a_call_costs_its_tokens() -> None:
    assert cost_nano(price(2_500_000, 10_000_000), 1_000, 500) == 7_500_000


def test_cached_tokens_have_a_price_of_their_own() -> None:
    assert cost_nano(price(1_000, 0, cached=100), 10, 0, cached=4) == 6 + 1


def test_cached_tokens_without_a_price_cost_what_others_do() -> None:
    assert cost_nano(price(1_000, 0), 10, 0, cached=4) == 10


@pytest.mark.parametrize(("prompt", "completion", "cached"), [(-5, -5, -5), (0, 0, 7)])
def test_tokens_that_cannot_be_cost_nothing(prompt: int, completion: int, cached: int) -> None:
    assert cost_nano(price(1_000, 1_000, cached=1_000), prompt, completion, cached) == 0


def test_a_part_of_a_nano_dollar_is_a_whole_one_once() -> None:
    assert cost_nano(price(1, 1), 1, 1) == 1
    assert cost_nano(price(400, 700), 1, 1) == 2


@given(TOKENS, TOKENS, TOKENS, PICO, PICO, PICO)
def test_the_cost_is_the_exact_sum_rounded_up(p: int, c: int, k: int, pi: int, po: int, pc: int) -> None:
    cached = min(k, p)
    exact = Fraction((p - cached) * pi + cached * pc + c * po, 1_000)
    assert 0 <= cost_nano(price(pi, po, pc), p, c, k) - exact < 1


@given(st.lists(st.builds(price, PICO, PICO, st.none() | PICO), min_size=1, max_size=4), TOKENS, TOKENS, TOKENS)
def test_no_price_costs_more_than_the_highest(prices: list[Price], p: int, c: int, k: int) -> None:
    most = cost_nano(highest(prices), p, c, min(k, p))
    assert all(cost_nano(each, p, c, min(k, p)) <= most for each in prices)


def test_the_band_of_the_input_holds_for_all_tokens() -> None:
    prices = PriceList(price(9, 9), (PricePeriod(None, (Band(0, price(1, 1)), Band(200, price(9, 9)))),))
    assert [prices.at(NOON, tokens).input_pico for tokens in (0, 200, 201)] == [1, 1, 9]


def test_the_last_period_that_is_now_counts_and_of_none_the_first() -> None:
    def only_at_noon(moment: datetime) -> bool:
        return moment == NOON

    bands = [(Band(0, price(pico, 0)),) for pico in (1, 2, 3)]
    prices = PriceList(
        price(3, 0),
        (
            PricePeriod(only_at_noon, bands[0]),
            PricePeriod(only_at_noon, bands[1]),
            PricePeriod(lambda _: False, bands[2]),
        ),
    )
    assert prices.at(NOON, 1).input_pico == 2
    assert prices.at(datetime(2026, 11, 24, tzinfo=UTC), 1).input_pico == 1


@pytest.mark.parametrize(("amount", "pico"), [("2.5", 2_500_000), ("0.0000001", 1), ("0", 0), ("1000000", 10**12)])
def test_a_price_is_pico_dollars_a_token_rounded_up(amount: str, pico: int) -> None:
    assert pico_per_token(Decimal(amount)) == pico


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "1000000.1", "1e999999999"])
def test_what_is_no_price_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        pico_per_token(Decimal(amount))


def test_a_price_that_is_set_has_no_more_decimals_than_are_kept() -> None:
    assert usd_per_million(exact_pico_per_token(Decimal("0.075001"))) == Decimal("0.075001")
    with pytest.raises(ValueError, match="at most 6 decimals"):
        exact_pico_per_token(Decimal("0.0750001"))
    with pytest.raises(ValueError, match="at most 6 decimals"):
        exact_pico_per_token(Decimal("2.50000000000000000000000000000000000001"))
