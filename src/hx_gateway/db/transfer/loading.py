"""Fills an empty database of ours, in one transaction: all of it is there in the end, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from hx_gateway.db.partitions import ensure_partition
from hx_gateway.db.schemas import PARTITIONED_TABLES
from hx_gateway.db.transfer.archive import nowhere
from hx_gateway.db.transfer.catalogue import read_names, read_tables
from hx_gateway.db.transfer.contents import Figures, RowDigest, Source, Table, Watch, quoted
from hx_gateway.db.transfer.errors import NotEmpty, TransferError
from hx_gateway.db.transfer.sessions import copy_out, counting, lock_tables, read_revision
from hx_gateway.db.transfer.snapshot import sequence_of
from hx_gateway.kit.undo import undone_on_failure

_TENANTS = "hx_gateway.tenants"
# The one row that the migrations write, as long as nobody has touched it.
_MADE_BY_US = "id = 'default' AND version = 1 AND updated_by = 'system' AND deleted_at IS NULL"
_FORCED = "SELECT relforcerowsecurity FROM pg_class WHERE oid = $1::text::regclass"
_HIDDEN = "SELECT row_security_active($1::text::regclass)"
_TRIGGERS = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1::text::regclass AND NOT tgisinternal)"
_PIECES = 8
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in the target now, by table; ``left_out``: tables that its schema does not have, which stay behind."""

    tables: dict[str, Figures]
    left_out: tuple[str, ...]


async def require_empty(connection: asyncpg.Connection[Any]) -> None:
    """Raise :class:`NotEmpty` where a table of ours has a row that the migrations did not write."""
    filled = []
    for table in (await read_names(connection))[0]:
        condition = f" WHERE NOT ({_MADE_BY_US})" if table.label == _TENANTS else ""
        if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table.qualified}{condition})"):  # noqa: S608
            filled.append(table.label)
    if filled:
        more = f" and {len(filled) - _SHOWN} more" if len(filled) > _SHOWN else ""
        raise NotEmpty(
            f"the target is not empty: there are rows in {', '.join(filled[:_SHOWN])}{more}. Nothing was changed; give "
            "an empty database."
        )


