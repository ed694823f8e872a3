"""What a call would cost: at most, and as far as can be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from hx_gateway.errors import InvalidRequest, NotFound
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pricing.estimates import (
    Images,
    count_images,
    expected_input,
    image_tokens,
    images_in,
    upper_bound,
)
from hx_gateway.pricing.prices import Price, cost_nano
from hx_gateway.spend.answers import json_reply, rate, usd
from hx_gateway.spend.parameters import read_object, read_parameters

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128
MAX_NAME_CHARS = 256
TEXTS = ("messages", "prompt", "input")
COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")

PriceOf = Callable[[str], Price | None]


class Quotes:
    """The handler over ``price_of``, which knows prices by the names that clients use.

    ``default_cap`` is the output cap of a request that has none.
    """

    def __init__(self, price_of: PriceOf, default_cap: int) -> None:
        self._price_of = price_of
        self._default_cap = default_cap

    async def estimate(self, ctx: Context) -> Reply:
        """Answer with the bound and the expected cost of a request, or with the cost of counted tokens.

        A request may be sent here as it would be sent to the model: what has no price is not looked at.
        """
        read_parameters(ctx, ())
        body, fields = await read_object(ctx, MAX_BODY_BYTES)
        model = _text(fields, "model")
        price = self._price_of(model)
        if price is None:
            raise unknown_price(model)
        counted = [name for name in COUNTS if name in fields]
        if counted and any(name in fields for name in TEXTS):
            raise InvalidRequest("Give either counted tokens or a request.", param=counted[0])
        parts = _counted(fields, price) if counted else self._guessed(model, body, fields, price)
        return json_reply({"model": model, "price": shown_price(price), **parts})

    def _guessed(self, model: str, body: bytes, fields: Mapping[str, Raw], price: Price) -> dict[str, Any]:
        text = next((name for name in TEXTS if name in fields), None)
        if text is None:
            raise InvalidRequest(
                f"{TEXTS[0]!r} is missing: give {', '.join(TEXTS)}, or counted tokens.",
                param=TEXTS[0],
                code="missing_parameter",
            )
        cap, n = self._output(fields) if text != "input" else (0, 1)
        images = images_in(bytes(fields[text])) if text == "messages" else Images(count_images(bytes(fields[text])), 0)
        size, each = len(body) - images.inline_bytes, image_tokens(model)
        bound = upper_bound(size, cap=cap, n=n, images=images.count, tokens_per_image=each)
        likely = min(expected_input(size, images=images.count, tokens_per_image=each), bound.input_tokens)
        return {
            "max_tokens": cap,
            "n": n,
            "upper_bound": _priced(price, bound.input_tokens, bound.output_tokens),
            "expected": _priced(price, likely, bound.output_tokens),
        }

    def _output(self, fields: Mapping[str, Raw]) -> tuple[int, int]:
        caps = [_whole(fields, name, 1, MAX_TOKENS) for name in ("max_tokens", "max_completion_tokens")]
        given = [cap for cap in caps if cap is not None]
        choices = [_whole(fields, name, 1, MAX_CHOICES) or 1 for name in ("n", "best_of")]
        return max(given, default=self._default_cap), max(choices)


def unknown_price(model: str) -> NotFound:
    """Return the error for a model that nobody knows a price of."""
    return NotFound(
        f"There is no price of {model[:MAX_NAME_CHARS]!r}: set one with PUT /v1/prices, or in the model file.",
        param="model",
        code="model_price_unknown",
    )


def shown_price(price: Price) -> dict[str, Any]:
    """Return a price as clients see it: dollars for a million tokens."""
    cached = price.cached_input_pico
    return {
        "source": price.source,
        "version": price.version,
        "input_usd_per_million": rate(price.input_pico),
        "output_usd_per_million": rate(price.output_pico),
        "cached_input_usd_per_million": None if cached is None else rate(cached),
    }


def _counted(fields: Mapping[str, Raw], price: Price) -> dict[str, Any]:
    prompt, completion, cached = (_whole(fields, name, 0, MAX_TOKENS) or 0 for name in COUNTS)
    if cached > prompt:
        raise InvalidRequest("cached_tokens are a part of prompt_tokens: not more than those.", param="cached_tokens")
    exact = _priced(price, prompt, completion, cached)
    return {"upper_bound": exact, "expected": exact}


def _priced(price: Price, prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    cost = usd(cost_nano(price, prompt, completion, cached))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "cost_usd": cost}


def _text(fields: Mapping[str, Raw], name: str) -> str:
    value = msgspec.json.decode(fields[name]) if name in fields else None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARS or not value.isprintable():
        raise InvalidRequest(
            f"{name!r} must be a text of 1 to {MAX_NAME_CHARS} printable characters.", param=name, code="invalid_value"
        )
    return value


def _whole(fields: Mapping[str, Raw], name: str, least: int, most: int) -> int | None:
    value = msgspec.json.decode(fields[name]) if name in fields else None
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidRequest(
            f"{name!r} must be a whole number from {least} to {most}, not {value!r:.40}.",
            param=name,
            code="invalid_value",
        )
    return value
