"""Tokens of a call whose upstream did not say: told from bytes, and marked as an estimate."""

from __future__ import annotations

from hx_gateway.events import TokenUsage
from hx_gateway.pricing.estimates import BYTES_PER_TOKEN, expected_input


def estimated_usage(text_bytes: int, relayed_bytes: int, *, images: int = 0) -> TokenUsage:
    """Return the usage of a call with ``text_bytes`` of request, of whose answer ``relayed_bytes`` of text came.

    For an answer that broke off it is what was made until then: the provider bills no less.
    """
    return TokenUsage(
        prompt_tokens=expected_input(text_bytes, images=images),
        completion_tokens=completion_estimate(relayed_bytes),
        estimated=True,
    )


def completion_estimate(relayed_bytes: int) -> int:
    """Return the tokens that ``relayed_bytes`` of an answer's text are about: a quarter, rounded up."""
    return -(-max(relayed_bytes, 0) // BYTES_PER_TOKEN)
