"""Prices that are set: at once here, a moment later in every other worker."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from hx_gateway.errors import InvalidRequest, NotFound
from hx_gateway.pricing.source import PriceSource
from hx_gateway.services.postgres import PostgresService
from hx_gateway.spend.overrides import reload_overrides
from hx_gateway.spend.repository import SpendRepository
from tests.integration.spend.samples import PLATFORM, Asker, Listed

ONE = "/v1/prices/gpt"
PRICE = {"input_usd_per_million": 1.5, "output_usd_per_million": "2.000001", "cached_input_usd_per_million": 0}


async def put(asker: Asker, body: object = PRICE, path: str = ONE) -> Any:
    return (await asker.ask(path, PLATFORM, method="PUT", body=body)).json()


async def test_a_price_that_is_set_goes_before_the_catalogues(asker: Asker) -> None:
    assert (await asker.ask(ONE)).json()["source"] == "listed"
    shown = await put(asker)
    assert (shown["model"], shown["source"], shown["updated_by"]) == ("gpt", "override", "admin")
    assert shown["version"][:19] == shown["updated_at"][:19]
    assert [shown[name] for name in PRICE] == [1.5, 2.000001, 0]
    assert (await asker.ask(ONE)).json() == shown
    assert (await asker.ask("/v1/prices")).json()["items"] == [shown]
    price = asker.prices.price("gpt")
    assert price is not None
    assert (price.input_pico, price.output_pico, price.cached_input_pico) == (1_500_000, 2_000_001, 0)


async def test_a_price_may_be_set_again(asker: Asker) -> None:
    first = await put(asker)
    second = await put(asker, {"input_usd_per_million": 3, "output_usd_per_million": 4})
    assert second["cached_input_usd_per_million"] is None
    assert second["version"] > first["version"]


async def test_a_price_that_is_taken_back_leaves_the_catalogues(asker: Asker) -> None:
    await put(asker)
    assert (await asker.ask(ONE, method="DELETE")).json() == {"model": "gpt", "deleted": True}
    assert (await asker.ask(ONE)).json()["source"] == "listed"
    with pytest.raises(NotFound) as unknown:
        await asker.ask(ONE, method="DELETE")
    assert unknown.value.code == "model_price_unknown"


async def test_a_name_may_have_slashes(asker: Asker) -> None:
    await put(asker, path="/v1/prices/openai/gpt-4o")
    assert (await asker.ask("/v1/prices/openai/gpt-4o")).json()["model"] == "openai/gpt-4o"


async def test_a_model_without_a_price_is_told(asker: Asker) -> None:
    with pytest.raises(NotFound) as unknown:
        await asker.ask("/v1/prices/nobody")
    assert unknown.value.code == "model_price_unknown"


async def test_other_workers_learn_of_what_was_set_and_taken_back(
    asker: Asker, connection: asyncpg.Connection[Any]
) -> None:
    other = PriceSource(Listed())
    await put(asker)
    await reload_overrides(other, connection)
    assert other.price("gpt") == asker.prices.price("gpt")
    await asker.ask(ONE, method="DELETE")
    await reload_overrides(other, connection)
    assert other.overrides == {}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"input_usd_per_million": 1}, "output_usd_per_million"),
        ({"output_usd_per_million": 1}, "input_usd_per_million"),
        ({**PRICE, "image_usd": 1}, "image_usd"),
        ({**PRICE, "input_usd_per_million": -1}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": True}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": [1]}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": "cheap"}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": "1e999999999"}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": 0.0000001}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": 1_000_001}, "input_usd_per_million"),
        ({**PRICE, "input_usd_per_million": "0" * 100}, "input_usd_per_million"),
        (b'{"input_usd_per_million": NaN}', None),
        (b"[]", None),
    ],
)
async def test_what_is_no_price_is_refused_and_named(asker: Asker, body: object, named: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await put(asker, body)
    assert refused.value.param == named
    assert (await asker.ask("/v1/prices")).json()["items"] == []


async def test_of_all_workers_one_tells_of_a_window(database: str, connection: asyncpg.Connection[Any]) -> None:
    async with PostgresService(database, acquire_timeout=30.0) as service:
        repository = SpendRepository(service)
        claims = [repository.claim_notice("acme", "bg-1", "2026-11") for _ in range(8)]
        assert sorted(await asyncio.gather(*claims)) == [False] * 7 + [True]
        assert await repository.claim_notice("acme", "bg-1", "2026-12")
        await repository.release_notice("bg-1", "2026-11")
        assert await repository.claim_notice("acme", "bg-1", "2026-11")
