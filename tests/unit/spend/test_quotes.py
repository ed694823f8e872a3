"""What a call would cost, asked without a server and without a database."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hx_gateway.errors import BodyTooLarge, InvalidRequest, NotFound
from hx_gateway.pricing.prices import Price
from hx_gateway.spend.quotes import MAX_BODY_BYTES, Quotes
from tests.unit.pipeline.doubles import context

PRICE = Price(input_pico=2_000_000, output_pico=10_000_000, cached_input_pico=500_000, source="test", version="7")
MESSAGES = [{"role": "user", "content": "Hello"}]


async def estimate(body: object) -> Any:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    quotes = Quotes({"gpt": PRICE}.get, default_cap=1_000)
    reply = await quotes.estimate(context("/v1/cost/estimate", method="POST", body=data))
    assert isinstance(reply.body, bytes)
    return msgspec.json.decode(reply.body)


async def test_a_request_is_bounded_by_its_bytes_and_its_cap() -> None:
    body = {"model": "gpt", "messages": MESSAGES, "max_tokens": 100, "n": 2}
    size = len(msgspec.json.encode(body))
    answer = await estimate(body)
    assert answer["upper_bound"] == {
        "prompt_tokens": size,
        "completion_tokens": 200,
        "cost_usd": (size * 2_000 + 200 * 10_000) / 1e9,
    }
    assert answer["expected"]["prompt_tokens"] == -(-size // 4)
    assert answer["price"] == {
        "source": "test",
        "version": "7",
        "input_usd_per_million": 2,
        "output_usd_per_million": 10,
        "cached_input_usd_per_million": 0.5,
    }


async def test_a_request_without_a_cap_has_the_gateways() -> None:
    assert (await estimate({"model": "gpt", "prompt": "Hello"}))["upper_bound"]["completion_tokens"] == 1_000


async def test_of_two_caps_and_two_counts_of_answers_the_larger_one_counts() -> None:
    body = {"model": "gpt", "prompt": "x", "max_tokens": 5, "max_completion_tokens": 7, "n": 2, "best_of": 3}
    assert (await estimate(body))["upper_bound"]["completion_tokens"] == 21


async def test_an_embedding_has_no_output() -> None:
    assert (await estimate({"model": "gpt", "input": ["a", "b"]}))["upper_bound"]["completion_tokens"] == 0


async def test_an_image_counts_as_tokens_and_its_bytes_do_not() -> None:
    url = "data:image/png;base64," + "A" * 50_000
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"model": "gpt", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
    size = len(msgspec.json.encode(body))
    assert (await estimate(body))["upper_bound"]["prompt_tokens"] == size - len(url) + 2_000


async def test_counted_tokens_cost_what_they_cost() -> None:
    answer = await estimate({"model": "gpt", "prompt_tokens": 1_000, "completion_tokens": 100, "cached_tokens": 400})
    assert answer["expected"] == answer["upper_bound"]
    assert answer["expected"]["cost_usd"] == (600 * 2_000 + 400 * 500 + 100 * 10_000) / 1e9


async def test_a_model_without_a_price_is_told() -> None:
    with pytest.raises(NotFound) as unknown:
        await estimate({"model": "nobody", "prompt": "Hello"})
    assert (unknown.value.code, unknown.value.status) == ("model_price_unknown", 404)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": 7, "prompt": "x"}, "model"),
        ({"model": "", "prompt": "x"}, "model"),
        ({"model": "x" * 257, "prompt": "x"}, "model"),
        ({"model": "gpt"}, "messages"),
        ({"model": "gpt", "prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"model": "gpt", "prompt": "x", "max_tokens": "many"}, "max_tokens"),
        ({"model": "gpt", "prompt": "x", "n": True}, "n"),
        ({"model": "gpt", "prompt": "x", "n": 129}, "n"),
        ({"model": "gpt", "prompt": "x", "prompt_tokens": 1}, "prompt_tokens"),
        ({"model": "gpt", "completion_tokens": -1}, "completion_tokens"),
        ({"model": "gpt", "prompt_tokens": 1, "cached_tokens": 2}, "cached_tokens"),
        (b"{", None),
        (b'{"model":"gpt","model":"gpt"}', None),
    ],
)
async def test_what_breaks_a_rule_is_named(body: object, named: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await estimate(body)
    assert refused.value.param == named


async def test_a_request_that_is_too_large_is_not_read() -> None:
    with pytest.raises(BodyTooLarge):
        await estimate(b" " * (MAX_BODY_BYTES + 1))
