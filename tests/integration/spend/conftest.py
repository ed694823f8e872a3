"""A database for all tests of spend, emptied for each of them, and one who asks its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from hx_gateway.pricing.source import PriceSource
from hx_gateway.services.postgres import PostgresService
from hx_gateway.spend.repository import SpendRepository
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import ready_database
from tests.integration.spend.samples import EMPTY, TABLES, Asker, Listed, Rows


@pytest.fixture(scope="session")
def spend_server() -> Iterator[PostgresServer]:
    """Run the newest PostgreSQL."""
    with running_postgres("wheel18") as server:
        yield server


@pytest.fixture(scope="session")
def database(spend_server: PostgresServer) -> Iterator[str]:
    """Give the URL of a migrated database."""
    with ready_database(spend_server) as url:
        yield url


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a connection to ``database``, whose tables are empty."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(TABLES + EMPTY)
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def rows(connection: asyncpg.Connection[Any]) -> Rows:
    """Return what fills the tables."""
    return Rows(connection)


@pytest.fixture
async def asker(
    connection: asyncpg.Connection[Any], spend_server: PostgresServer, database: str
) -> AsyncIterator[Asker]:
    """Give one who asks the routes over ``database``, in a role that row-level security holds for."""
    async with PostgresService(spend_server.ordinary_url(database), acquire_timeout=30.0) as service:
        yield Asker(SpendRepository(service), PriceSource(Listed()))
