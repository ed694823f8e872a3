"""A migrated database for the tests of a module, and a registry of a tenant that no other test has."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from tests.integration.db.fixtures import migrated, ordinary, servers
from tests.integration.registry.registries import Registry, registry_at

__all__ = ["migrated", "ordinary", "servers"]

_numbers = itertools.count(1)


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
