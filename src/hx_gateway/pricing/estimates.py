"""How many tokens a request may use, told from its bytes before anybody has counted them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from hx_gateway.kit.token_estimate import tokens_in

# The most that an image is counted as by most models, at their highest detail.
IMAGE_TOKENS = 2_000
# Models that count an image as many more: 2,833 and 5,667 for each of up to 8 tiles, told by how their name begins.
_DEAR_IMAGES = (("gpt-4o-mini", 50_000),)

_PARTS = (b"image_url", b"input_image")
# Letters that need no escape may be written as one all the same.
_ESCAPED_ASCII = re.compile(rb"\\u00([2-7][0-9a-fA-F])")


class UpperBound(msgspec.Struct, frozen=True, gc=False):
    """The most tokens that a request can use: a token is at least a byte of its text."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Images:
    """Images in a request, and the bytes of those that came with it, which are no text."""

    count: int
    inline_bytes: int


class _Link(msgspec.Struct, gc=False):
    url: str = ""


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    image_url: _Link | str | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Part | str] | str | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])


def count_images(raw: bytes) -> int:
    """Return how many images the JSON in ``raw`` may hold: perhaps more than there are, never fewer.

    An image of a chat names ``image_url`` twice and one of other shapes once, so that none is counted at half.
    """
    if b"\\u00" in raw:
        raw = _ESCAPED_ASCII.sub(lambda escape: bytes([int(escape[1], 16)]), raw)
    return sum(raw.count(part) for part in _PARTS)


def images_in(messages: bytes) -> Images:
    """Return the images of a chat's ``messages``, as the request has them (JSON).

    Only what stands where a model's server looks for an image is taken for one: text that looks like it stays text.
    What cannot be read that way is counted by :func:`count_images`, and all of its bytes as text.
    """
    most = count_images(messages)
    if not most:
        return Images(0, 0)
    try:
        parts = [part for message in _MESSAGES.decode(messages) for part in _parts(message)]
    except (msgspec.DecodeError, RecursionError):
        return Images(most, 0)
    links = [_link(part) for part in parts if part.type in ("image_url", "input_image")]
    # One that is no data is fetched by the server: its address is short, and text as good as any.
    return Images(len(links), sum(len(link) for link in links if link.startswith("data:")))


@lru_cache(maxsize=1024)
def image_tokens(model: str) -> int:
    """Return the most tokens that ``model``, the name that its server knows, counts an image as."""
    name = model.rpartition("/")[2]
    return next((tokens for beginning, tokens in _DEAR_IMAGES if name.startswith(beginning)), IMAGE_TOKENS)


def upper_bound(
    text_bytes: int, *, cap: int, n: int = 1, images: int = 0, tokens_per_image: int = IMAGE_TOKENS
) -> UpperBound:
    """Return the bound of a request whose body has ``text_bytes``, without those of its images.

    ``cap`` is the output cap of each of the ``n`` answers. Audio counts with all of its bytes: at the price of text
    they cost more than a second of it at the price of audio.
    """
    return UpperBound(text_bytes + images * tokens_per_image, cap * n)


def expected_input(text_bytes: int, *, images: int = 0, tokens_per_image: int = IMAGE_TOKENS) -> int:
    """Return how many tokens of input to expect: a quarter of the bytes, rounded up, and the images."""
    return tokens_in(text_bytes) + images * tokens_per_image


def _parts(message: _Message) -> list[_Part]:
    content = message.content
    return [part for part in content if isinstance(part, _Part)] if isinstance(content, list) else []


def _link(part: _Part) -> str:
    image = part.image_url
    return image.url if isinstance(image, _Link) else image or ""
