"""A migrated database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.servers import Servers
from tests.integration.db.databases import ready_database


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """Give the URL of a database of its own."""
    with ready_database(servers.postgres) as url:
        yield url
