"""The handlers of prices: those that were set, and what a model costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import Raw

from hx_gateway.errors import InvalidRequest
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pricing.prices import Price, exact_pico_per_token
from hx_gateway.pricing.source import PriceSource
from hx_gateway.spend.answers import json_reply
from hx_gateway.spend.overrides import MAX_OVERRIDES, SOURCE, price_of
from hx_gateway.spend.parameters import read_object, read_parameters
from hx_gateway.spend.quotes import MAX_NAME_CHARS, PriceOf, shown_price, unknown_price
from hx_gateway.spend.repository import SpendRepository

MAX_BODY_BYTES = 16 * 1024
MAX_RATE_BYTES = 64
INPUT = "input_usd_per_million"
OUTPUT = "output_usd_per_million"
CACHED = "cached_input_usd_per_million"


class PriceRoutes:
    """Handlers over the table of prices; ``prices`` of this worker is brought up to date with each change.

    ``price_of`` knows prices by the names that clients use. The other workers read the table every 10 s.
    """

    def __init__(self, repository: SpendRepository, prices: PriceSource, price_of: PriceOf) -> None:
        self._repository = repository
        self._prices = prices
        self._price_of = price_of

    async def listing(self, ctx: Context) -> Reply:
        """Answer with the prices that were set."""
        read_parameters(ctx, ())
        return json_reply({"items": [_shown(row) for row in await self._repository.prices()]})

    async def one(self, ctx: Context) -> Reply:
        """Answer with the price of a model, wherever it comes from."""
        read_parameters(ctx, ())
        model = _name(ctx)
        row = next((row for row in await self._repository.prices() if row["model"] == model), None)
        if row is not None:
            return json_reply(_shown(row))
        # Not the one that was set and is gone, which this worker may not have heard of.
        self._prices.set_override(model, None)
        price = self._price_of(model)
        if price is None:
            raise unknown_price(model)
        return json_reply({"model": model, **shown_price(price), "updated_at": None, "updated_by": None})

    async def put(self, ctx: Context) -> Reply:
        """Set the price of a model."""
        assert ctx.principal is not None
        read_parameters(ctx, ())
        model = _name(ctx)
        _, fields = await read_object(ctx, MAX_BODY_BYTES)
        price = _price(fields)
        if model not in self._prices.overrides and len(self._prices.overrides) >= MAX_OVERRIDES:
            raise InvalidRequest(f"There are {MAX_OVERRIDES:,} prices already: delete some.", param="model")
        row = await self._repository.set_price(model, price, str(ctx.principal.key_id))
        self._prices.set_override(model, price_of(row))
        return json_reply(_shown(row))

    async def delete(self, ctx: Context) -> Reply:
        """Take back the price of a model, which then has the one of the model file or the catalogue."""
        read_parameters(ctx, ())
        model = _name(ctx)
        there = await self._repository.delete_price(model)
        self._prices.set_override(model, None)
        if not there:
            raise unknown_price(model)
        return json_reply({"model": model, "deleted": True})


def _name(ctx: Context) -> str:
    model = ctx.path_params["model"]
    if len(model) > MAX_NAME_CHARS or not model.isprintable():
        raise InvalidRequest(f"model must be 1 to {MAX_NAME_CHARS} printable characters.", param="model")
    return model


def _price(fields: Mapping[str, Raw]) -> Price:
    for name in fields:
        if name not in (INPUT, OUTPUT, CACHED):
            raise InvalidRequest(f"{name[:64]!r} is not known here: send {INPUT}, {OUTPUT}, {CACHED}.", param=name[:64])
    rates = {name: _rate(fields, name) for name in (INPUT, OUTPUT, CACHED)}
    tokens_in, tokens_out = rates[INPUT], rates[OUTPUT]
    if tokens_in is None or tokens_out is None:
        missing = INPUT if tokens_in is None else OUTPUT
        raise InvalidRequest(
            f"{missing!r} is missing: dollars for a million tokens.", param=missing, code="missing_parameter"
        )
    return Price(
        input_pico=tokens_in, output_pico=tokens_out, cached_input_pico=rates[CACHED], source=SOURCE, version=""
    )


def _rate(fields: Mapping[str, Raw], name: str) -> int | None:
    raw = bytes(fields.get(name, b"null"))
    if raw == b"null":
        return None
    if len(raw) > MAX_RATE_BYTES:
        raise _bad_rate(name, f"must be a number of at most {MAX_RATE_BYTES} characters")
    try:
        # The number as it was written, or a text with one: a double would be another.
        amount = Decimal(msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode())
        return exact_pico_per_token(amount)
    except (InvalidOperation, msgspec.DecodeError):
        raise _bad_rate(name, f"must be a number, not {raw.decode()[:40]}") from None
    except ValueError as error:
        raise _bad_rate(name, str(error)) from None


def _bad_rate(name: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"{name!r} {rule}.", param=name, code="invalid_value")


def _shown(row: Any) -> dict[str, Any]:
    more = {"updated_at": row["updated_at"], "updated_by": row["updated_by"]}
    return {"model": row["model"], **shown_price(price_of(row)), **more}
