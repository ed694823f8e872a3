"""Which times have a partition: the answer for ranges, and how many partitions are ahead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.coverage import Coverage
from hx_gateway.db.partitions import partitions_ahead
from hx_gateway.db.schemas import ROUTING_DECISIONS, TRACE_EVENTS
from hx_gateway.kit.epochs import POSTGRES_EPOCH, postgres_us

POINTS = st.integers(-5, 45)
RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair))), max_size=8)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@given(RANGES, POINTS, st.integers(0, 12))
def test_a_range_is_covered_exactly_when_each_of_its_moments_is(
    ranges: list[tuple[int, int]], low: int, length: int
) -> None:
    inside = {moment for lower, upper in ranges for moment in range(lower, upper)}
    wanted = range(low, low + length + 1)
    assert Coverage(ranges).covers(low, low + length) == inside.issuperset(wanted)


@given(RANGES)
def test_ranges_are_sorted_and_apart(ranges: list[tuple[int, int]]) -> None:
    kept = Coverage(ranges).ranges
    assert all(lower < upper for lower, upper in kept)
    assert all(before[1] < after[0] for before, after in pairwise(kept))


@given(RANGES, POINTS)
def test_the_end_of_a_moment_is_the_first_one_without_a_partition(ranges: list[tuple[int, int]], moment: int) -> None:
    coverage = Coverage(ranges)
    end = coverage.end(moment)
    assert (end is None) == (not coverage.covers(moment, moment))
    if end is not None:
        assert coverage.covers(moment, end - 1)
        assert not coverage.covers(end, end)


def test_nothing_is_covered_without_partitions() -> None:
    assert not Coverage().covers(0, 0)
    assert Coverage().end(0) is None


@pytest.mark.parametrize(
    ("moment", "microseconds"),
    [
        (POSTGRES_EPOCH, 0),
        (datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC), -1),
        (datetime(2026, 11, 24, tzinfo=UTC), 848_793_600_000_000),
        (datetime(2026, 11, 24, 0, 0, 0, 1, UTC), 848_793_600_000_001),
    ],
)
def test_times_are_counted_as_postgresql_counts_them(moment: datetime, microseconds: int) -> None:
    assert postgres_us(moment) == microseconds


def days(first: int, count: int) -> tuple[int, int]:
    midnight = datetime(2026, 11, 24, tzinfo=UTC) + first * DAY
    return postgres_us(midnight), postgres_us(midnight + count * DAY)


def test_partitions_ahead_are_those_after_the_current_one() -> None:
    assert partitions_ahead({"trace_events": Coverage([days(-1, 9)])}, TRACE_EVENTS, NOON) == 7
    assert partitions_ahead({"trace_events": Coverage([days(0, 1)])}, TRACE_EVENTS, NOON) == 0
    assert partitions_ahead({"routing_decisions": Coverage([days(-1, 28)])}, ROUTING_DECISIONS, NOON) == 3


def test_partitions_ahead_are_counted_up_to_the_first_gap() -> None:
    assert partitions_ahead({"trace_events": Coverage([days(0, 3), days(4, 9)])}, TRACE_EVENTS, NOON) == 2


def test_nothing_is_ahead_while_the_current_partition_is_missing() -> None:
    assert partitions_ahead({"trace_events": Coverage([days(1, 7)])}, TRACE_EVENTS, NOON) == 0
