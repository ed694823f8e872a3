"""A migrated database for the tests of a module, and a tenant's name that no other test has."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.fixtures.servers import PostgresServer, RedisServer, Servers, _postgres_binaries, _redis_binary
from tests.integration.db.databases import migrated_database

_numbers = itertools.count(1)


@pytest.fixture(scope="package", params=["postgres18-valkey", "postgres15-redis6"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Run the servers for all modules here: none of them leaves anything behind that another one sees."""
    newest = request.param == "postgres18-valkey"
    with ExitStack() as stack:
        bases = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hx-", ignore_cleanup_errors=True)))
            for _ in range(2)
        ]
        postgres = PostgresServer(_postgres_binaries("wheel18" if newest else "debian15"), bases[0])
        stack.callback(postgres.close)
        redis = RedisServer(_redis_binary("valkey" if newest else "redis6"), bases[1])
        stack.callback(redis.close)
        postgres.start()
        redis.start()
        yield Servers(postgres, redis)


@pytest.fixture(scope="module")
def migrated(servers: Servers) -> Iterator[str]:
    """Give the URL of a database with the schema."""
    with migrated_database(servers.postgres) as url:
        yield url


@pytest.fixture
async def connection(migrated: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a connection to ``migrated``."""
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()


@pytest.fixture
def tenant() -> str:
    """Give an id that is not taken."""
    return f"tn-{next(_numbers)}"
