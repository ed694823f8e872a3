"""The events that the query benchmark reads."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from benchmarks.events import (
    AGENTS,
    COLUMNS,
    DAYS,
    DEFAULT_TENANT,
    FIRST_DAY,
    RARE_AGENTS,
    RARE_DAYS,
    RARE_TYPES,
    TYPES,
    Plan,
    Row,
    events_of,
    never_together,
)

PLAN = Plan(30_011, seed=3)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for day in range(DAYS) for row in events_of(PLAN, day)]


def column(rows: list[Row], name: str) -> list[object]:
    place = COLUMNS.index(name)
    return [row[place] for row in rows]


def test_a_seed_gives_the_same_events_and_another_one_others() -> None:
    assert events_of(PLAN, 20) == events_of(Plan(30_011, seed=3), 20)
    assert events_of(PLAN, 20) != events_of(Plan(30_011, seed=4), 20)


def test_every_event_is_of_its_day_in_order_and_there_are_as_many_as_planned(rows: list[Row]) -> None:
    assert len(rows) == sum(PLAN.rows_of(day) for day in range(DAYS)) == PLAN.rows
    times = column(rows, "timestamp")
    assert times == sorted(times)  # type: ignore[type-var]
    days = Counter((time - FIRST_DAY) // timedelta(days=1) for time in times)  # type: ignore[operator]
    assert days == {day: PLAN.rows_of(day) for day in range(DAYS)}
    assert len(set(zip(column(rows, "tenant_id"), times, column(rows, "event_id"), strict=True))) == len(rows)


def test_some_common_pairs_never_occur(rows: list[Row]) -> None:
    pairs = set(zip(column(rows, "agent_name"), column(rows, "event_type"), strict=True))
    assert never_together(0, 0)
    for agent in range(10):
        for kind in range(10):
            assert ((AGENTS[agent], TYPES[kind]) in pairs) is not never_together(agent, kind)


def test_rare_names_occur_once_a_day_of_theirs(rows: list[Row]) -> None:
    agents, types = Counter(column(rows, "agent_name")), Counter(column(rows, "event_type"))
    assert {agents[name] for name in RARE_AGENTS} == {types[name] for name in RARE_TYPES} == {len(RARE_DAYS)}


def test_traces_that_are_promised_exist(rows: list[Row]) -> None:
    traces = Counter(column(rows, "trace_id"))
    for day in range(DAYS):
        assert all(PLAN.trace_id(day, number) in traces for number in range(PLAN.traces_at_least(day)))
    assert traces[PLAN.long_trace] == 200
    assert max(traces, key=traces.__getitem__) == PLAN.big_trace
    share = Counter(column(rows, "tenant_id"))[DEFAULT_TENANT] / len(rows)
    assert 0.9 < share < 0.99
