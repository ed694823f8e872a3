"""Sessions that take tables out or put them in: what they are set to, and that no policy hides rows from them.

Sessions are needed, as :mod:`hx_gateway.migrations.runner` says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from hx_gateway.db.locks import milliseconds
from hx_gateway.db.row_security import EVERY_TENANT, TENANT_SETTING, exempt_role
from hx_gateway.db.schemas import GATEWAY_SCHEMA, VERSION_TABLE
from hx_gateway.db.transfer.contents import RowDigest, Sink, Table, quoted
from hx_gateway.db.transfer.errors import TransferError
from hx_gateway.kit.undo import undone_on_failure

CONNECT_SECONDS = 10.0
LOCK_SECONDS = 5.0

# The same text for the same value on every server, and no end for what takes long. Some a server may not know.
_SETTINGS = {
    "search_path": "pg_catalog",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": str(milliseconds(LOCK_SECONDS)),
}
_SET = """
SELECT set_config(given.name, given.value, false) FROM unnest($1::text[], $2::text[]) AS given (name, value)
WHERE EXISTS (SELECT FROM pg_catalog.pg_settings AS known WHERE lower(known.name) = given.name)
"""
# Policies that show less than all to whoever says that all tenants' rows are wanted.
_HIDING = """
SELECT c.oid::regclass::text AS table FROM pg_class AS c
WHERE c.oid = ANY ($1::text[]::regclass[]) AND row_security_active(c.oid) AND (
    EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
    OR NOT EXISTS (
        SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
            AND p.polroles = '{0}' AND position($2 IN pg_get_expr(p.polqual, p.polrelid)) > 0
    )
)
ORDER BY 1
"""
_OURS = f"WHEN '{EVERY_TENANT}'::text THEN true"


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Open a session that works for all tenants; what fails inside ends it at once, and its transaction with it.

    Raises the driver's errors.
    """
    connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    with undone_on_failure(connection.terminate):
        await connection.fetch(_SET, list(_SETTINGS), list(_SETTINGS.values()))
        await connection.execute(f"SET {TENANT_SETTING} = '{EVERY_TENANT}'")
        yield connection
        await connection.close()


async def read_revision(connection: asyncpg.Connection[Any]) -> str | None:
    """Return the schema's revision, or ``None`` where nothing was ever migrated."""
    table = f"{GATEWAY_SCHEMA}.{VERSION_TABLE}"
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return None
    found: str | None = await connection.fetchval(f"SELECT version_num FROM {table}")  # noqa: S608 - the name is ours
    return found


async def lock_tables(connection: asyncpg.Connection[Any], tables: Sequence[Table], mode: str) -> None:
    """Lock ``tables`` with their partitions. Raises :class:`TransferError` where others have them, or may not."""
    try:
        await connection.execute(f"LOCK TABLE {', '.join(table.qualified for table in tables)} IN {mode} MODE")
    except asyncpg.LockNotAvailableError as error:
        raise TransferError(
            f"others use the tables and do not let go within {LOCK_SECONDS:g} s: stop the gateways, or try again."
        ) from error


async def see_everything(connection: asyncpg.Connection[Any], tables: Sequence[Table]) -> None:
    """Raise :class:`TransferError` where row-level security would hide rows of ``tables`` from the session."""
    if await exempt_role(connection) is not None:
        return
    names = [table.qualified for table in tables]
    hidden = [row["table"] for row in await connection.fetch(_HIDING, names, _OURS)]
    if hidden:
        raise TransferError(
            f"a policy that is not the gateway's may hide rows of {', '.join(hidden)} from the role of this URL: drop "
            "that policy, or give a role with BYPASSRLS."
        )


async def copy_out(connection: asyncpg.Connection[Any], table: Table, sink: Sink) -> None:
    """Give the rows of ``table`` to ``sink`` as ``COPY``'s text."""
    columns = ", ".join(quoted(column.name) for column in table.columns)
    query = f"SELECT {columns} FROM {table.qualified}"  # noqa: S608 - the names are quoted
    await connection.copy_from_query(query, output=sink, format="text", encoding="UTF8")


def counting(digest: RowDigest, sink: Sink) -> Sink:
    """Return a sink that counts what goes to ``sink``."""

    async def take(chunk: bytes) -> None:
        digest.update(chunk)
        await sink(chunk)

    return take
