"""Authenticators against a real database, with everything that tells them of changes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg

from hx_gateway.access.admin_key import AdminKeyAuthenticator
from hx_gateway.access.authenticator import KeyAuthenticator
from hx_gateway.access.invalidation import POSTGRES_CHANNEL, REDIS_CHANNEL, Invalidation
from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.key_format import MintedKey, mint_key
from hx_gateway.access.key_source import PostgresKeySource
from hx_gateway.access.known_key import KnownKey
from hx_gateway.access.peppers import Peppers
from hx_gateway.access.shared_keys import SharedKeys
from hx_gateway.errors import HXError
from hx_gateway.kit.clock import Clock
from hx_gateway.services.listener import Ears, Listener
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.postgres_listener import PostgresListener
from hx_gateway.services.redis import RedisService
from hx_gateway.services.redis_pubsub import RedisListener, publisher
from hx_gateway.services.redis_values import RedisValues

PEPPERS = Peppers({"pp-1": os.urandom(32)}, "pp-1")
_INSERT = """
INSERT INTO hx_gateway.api_keys (id, tenant_id, name, prefix, last_four, digest, pepper_id, imported_sha256, scopes,
    created_by, updated_by)
VALUES ($1, 'default', 'made for a test', 'sk-hx', $2, $3, $4, $5, '{models}', 'test', 'test')
"""
_CHANGE = "UPDATE hx_gateway.api_keys SET {change}, version = version + 1 WHERE id = $1"
_NOTIFY = """SELECT pg_notify('hx_access', json_build_object('kind', 'key', 'id', $1::text,
    'tenant_id', 'default')::text)"""


class CountingSource(PostgresKeySource):
    """Counts the look-ups of keys."""

    asked = 0

    async def load(self, key_id: str) -> KnownKey | None:
        self.asked += 1
        return await super().load(key_id)

    async def load_imported(self, sha256: bytes) -> KnownKey | None:
        self.asked += 1
        return await super().load_imported(sha256)


class Desk:
    """An authenticator of its own, as each worker has one."""

    def __init__(
        self,
        postgres: PostgresService,
        *,
        peppers: Peppers = PEPPERS,
        clock: Clock | None = None,
        redis: RedisService | None = None,
    ) -> None:
        more: dict[str, Any] = {} if clock is None else {"monotonic": clock.monotonic}
        self.cache = KeyCache(**more)
        self.source = CountingSource(postgres)
        self.shared = None if redis is None else SharedKeys(RedisValues(redis, seconds=0.5), peppers, clock=clock)
        self.authenticator = KeyAuthenticator(
            admin=AdminKeyAuthenticator("sk-hx-admin-made-up-for-tests-0123456789abcdef"),
            peppers=peppers,
            source=self.source,
            cache=self.cache,
            shared=self.shared,
            clock=clock,
        )

    async def says(self, text: str) -> str:
        """Return the id of the key that is let in, or the error's code; ``unknown`` for no such key."""
        try:
            principal = await self.authenticator.authenticate(text)
        except HXError as error:
            return error.code
        return "unknown" if principal is None else str(principal.key_id)


@asynccontextmanager
async def desk_of(
    url: str,
    *,
    redis_url: str | None = None,
    listen: bool = False,
    peppers: Peppers = PEPPERS,
    clock: Clock | None = None,
) -> AsyncIterator[tuple[Desk, Invalidation]]:
    """Open a desk and its listeners: PostgreSQL's with ``listen``, Redis' with a URL."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(PostgresService(url, max_size=2))
        redis = None if redis_url is None else await stack.enter_async_context(RedisService(redis_url))
        desk = Desk(postgres, peppers=peppers, clock=clock, redis=redis)
        stack.push_async_callback(desk.authenticator.aclose)
        publish = None if redis is None else publisher(redis, REDIS_CHANNEL)
        sources = (["postgres"] if listen else []) + (["redis"] if redis_url else [])
        invalidation = Invalidation(
            desk.cache,
            sources=sources,
            publish=publish,
            shared=desk.shared,
            heard_key=desk.authenticator.forget_imported,
        )
        for source in sources:
            ears = Ears(
                heard=invalidation.heard,
                lost=partial(invalidation.lost, source),
                healed=partial(invalidation.healed, source),
                beat=0.2,
                beat_timeout=0.5,
            )
            listener: Listener = (
                PostgresListener(url, POSTGRES_CHANNEL, ears)
                if source == "postgres"
                else RedisListener(str(redis_url), REDIS_CHANNEL, ears)
            )
            await listener.start()
            stack.push_async_callback(listener.close)
        yield desk, invalidation


async def add_key(url: str, peppers: Peppers = PEPPERS) -> MintedKey:
    """Make a key in the database."""
    minted = mint_key()
    pepper_id, digest = peppers.digest(minted.text)
    await run(url, _INSERT, minted.id, minted.last_four, digest, pepper_id, None)
    return minted


async def add_imported(url: str, sha256: bytes) -> str:
    """Make an imported key that was not used yet; return its id."""
    minted = mint_key()
    await run(url, _INSERT, minted.id, "0000", None, None, sha256)
    return minted.id


async def change_key(url: str, key_id: str, change: str, *, notify: bool = True) -> None:
    """Change a key in the database, and tell of it as everybody who changes one does."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(_CHANGE.format(change=change), key_id)
            if notify:
                await connection.fetchval(_NOTIFY, key_id)
    finally:
        await connection.close()


async def run(url: str, statement: str, *arguments: object) -> Any:
    """Run one statement on a connection of its own; return its first value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()
