"""A connection to the migrated database that the tests of a folder have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest


@pytest.fixture
async def connection(migrated: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a connection to ``migrated``."""
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()
