"""Rows of the four tables, and what a filter should find among them, worked out without SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import combinations
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
from benchmarks.events import COLUMNS, LAST_DAY, Plan, events_of

from hx_gateway.db.schemas import (
    OBSERVABILITY_SCHEMA,
    PERFORMANCE_METRICS,
    ROUTING_DECISIONS,
    TRACE_EVENTS,
    TRANSFORMATION_EVENTS,
    PartitionedTable,
)
from hx_gateway.observability.filters import (
    MetricFilters,
    RecordFilters,
    RoutingFilters,
    TraceFilters,
    TransformationFilters,
)
from hx_gateway.observability.levels import level_name, level_number

Row = dict[str, Any]
PLAN = Plan(50_000, seed=7)
ROWS = 15_000
WEEKS = 3
TENANTS = ("default", "other")


@dataclass(frozen=True)
class Sample:
    """A table, its rows, the class of its filters and the names of those that only it has."""

    table: PartitionedTable
    kind: Callable[..., RecordFilters]
    fields: tuple[str, ...]
    rows: Sequence[Row]

    def combinations(self) -> Iterable[tuple[str, ...]]:
        """Yield every set of filters, times included."""
        names = (*self.fields, "start_time", "end_time")
        for count in range(len(names) + 1):
            yield from combinations(names, count)

    def draw(self, names: Iterable[str], random: Random) -> dict[str, Any]:
        """Return values for filters that find at least one row, where the tenant is that row's too."""
        row = random.choice(self.rows)
        values: dict[str, Any] = {"tenant_id": row["tenant_id"]}
        for name in names:
            match name:
                case "start_time":
                    values[name] = row["timestamp"] - random.choice((0, 1, 3_600)) * timedelta(seconds=1)
                case "end_time":
                    values[name] = row["timestamp"] + random.choice((1, 3_600_000_000)) * timedelta(microseconds=1)
                case "min_level":
                    values[name] = level_name(row["level"])
                case "min_confidence":
                    values[name] = row["confidence_score"]
                case _:
                    values[name] = row[name]
        return {name: value for name, value in values.items() if value is not None}

    def expected(self, values: dict[str, Any]) -> list[str]:
        """Return the ids that filters of these ``values`` should find, in order."""
        found = list(self.rows)
        # The tenant, which leaves most of them, last.
        for name, value in reversed(values.items()):
            found = [row for row in found if _fits(row, name, value)]
        found.sort(key=lambda row: (row["timestamp"], row["event_id"].int), reverse=True)
        return [str(row["event_id"]) for row in found]


def _fits(row: Row, name: str, value: Any) -> bool:
    match name:
        case "start_time":
            return bool(row["timestamp"] >= value)
        case "end_time":
            return bool(row["timestamp"] < value)
        case "min_level":
            return bool(row["level"] >= level_number(value))
        case "min_confidence":
            return bool(row["confidence_score"] >= value)
        case _:
            return bool(row[name] == value)


@cache
def samples() -> dict[str, Sample]:
    """Return one sample a table."""
    found = (
        Sample(TRACE_EVENTS, TraceFilters, ("trace_id", "agent_name", "event_type", "min_level"), _traces()),
        Sample(
            ROUTING_DECISIONS,
            RoutingFilters,
            ("trace_id", "selected_agent", "routing_strategy", "min_confidence"),
            _rows(_decision),
        ),
        Sample(PERFORMANCE_METRICS, MetricFilters, ("metric_name", "component", "metric_type"), _rows(_metric)),
        Sample(
            TRANSFORMATION_EVENTS,
            TransformationFilters,
            ("trace_id", "transformation_type", "source_agent", "target_agent"),
            _rows(_transformation),
        ),
    )
    return {sample.table.name: sample for sample in found}


async def insert(connection: asyncpg.Connection[Any], table: PartitionedTable, rows: Sequence[Row]) -> None:
    """Copy rows of the same columns."""
    columns = list(rows[0])
    records = [tuple(row.values()) for row in rows]
    await connection.copy_records_to_table(
        table.name, schema_name=OBSERVABILITY_SCHEMA, columns=columns, records=records
    )


def _traces() -> list[Row]:
    return [dict(zip(COLUMNS, row, strict=True)) for day in range(30) for row in events_of(PLAN, day)]


def _rows(make: Callable[[Random], Row]) -> list[Row]:
    """Return rows of three weeks, several at the same instant."""
    random = Random(make.__name__)
    rows = []
    for _ in range(ROWS):
        second = random.randrange(WEEKS * 7 * 86_400)
        common = {
            "timestamp": LAST_DAY - timedelta(seconds=second // 100 * 100),
            "event_id": UUID(int=random.getrandbits(128)),
            "tenant_id": random.choices(TENANTS, (9, 1))[0],
        }
        rows.append(common | make(random))
    return rows


def _word(random: Random, stem: str, count: int) -> str:
    return f"{stem}-{min(random.randrange(count), random.randrange(count))}"


def _decision(random: Random) -> Row:
    return {
        "trace_id": random.choice((None, _word(random, "trace", 5_000))),
        "user_request": "chat",
        "selected_agent": _word(random, "agent", 60),
        "routing_strategy": random.choice((None, _word(random, "strategy", 6))),
        "confidence_score": random.randrange(101) / 100,
    }


def _metric(random: Random) -> Row:
    return {
        "metric_name": _word(random, "metric", 50),
        "metric_value": random.random(),
        "metric_type": _word(random, "type", 4),
        "component": random.choice((None, _word(random, "component", 20))),
    }


def _transformation(random: Random) -> Row:
    return {
        "trace_id": random.choice((None, _word(random, "trace", 5_000))),
        "transformation_type": _word(random, "kind", 8),
        "source_agent": random.choice((None, _word(random, "agent", 60))),
        "target_agent": random.choice((None, _word(random, "agent", 60))),
    }
