"""Old rows taken away: whole partitions by detaching them, the one at the edge in small batches.

Sessions are needed, as :mod:`hx_gateway.migrations.runner` says: settings and a lock outlive a statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg
import structlog

from hx_gateway.db.coverage import read_leaves
from hx_gateway.db.intervals import bounds_of_name
from hx_gateway.db.locks import (
    BUSY,
    LOCK_CLASS,
    LOCK_SECONDS,
    RETENTION_LOCK,
    changing_partitions,
    milliseconds,
    patiently,
)
from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA, PartitionedTable
from hx_gateway.kit.epochs import postgres_us

# A partition of 100 million rows is counted in less; where it is not, the planner's estimate stands in.
COUNT_SECONDS = 600.0
# The comment on a partition that is to be dropped. Whoever detaches one to keep it does not have it on theirs.
RETIRING = "hx-gateway: retiring"

_log = structlog.get_logger()

_DETACHED = """
SELECT relname FROM pg_catalog.pg_class
WHERE relnamespace = to_regnamespace($1) AND relkind = 'r' AND NOT relispartition
    AND obj_description(oid, 'pg_class') = $2
ORDER BY relname
"""
_PENDING = """
SELECT inherits.inhdetachpending FROM pg_catalog.pg_class AS leaf
JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhrelid = leaf.oid
WHERE leaf.relnamespace = to_regnamespace($1) AND leaf.relname = $2
"""
_ESTIMATE = "SELECT greatest(reltuples, 0)::bigint FROM pg_catalog.pg_class WHERE oid = to_regclass($1)"
# One look into the index for each tenant, not one for each row.
_TENANTS = """
WITH RECURSIVE tenants AS (
    (SELECT tenant_id FROM {leaf} ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT tenant_id FROM {leaf} WHERE tenant_id > tenants.tenant_id ORDER BY tenant_id LIMIT 1)
    FROM tenants WHERE tenants.tenant_id IS NOT NULL
)
SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL
"""
# Each batch goes on in the index where the one before it stopped, past the entries of rows that are gone.
_TRIM = """
WITH doomed AS (
    SELECT ctid, "timestamp" FROM {leaf}
    WHERE tenant_id = $1 AND "timestamp" >= coalesce($2::timestamptz, '-infinity') AND "timestamp" < $3
    ORDER BY "timestamp" LIMIT $4
), gone AS (
    DELETE FROM {leaf} WHERE ctid = ANY (ARRAY(SELECT ctid FROM doomed)) RETURNING 1
)
SELECT (SELECT count(*) FROM doomed) AS seen, (SELECT max("timestamp") FROM doomed) AS reached,
    (SELECT count(*) FROM gone) AS gone
