"""PostgreSQL servers that all tests of limits share, databases of their own, and ledgers over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from hx_gateway.limits.durable import Authority
from hx_gateway.limits.repository import PostgresLedger
from hx_gateway.limits.roots import JournalRoot
from hx_gateway.services.postgres import PostgresService
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import migrated_database

MakeLedger = Callable[..., PostgresLedger]


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """Run the newest PostgreSQL, for all tests that ask for it."""
    with running_postgres("wheel18") as server:
        yield server


@pytest.fixture(scope="session")
def postgres15() -> Iterator[PostgresServer]:
    """Run the oldest PostgreSQL that is supported and is here."""
    with running_postgres("debian15") as server:
        yield server


@pytest.fixture
def database(postgres18: PostgresServer) -> Iterator[str]:
    """Give the URL of a migrated database of its own."""
    with migrated_database(postgres18) as url:
        yield url


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a connection to ``database``."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def postgres(database: str) -> AsyncIterator[PostgresService]:
    """Give the service of ``database``."""
    async with PostgresService(database) as service:
        yield service


@pytest.fixture
def make_ledger(postgres: PostgresService, tmp_path: Path) -> MakeLedger:
    """Return what makes a worker's ledger, on a root of the name given."""

    def make(root: str = "here", authority: Authority = Authority.POSTGRES, **options: Any) -> PostgresLedger:
        return PostgresLedger(postgres, JournalRoot(tmp_path / root), authority, **options)

    return make
