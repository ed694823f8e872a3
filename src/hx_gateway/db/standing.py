"""What a database of ours is, in figures that cost nothing: the planner's and the statistics', not counts."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from hx_gateway.db.row_security import exempt_role
from hx_gateway.db.transfer.catalogue import SCHEMAS

CONNECT_SECONDS = 10.0

_SERVER = """
SELECT current_setting('server_version') AS version, current_database() AS database, current_user AS role,
    pg_database_size(current_database()) AS size
"""
# Of a table that was never analysed the planner has no figure; the statistics have one since the server's last crash.
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, parts.partitions, parts.rows, parts.size
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE leaf.oid <> c.oid AND leaf.relkind = 'r') AS partitions,
        coalesce(sum(CASE WHEN leaf.reltuples >= 0 THEN leaf.reltuples ELSE pg_stat_get_live_tuples(leaf.oid) END)
            FILTER (WHERE leaf.relkind = 'r'), 0)::bigint AS rows,
        coalesce(sum(pg_total_relation_size(leaf.oid)), 0)::bigint AS size
    FROM pg_class AS leaf
    WHERE leaf.oid = c.oid OR c.relkind = 'p' AND leaf.oid IN (SELECT relid FROM pg_partition_tree(c.oid))
) AS parts
WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY array_position($1::text[], n.nspname::text), c.relname
"""


@dataclass(frozen=True, slots=True)
class TableStanding:
    """A table: about how many ``rows``, its ``size`` in bytes with indexes, and how many partitions."""

    schema: str
    name: str
    rows: int
    size: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A database. ``exempt`` is true where no policy of row-level security holds for ``role``; ``size`` in bytes."""

    version: str
    database: str
    role: str
    exempt: bool
    size: int
    tables: tuple[TableStanding, ...]


async def read_standing(dsn: str) -> Standing:
    """Return how the database of ``dsn`` is. Raises the driver's errors."""
    connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    try:
        server = await connection.fetchrow(_SERVER)
        exempt = await exempt_role(connection) is not None
        rows = await connection.fetch(_TABLES, list(SCHEMAS))
    finally:
        await connection.close()
    tables = tuple(
        TableStanding(row["schema"], row["name"], row["rows"], row["size"], row["partitions"]) for row in rows
    )
    return Standing(server["version"], server["database"], server["role"], exempt, server["size"], tables)
