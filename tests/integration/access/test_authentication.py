"""Keys in a real database: let in, turned away, and served on while it is away."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hx_gateway.access.key_format import ALPHABET, mint_key
from hx_gateway.access.peppers import Peppers
from tests.fixtures.servers import Servers
from tests.integration.access.desks import PEPPERS, add_imported, add_key, change_key, desk_of, run
from tests.integration.db.databases import fresh_database, migrated_database
from tests.unit.access.keys import FakeClock

IMPORTED = "sk-from-another-gateway-123"


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """Give the URL of a database of its own."""
    with migrated_database(servers.postgres) as url:
        yield url


async def until(condition: object, seconds: float = 5.0) -> float:
    """Wait for a coroutine function to say yes; return the seconds it took."""
    began = time.monotonic()
    while not await condition():  # type: ignore[operator]
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_key_in_the_database_is_let_in_and_another_is_not(database: str) -> None:
    key = await add_key(database)
    async with desk_of(database) as (desk, _):
        assert await desk.says(key.text) == key.id
        assert await desk.says(mint_key(key.id).text) == "unknown"
        assert await desk.says(mint_key().text) == "unknown"


async def test_ten_thousand_mistyped_keys_cost_no_look_up(database: str) -> None:
    key = await add_key(database)
    async with desk_of(database) as (desk, _):
        for number in range(10_000):
            position = number % len(key.text)
            other = ALPHABET[(ALPHABET.find(key.text[position]) + 1 + number // len(key.text) % 60) % len(ALPHABET)]
            assert await desk.says(key.text[:position] + other + key.text[position + 1 :]) == "unknown"
        assert desk.source.asked == 0


async def test_no_digest_in_the_database_opens_anything(database: str) -> None:
    key = await add_key(database)
    await add_imported(database, hashlib.sha256(IMPORTED.encode()).digest())
    stored = await run(database, "SELECT string_agg(to_jsonb(k)::text, ' ') FROM hx_gateway.api_keys AS k")
    assert key.secret not in stored
    async with desk_of(database) as (desk, _):
        for column in ("digest", "imported_sha256"):
            digest = await run(database, f"SELECT max({column}::text) FROM hx_gateway.api_keys")
            for shown in (digest, digest.removeprefix("\\x"), f"sk-{digest[2:]}"):
                assert await desk.says(shown) == "unknown"


async def test_a_blocked_expired_or_deleted_key_is_told_why(database: str) -> None:
    changes = {
        "blocked = true": "key_blocked",
        "expires_at = now() - interval '1 second'": "key_expired",
        "deleted_at = now()": "key_revoked",
    }
    async with desk_of(database) as (desk, _):
        for change, code in changes.items():
            key = await add_key(database)
            await change_key(database, key.id, change)
            assert await desk.says(key.text) == code
            assert await desk.says(mint_key(key.id).text) == "unknown"


async def test_a_database_without_the_tables_is_503(servers: Servers) -> None:
    with fresh_database(servers.postgres) as url:
        async with desk_of(url) as (desk, _):
            assert await desk.says(mint_key().text) == "dependency_unavailable"
            assert await desk.says("sk-somebody-elses") == "dependency_unavailable"


async def test_while_the_database_is_dead_known_keys_go_on_and_others_are_503(servers: Servers, database: str) -> None:
    key, other = await add_key(database), await add_key(database)
    async with desk_of(database) as (desk, _):
        assert await desk.says(key.text) == key.id
        desk.cache.doubt_all()
        servers.postgres.kill()
        try:
            for _attempt in range(20):
                assert await desk.says(key.text) == key.id
                assert await desk.says(mint_key(key.id).text) == "unknown"
                assert await desk.says(other.text) == "dependency_unavailable"
                assert await desk.says(mint_key().text) == "dependency_unavailable"
        finally:
            servers.postgres.start()

        async def is_back() -> bool:
            return await desk.says(other.text) == other.id

        await until(is_back)
        assert await desk.says(mint_key().text) == "unknown"


async def test_a_database_that_hangs_holds_up_nobody_who_is_known(servers: Servers, database: str) -> None:
    key = await add_key(database)
    async with desk_of(database) as (desk, _):
        assert await desk.says(key.text) == key.id
        servers.postgres.freeze()
        try:
            began = time.monotonic()
            assert await desk.says(key.text) == key.id
            desk.cache.doubt_all()
            assert await desk.says(key.text) == key.id
            assert await desk.says(mint_key().text) == "dependency_unavailable"
            # A second for each of the two look-ups that are waited for.
            assert time.monotonic() - began < 10
        finally:
            servers.postgres.thaw()


async def test_a_digest_of_an_older_pepper_is_replaced_in_the_row(database: str) -> None:
    key = await add_key(database)
    newer = Peppers({"pp-1": PEPPERS._peppers["pp-1"], "pp-2": os.urandom(32)}, "pp-2")
    async with desk_of(database, peppers=newer) as (desk, _), desk_of(database, peppers=newer) as (late, _):
        assert await late.says(key.text) == key.id
        assert await desk.says(key.text) == key.id

        async def is_renewed() -> bool:
            return str(await run(database, "SELECT pepper_id FROM hx_gateway.api_keys")) == "pp-2"

        await until(is_renewed)
        assert await run(database, "SELECT version FROM hx_gateway.api_keys") == 1
        for each in (desk, late):
            assert await each.says(key.text) == key.id
            each.cache.doubt_all()
            assert await each.says(key.text) == key.id


async def test_a_key_that_was_rotated_meanwhile_keeps_its_new_digest(database: str) -> None:
    key = await add_key(database)
    async with desk_of(database) as (desk, _):
        assert await desk.says(key.text) == key.id
        entry = desk.cache.get(key.id)
        assert entry is not None
        await change_key(database, key.id, "digest = '\\x00'")
        await desk.source.keep_digest(entry.known, "pp-9", b"\x01")
        assert await run(database, "SELECT digest FROM hx_gateway.api_keys") == b"\x00"


async def test_an_imported_key_gets_a_digest_with_its_first_use(database: str) -> None:
    async with desk_of(database, listen=True) as (desk, _):
        assert await desk.says(IMPORTED) == "unknown"
        assert desk.source.asked == 0
        key_id = await add_imported(database, hashlib.sha256(IMPORTED.encode()).digest())
        await change_key(database, key_id, "name = 'told of'")

        async def is_in() -> bool:
            return await desk.says(IMPORTED) == key_id

        await until(is_in)

        async def is_renewed() -> bool:
            return await run(database, "SELECT digest FROM hx_gateway.api_keys") is not None

        await until(is_renewed)
        desk.cache.doubt_all()
        assert await desk.says(IMPORTED) == key_id
        assert await desk.says(IMPORTED + "4") == "unknown"


async def test_keys_can_be_looked_up_before_anybody_presents_them(database: str) -> None:
    keys = [await add_key(database) for _ in range(3)]
    await change_key(database, keys[0].id, "deleted_at = now()")
    async with desk_of(database) as (desk, _):
        assert await desk.authenticator.warm() == 2
        assert [await desk.says(key.text) for key in keys[1:]] == [key.id for key in keys[1:]]
        assert desk.source.asked == 0


async def test_a_process_that_starts_without_the_database_takes_keys_from_redis(
    servers: Servers, database: str
) -> None:
    key, other = await add_key(database), await add_key(database)
    options: dict[str, Any] = {"redis_url": servers.redis.url, "clock": (clock := FakeClock())}
    async with desk_of(database, **options) as (first, _), desk_of(database, **options) as (second, _):
        clock.seconds += 60
        for each in (key, other):
            assert await first.says(each.text) == each.id
        assert await second.says(key.text) == key.id
        assert second.source.asked == 0
    async with desk_of(database, **options) as (third, teller):
        clock.seconds += 60
        servers.postgres.kill()
        try:
            await teller.announce("key", other.id, "default")
            assert await third.says(key.text) == key.id
            assert await third.says(other.text) == "dependency_unavailable"
            assert await third.says(mint_key().text) == "dependency_unavailable"
        finally:
            servers.postgres.start()


async def test_a_redis_that_hangs_or_is_gone_hinders_nobody(servers: Servers, database: str) -> None:
    keys = [await add_key(database) for _ in range(4)]
    async with desk_of(database, redis_url=servers.redis.url) as (desk, teller):
        servers.redis.freeze()
        try:
            assert await desk.says(keys[0].text) == keys[0].id
            await teller.announce("key", keys[0].id, "default")
            assert await desk.says(keys[0].text) == keys[0].id
        finally:
            servers.redis.thaw()
        servers.redis.kill()
        try:
            for key in keys:
                assert await desk.says(key.text) == key.id
        finally:
            servers.redis.start()
