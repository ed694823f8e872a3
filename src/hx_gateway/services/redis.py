"""Redis or Valkey over redis-py: a text client, and the health of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from hx_gateway.services.base import PoolFigures
from hx_gateway.services.dsn import redis_dsn
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.watched import WatchedService

COMMAND_SECONDS = 3.0
# How long a command waits for one of the connections when all are in use.
WAIT_SECONDS = 0.25
# How often the held connection is looked at; it costs a microsecond.
LOOK_SECONDS = 0.1


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
        # One is the watch's own: it must not be one of those that work. Fewer than two cannot be.
        self._max_connections = max(max_connections, 2)
        self._client = _client(redis_dsn(url), connect_timeout, self._max_connections - 1)
        self._held = _client(url, connect_timeout, 1)
        super().__init__(
            _RedisLink(self._held, reached=self._discard_idle),
            connect_timeout=connect_timeout,
            health_timeout=health_timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )

    @property
    def client(self) -> redis.asyncio.Redis:
        """The client, with text answers. Its errors are redis-py's; ``failures.classify`` translates them.

        A command waits up to :data:`WAIT_SECONDS` for a connection. One that is cancelled closes its connection, so
        that nobody reads somebody else's answer.
        """
        return self._client

    @property
    def pool(self) -> PoolFigures:
        """Figures of the connections, the watch's own among them."""
        pool: Any = self._client.connection_pool
        idle, used = len(pool._available_connections), len(pool._in_use_connections)  # noqa: SLF001
        used += 1 if self.sample.healthy else 0
        return PoolFigures(size=idle + used, checked_in=idle, checked_out=used, maximum=self._max_connections)

    async def _discard_idle(self) -> None:
        """Close the connections that lived through a loss: redis-py would find out only by a command that fails."""
        pool: Any = self._client.connection_pool
        for connection in list(pool._available_connections):  # noqa: SLF001
            await connection.disconnect(nowait=True)

    async def _close_pool(self) -> None:
        for client in (self._client, self._held):
            await client.aclose()

    def _terminate_pool(self) -> None:
        pool: Any = self._client.connection_pool
        pool.reset()


def _client(url: str, connect_timeout: float, max_connections: int) -> redis.asyncio.Redis:
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        decode_responses=True,
        max_connections=max_connections,
        timeout=WAIT_SECONDS,
        socket_connect_timeout=connect_timeout,
        socket_timeout=COMMAND_SECONDS,
        retry=Retry(NoBackoff(), 0),
        # Neither is for a user with no more rights than it needs: CLIENT SETINFO, CLIENT MAINT_NOTIFICATIONS.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_pool(pool)
    return client


class _RedisLink:
    """A connection of its own that nobody else uses; its end is looked for between heartbeats."""

    def __init__(self, client: redis.asyncio.Redis, *, reached: Callable[[], Awaitable[None]]) -> None:
        self.lost = asyncio.Event()
        self._client = client
        self._reached = reached
        self._connection: Any = None
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        pool: Any = self._client.connection_pool
        self._connection = pool.make_connection()
        await self._connection.connect()
        await self.beat()
        await self._reached()
        self._watcher = asyncio.create_task(self._watch(self._connection._reader))  # noqa: SLF001

    async def beat(self) -> None:
        await self._connection.send_command("PING", check_health=False)
        await self._connection.read_response()

    async def drop(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - the stream has no event for its end
            await asyncio.sleep(LOOK_SECONDS)
        self.lost.set()
