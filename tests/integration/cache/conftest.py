"""A PostgreSQL with pgvector for the tests of a module, its database empty of answers for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from hx_gateway.cache.meaning.repository import TABLE, PgVectorStore
from hx_gateway.services.postgres import PostgresService
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import migrated_database


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """Run the PostgreSQL of the wheel, which pgvector comes with."""
    with running_postgres("wheel18") as server:
        yield server


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """Give the URL of a migrated database for a role that row-level security holds for.

    That role may not make the extension: somebody who may has done so.
    """
    with migrated_database(postgres_server) as url:
        yield postgres_server.ordinary_url(url)


@pytest.fixture
async def postgres(database: str) -> AsyncIterator[PostgresService]:
    """Give the gateway's client, with the extension there and no table."""
    connection = await asyncpg.connect(database.replace("//hx_ordinary@", "//hx@"))
    await connection.execute(f"CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS {TABLE}")
    await connection.close()
    async with PostgresService(database) as service:
        yield service


@pytest.fixture
def pg_store(postgres: PostgresService) -> PgVectorStore:
    """Give the store in it."""
    return PgVectorStore(postgres)
