"""Cursors: exact, opaque, and of one query only."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.errors import InvalidRequest
from hx_gateway.observability.cursors import Position, decode_cursor, encode_cursor
from hx_gateway.observability.filters import MetricFilters, RecordFilters, RoutingFilters, TraceFilters

FILTERS = TraceFilters(tenant_id="default", agent_name="planner")
POSITION = Position(datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC), UUID(int=2**127 + 5))
CURSOR = encode_cursor(POSITION, FILTERS)


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))])), st.uuids())
def test_a_position_comes_back_to_the_microsecond(moment: datetime, event_id: UUID) -> None:
    try:
        position = Position(moment.astimezone(UTC), event_id)
    except OverflowError:
        return
    cursor = encode_cursor(position, FILTERS)
    assert re.fullmatch(r"[A-Za-z0-9_-]{38}", cursor)
    assert decode_cursor(cursor, FILTERS) == position


def refused(cursor: str, filters: RecordFilters = FILTERS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_cursor(cursor, filters)
    assert caught.value.param == "cursor"
    return caught.value.message


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "===",
        "not a cursor",
        CURSOR[:-1],
        CURSOR + "A",
        CURSOR + "=",
        CURSOR + "==",
        " " + CURSOR,
        CURSOR + "\n",
        CURSOR[:10] + "+" + CURSOR[11:],
        CURSOR[:10] + "é" + CURSOR[11:],
        CURSOR[:10] + "\ud800" + CURSOR[11:],
        base64.urlsafe_b64encode(base64.urlsafe_b64decode(CURSOR + "==")[:4] + b"\x7f" + b"\xff" * 23).decode()[:38],
        base64.urlsafe_b64encode(base64.urlsafe_b64decode(CURSOR + "==")[:4] + b"\x80" + b"\0" * 23).decode()[:38],
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    assert "is not one that a page came with" in refused(cursor)


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{38}", fullmatch=True))
def test_any_text_is_refused_and_never_breaks(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "filters",
    [
        replace(FILTERS, agent_name="writer"),
        replace(FILTERS, agent_name=None),
        replace(FILTERS, event_type="tool.call"),
        replace(FILTERS, min_level="ERROR"),
        replace(FILTERS, agent_name=None, event_type="planner"),
        replace(FILTERS, tenant_id="other"),
        RoutingFilters(tenant_id="default", selected_agent="planner"),
        MetricFilters(tenant_id="default"),
    ],
)
def test_a_cursor_of_another_query_is_refused(filters: RecordFilters) -> None:
    assert "other filters" in refused(CURSOR, filters)


def test_the_window_and_the_limit_may_change_between_pages() -> None:
    moved = replace(FILTERS, limit=7, start_time=POSITION.timestamp - timedelta(days=1), end_time=POSITION.timestamp)
    assert decode_cursor(CURSOR, moved) == POSITION
