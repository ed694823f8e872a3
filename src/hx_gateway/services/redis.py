"""Redis or Valkey over redis-py: a text client, and the health of the server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hx_gateway.services.base import PoolFigures
from hx_gateway.services.dsn import redis_dsn
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.watched import WatchedService

COMMAND_SECONDS = 3.0
# Nobody publishes here: the subscription is what notices the server's end.
HELD_CHANNEL = "hx:held"


class RedisService(WatchedService):
    """One server. ``url`` is ``redis://``, ``rediss://`` or ``unix://``, with or without a user name (``DsnError``)."""

    key: ClassVar[str] = "redis"
    display_name: ClassVar[str] = "Redis"

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 10,
        connect_timeout: float = 2.0,
        health_timeout: float = 2.0,
        heartbeat: float = HEARTBEAT_SECONDS,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT_SECONDS,
    ) -> None:
        self._max_connections = max_connections
        self._client: redis.asyncio.Redis = _client(redis_dsn(url), connect_timeout, max_connections)
        # The subscription must not take a connection from those who work.
        self._held: redis.asyncio.Redis = _client(url, connect_timeout, 1)
        super().__init__(
            _RedisLink(self._held),
            connect_timeout=connect_timeout,
            health_timeout=health_timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )

    @property
    def client(self) -> redis.asyncio.Redis:
        """The client, with text answers. Its errors are redis-py's; ``failures.classify`` translates them."""
        return self._client

    @property
    def pool(self) -> PoolFigures:
        """Figures of the pool."""
        pool: Any = self._client.connection_pool
        idle, used = len(pool._available_connections), len(pool._in_use_connections)  # noqa: SLF001
        return PoolFigures(size=idle + used, checked_in=idle, checked_out=used, maximum=self._max_connections)

    async def _probe(self) -> None:
        await self._client.ping()

    async def _close_pool(self) -> None:
        for client in (self._client, self._held):
            await client.aclose()

    def _terminate_pool(self) -> None:
        pool: Any = self._client.connection_pool
        pool.reset()


def _client(url: str, connect_timeout: float, max_connections: int) -> redis.asyncio.Redis:
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        url,
        decode_responses=True,
        max_connections=max_connections,
        socket_connect_timeout=connect_timeout,
        socket_timeout=COMMAND_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return client


class _RedisLink:
    """A subscription: whoever waits for a message is told at once when the connection ends."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.lost = asyncio.Event()
        self._client = client
        self._subscription: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._pong = asyncio.Event()

    async def open(self) -> None:
        self._subscription = self._client.pubsub()
        await self._subscription.subscribe(HELD_CHANNEL)
        self._reader = asyncio.create_task(self._read(self._subscription))
        await self.beat()

    async def beat(self) -> None:
        self._pong.clear()
        await self._subscription.ping()
        await self._pong.wait()

    async def drop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(RedisError, OSError):
                await subscription.aclose()
        await self._client.connection_pool.disconnect()

    async def _read(self, subscription: Any) -> None:
        try:
            while True:
                message = await subscription.get_message(timeout=None)
                if message is not None and message["type"] == "pong":
                    self._pong.set()
        except (RedisError, OSError):
            self.lost.set()
            self._pong.set()
