"""PostgreSQL and Redis dead, hung and back: noticed without traffic, told exactly, healed without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.redis import RedisService
from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import Server, Servers

# The figure promised is 3 s; a busy machine gets five times that.
NOTICED_SECONDS = 15.0
HEALED_SECONDS = 20.0


Store = tuple[Server, Callable[[], Any]]


@pytest.fixture(params=["postgres", "redis"])
def store(request: pytest.FixtureRequest, servers: Servers) -> Store:
    if request.param == "postgres":
        return servers.postgres, lambda: PostgresService(servers.postgres.url)
    return servers.redis, lambda: RedisService(servers.redis.url)


async def until(condition: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_dead_store_is_noticed_and_heals(store: Store) -> None:
    server, make = store
    async with make() as service:
        assert service.sample.healthy
        assert await service.healthy()
        server.kill()
        await until(lambda: not service.sample.healthy, NOTICED_SECONDS)
        assert service.sample.failure in (FailureKind.LOST, FailureKind.REFUSED)
        assert not await service.healthy()
        server.start()
        await until(lambda: service.sample.healthy, HEALED_SECONDS)
        assert await service.healthy()


async def test_a_hung_store_is_noticed_and_heals(store: Store) -> None:
    server, make = store
    async with make() as service:
        assert await service.healthy()
        server.freeze()
        try:
            await until(lambda: not service.sample.healthy, NOTICED_SECONDS)
            assert service.sample.failure is FailureKind.TIMEOUT
            began = time.monotonic()
            assert not await service.healthy()
            assert time.monotonic() - began < NOTICED_SECONDS
        finally:
            server.thaw()
        await until(lambda: service.sample.healthy, HEALED_SECONDS)
        assert await service.healthy()


async def test_a_service_starts_and_closes_while_its_store_hangs(store: Store) -> None:
    server, make = store
    server.freeze()
    try:
        service = make()
        async with asyncio.timeout(NOTICED_SECONDS):
            await service.connect()
            assert not service.sample.healthy
            await service.close()
    finally:
        server.thaw()


async def test_work_on_a_database_that_is_away_is_refused_at_once(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url) as service:
        async with service.acquire() as connection:
            assert await connection.fetchval("SELECT 41 + 1") == 42
        servers.postgres.kill()
        try:
            await until(lambda: not service.sample.healthy, NOTICED_SECONDS)
            with pytest.raises(DependencyError, match="PostgreSQL"):
                async with service.acquire():
                    pass
        finally:
            servers.postgres.start()
        await until(lambda: service.sample.healthy, HEALED_SECONDS)
        async with service.acquire() as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_cancelled_command_does_not_leave_its_connection_in_the_pool(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, max_size=1) as service:
        async with service.acquire() as connection:
            first = await connection.fetchval("SELECT pg_backend_pid()")

        async def slow() -> None:
            async with service.acquire() as connection:
                await connection.fetchval("SELECT pg_sleep(30)")

        task = asyncio.create_task(slow())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with service.acquire() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != first


async def test_a_read_only_database_is_told_as_such(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url) as service:

        async def write() -> None:
            async with service.acquire() as connection:
                await connection.execute("SET default_transaction_read_only = on")
                await connection.execute("CREATE TABLE nothing (a int)")

        with pytest.raises(DependencyError) as caught:
            await write()
        assert caught.value.kind is FailureKind.READ_ONLY


async def test_a_full_pool_refuses_instead_of_waiting(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, max_size=1) as service, service.acquire():
        with pytest.raises(DependencyError) as caught:
            async with service.acquire():
                pass
        assert caught.value.kind is FailureKind.OVERLOADED
        assert service.sample.healthy


GUARDED = ("/v1/keys", "/v1/api_keys/1", "/v1/teams", "/v1/users/x", "/v1/tenants")


@pytest.fixture
def served(start_gateway: Callable[..., Gateway], servers: Servers) -> Gateway:
    return start_gateway({"PG_URL": servers.postgres.url, "REDIS_URL": servers.redis.url})


def guard_says(gateway: Gateway) -> tuple[int, str]:
    answer = gateway.get("/v1/keys", key=gateway.key)
    return answer.status, answer.json().get("error", {}).get("message", "")


def unaffected(gateway: Gateway) -> None:
    question = {"role": "user", "content": "Return exactly the text: HX-OK"}
    answer = gateway.post("/v1/chat/completions", {"model": "hx-chat", "messages": [question]}, key=gateway.key)
    assert answer.json()["choices"][0]["message"]["content"] == "HX-OK"
    assert gateway.get("/v1/keysmith", key=gateway.key).status == 404
    assert gateway.get("/healthz").status == 200
    assert gateway.get("/readyz").status == 200


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_over_a_socket_exactly_what_failed_is_named(served: Gateway, servers: Servers, fault: str) -> None:
    back = {"kill": "start", "freeze": "thaw"}[fault]
    cases: list[tuple[list[Server], str, dict[str, bool]]] = [
        ([servers.postgres], "PostgreSQL", {"postgres": False, "redis": True, "qdrant": True}),
        ([servers.redis], "Redis", {"postgres": True, "redis": False, "qdrant": True}),
        ([servers.postgres, servers.redis], "PostgreSQL, Redis", {"postgres": False, "redis": False, "qdrant": True}),
    ]
    assert guard_says(served)[0] == 200
    for lost, named, deps in cases:
        for server in lost:
            getattr(server, fault)()
        try:
            expected = (503, f"Gateway dependency unavailable: {named}.")
            served.wait_until(lambda expected=expected: guard_says(served) == expected, NOTICED_SECONDS)  # type: ignore[misc]
            for path in GUARDED:
                answer = served.get(path, key=served.key)
                assert (answer.status, answer.json()["error"]["code"]) == (503, "dependency_unavailable")
                assert answer.header("retry-after")
            assert served.get("/v1/keys").status == 401
            assert served.get("/healthz/deps").json() == deps
            assert served.get("/health/all").status == 503
            assert served.get("/health").status == 200
            unaffected(served)
        finally:
            for server in lost:
                getattr(server, back)()
        served.wait_until(lambda: guard_says(served)[0] == 200, HEALED_SECONDS)


def test_the_guard_turned_off_lets_through(start_gateway: Callable[..., Gateway], servers: Servers) -> None:
    gateway = start_gateway({"PG_URL": servers.postgres.url, "ENABLE_DB_GUARD": "false"})
    servers.postgres.kill()
    try:
        gateway.wait_until(lambda: not gateway.get("/healthz/deps").json()["postgres"], NOTICED_SECONDS)
        # It gets as far as the database, and says by itself what is missing.
        assert guard_says(gateway) == (503, "Gateway dependency unavailable: PostgreSQL.")
    finally:
        servers.postgres.start()


def test_the_server_starts_with_every_store_down_and_heals(
    start_gateway: Callable[..., Gateway], servers: Servers
) -> None:
    servers.postgres.kill()
    servers.redis.kill()
    try:
        gateway = start_gateway({"PG_URL": servers.postgres.url, "REDIS_URL": servers.redis.url})
        assert guard_says(gateway) == (503, "Gateway dependency unavailable: PostgreSQL, Redis.")
        unaffected(gateway)
    finally:
        servers.postgres.start()
        servers.redis.start()
    gateway.wait_until(lambda: guard_says(gateway)[0] == 200, HEALED_SECONDS)
