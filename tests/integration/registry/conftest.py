"""A migrated database for the tests of a module, and a registry of a tenant that no other test has."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fixtures.servers import SERVERS, Servers, running_servers
from tests.integration.db.databases import migrated_database
from tests.integration.registry.registries import Registry, registry_at

_numbers = itertools.count(1)


@pytest.fixture(scope="package", params=SERVERS)
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Run the servers for all modules here: none of them leaves anything behind that another one sees."""
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


@pytest.fixture
async def registry(ordinary: str) -> AsyncIterator[Registry]:
    """Give the registry of a new tenant."""
    async with registry_at(ordinary, f"tn-{next(_numbers)}") as registry:
        yield registry


@pytest.fixture
async def rival(ordinary: str) -> AsyncIterator[Registry]:
    """Give that of another one."""
    async with registry_at(ordinary, f"tn-{next(_numbers)}") as registry:
        yield registry