"""


@dataclass(frozen=True, slots=True)
class Retired:
    """A partition that is gone, and how many rows went with it (an estimate after :data:`COUNT_SECONDS`)."""

    name: str
    rows: int


async def retire_partitions(
    connection: asyncpg.Connection[Any],
    table: PartitionedTable,
    cutoff: datetime,
    *,
    lock_timeout: float = LOCK_SECONDS,
) -> list[Retired]:
    """Drop the partitions that end at ``cutoff`` or before, oldest first, and what earlier rounds did not finish.

    Nobody who writes or reads waits for it. It waits for those who use the table already, ``lock_timeout`` seconds a
    try; after a few it logs ``partition_busy`` and returns what is done: the next round goes on from there. Returns
    nothing while another process retires. Not inside a transaction.
    """
    retired: list[Retired] = []
    async with _retiring_alone(connection, lock_timeout) as ours:
        if not ours:
            return retired
        try:
            for name in await _condemned(connection, table, cutoff):
                gone = await patiently(partial(_retire, connection, table, name, lock_timeout))
                retired.append(gone)
        except BUSY as error:
            _log.warning("partition_busy", table=table.name, done=len(retired), reason=type(error).__name__)
    return retired


async def trim_boundary(
    connection: asyncpg.Connection[Any], table: PartitionedTable, cutoff: datetime, *, batch_rows: int = 10_000
) -> int:
    """Delete the rows older than ``cutoff`` from the partition it falls into; return how many.

    Each batch is a transaction of its own; one that fails leaves those before it done.
    """
    edge = postgres_us(cutoff)
    leaves = await read_leaves(connection, table.name)
    deleted = 0
    for leaf in leaves:
        if leaf.lower < edge < leaf.upper and not leaf.pending:
            name = _qualified(leaf.name)
            for row in await connection.fetch(_TENANTS.format(leaf=name)):
                deleted += await _trim(connection, name, row["tenant_id"], cutoff, batch_rows)
    return deleted


async def _trim(connection: asyncpg.Connection[Any], leaf: str, tenant: str, cutoff: datetime, batch_rows: int) -> int:
    statement = _TRIM.format(leaf=leaf)
    deleted = 0
    reached: datetime | None = None
    while True:
        batch = await connection.fetchrow(statement, tenant, reached, cutoff, batch_rows)
        deleted += int(batch["gone"])
        reached = batch["reached"]
        if batch["seen"] < batch_rows or not batch["gone"]:
            return deleted


async def _condemned(connection: asyncpg.Connection[Any], table: PartitionedTable, cutoff: datetime) -> list[str]:
    """Return the partitions to drop: those detached already, then those to detach.

    A detachment that was interrupted is finished first, whoever began it: PostgreSQL allows one at a time.
    """
    edge = postgres_us(cutoff)
    names = []
    for row in await connection.fetch(_DETACHED, OBSERVABILITY_SCHEMA, RETIRING):
        found = bounds_of_name(table, row["relname"])
        if found is not None and found[1] <= cutoff:
            names.append(row["relname"])
    leaves = await read_leaves(connection, table.name)
    for leaf in sorted(leaves, key=lambda leaf: not leaf.pending):
        if leaf.upper <= edge:
            names.append(leaf.name)
        elif leaf.pending:
            await patiently(partial(_detach, connection, table, leaf.name))
    return names


async def _retire(
    connection: asyncpg.Connection[Any], table: PartitionedTable, name: str, lock_timeout: float
) -> Retired:
    """Detach, count, drop: each step is there to be gone on from when the one after it fails."""
    leaf = _qualified(name)
    if await connection.fetchval(_PENDING, OBSERVABILITY_SCHEMA, name) is not None:
        await connection.execute(f"COMMENT ON TABLE {leaf} IS '{RETIRING}'")
        await _detach(connection, table, name)
    rows = await _count(connection, leaf)
    async with changing_partitions(connection, lock_timeout):
        # While it was counted somebody may have needed a partition in its place.
        if name in [row["relname"] for row in await connection.fetch(_DETACHED, OBSERVABILITY_SCHEMA, RETIRING)]:
            await connection.execute(f"DROP TABLE {leaf}")
    return Retired(name, rows)


async def _detach(connection: asyncpg.Connection[Any], table: PartitionedTable, name: str) -> None:
    """Detach a partition, or finish where that was interrupted."""
    pending = await connection.fetchval(_PENDING, OBSERVABILITY_SCHEMA, name)
    if pending is not None:
        how = "FINALIZE" if pending else "CONCURRENTLY"
        await connection.execute(f"ALTER TABLE {table.qualified} DETACH PARTITION {_qualified(name)} {how}")


async def _count(connection: asyncpg.Connection[Any], leaf: str) -> int:
    try:
        query = f"SELECT count(*) FROM {leaf}"  # noqa: S608 - the name is ours
        rows = await connection.fetchval(query, timeout=COUNT_SECONDS)
    except (TimeoutError, asyncpg.QueryCanceledError):
        rows = await connection.fetchval(_ESTIMATE, leaf)
    return int(rows)


@asynccontextmanager
async def _retiring_alone(connection: asyncpg.Connection[Any], lock_timeout: float) -> AsyncIterator[bool]:
    """Hold the lock of retention, with a lock time-out for the session; give ``False`` where another holds it."""
    if not await connection.fetchval(f"SELECT pg_try_advisory_lock({LOCK_CLASS}, {RETENTION_LOCK})"):
        yield False
        return
    former = await connection.fetchval("SELECT current_setting('lock_timeout')")
    await connection.execute(f"SET lock_timeout = {milliseconds(lock_timeout)}")
    cancelled = False
    try:
        yield True
    except asyncio.CancelledError:
        # A connection whose command was cancelled is closed by its owner, which ends both.
        cancelled = True
        raise
    finally:
        if not cancelled and not connection.is_closed():
            await connection.execute("SELECT set_config('lock_timeout', $1, false)", former)
            await connection.execute(f"SELECT pg_advisory_unlock({LOCK_CLASS}, {RETENTION_LOCK})")


def _qualified(name: str) -> str:
    return f'{OBSERVABILITY_SCHEMA}."{name}"'
