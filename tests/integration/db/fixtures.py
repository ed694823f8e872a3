"""Fixtures of the folders whose modules each have a migrated database: a folder's conftest takes them by import."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.servers import SERVERS, Servers, running_servers
from tests.integration.db.databases import migrated_database


@pytest.fixture(scope="package", params=SERVERS)
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Run the servers for all modules of a folder: none of them leaves anything behind that another one sees."""
    with running_servers(request.param) as servers:
        yield servers


@pytest.fixture(scope="module")
def migrated(servers: Servers) -> Iterator[str]:
    """Give the URL of a database with the schema."""
    with migrated_database(servers.postgres) as url:
        yield url


@pytest.fixture
def ordinary(servers: Servers, migrated: str) -> str:
    """Give the URL of ``migrated`` for a role that row-level security holds for."""
    return servers.postgres.ordinary_url(migrated)
