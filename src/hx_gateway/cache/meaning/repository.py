"""Answers by meaning in PostgreSQL with pgvector: a table whose rows are searched one by one, a tenant's place only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from hx_gateway.cache.meaning.stores import Entry, Near, Place, Space, SpaceMissing, StoreUnusable
from hx_gateway.db.locks import LOCK_CLASS, MEANINGS_LOCK
from hx_gateway.services.failures import dependency_error
from hx_gateway.services.postgres import PostgresService

TABLE = "hx_gateway.meanings"
# Of the pool's connections: keys are looked up with them too.
CONNECTIONS = 2

_EXTENSION = """
SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'vector'
"""
_AVAILABLE = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"
_THERE = "SELECT to_regclass($1) IS NOT NULL"
# No migration: the extension may come, or be left out, at any time, and what is here may be lost. Vectors have no size
# of their own, because models differ in it, and no index, which would need one: a place's rows are few.
_CREATE = (
    """
    CREATE TABLE {table} (
        tenant_id text NOT NULL,
        embedder text NOT NULL,
        id uuid NOT NULL,
        within text NOT NULL,
        frame text NOT NULL,
        embedding {vectors}.vector NOT NULL,
        answer bytea NOT NULL,
        model text NOT NULL,
        key_id text NOT NULL,
        stored_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, embedder, id)
    )
    """,
    # In its row as long as it fits: each is read in a search, and most answers are not.
    "ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE MAIN",
    "CREATE INDEX meanings_by_place ON {table} (tenant_id, embedder, within, frame)",
    "CREATE INDEX meanings_by_age ON {table} (tenant_id, stored_at)",
    "CREATE INDEX meanings_by_end ON {table} (expires_at)",
    # As for the other tables of the schema.
    """
    CREATE POLICY of_tenant ON {table} USING (
        CASE current_setting('hx.tenant', true)
            WHEN '*' THEN true
            WHEN '' THEN false
            ELSE tenant_id = current_setting('hx.tenant', true)
        END
    )
    """,
    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
)
# The text is read as a vector once, and each distance is worked out once: written plainly both are done for every row
# and every mention, which takes a hundred times as long.
_NEAREST = """
WITH asked AS MATERIALIZED (SELECT $5::text::{vectors}.vector AS vector)
SELECT answer, 1 - distance AS similarity, extract(epoch FROM stored_at)::float8 AS stored_at
FROM (
    SELECT answer, stored_at, embedding OPERATOR({vectors}.<=>) (SELECT vector FROM asked) AS distance
    FROM {table}
    WHERE tenant_id = $1 AND embedder = $2 AND within = $3 AND frame = $4 AND expires_at > to_timestamp($6::float8)
    ORDER BY distance LIMIT 1
) AS nearest
"""
_PUT = """
INSERT INTO {table}
    (tenant_id, embedder, id, within, frame, embedding, answer, model, key_id, stored_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6::text::{vectors}.vector, $7, $8, $9,
    to_timestamp($10::float8), to_timestamp($11::float8))
ON CONFLICT (tenant_id, embedder, id) DO UPDATE SET
    embedding = excluded.embedding, answer = excluded.answer, model = excluded.model, key_id = excluded.key_id,
    stored_at = excluded.stored_at, expires_at = excluded.expires_at
"""
_PURGE = """
DELETE FROM {table}
WHERE tenant_id = $1 AND ($2::text IS NULL OR key_id = $2) AND ($3::text IS NULL OR model = $3)
"""
_EXPIRE = "DELETE FROM {table} WHERE expires_at <= to_timestamp($1::float8)"
_TRIM = """
DELETE FROM {table} WHERE tenant_id = $1 AND (embedder, id) IN (
    SELECT embedder, id FROM {table} WHERE tenant_id = $1 ORDER BY stored_at DESC, id OFFSET $2
)
"""
_MISSING = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
)


class PgVectorStore:
    """A table of the gateway's own database, made where the extension ``vector`` is there or may be made."""

    def __init__(self, postgres: PostgresService) -> None:
        self._postgres = postgres
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._embedder = ""
        self._vectors = ""

    async def ensure(self, space: Space) -> None:
        """Make the extension and the table, if they are not there. Several gateways may do so at once."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, {MEANINGS_LOCK})")
            self._vectors = await _extension(connection)
            if not await connection.fetchval(_THERE, TABLE):
                for statement in _CREATE:
                    await connection.execute(self._sql(statement))
        self._embedder = space.label

    async def nearest(self, place: Place, vector: Sequence[float], now: float) -> Near | None:
        """Compare with every row of ``place``."""
        values = (place.tenant_id, self._embedder, place.within, place.frame, _text(vector), now)
        async with self._connection() as connection:
            row = await connection.fetchrow(self._sql(_NEAREST), *values)
        return Near(row["answer"], row["similarity"], row["stored_at"]) if row is not None else None

    async def put(self, entry: Entry) -> None:
        """Insert a row, or write it anew."""
        place, embedder = entry.place, self._embedder
        async with self._connection() as connection:
            await connection.execute(
                self._sql(_PUT),
                place.tenant_id,
                embedder,
                entry.id,
                place.within,
                place.frame,
                _text(entry.vector),
                entry.answer,
                entry.model,
                entry.key_id,
                entry.stored_at,
                entry.expires_at,
            )

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Delete a tenant's rows, of every embedder."""
        return await self._delete(_PURGE, tenant_id, key_id, model)

    async def expire(self, now: float) -> None:
        """Delete rows whose time is over."""
        await self._delete(_EXPIRE, now)

    async def trim(self, tenant_id: str, most: int) -> None:
        """Delete a tenant's oldest rows, of every embedder."""
        await self._delete(_TRIM, tenant_id, most)

    async def _delete(self, statement: str, *values: object) -> int:
        async with self._connection() as connection:
            # "DELETE 17"
            told: str = await connection.execute(self._sql(statement), *values)
        return int(told.rpartition(" ")[2])

    def _sql(self, statement: str) -> str:
        """Return ``statement`` with its names: the extension lies in whatever schema it was made in."""
        return statement.format(table=TABLE, vectors=self._vectors)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        async with self._slots:
            try:
                async with self._postgres.acquire() as connection:
                    yield connection
            except _MISSING as error:
                raise SpaceMissing from error
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise dependency_error(PostgresService.display_name, error) from error


async def _extension(connection: Any) -> str:
    """Return the schema of the extension, made if that is allowed. Raises ``StoreUnusable``."""
    schema = await connection.fetchval(_EXTENSION)
    if schema is None:
        if not await connection.fetchval(_AVAILABLE):
            raise StoreUnusable("this PostgreSQL has no pgvector: install it, or set QDRANT_URL")
        try:
            async with connection.transaction():
                await connection.execute("CREATE EXTENSION vector")
        except asyncpg.InsufficientPrivilegeError as error:
            raise StoreUnusable(
                "an administrator has to run CREATE EXTENSION vector in the gateway's database"
            ) from error
        schema = await connection.fetchval(_EXTENSION)
    return str(schema)


def _text(vector: Sequence[float]) -> str:
    """Return a vector as pgvector reads it, which is JSON."""
    return msgspec.json.encode(vector).decode("ascii")
