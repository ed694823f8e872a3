"""Whose price counts: the API's before the model file's before the catalogue's."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hx_gateway.pricing.configured import configured_prices
from hx_gateway.pricing.prices import Band, Price, PriceList, PricePeriod, flat
from hx_gateway.pricing.source import CACHED_MODELS, NoCatalogue, PriceSource


def price(pico: int, source: str = "test") -> Price:
    return Price(input_pico=pico, output_pico=pico, source=source, version="1")


class Listed:
    """A catalogue that counts what it is asked."""

    def __init__(self, **prices: PriceList) -> None:
        self.prices = prices
        self.asked: list[tuple[str, str | None]] = []

    def find(self, model: str, provider: str | None) -> PriceList | None:
        self.asked.append((model, provider))
        return self.prices.get(model)


def test_the_api_goes_before_the_model_file_and_that_before_the_catalogue() -> None:
    source = PriceSource(Listed(fast=flat(price(3))), {"fast": price(2)})
    source.set_override("fast", price(1))
    assert source.price("fast") == price(1)
    source.set_override("fast", None)
    assert source.price("fast") == price(2)
    assert PriceSource(Listed(fast=flat(price(3)))).price("fast") == price(3)
    assert PriceSource(NoCatalogue()).price("fast") is None


def test_the_catalogue_is_asked_for_the_name_that_the_server_knows() -> None:
    catalogue = Listed(**{"gpt-4o": flat(price(3))})
    assert PriceSource(catalogue).price("fast", "openai", served_as="gpt-4o") == price(3)
    assert catalogue.asked == [("gpt-4o", "openai")]


def test_a_name_is_looked_up_once_whether_or_not_it_has_a_price() -> None:
    catalogue = Listed(known=flat(price(3)))
    source = PriceSource(catalogue)
    for _ in range(3):
        source.price("known")
        source.price("unknown")
    assert catalogue.asked == [("known", None), ("unknown", None)]


def test_names_that_clients_make_up_do_not_pile_up() -> None:
    source = PriceSource(Listed())
    for number in range(CACHED_MODELS + 50):
        source.price(f"m{number}")
    assert len(source._found) == CACHED_MODELS


def test_a_call_has_the_price_of_its_size_and_its_bound_the_highest() -> None:
    bands = (Band(0, price(1)), Band(100, price(5)))
    source = PriceSource(Listed(long=PriceList(price(5), (PricePeriod(None, bands),))))
    found = source.prices_of("long")
    assert found is not None
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert source.price("long") == price(5)
    assert found.at(now, 100) == price(1)
    assert found.at(now, 101) == price(5)
    assert source.prices_of("nobody") is None


def test_overrides_are_replaced_as_a_whole() -> None:
    source = PriceSource(NoCatalogue())
    source.set_override("gone", price(1))
    source.replace_overrides({"new": price(2)})
    assert source.overrides == {"new": price(2)}


def test_the_model_file_has_prices_in_litellms_words() -> None:
    entries: dict[str, dict[str, object]] = {
        "fast": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": "0.00001", "mode": "chat"},
        "cached": {"input_cost_per_token": 1e-06, "output_cost_per_token": 0, "cache_read_input_token_cost": 1e-07},
        "embedding": {"input_cost_per_token": 2e-08},
        "unpriced": {"max_tokens": 10, "input_cost_per_token": None},
    }
    found = configured_prices(entries, "v1")
    assert {name: (p.input_pico, p.output_pico, p.cached_input_pico) for name, p in found.items()} == {
        "fast": (2_500_000, 10_000_000, None),
        "cached": (1_000_000, 0, 100_000),
        "embedding": (20_000, 0, None),
    }
    assert (found["fast"].source, found["fast"].version) == ("config", "v1")


@pytest.mark.parametrize("value", ["cheap", True, -1e-06, [], float("nan"), 2])
def test_a_price_in_the_model_file_that_is_none_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="fast: output_cost_per_token"):
        configured_prices({"fast": {"input_cost_per_token": 0, "output_cost_per_token": value}}, "v1")
