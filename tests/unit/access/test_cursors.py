"""Cursors of the directory's lists: they fit the query that they came from, and nothing else is one."""

from __future__ import annotations

import base64
import json

import pytest

from hx_gateway.access.cursors import MAX_CURSOR_CHARS, Position, decode_cursor, encode_cursor, mark_of
from hx_gateway.access.errors import InvalidField

MARK = mark_of("team", "name", [("tenant_id", "acme")])


@pytest.mark.parametrize(
    ("position", "kind"),
    [
        (Position("Ada", "us-1"), str),
        (Position("\N{GRINNING FACE}" * 128, "us-" + "a" * 61), str),
        (Position("", "us-1"), str),
        (Position(1_764_072_000_000_001, "us-1"), int),
        (Position(None, "k"), int),
    ],
)
def test_a_cursor_comes_back_as_it_was(position: Position, kind: type[str | int]) -> None:
    cursor = encode_cursor(position, MARK)
    assert len(cursor) <= MAX_CURSOR_CHARS
    assert decode_cursor(cursor, MARK, kind) == position


def test_no_cursor_is_the_first_page() -> None:
    assert decode_cursor(None, MARK, str) is None


def _packed(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "a" * (MAX_CURSOR_CHARS + 1),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        _packed(MARK),
        _packed(MARK, "Ada", "us-1", "more"),
        _packed(MARK, 7, "us-1"),
        _packed(MARK, True, "us-1"),
        _packed(MARK, ["Ada"], "us-1"),
        _packed(MARK, "a\0", "us-1"),
        _packed(MARK, "a", "us-1\0"),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_cursor(cursor, MARK, str)
    assert (caught.value.status, caught.value.param) == (422, "cursor")


@pytest.mark.parametrize("count", [-1, 2**63, 10**30, 253_402_300_800_000_000])
def test_moments_outside_of_the_calendar_are_refused(count: int) -> None:
    with pytest.raises(InvalidField):
        decode_cursor(_packed(MARK, count, "us-1"), MARK, int)


def test_a_cursor_of_another_query_is_refused() -> None:
    cursor = encode_cursor(Position("Ada", "us-1"), MARK)
    with pytest.raises(InvalidField, match="other filters"):
        decode_cursor(cursor, mark_of("team", "name", []), str)
