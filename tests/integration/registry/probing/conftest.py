"""A registry in a database of its own: a prober looks at all tenants of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fixtures.mcp_process import McpProcess
from tests.fixtures.servers import Servers
from tests.integration.db.databases import migrated_database
from tests.integration.registry.registries import Registry, registry_at


@pytest.fixture
def alone(servers: Servers) -> Iterator[str]:
    """Give the URL of a database that no other test has, for a role that row-level security holds for."""
    with migrated_database(servers.postgres) as url:
        yield servers.postgres.ordinary_url(url)


@pytest.fixture
async def lone(alone: str) -> AsyncIterator[Registry]:
    """Give the registry of the one tenant there."""
    async with registry_at(alone, "tn-alone") as registry:
        yield registry


@pytest.fixture
def mcp_process() -> Iterator[McpProcess]:
    """Give a server of the SDK that is not started yet."""
    process = McpProcess()
    try:
        yield process
    finally:
        process.stop()
