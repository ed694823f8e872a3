"""Databases and connections for the tests of the schema."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from tests.fixtures.servers import Servers
from tests.integration.db.databases import fresh_database, migrated_database


@pytest.fixture
def empty(servers: Servers) -> Iterator[str]:
    """Give the URL of an empty database."""
    with fresh_database(servers.postgres) as url:
        yield url


@pytest.fixture
def migrated(servers: Servers) -> Iterator[str]:
    """Give the URL of a database with the schema and without partitions."""
    with migrated_database(servers.postgres) as url:
        yield url


@pytest.fixture
async def other(migrated: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a second one."""
    connection = await asyncpg.connect(migrated)
    yield connection
    connection.terminate()
