"""A database as it is at one moment, while others go on working with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from hx_gateway.db.locks import LOCK_CLASS, MIGRATION_LOCK
from hx_gateway.db.transfer.catalogue import read_names, read_tables
from hx_gateway.db.transfer.contents import Contents, Figures, RowDigest, Sink, Table
from hx_gateway.db.transfer.errors import TransferError
from hx_gateway.db.transfer.sessions import copy_out, counting, lock_tables, read_revision, see_everything

_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Snapshot:
    """A :class:`~hx_gateway.db.transfer.contents.Source`: what was committed when it was opened."""

    def __init__(self, connection: asyncpg.Connection[Any], contents: Contents, *, alone: bool) -> None:
        self.contents = contents
        self._connection = connection
        self._alone = alone

    async def copy(self, table: Table, sink: Sink) -> Figures:
        """Give the rows of ``table``; identity columns go on after those that were given since, too."""
        digest = RowDigest()
        await copy_out(self._connection, table, counting(digest, sink))
        return digest.figures(await read_identities(self._connection, table))

    async def finish(self) -> None:
        """Raise :class:`TransferError` where nobody else was to work here, and somebody does."""
        if self._alone and await self._connection.fetchval(_OTHERS):
            raise TransferError(
                "somebody connected to the database meanwhile, such as a gateway that was started: stop it, and begin "
                "again."
            )


@asynccontextmanager
async def snapshot(connection: asyncpg.Connection[Any], *, alone: bool = False) -> AsyncIterator[Snapshot]:
    """Open a snapshot of a :func:`~hx_gateway.db.transfer.sessions.session`'s database; it changes nothing.

    Others read and write meanwhile, but do not change the schema; with ``alone`` they do not write, either. Raises
    :class:`TransferError`, and the driver's errors as they are.
    """
    tables, others = await read_names(connection)
    if not tables or await read_revision(connection) is None:
        raise TransferError("there is nothing of a gateway in this database: give the one that a gateway uses.")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        # Before the first query, which takes the snapshot: nothing is rewritten between the two.
        await lock_tables(connection, tables, "SHARE" if alone else "ACCESS SHARE")
        if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock_shared({LOCK_CLASS}, {MIGRATION_LOCK})"):
            raise TransferError("the database is being migrated: try again when that is done.")
        found = await read_tables(connection)
        if {table.label for table in found} != {table.label for table in tables}:
            raise TransferError("the schema was changed just now: try again.")
        await see_everything(connection, found)
        contents = Contents(
            revision=str(await read_revision(connection)),
            server=await connection.fetchval("SHOW server_version"),
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tables=tuple(found),
            left_out=tuple(others),
        )
        yield Snapshot(connection, contents, alone=alone)


async def read_identities(connection: asyncpg.Connection[Any], table: Table) -> dict[str, int]:
    """Return the next value of each identity column of ``table``."""
    following = {}
    for column in table.columns:
        if column.identity:
            sequence = await sequence_of(connection, table, column.name)
            query = f"SELECT last_value + is_called::int FROM {sequence}"  # noqa: S608 - the server has quoted it
            following[column.name] = int(await connection.fetchval(query))
    return following


async def sequence_of(connection: asyncpg.Connection[Any], table: Table, column: str) -> str:
    """Return the name of an identity column's sequence, quoted for SQL."""
    return str(await connection.fetchval("SELECT pg_get_serial_sequence($1, $2)", table.qualified, column))
