"""The bound of a request: over-counting is allowed, under-counting is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hx_gateway.pricing.estimates import (
    Images,
    UpperBound,
    count_images,
    expected_input,
    image_tokens,
    images_in,
    upper_bound,
)

PIXELS = "data:image/png;base64," + "A" * 1_000


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def chat(*parts: object, role: str = "user") -> bytes:
    return json.dumps([{"role": "system", "content": "Be brief."}, {"role": role, "content": list(parts)}]).encode()


def test_the_bound_is_a_token_for_each_byte_and_the_cap_of_each_answer() -> None:
    assert upper_bound(120, cap=100, n=3) == UpperBound(120, 300)


def test_each_image_adds_the_most_that_one_counts_as() -> None:
    assert upper_bound(120, cap=1, images=2, tokens_per_image=2_000).input_tokens == 4_120


@pytest.mark.parametrize(
    ("model", "tokens"), [("gpt-4o", 2_000), ("gpt-4o-mini-2024-07-18", 50_000), ("openai/gpt-4o-mini", 50_000)]
)
def test_models_that_count_an_image_as_more_are_known(model: str, tokens: int) -> None:
    assert image_tokens(model) == tokens


@pytest.mark.parametrize(
    "part",
    [
        b'{"type":"image_url","image_url":{"url":"https://example.org/a.png"}}',
        b'{"type" : "image_url", "image_url" : "https://example.org/a.png"}',
        b'{"type":"input_image","file_id":"f1"}',
        b'{"type":"\\u0069mage_url","\\u0069mage_url":{"url":"x"}}',
        b'{"type":"input\\u005fimage","file_id":"f1"}',
        b'{"type":"image\\u005Furl","image_url":{"url":"x"}}',
    ],
)
def test_no_spelling_of_an_image_is_missed(part: bytes) -> None:
    assert count_images(b"[" + b",".join([part] * 5) + b"]") >= 5


def test_text_alone_has_no_image() -> None:
    assert count_images(chat({"type": "text", "text": "no picture here"})) == 0
    assert images_in(chat({"type": "text", "text": "no picture here"})) == Images(0, 0)


def test_the_bytes_of_an_image_are_not_text() -> None:
    found = images_in(chat({"type": "text", "text": "What is it?"}, image(PIXELS), image("https://example.org/a.png")))
    assert found == Images(2, len(PIXELS))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": PIXELS + " image_url"},
        {"type": "text", "text": "image_url", "image_url": {"url": PIXELS}},
        {"type": "tool", "url": PIXELS, "note": "image_url"},
    ],
)
def test_what_only_looks_like_an_image_is_counted_as_text(part: dict[str, Any]) -> None:
    assert images_in(chat(part)).inline_bytes == 0


@pytest.mark.parametrize(
    "messages", [b'[{"role":"user","content":[{"type":"image_url","image_url":7}]}]', b'"image_url"']
)
def test_images_that_cannot_be_read_count_with_all_their_bytes(messages: bytes) -> None:
    found = images_in(messages)
    assert found.count >= 1
    assert found.inline_bytes == 0


def test_what_is_expected_is_a_quarter_of_the_bytes_rounded_up() -> None:
    assert [expected_input(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert expected_input(5, images=1) == 2 + 2_000
