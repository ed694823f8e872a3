"""Which tables are ours, with their columns, in the order in which references let them be filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from graphlib import TopologicalSorter
from typing import Any

import asyncpg

from hx_gateway.db.coverage import Leaf, read_leaves
from hx_gateway.db.intervals import bounds, bounds_of_name
from hx_gateway.db.schemas import (
    GATEWAY_SCHEMA,
    OBSERVABILITY_SCHEMA,
    PARTITIONED_TABLES,
    REGISTRY_SCHEMA,
    VERSION_TABLE,
    PartitionedTable,
)
from hx_gateway.db.transfer.contents import Column, Table, quoted
from hx_gateway.db.transfer.errors import TransferError
from hx_gateway.kit.epochs import postgres_us

SCHEMAS = (GATEWAY_SCHEMA, REGISTRY_SCHEMA, OBSERVABILITY_SCHEMA)
# The migrations write the one; the other is a cache, of a type that not every server has.
LEFT_OUT = frozenset({f"{GATEWAY_SCHEMA}.{VERSION_TABLE}", f"{GATEWAY_SCHEMA}.meanings"})

_TABLES = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, (
    SELECT coalesce(sum(greatest(leaf.reltuples, 0)), 0)::bigint FROM pg_class AS leaf
    WHERE leaf.relkind = 'r' AND (leaf.oid = c.oid OR leaf.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))
) AS rows
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY array_position($1::text[], n.nspname::text), c.relname
"""
_COLUMNS = """
SELECT attrelid AS oid, attname AS name, format_type(atttypid, atttypmod) AS type, attidentity <> '' AS identity
FROM pg_attribute WHERE attrelid = ANY ($1::oid[]) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attrelid, attnum
"""
_REFERENCES = """
SELECT DISTINCT conrelid AS oid, confrelid AS referred FROM pg_constraint
WHERE contype = 'f' AND conrelid = ANY ($1::oid[]) AND confrelid = ANY ($1::oid[]) AND conrelid <> confrelid
"""
_CHILDREN = """
SELECT c.relname AS name FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = $1::text::regclass AND c.relnamespace = to_regnamespace('agent_observability') ORDER BY 1
"""


async def read_names(connection: asyncpg.Connection[Any]) -> tuple[list[Table], list[str]]:
    """Return our tables without their columns, and which others are in our schemas, by name.

    Those others are partitions that were detached, and what is in :data:`LEFT_OUT` but for the version table.
    """
    there = [table for _, table in await _read_all(connection)]
    others = [table.label for table in there if not _is_ours(table) and table.name != VERSION_TABLE]
    return [table for table in there if _is_ours(table)], others


async def read_tables(connection: asyncpg.Connection[Any]) -> list[Table]:
    """Return our tables in the order in which they are filled, partitioned ones with the days of their rows.

    The session's ``search_path`` must be ``pg_catalog``, so that types are told with their schemas.
    """
    tables = {oid: table for oid, table in await _read_all(connection) if _is_ours(table)}
    columns: dict[int, list[Column]] = {oid: [] for oid in tables}
    for row in await connection.fetch(_COLUMNS, list(tables)):
        columns[row["oid"]].append(Column(row["name"], row["type"], row["identity"]))
    referred: dict[str, set[str]] = {table.label: set() for table in tables.values()}
    for row in await connection.fetch(_REFERENCES, list(tables)):
        referred[tables[row["oid"]].label].add(tables[row["referred"]].label)
    days = await _read_days(connection)
    whole = {
        table.label: Table(table.schema, table.name, tuple(columns[oid]), table.rows, tuple(days.get(table.label, ())))
        for oid, table in tables.items()
    }
    return [whole[label] for label in _ordered(referred)]


async def _read_all(connection: asyncpg.Connection[Any]) -> list[tuple[int, Table]]:
    rows = await connection.fetch(_TABLES, list(SCHEMAS))
    return [(row["oid"], Table(row["schema"], row["name"], (), row["rows"])) for row in rows]


def _is_ours(table: Table) -> bool:
    return table.label not in LEFT_OUT and not _is_detached(table)


def _is_detached(table: Table) -> bool:
    return table.schema == OBSERVABILITY_SCHEMA and any(
        bounds_of_name(root, table.name) is not None for root in PARTITIONED_TABLES
    )


def _ordered(referred: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the tables so that each comes after those that it refers to, and by name otherwise."""
    sorter = TopologicalSorter(referred)
    sorter.prepare()
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += ready
        sorter.done(*ready)
    return ordered


async def _read_days(connection: asyncpg.Connection[Any]) -> dict[str, list[str]]:
    days: dict[str, list[str]] = {}
    for root in PARTITIONED_TABLES:
        found: set[str] = set()
        leaves = {leaf.name: leaf for leaf in await read_leaves(connection, root.name)}
        for row in await connection.fetch(_CHILDREN, root.qualified):
            found |= await _days_of(connection, root, row["name"], leaves.get(row["name"]))
        days[root.qualified] = sorted(found)
    return days


async def _days_of(
    connection: asyncpg.Connection[Any], root: PartitionedTable, name: str, leaf: Leaf | None
) -> set[str]:
    """Return the first days of the partitions of ours that the rows of one go to, which others may have made.

    ``leaf`` is ``None`` of a default partition.
    """
    table = f"{OBSERVABILITY_SCHEMA}.{quoted(name)}"
    usual = bounds_of_name(root, name)
    if leaf is not None and usual is not None and (leaf.lower, leaf.upper) == tuple(map(postgres_us, usual)):
        filled = f"SELECT EXISTS (SELECT FROM {table})"  # noqa: S608 - the name is quoted
        return {usual[0].date().isoformat()} if await connection.fetchval(filled) else set()
    query = f"""SELECT DISTINCT ("timestamp" AT TIME ZONE 'UTC')::date AS day FROM {table}"""  # noqa: S608 - as above
    return {_first_day(root, row["day"]) for row in await connection.fetch(query)}


def _first_day(root: PartitionedTable, day: date) -> str:
    try:
        return bounds(root, datetime(day.year, day.month, day.day, tzinfo=UTC))[0].date().isoformat()
    except OverflowError:
        raise TransferError(
            f"{root.qualified} has rows at the calendar's end ({day}), for which there is no partition: delete them."
        ) from None
