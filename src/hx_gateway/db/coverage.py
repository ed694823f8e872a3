"""Which times have a partition to go to: read from the catalog, then asked for every row that is written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg

from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA, PARTITIONED_TABLES

# Where a partition has no bound: the ends of a bigint, as PostgreSQL's own infinities are.
_FIRST = -(2**63)
_LAST = 2**63 - 1

# Bounds are text in the catalog's answer, written by the settings in force: only ISO's can be read back whatever they
# are, so the query sets that first, for itself alone. A partition that is just being dropped has no bounds.
_LEAVES = """
WITH style AS MATERIALIZED (SELECT set_config('DateStyle', 'ISO', true) AS set)
SELECT parent.relname AS parent, leaf.relname AS name, inherits.inhdetachpending AS pending,
    CASE WHEN isfinite(bound.lower) THEN (extract(epoch FROM bound.lower) * 1000000 - 946684800000000)::bigint END
        AS lower,
    CASE WHEN isfinite(bound.upper) THEN (extract(epoch FROM bound.upper) * 1000000 - 946684800000000)::bigint END
        AS upper
FROM style
CROSS JOIN pg_catalog.pg_inherits AS inherits
JOIN pg_catalog.pg_class AS parent ON parent.oid = inherits.inhparent
JOIN pg_catalog.pg_class AS leaf ON leaf.oid = inherits.inhrelid
CROSS JOIN LATERAL (
    SELECT pg_get_expr(leaf.relpartbound, CASE WHEN style.set IS NOT NULL THEN leaf.oid END) AS text
) AS expression
CROSS JOIN LATERAL (
    SELECT substring(expression.text FROM 'FROM [(]''([^'']+)''[)]')::timestamptz AS lower,
        substring(expression.text FROM 'TO [(]''([^'']+)''[)]')::timestamptz AS upper
) AS bound
WHERE parent.relnamespace = to_regnamespace($1) AND parent.relname = ANY ($2::text[])
    AND expression.text LIKE 'FOR VALUES FROM (%'
ORDER BY parent.relname, bound.lower NULLS FIRST
"""


class Coverage:
    """The times a table has partitions for, in microseconds since 2000-01-01 UTC, as PostgreSQL keeps them.

    ``ranges`` are sorted and apart: lower bounds are inside, upper ones outside; neighbours are one range.
    """

    __slots__ = ("_lowers", "_uppers", "ranges")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for lower, upper in sorted(ranges):
            if merged and lower <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(upper, merged[-1][1]))
            elif lower < upper:
                merged.append((lower, upper))
        self.ranges = tuple(merged)
        self._lowers = [lower for lower, _ in merged]
        self._uppers = [upper for _, upper in merged]

    def covers(self, low: int, high: int) -> bool:
        """Return whether every time from ``low`` to ``high`` (not below it), both included, has a partition."""
        index = bisect_right(self._lowers, low) - 1
        return index >= 0 and high < self._uppers[index]

    def end(self, moment: int) -> int | None:
        """Return where the range around ``moment`` ends (outside of it), or ``None`` where it has no partition."""
        index = bisect_right(self._lowers, moment) - 1
        return self._uppers[index] if index >= 0 and moment < self._uppers[index] else None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition. ``pending`` means that its detachment was begun and not finished: nothing is routed to it."""

    parent: str
    name: str
    lower: int
    upper: int
    pending: bool


async def read_coverage(connection: asyncpg.Connection[Any]) -> dict[str, Coverage]:
    """Return the coverage of every partitioned table by its name; one query. A table that is missing has none."""
    ranges: dict[str, list[tuple[int, int]]] = {table.name: [] for table in PARTITIONED_TABLES}
    for leaf in await read_leaves(connection, *ranges):
        if not leaf.pending:
            ranges[leaf.parent].append((leaf.lower, leaf.upper))
    return {name: Coverage(found) for name, found in ranges.items()}


async def read_leaves(connection: asyncpg.Connection[Any], *tables: str) -> list[Leaf]:
    """Return the partitions of ``tables``, those of one table from the oldest on. A default partition is none."""
    rows = await connection.fetch(_LEAVES, OBSERVABILITY_SCHEMA, list(tables))
    return [
        Leaf(
            row["parent"],
            row["name"],
            _FIRST if row["lower"] is None else row["lower"],
            _LAST if row["upper"] is None else row["upper"],
            row["pending"],
        )
        for row in rows
    ]
