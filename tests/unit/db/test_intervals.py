"""Where partitions begin and end, and what they are called."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.intervals import bounds, bounds_of_name, partition_name
from hx_gateway.db.schemas import PARTITIONED_TABLES, ROUTING_DECISIONS, TRACE_EVENTS, PartitionedTable

TABLES = st.sampled_from(PARTITIONED_TABLES)
MOMENTS = st.datetimes(datetime(1, 1, 8), datetime(9999, 12, 20), timezones=st.just(UTC))  # noqa: DTZ001
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("table", "moment", "name"),
    [
        (TRACE_EVENTS, "2026-11-24T12:00:00+00:00", "trace_events_p20261124"),
        (TRACE_EVENTS, "2026-12-31T23:59:59.999999+00:00", "trace_events_p20261231"),
        (TRACE_EVENTS, "2027-01-01T00:00:00+00:00", "trace_events_p20270101"),
        (TRACE_EVENTS, "2024-02-29T00:00:00+00:00", "trace_events_p20240229"),
        (ROUTING_DECISIONS, "2026-11-23T00:00:00+00:00", "routing_decisions_p20261123"),
        (ROUTING_DECISIONS, "2026-11-29T23:59:59.999999+00:00", "routing_decisions_p20261123"),
        (ROUTING_DECISIONS, "2026-11-30T00:00:00+00:00", "routing_decisions_p20261130"),
        # ISO weeks over the year's end: 2026-W53 begins on 28 December, 2025-W01 began on 30 December 2024.
        (ROUTING_DECISIONS, "2027-01-03T23:59:59+00:00", "routing_decisions_p20261228"),
        (ROUTING_DECISIONS, "2025-01-01T00:00:00+00:00", "routing_decisions_p20241230"),
        (TRACE_EVENTS, "0987-06-05T00:00:00+00:00", "trace_events_p09870605"),
    ],
)
def test_a_partition_is_named_by_its_first_day(table: PartitionedTable, moment: str, name: str) -> None:
    assert partition_name(table, datetime.fromisoformat(moment)) == name


@given(TABLES, MOMENTS)
def test_every_moment_is_inside_the_bounds_of_its_partition(table: PartitionedTable, moment: datetime) -> None:
    lower, upper = bounds(table, moment)
    assert lower <= moment < upper
    assert upper - lower == (timedelta(days=1) if table.interval == "day" else timedelta(days=7))
    assert (lower.hour, lower.minute, lower.second, lower.microsecond, lower.tzinfo) == (0, 0, 0, 0, UTC)
    assert table.interval == "day" or lower.isocalendar().weekday == 1


@given(TABLES, MOMENTS)
def test_partitions_follow_each_other_without_gap_or_overlap(table: PartitionedTable, moment: datetime) -> None:
    lower, upper = bounds(table, moment)
    assert bounds(table, upper)[0] == upper
    assert bounds(table, upper - timedelta(microseconds=1)) == (lower, upper)
    assert bounds(table, lower - timedelta(microseconds=1))[1] == lower


@given(TABLES, MOMENTS, OFFSETS)
def test_the_zone_a_moment_is_written_in_does_not_matter(
    table: PartitionedTable, moment: datetime, zone: timezone
) -> None:
    assert bounds(table, moment.astimezone(zone)) == bounds(table, moment)
    assert partition_name(table, moment.astimezone(zone)) == partition_name(table, moment)


def test_a_day_is_of_24_hours_where_clocks_change() -> None:
    for day in (datetime(2026, 3, 29, 1, 30), datetime(2026, 10, 25, 2, 30)):  # noqa: DTZ001
        for fold in (0, 1):
            local = day.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
            lower, upper = bounds(TRACE_EVENTS, local)
            assert lower == datetime(day.year, day.month, day.day, tzinfo=UTC)
            assert upper - lower == timedelta(hours=24)


@given(TABLES, MOMENTS)
def test_a_name_gives_its_bounds_back(table: PartitionedTable, moment: datetime) -> None:
    assert bounds_of_name(table, partition_name(table, moment)) == bounds(table, moment)


@pytest.mark.parametrize(
    "name",
    [
        "trace_events",
        "trace_events_p2026112",
        "trace_events_p202611244",
        "trace_events_p20261324",
        "trace_events_p20261124_copy",
        "trace_events_p\u0662\u0660\u0662\u0666\u0661\u0661\u0662\u0664",
        "my_trace_events_p20261124",
        "routing_decisions_p20261123",
    ],
)
def test_other_names_have_no_bounds(name: str) -> None:
    assert bounds_of_name(TRACE_EVENTS, name) is None


def test_a_weekly_name_that_is_no_monday_is_not_ours() -> None:
    assert bounds_of_name(ROUTING_DECISIONS, "routing_decisions_p20261124") is None


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        bounds(TRACE_EVENTS, datetime(2026, 11, 24))  # noqa: DTZ001
