"""Transactions over SQLAlchemy: whole or not at all, lazy, and in our terms when the server fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.errors import Unavailable
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.database import DatabaseManager
from tests.fixtures.servers import Servers
from tests.integration.db.databases import url_of

ONE = text("SELECT 1")


@pytest.fixture
async def database(migrated: str) -> AsyncIterator[DatabaseManager]:
    """Give a manager with a pool of two."""
    manager = DatabaseManager(migrated, pool_size=1, max_overflow=1, statement_timeout=0.5, acquire_timeout=0.2)
    yield manager
    await manager.close()


async def one(database: DatabaseManager) -> int:
    async with database.session(EVERY_TENANT) as session:
        return int((await session.execute(ONE)).scalar_one())


async def names(database: DatabaseManager, tenant: str) -> list[str]:
    async with database.session(EVERY_TENANT) as session:
        query = text("SELECT name FROM hx_gateway.tenants WHERE id = :id")
        return list((await session.scalars(query, {"id": tenant})).all())


INSERT = text("INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by) VALUES (:id, 'new', 'x', 'x')")


async def test_what_was_done_is_kept_at_the_end(database: DatabaseManager, tenant: str) -> None:
    async with database.session(EVERY_TENANT) as session:
        await session.execute(INSERT, {"id": tenant})
        assert await names(database, tenant) == []
    assert await names(database, tenant) == ["new"]


async def test_what_was_done_is_undone_when_anything_is_raised(database: DatabaseManager, tenant: str) -> None:
    async def work() -> None:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(INSERT, {"id": tenant})
            raise KeyError

    with pytest.raises(KeyError):
        await work()
    assert await names(database, tenant) == []


async def test_a_statements_own_failure_stays_what_it_is(database: DatabaseManager) -> None:
    with pytest.raises(IntegrityError):
        async with database.session(EVERY_TENANT) as session:
            await session.execute(INSERT, {"id": "default"})
    with pytest.raises(DBAPIError, match="division"):
        async with database.session(EVERY_TENANT) as session:
            await session.execute(text("SELECT 1 / 0"))


async def test_before_the_first_migration_it_is_not_available_yet(database: DatabaseManager) -> None:
    with pytest.raises(Unavailable, match="not there yet"):
        async with database.session(EVERY_TENANT) as session:
            await session.execute(text("SELECT * FROM nowhere"))


async def test_a_statement_that_takes_too_long_is_ended(database: DatabaseManager) -> None:
    with pytest.raises(DependencyError) as caught:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(text("SELECT pg_sleep(30)"))
    assert (caught.value.dependency, caught.value.kind) == ("PostgreSQL", FailureKind.TIMEOUT)
    assert await one(database) == 1


async def test_one_more_than_the_pool_holds_is_told_so(database: DatabaseManager) -> None:
    async with database.session(EVERY_TENANT), database.session(EVERY_TENANT):
        assert (database.pool.checked_out, database.pool.maximum) == (2, 2)
        with pytest.raises(DependencyError) as caught:
            await one(database)
        assert caught.value.kind is FailureKind.OVERLOADED
    assert database.pool.checked_out == 0


async def test_it_is_made_while_the_database_is_away_and_works_when_it_is_there() -> None:
    manager = DatabaseManager("postgresql://hx@127.0.0.1:1/nowhere")
    with pytest.raises(DependencyError) as caught:
        await one(manager)
    assert caught.value.kind is FailureKind.REFUSED
    await manager.close()


async def test_a_database_that_is_not_there_is_told_apart(servers: Servers) -> None:
    manager = DatabaseManager(url_of(servers.postgres, "nowhere"))
    with pytest.raises(DependencyError) as caught:
        await one(manager)
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.PROTOCOL, False)
    await manager.close()


async def test_a_connection_that_was_lost_is_replaced(database: DatabaseManager, servers: Servers) -> None:
    assert await one(database) == 1
    servers.postgres.kill()
    try:
        with pytest.raises(DependencyError) as caught:
            await one(database)
        assert caught.value.kind is FailureKind.REFUSED
    finally:
        servers.postgres.start()
    assert await one(database) == 1


async def test_a_connection_that_is_lost_in_a_transaction_is_told_so(
    database: DatabaseManager, servers: Servers
) -> None:
    async def work() -> None:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(ONE)
            servers.postgres.kill()
            await session.execute(ONE)

    with pytest.raises(DependencyError) as caught:
        await work()
    servers.postgres.start()
    assert caught.value.kind is FailureKind.LOST
    assert await one(database) == 1


async def test_a_server_that_hangs_does_not_hold_us(database: DatabaseManager, servers: Servers) -> None:
    async def work() -> None:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(ONE)
            servers.postgres.freeze()
            await session.execute(ONE)

    began = time.monotonic()
    with pytest.raises(DependencyError) as caught:
        await work()
    elapsed = time.monotonic() - began
    servers.postgres.thaw()
    assert caught.value.kind is FailureKind.TIMEOUT
    assert elapsed < 10.0
    assert await one(database) == 1


async def test_a_transaction_whose_owner_goes_away_leaves_nothing(database: DatabaseManager, tenant: str) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with database.session(EVERY_TENANT) as session:
            await session.execute(INSERT, {"id": tenant})
            begun.set()
            await session.execute(text("SELECT pg_sleep(0.4)"))

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert database.pool.checked_out == 0
    assert await names(database, tenant) == []
