"""Partitions: made before they are needed, taken away when they are old, without holding up who reads or writes.

There is no default partition: a row without a partition is refused (SQLSTATE 23514), and its writer asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import asyncpg

from hx_gateway.db.coverage import Coverage, read_coverage
from hx_gateway.db.intervals import LENGTHS, bounds, partition_name
from hx_gateway.db.locks import LOCK_SECONDS, changing_partitions, patiently
from hx_gateway.db.retention import RETIRING, Retired, retire_partitions, trim_boundary
from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA, PARTITIONED_TABLES, Interval, PartitionedTable
from hx_gateway.kit.epochs import MICROSECOND, postgres_us

__all__ = [
    "AHEAD",
    "Coverage",
    "PartitionedTable",
    "Retired",
    "bounds",
    "ensure_partition",
    "ensure_partitions",
    "partition_name",
    "partitions_ahead",
    "read_coverage",
    "retire_partitions",
    "trim_boundary",
]

# How many partitions there are after the current one.
AHEAD: Mapping[Interval, int] = {"day": 7, "week": 3}

# Rows are only added: the number of new ones says when to look at a partition, not its size.
_STORAGE = (
    "autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 500000, "
    "autovacuum_analyze_scale_factor = 0.02"
)
_STATE = """
SELECT relispartition AS attached, obj_description(oid, 'pg_class') AS comment FROM pg_catalog.pg_class
WHERE relnamespace = to_regnamespace($1) AND relname = $2 AND relkind IN ('r', 'p')
"""


async def ensure_partitions(
    connection: asyncpg.Connection[Any],
    *,
    now: datetime,
    ahead: Mapping[str, int] | None = None,
    back: int = 1,
    lock_timeout: float = LOCK_SECONDS,
) -> list[str]:
    """Make what is missing from ``back`` partitions before the current ones to ``ahead`` after; return their names.

    ``ahead`` counts by table name and falls back to :data:`AHEAD`. One query where nothing is missing. Any number of
    processes may call this at once. Raises the driver's error when a table stays locked for several tries of
    ``lock_timeout`` seconds; what was made until then stays. Not inside a transaction.
    """
    coverage = await read_coverage(connection)
    made = []
    for table in PARTITIONED_TABLES:
        count = (ahead or {}).get(table.name, AHEAD[table.interval])
        for moment in _moments(table, now, count, back):
            lower, upper = bounds(table, moment)
            there = coverage[table.name].covers(postgres_us(lower), postgres_us(upper) - 1)
            if not there and await ensure_partition(connection, table, moment, lock_timeout=lock_timeout):
                made.append(partition_name(table, moment))
    return made


def _moments(table: PartitionedTable, now: datetime, ahead: int, back: int) -> Iterator[datetime]:
    """Yield one moment a partition, the most needed first."""
    current, _ = bounds(table, now)
    for step in (*range(ahead + 1), *range(-1, -back - 1, -1)):
        yield current + step * LENGTHS[table.interval]


async def ensure_partition(
    connection: asyncpg.Connection[Any],
    table: PartitionedTable,
    moment: datetime,
    *,
    lock_timeout: float = LOCK_SECONDS,
) -> bool:
    """Make the partition that ``moment`` falls in; return whether it was missing.

    A table of its name that is not attached (a restore or a person left it) is attached with its rows. One that is
    being retired is not brought back: ``False`` too. Otherwise as :func:`ensure_partitions`.
    """

    async def attempt() -> bool:
        async with changing_partitions(connection, lock_timeout):
            return await _ensure(connection, table, moment)

    return await patiently(attempt)


async def _ensure(connection: asyncpg.Connection[Any], table: PartitionedTable, moment: datetime) -> bool:
    lower, upper = bounds(table, moment)
    name = partition_name(table, moment)
    leaf = f"{OBSERVABILITY_SCHEMA}.{name}"
    found = await connection.fetchrow(_STATE, OBSERVABILITY_SCHEMA, name)
    if found is not None and found["attached"]:
        return False
    if found is None or not await _worth_keeping(connection, leaf, found["comment"]):
        # CREATE TABLE ... PARTITION OF would lock the whole table against everyone; ATTACH lets them go on.
        await connection.execute(f"CREATE TABLE {leaf} (LIKE {table.qualified} INCLUDING ALL) WITH ({_STORAGE})")
    await connection.execute(
        f"ALTER TABLE {table.qualified} ATTACH PARTITION {leaf} "
        f"FOR VALUES FROM ('{lower.isoformat()}') TO ('{upper.isoformat()}')"
    )
    return True


async def _worth_keeping(connection: asyncpg.Connection[Any], leaf: str, comment: str | None) -> bool:
    """Return whether a table that is not attached holds rows to keep; drop it where it does not."""
    await connection.execute(f"LOCK TABLE {leaf} IN ACCESS EXCLUSIVE MODE")
    filled = f"SELECT EXISTS (SELECT FROM {leaf})"  # noqa: S608 - the name is ours
    if comment != RETIRING and await connection.fetchval(filled):
        return True
    await connection.execute(f"DROP TABLE {leaf}")
    return False


def partitions_ahead(coverage: Mapping[str, Coverage], table: PartitionedTable, now: datetime) -> int:
    """Return how many partitions follow the current one without a gap: 0 also where the current one is missing."""
    end = coverage[table.name].end(postgres_us(now))
    if end is None:
        return 0
    _, upper = bounds(table, now)
    return (end - postgres_us(upper)) // (LENGTHS[table.interval] // MICROSECOND)
