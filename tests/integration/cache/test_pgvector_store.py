"""Answers by meaning in PostgreSQL with pgvector, for real."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from hx_gateway.cache.meaning.repository import TABLE, PgVectorStore
from hx_gateway.cache.meaning.stores import SpaceMissing, StoreUnusable, VectorStore
from hx_gateway.db.row_security import EVERY_TENANT, TENANT_SETTING
from hx_gateway.services.base import DependencyError
from hx_gateway.services.postgres import PostgresService
from tests.fixtures.servers import DEBIAN_15, PostgresServer, running_postgres
from tests.integration.cache.store_contract import EAST, HERE, NOW, SPACE, AnyStore, answer, entry
from tests.integration.db.databases import fresh_database, migrated_database


@pytest.fixture
def store(pg_store: PgVectorStore) -> VectorStore:
    return pg_store


class TestPgVectorStore(AnyStore):
    pass


async def test_several_gateways_may_make_it_at_once(postgres: PostgresService) -> None:
    stores = [PgVectorStore(postgres) for _ in range(4)]
    await asyncio.gather(*(store.ensure(SPACE) for store in stores))
    await stores[0].put(entry("x"))
    assert await answer(stores[3]) == b"x"


async def test_the_second_wall_stands_around_the_answers_too(pg_store: PgVectorStore, database: str) -> None:
    await pg_store.ensure(SPACE)
    await pg_store.put(entry("x"))
    connection = await asyncpg.connect(database)
    try:
        counted = []
        for tenant in ("", "tn-b", "tn-a", EVERY_TENANT):
            await connection.execute(f"SELECT set_config('{TENANT_SETTING}', $1, false)", tenant)
            counted.append(await connection.fetchval(f"SELECT count(*) FROM {TABLE}"))
        assert counted == [0, 0, 1, 1]
        await connection.execute(f"SELECT set_config('{TENANT_SETTING}', 'tn-a', false)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"UPDATE {TABLE} SET tenant_id = 'tn-b'")
    finally:
        await connection.close()


async def test_an_extension_in_a_schema_of_its_own_is_found(postgres_server: PostgresServer) -> None:
    with migrated_database(postgres_server) as url:
        connection = await asyncpg.connect(url)
        await connection.execute('CREATE SCHEMA "Its Own"; CREATE EXTENSION vector SCHEMA "Its Own"')
        await connection.close()
        async with PostgresService(url) as service:
            store = PgVectorStore(service)
            await store.ensure(SPACE)
            await store.put(entry("x"))
            assert await answer(store) == b"x"


async def test_whoever_may_makes_the_extension_and_others_are_told_who_has_to(postgres_server: PostgresServer) -> None:
    with migrated_database(postgres_server) as url:
        async with PostgresService(postgres_server.ordinary_url(url)) as service:
            with pytest.raises(StoreUnusable, match="CREATE EXTENSION vector"):
                await PgVectorStore(service).ensure(SPACE)
        async with PostgresService(url) as service:
            store = PgVectorStore(service)
            await store.ensure(SPACE)
            assert await answer(store) is None


async def test_before_the_migrations_it_is_not_ready(postgres_server: PostgresServer) -> None:
    with fresh_database(postgres_server) as url:
        async with PostgresService(url) as service:
            with pytest.raises(SpaceMissing):
                await PgVectorStore(service).ensure(SPACE)


async def test_a_table_that_is_gone_is_told_and_made_again(pg_store: PgVectorStore, postgres: PostgresService) -> None:
    await pg_store.ensure(SPACE)
    async with postgres.acquire() as connection:
        await connection.execute(f"DROP TABLE {TABLE}")
    with pytest.raises(SpaceMissing):
        await answer(pg_store)
    with pytest.raises(SpaceMissing):
        await pg_store.put(entry("x"))
    await pg_store.ensure(SPACE)
    assert await answer(pg_store) is None


@pytest.mark.skipif(not (DEBIAN_15 / "postgres").exists(), reason="needs a PostgreSQL without pgvector")
async def test_a_postgresql_without_pgvector_is_told_with_the_remedy() -> None:
    with running_postgres("debian15") as server, migrated_database(server) as url:
        async with PostgresService(url) as service:
            with pytest.raises(StoreUnusable, match="QDRANT_URL"):
                await PgVectorStore(service).ensure(SPACE)


async def test_a_database_that_is_away_is_told_at_once() -> None:
    async with PostgresService("postgresql://hx@127.0.0.1:1/hx") as service:
        with pytest.raises(DependencyError):
            await PgVectorStore(service).nearest(HERE, EAST, NOW)
