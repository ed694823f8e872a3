"""Keys: an id, a secret and a checksum; whatever else somebody sends is no key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.access.key_format import ALPHABET, mint_key, parse_key


def test_a_minted_key_is_read_back() -> None:
    minted = mint_key()
    parsed = parse_key(minted.text)
    assert parsed is not None
    assert (parsed.id, parsed.secret) == (minted.id, minted.secret)
    assert minted.text == f"sk-hx-{minted.id}-{minted.secret}{minted.text[-6:]}"
    assert minted.last_four == minted.text[-4:]
    assert minted.prefix == f"sk-hx-{minted.id}"


def test_keys_are_not_alike() -> None:
    assert len({mint_key().id for _ in range(500)}) == 500


def test_a_rotated_key_keeps_its_id() -> None:
    minted = mint_key()
    again = mint_key(minted.id)
    assert again.id == minted.id
    assert again.secret != minted.secret


def test_neither_form_shows_its_secret_when_it_is_printed() -> None:
    minted = mint_key()
    assert minted.secret not in repr(minted)
    assert minted.secret not in repr(parse_key(minted.text))


@given(position=st.integers(0, 56), character=st.sampled_from(ALPHABET + "-_ é"))
def test_a_key_with_one_changed_character_is_no_key(position: int, character: str) -> None:
    text = mint_key().text
    changed = text[:position] + character + text[position + 1 :]
    assert (parse_key(changed) is None) is (changed != text)


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert parse_key(text) is None
    assert parse_key("sk-hx-" + text) is None


@pytest.mark.parametrize("ending", ["\n", " ", "\0", "x"])
def test_nothing_may_follow_a_key(ending: str) -> None:
    assert parse_key(mint_key().text + ending) is None
