"""What may be asked of the record, and what is refused by the name of its field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from hx_gateway.errors import InvalidRequest
from hx_gateway.observability.filters import (
    MAX_LIMIT,
    MAX_TEXT_CHARS,
    MetricFilters,
    RecordFilters,
    RoutingFilters,
    TraceFilters,
    TransformationFilters,
)
from hx_gateway.observability.levels import LEVELS, MAX_LEVEL, level_name, level_number

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAIVE = datetime(2026, 11, 24, 12)  # noqa: DTZ001 - what is refused
EAST = timezone(timedelta(hours=14))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (TraceFilters, "limit", 0),
        (TraceFilters, "limit", -1),
        (TraceFilters, "limit", MAX_LIMIT + 1),
        (TraceFilters, "limit", True),
        (TraceFilters, "limit", 10.0),
        (TraceFilters, "limit", "10"),
        (TraceFilters, "limit", None),
        (TraceFilters, "tenant_id", ""),
        (TraceFilters, "tenant_id", None),
        (TraceFilters, "tenant_id", "a\0"),
        (TraceFilters, "trace_id", "a\0b"),
        (TraceFilters, "agent_name", "\ud800"),
        (TraceFilters, "event_type", 7),
        (TraceFilters, "event_type", "x" * (MAX_TEXT_CHARS + 1)),
        (TraceFilters, "min_level", "LOUD"),
        (TraceFilters, "min_level", ""),
        (TraceFilters, "min_level", 17),
        (TraceFilters, "start_time", NAIVE),
        (TraceFilters, "end_time", NAIVE),
        (TraceFilters, "end_time", "2026-11-24"),
        (TraceFilters, "start_time", datetime.min.replace(tzinfo=EAST)),
        (RoutingFilters, "min_confidence", -0.01),
        (RoutingFilters, "min_confidence", 1.01),
        (RoutingFilters, "min_confidence", float("nan")),
        (RoutingFilters, "min_confidence", float("inf")),
        (RoutingFilters, "min_confidence", True),
        (RoutingFilters, "min_confidence", "0.5"),
        (RoutingFilters, "routing_strategy", "\0"),
        (MetricFilters, "component", "\0"),
        (TransformationFilters, "target_agent", "\0"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_the_name_of_its_field(
    kind: Callable[..., RecordFilters], field: str, value: Any
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        kind(**{"tenant_id": "default", field: value})
    assert caught.value.param == field
    assert field in caught.value.message


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        TraceFilters(tenant_id="default", start_time=NOON, end_time=NOON - timedelta(microseconds=1))
    assert caught.value.param == "start_time"


def test_what_keeps_the_rules_is_taken() -> None:
    TraceFilters(tenant_id="default", start_time=NOON, end_time=NOON, limit=1, agent_name="", min_level="warning")
    TraceFilters(tenant_id="t", start_time=NOON, end_time=NOON.astimezone(EAST), limit=MAX_LIMIT, trace_id="é" * 4096)
    RoutingFilters(tenant_id="default", min_confidence=0)
    RoutingFilters(tenant_id="default", min_confidence=1)


def test_only_filters_that_are_set_are_chosen() -> None:
    filters = TraceFilters(tenant_id="default", start_time=NOON, cursor="x", agent_name="", min_level="INFO")
    assert filters.chosen() == {"agent_name": "", "min_level": "INFO"}


def test_every_number_of_a_level_has_the_name_it_is_found_by() -> None:
    assert [level_name(number) for number in LEVELS.values()] == list(LEVELS)
    names = [level_name(number) for number in range(1, MAX_LEVEL + 1)]
    assert names == [name for name in LEVELS for _ in range(4)]
    assert level_number("Error") == level_number("ERROR") == 17
    assert (level_number("warning"), level_number("CRITICAL")) == (13, 21)
