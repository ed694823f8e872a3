"""Tokens that nobody counted."""

from __future__ import annotations

from hx_gateway.kit.token_estimate import tokens_in


def test_a_text_is_a_token_for_four_bytes_rounded_up() -> None:
    assert [tokens_in(size) for size in (0, 1, 8, 9)] == [0, 1, 2, 3]
