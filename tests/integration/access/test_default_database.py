"""The one default database: bound and cleared on purpose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from hx_gateway.db.row_security import TENANT_SETTING
from hx_gateway.services.default_database import close_db, get_db, get_db_session, init_db

TENANT = text(f"SELECT current_setting('{TENANT_SETTING}')")
RENAME = text("UPDATE hx_gateway.tenants SET name = :name WHERE id = 'default'")
NAME = text("SELECT name FROM hx_gateway.tenants WHERE id = 'default'")
# As FastAPI uses it.
a_routes_session = asynccontextmanager(get_db)


@pytest.fixture
async def bound(ordinary: str) -> AsyncIterator[None]:
    """Bind the default for a test."""
    await init_db(ordinary)
    yield
    await close_db()


@pytest.mark.usefixtures("bound")
async def test_sessions_are_those_of_the_default_tenant_or_of_one_that_is_named() -> None:
    async with a_routes_session() as session:
        assert await session.scalar(TENANT) == "default"
    async with get_db_session() as session:
        assert await session.scalar(TENANT) == "default"
    async with get_db_session("acme") as session:
        assert await session.scalar(TENANT) == "acme"
        assert await session.scalar(NAME) is None


@pytest.mark.usefixtures("bound")
async def test_a_route_that_fails_leaves_nothing_and_one_that_does_not_its_work() -> None:
    async def fail() -> None:
        async with a_routes_session() as session:
            await session.execute(RENAME, {"name": "lost"})
            raise KeyError

    async with a_routes_session() as session:
        await session.execute(RENAME, {"name": "kept"})
    with pytest.raises(KeyError):
        await fail()
    async with a_routes_session() as session:
        assert await session.scalar(NAME) == "kept"
        await session.execute(RENAME, {"name": "Default"})


async def test_it_is_bound_once_and_cleared(ordinary: str) -> None:
    manager = await init_db(ordinary)
    assert manager.pool.maximum == 30
    with pytest.raises(RuntimeError, match=r"close_db\(\) first"):
        await init_db(ordinary)
    await close_db()
    await close_db()
    with pytest.raises(RuntimeError, match=r"init_db\(\) first"):
        async with get_db_session():
            pass