async def load(connection: asyncpg.Connection[Any], source: Source, watch: Watch) -> Loaded:
    """Fill a :func:`~hx_gateway.db.transfer.sessions.session`'s database, which is at the revision of ``source``.

    Rows are read back and compared before anything is kept. Raises :class:`TransferError`, and the driver's errors as
    they are; the session has ended then.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        # Not rolled back but hung up: where COPY has failed on both sides, the driver would wait for ever.
        with undone_on_failure(connection.terminate):
            loaded = await _load(connection, source, watch)
            await transaction.commit()
    except asyncpg.OutOfMemoryError as error:
        raise TransferError(
            "the target cannot lock as many partitions at once: raise its max_locks_per_transaction, and begin again."
        ) from error
    return loaded


async def _load(connection: asyncpg.Connection[Any], source: Source, watch: Watch) -> Loaded:
    watch.plan(source.contents.tables)
    names, _ = await read_names(connection)
    await lock_tables(connection, names, "ACCESS EXCLUSIVE")
    revision = await read_revision(connection)
    if revision != source.contents.revision:
        raise TransferError(f"the target is at revision {revision}, not {source.contents.revision}: try again.")
    await require_empty(connection)
    targets = _matched(source.contents.tables, await read_tables(connection))
    await connection.execute(f"DELETE FROM {_TENANTS}")  # noqa: S608 - the name is ours
    loaded: dict[str, Figures] = {}
    async with _opened(connection, targets.values()):
        for table in source.contents.tables:
            watch.begin("copying", table)
            if table.label in targets:
                await _make_partitions(connection, table)
                loaded[table.label] = await _copied(connection, source, table, watch)
                await _set_identities(connection, table, loaded[table.label].identities)
            else:
                await source.copy(table, nowhere)
            watch.end(loaded.get(table.label, Figures(0, 0, "")))
    for label, figures in loaded.items():
        await _check(connection, targets[label], figures, watch)
    await source.finish()
    return Loaded(loaded, tuple(table.label for table in source.contents.tables if table.label not in targets))


def _matched(given: Iterable[Table], there: Iterable[Table]) -> dict[str, Table]:
    """Return the tables that both have, by name. Raises :class:`TransferError` where they do not fit."""
    expected = {table.label: table for table in given}
    targets = {table.label: table for table in there if table.label in expected}
    missing = sorted({table.label for table in there} - expected.keys())
    differing = [label for label in targets if set(targets[label].columns) != set(expected[label].columns)]
    if missing or differing:
        raise TransferError(
            f"the schema of the target is not that of its revision: {', '.join(missing + differing)} "
            "would not fit. Give a database that only the gateway's migrations have made."
        )
    # With the columns in the order in which they come.
    return {label: expected[label] for label in targets}


@asynccontextmanager
async def _opened(connection: asyncpg.Connection[Any], tables: Iterable[Table]) -> AsyncIterator[None]:
    """Let ``COPY`` into ``tables``, which policies forbid, and triggers not write what comes by itself.

    It is the transaction's own affair: until it ends nobody else sees the tables at all.
    """
    closing = []
    for table in tables:
        if await connection.fetchval(_FORCED, table.qualified):
            await connection.execute(f"ALTER TABLE {table.qualified} NO FORCE ROW LEVEL SECURITY")
            closing.append(f"ALTER TABLE {table.qualified} FORCE ROW LEVEL SECURITY")
        if await connection.fetchval(_HIDDEN, table.qualified):
            raise TransferError(f"the role of this URL does not own {table.label}: give the role that does.")
        if await connection.fetchval(_TRIGGERS, table.qualified):
            await connection.execute(f"ALTER TABLE {table.qualified} DISABLE TRIGGER USER")
            closing.append(f"ALTER TABLE {table.qualified} ENABLE TRIGGER USER")
    yield
    for statement in closing:
        await connection.execute(statement)


async def _make_partitions(connection: asyncpg.Connection[Any], table: Table) -> None:
    root = next((root for root in PARTITIONED_TABLES if root.qualified == table.label), None)
    for day in table.days if root is not None else ():
        try:
            moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
        except ValueError:
            raise TransferError(f"{table.label} has a partition of {day!r}, which is no day.") from None
        assert root is not None
        await ensure_partition(connection, root, moment)


async def _copied(connection: asyncpg.Connection[Any], source: Source, table: Table, watch: Watch) -> Figures:
    digest = RowDigest()
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)

    async def read() -> Figures:
        figures = await source.copy(table, pieces.put)
        await pieces.put(None)
        return figures

    async def given() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            digest.update(piece)
            watch.advance(digest.rows, digest.size)
            yield piece

    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            await connection.copy_to_table(
                table.name,
                schema_name=table.schema,
                columns=[column.name for column in table.columns],
                source=given(),
                format="text",
                encoding="UTF8",
            )
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return reading.result()


async def _set_identities(connection: asyncpg.Connection[Any], table: Table, following: dict[str, int]) -> None:
    for column in table.columns:
        if column.identity:
            sequence = await sequence_of(connection, table, column.name)
            highest = f"SELECT coalesce(max({quoted(column.name)}), 0) FROM {table.qualified}"  # noqa: S608
            query = f"SELECT setval($1::text::regclass, greatest($2::bigint, ({highest}) + 1), false)"
            await connection.fetchval(query, sequence, following.get(column.name, 1))


async def _check(connection: asyncpg.Connection[Any], table: Table, expected: Figures, watch: Watch) -> None:
    watch.begin("checking", table)
    digest = RowDigest()

    async def told(chunk: bytes) -> None:
        watch.advance(digest.rows, digest.size)

    await copy_out(connection, table, counting(digest, told))
    found = digest.figures()
    if not found.matches(expected):
        raise TransferError(
            f"{table.label} came out otherwise in the target ({found.rows} rows of {expected.rows}, or others): "
            "nothing was kept. See what changes rows there, as triggers do that are not the gateway's."
        )
    watch.end(found)


async def analyse(connection: asyncpg.Connection[Any], loaded: Loaded) -> None:
    """Let the planner know what is there now, before anybody asks."""
    for label in loaded.tables:
        schema, _, name = label.partition(".")
        await connection.execute(f"ANALYZE {quoted(schema)}.{quoted(name)}")


async def hold_the_same(source: Source, target: Source) -> bool:
    """Return whether two databases have the same rows at the same revision; ends with the first table that differs."""
    if source.contents.revision != target.contents.revision:
        return False
    there = {table.label: table for table in target.contents.tables}
    for table in source.contents.tables:
        other = there.get(table.label)
        if other is None or not (await source.copy(table, nowhere)).matches(await target.copy(other, nowhere)):
            return False
    return True
