"""List prices: found by name and provider, the highest of each for the bound, the real one for the bill."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NoReturn

import pytest
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, TieredPrices

from hx_gateway.pricing.catalogue import GenaiCatalogue
from hx_gateway.pricing.prices import PriceList, cost_nano

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CATALOGUE = GenaiCatalogue(NOW)


def found(model: str, provider: str | None = None) -> PriceList:
    prices = CATALOGUE.find(model, provider)
    assert prices is not None
    return prices


def test_a_well_known_model_has_its_list_price() -> None:
    price = found("gpt-4o").bound
    assert (price.input_pico, price.output_pico) == (2_500_000, 10_000_000)
    assert (price.source, price.version) == ("genai-prices", CATALOGUE.version)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("GPT-4o", None),
        ("openai/gpt-4o", None),
        ("openai/gpt-4o", "litellm_proxy"),
        ("gpt-4o", "openai"),
        ("gpt-4o", "text-completion-openai"),
    ],
)
def test_a_model_is_found_by_its_other_names(model: str, provider: str | None) -> None:
    assert found(model, provider).bound.input_pico == 2_500_000


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("accounts/fireworks/models/deepseek-r1-0528", "fireworks_ai"),
        ("deepseek-chat", "deepseek"),
        ("grok-4", "xai"),
        ("llama-3.3-70b-versatile", "groq"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "together_ai"),
        ("mistral-large-latest", "mistral"),
        ("openai/gpt-4o", "openrouter"),
    ],
)
def test_the_providers_of_a_model_file_are_known_by_its_names(model: str, provider: str) -> None:
    assert CATALOGUE.find(model, provider) is not None


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "custom_openai"),
        ("gpt-4o", "openai_like"),
        ("gpt-4o", "hosted_vllm"),
        ("gpt-4o", "ollama"),
        ("gpt-4o", "demo"),
        ("nobody-knows-this", None),
        ("nobody-knows-this", "openai"),
        ("x" * 257, None),
        ("openai/", None),
        ("", None),
    ],
)
def test_what_has_no_list_price_has_none(model: str, provider: str | None) -> None:
    assert CATALOGUE.find(model, provider) is None


def test_the_bound_is_nowhere_below_the_real_price_of_any_model() -> None:
    hours = [NOW + timedelta(hours=hour) for hour in range(0, 24, 3)]
    for place in get_snapshot().providers:
        for model in place.models:
            prices = CATALOGUE._compile(model)
            for tokens in (0, 1, 128_001, 1_000_000) if prices else ():
                for hour in hours:
                    assert prices is not None
                    assert cost_nano(prices.at(hour, tokens), tokens, 7) <= cost_nano(prices.bound, tokens, 7), model.id


def test_the_real_price_is_what_the_package_calculates() -> None:
    checked = 0
    for place in get_snapshot().providers:
        for model in place.models:
            prices = CATALOGUE._compile(model)
            if prices is None or not _is_text_only(model.get_prices(NOW)):
                continue
            for tokens in (1_000, 300_000):
                theirs = model.calc_price(
                    Usage(input_tokens=tokens, output_tokens=500), place, genai_request_timestamp=NOW
                ).total_price
                ours = cost_nano(prices.at(NOW, tokens), tokens, 500)
                # Prices that are no whole pico-dollars are rounded up, by less than one for each token.
                assert 0 <= ours - theirs * 10**9 <= 1 + (tokens + 500) / Decimal(1000), model.id
                checked += 1
    assert checked > 1_000


def test_a_price_by_the_hour_is_that_of_the_hour_and_its_bound_the_dearer_one() -> None:
    prices = found("deepseek-v4-pro", "deepseek")
    peak, night = datetime(2026, 11, 24, 2, tzinfo=UTC), datetime(2026, 11, 24, 20, tzinfo=UTC)
    hourly = {prices.at(moment, 1).input_pico for moment in (peak, night)}
    assert len(hourly) == 2
    assert prices.bound.input_pico == max(hourly)


def test_prices_of_the_past_do_not_raise_the_bound() -> None:
    (model,) = [
        model
        for place in get_snapshot().providers
        if place.id == "openai"
        for model in place.models
        if model.id == "o3"
    ]
    assert not isinstance(model.prices, ModelPrice)
    first = model.prices[0].prices.input_mtok
    assert isinstance(first, Decimal)
    assert found("o3").bound.input_pico < first * 10**6


def test_nothing_is_asked_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert GenaiCatalogue(NOW).find("gpt-4o-mini", "openai") is not None


def test_the_package_remembers_no_name_that_was_asked_for() -> None:
    before = (len(get_snapshot()._lookup_cache), len(get_snapshot()._provider_misses))
    for number in range(100):
        CATALOGUE.find(f"gpt-4o-{number}", None)
    assert (len(get_snapshot()._lookup_cache), len(get_snapshot()._provider_misses)) == before


def _is_text_only(prices: ModelPrice) -> bool:
    keys = {name for name, value in prices.__dict__.items() if value is not None}
    return keys <= {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"} and not any(
        isinstance(value, TieredPrices) and value.tiers[0].start == 0 for value in prices.__dict__.values()
    )
