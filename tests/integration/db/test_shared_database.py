"""A database that is shared with a LiteLLM, which has its tables in ``public``: neither loses anything of the other's.

Its tables are stand-ins with its names: its own migrations need an engine that is not here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from hx_gateway.migrations.runner import current, downgrade, head, upgrade

# Its own, those of whoever else migrates there, and some that are called as ours are.
FOREIGN = (
    'CREATE TABLE public."LiteLLM_VerificationToken" (token text PRIMARY KEY, spend float8)',
    'CREATE TABLE public."LiteLLM_SpendLogs" (request_id text PRIMARY KEY)',
    "CREATE TABLE public._prisma_migrations (id text PRIMARY KEY)",
    "CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)",
    "CREATE TABLE public.teams (id text PRIMARY KEY)",
    "CREATE TABLE public.trace_events (id text PRIMARY KEY)",
    "CREATE TYPE public.service_status AS ENUM ('theirs')",
    """INSERT INTO public."LiteLLM_VerificationToken" VALUES ('made up', 1.5)""",
    "INSERT INTO public.alembic_version VALUES ('of somebody else')",
    "INSERT INTO public.teams VALUES ('theirs')",
)
# What Prisma does when it makes a database anew, and what it does to tables that its schema does not name.
RESET = ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", *FOREIGN)
OURS = ("hx_gateway", "hx_registry", "agent_observability")
EVERYTHING = """
SELECT n.nspname || '.' || c.relname, c.relkind::text FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = ANY($1) ORDER BY 1
"""
THEIR_ROWS = """
SELECT (SELECT token FROM public."LiteLLM_VerificationToken"), (SELECT version_num FROM public.alembic_version),
    (SELECT id FROM public.teams), enum_range(NULL::public.service_status)::text
"""
TENANT = "INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by) VALUES ('kept', 'kept', 'test', 'test')"


class Shared:
    """The database, as its owner sees it."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def execute(self, *statements: str) -> None:
        for statement in statements:
            await self._connection.execute(statement)

    async def things(self, *schemas: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._connection.fetch(EVERYTHING, list(schemas))]

    async def their_rows(self) -> tuple[Any, ...]:
        return tuple(await self._connection.fetchrow(THEIR_ROWS) or ())

    async def our_tenant(self) -> object:
        return await self._connection.fetchval("SELECT name FROM hx_gateway.tenants WHERE id = 'kept'")


@pytest.fixture
async def database(empty: str) -> AsyncIterator[Shared]:
    connection = await asyncpg.connect(empty, server_settings={"hx.tenant": "*"})
    yield Shared(connection)
    await connection.close()


async def test_what_was_there_before_our_migrations_is_there_after_them_and_after_they_are_undone(
    database: Shared, empty: str
) -> None:
    await database.execute(*FOREIGN)
    things, rows = await database.things("public"), await database.their_rows()
    assert (await upgrade(empty))[-1] == await current(empty) == head()
    assert (await database.things("public"), await database.their_rows()) == (things, rows)
    await downgrade(empty, "base")
    assert (await database.things("public"), await database.their_rows()) == (things, rows)


async def test_what_is_ours_outlives_a_public_schema_that_is_made_anew(database: Shared, empty: str) -> None:
    await upgrade(empty)
    await database.execute(TENANT)
    ours = await database.things(*OURS)
    await database.execute(*FOREIGN)
    await database.execute(*RESET)
    assert await database.things(*OURS) == ours
    assert await database.our_tenant() == "kept"
    assert await current(empty) == head()
    assert await upgrade(empty) == []
    assert (await database.their_rows())[1] == "of somebody else"
