"""A migrated database for the tests of a module, and a tenant's name that no other test has."""

from __future__ import annotations

import itertools

import pytest

from tests.integration.db.fixtures import migrated, ordinary, servers

__all__ = ["migrated", "ordinary", "servers"]

_numbers = itertools.count(1)


@pytest.fixture
def tenant() -> str:
    """Give an id that is not taken."""
    return f"tn-{next(_numbers)}"
