"""Changes reach every process: through PostgreSQL, through Redis, and in the end without either."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from hx_gateway.access.invalidation import REDIS_CHANNEL
from hx_gateway.access.key_cache import UNPUSHED_FRESH_SECONDS
from hx_gateway.services.base import FailureKind
from hx_gateway.services.listener import Ears
from hx_gateway.services.postgres_listener import PostgresListener
from hx_gateway.services.redis import RedisService
from hx_gateway.services.redis_pubsub import RedisListener
from tests.fixtures.servers import Server, Servers
from tests.integration.access.desks import Desk, add_key, change_key, desk_of, run
from tests.integration.db.databases import migrated_database
from tests.unit.access.keys import FakeClock

PROMISED_SECONDS = 1.0
END_LISTENER = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND (query LIKE 'NOTIFY hx_echo%' OR query LIKE 'LISTEN%')
"""


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """Give the URL of a database of its own."""
    with migrated_database(servers.postgres) as url:
        yield url


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> float:
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def says(desk: Desk, text: str, expected: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return await desk.says(text) == expected

    return ask


async def test_a_revoked_key_stops_everywhere_through_postgresql_alone(database: str) -> None:
    key = await add_key(database)
    async with desk_of(database, listen=True) as (first, _), desk_of(database, listen=True) as (second, _):
        for desk in (first, second):
            assert await desk.says(key.text) == key.id
            assert desk.cache.pushed
        await change_key(database, key.id, "deleted_at = now()")
        for desk in (first, second):
            # Ten seconds is what it would take unpushed: five times the promise is well below.
            assert await until(says(desk, key.text, "key_revoked")) < 5 * PROMISED_SECONDS


async def test_a_revoked_key_stops_everywhere_through_redis_alone(servers: Servers, database: str) -> None:
    key = await add_key(database)
    redis = servers.redis.url
    async with desk_of(database, redis_url=redis) as (first, teller), desk_of(database, redis_url=redis) as (second, _):
        for desk in (first, second):
            assert await desk.says(key.text) == key.id
        await change_key(database, key.id, "blocked = true", notify=False)
        await teller.announce("key", key.id, "default")
        assert await first.says(key.text) == "key_blocked"
        assert await until(says(second, key.text, "key_blocked")) < 5 * PROMISED_SECONDS


async def test_a_change_of_the_tenant_reaches_its_keys(servers: Servers, database: str) -> None:
    key = await add_key(database)
    async with desk_of(database, redis_url=servers.redis.url, listen=True) as (desk, teller):
        assert await desk.says(key.text) == key.id
        await run(database, "UPDATE hx_gateway.tenants SET blocked = true")
        await teller.announce("tenant", "default", "default")
        assert await desk.says(key.text) == "key_blocked"


async def test_a_change_that_was_not_told_is_noticed_in_ten_seconds(servers: Servers, database: str) -> None:
    clock = FakeClock()
    key = await add_key(database)
    async with desk_of(database, redis_url=servers.redis.url, listen=True, clock=clock) as (desk, _):
        assert await desk.says(key.text) == key.id
        servers.redis.kill()
        try:
            await until(lambda: _is(not desk.cache.pushed))
            await change_key(database, key.id, "blocked = true", notify=False)
            clock.seconds += UNPUSHED_FRESH_SECONDS
            assert await desk.says(key.text) == "key_blocked"
        finally:
            servers.redis.start()


async def test_a_listener_that_was_cut_off_comes_back_and_doubts_everything(database: str) -> None:
    key = await add_key(database)
    async with desk_of(database, listen=True) as (desk, _):
        assert await desk.says(key.text) == key.id
        await change_key(database, key.id, "blocked = true", notify=False)
        assert await desk.says(key.text) == key.id
        assert await run(database, END_LISTENER) == 1
        await until(says(desk, key.text, "key_blocked"))
        await until(lambda: _is(desk.cache.pushed))


async def test_both_listeners_live_through_a_server_that_restarts_or_hangs(servers: Servers, database: str) -> None:
    async with desk_of(database, redis_url=servers.redis.url, listen=True) as (desk, _):
        for server in (servers.postgres, servers.redis):
            await _survives(desk, server, server.kill, server.start)
            await _survives(desk, server, server.freeze, server.thaw)


async def _survives(desk: Desk, server: Server, end: Callable[[], None], begin: Callable[[], None]) -> None:
    assert desk.cache.pushed
    end()
    try:
        await until(lambda: _is(not desk.cache.pushed))
    finally:
        begin()
    await until(lambda: _is(desk.cache.pushed))


async def test_what_is_published_by_somebody_else_ends_no_listener(servers: Servers, database: str) -> None:
    key = await add_key(database)
    async with desk_of(database, redis_url=servers.redis.url, listen=True) as (desk, teller):
        async with RedisService(servers.redis.url) as redis:
            for odd in (b"\xff\xfe", b"", b'{"kind":', b"x" * 100_000):
                await redis.client.publish(REDIS_CHANNEL, odd)
        await run(database, "SELECT pg_notify('hx_access', 'not for us')")
        assert await desk.says(key.text) == key.id
        await change_key(database, key.id, "blocked = true")
        await until(says(desk, key.text, "key_blocked"))
        assert desk.cache.pushed
        async with desk_of(database, redis_url=servers.redis.url) as (second, _):
            assert await second.says(key.text) == "key_blocked"
            await change_key(database, key.id, "blocked = false", notify=False)
            await teller.announce("key", key.id, "default")
            await until(says(second, key.text, key.id))


async def test_a_server_that_is_away_at_the_start_is_said_to_be_lost_once(servers: Servers) -> None:
    for kind in (PostgresListener, RedisListener):
        scheme = "postgresql" if kind is PostgresListener else "redis"
        lost: list[FailureKind] = []
        ears = Ears(heard=lambda _text: None, lost=lost.append, healed=lost.clear)
        listener = kind(f"{scheme}://127.0.0.1:1/0", "hx", ears)
        await listener.start()
        await asyncio.sleep(0.6)
        await listener.close()
        assert lost == [FailureKind.REFUSED]


async def _is(state: bool) -> bool:
    return state
