"""Publishes to a channel of Redis, and listens to one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hx_gateway.services.dsn import redis_dsn
from hx_gateway.services.failures import dependency_error
from hx_gateway.services.listener import CONNECT_SECONDS, Ears, Listener
from hx_gateway.services.redis import RedisService


class RedisListener(Listener):
    """``SUBSCRIBE`` on a connection of its own. ``url`` as for ``RedisService``.

    Not redis-py's own subscription: that one connects again by itself and never tells, so that what was published
    meanwhile would be missed without anybody's knowing.
    """

    def __init__(self, url: str, channel: str, ears: Ears) -> None:
        super().__init__(channel, ears)
        # Protocol 2: there, messages and answers come through one call. Bytes: anybody may publish what is no text.
        self._pool: Any = redis.asyncio.ConnectionPool.from_url(
            redis_dsn(url),
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )

    async def _listen(self) -> None:
        connection = self._pool.make_connection()
        try:
            await connection.connect()
            await connection.send_command("SUBSCRIBE", self._channel, check_health=False)
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.read_response()
            self._stand()
            while True:
                await self._hear(connection)
        finally:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _hear(self, connection: Any) -> None:
        """Take one message, or see that the server still answers. Raises the driver's errors."""
        told = await connection.read_response(timeout=self._ears.beat)
        if told is None:
            await connection.send_command("PING", check_health=False)
            told = await connection.read_response(timeout=self._ears.beat_timeout)
        if told is None:
            raise TimeoutError
        if told[0] == b"message":
            self._ears.heard(told[2].decode("utf-8", "replace"))


def publisher(service: RedisService, channel: str, *, seconds: float = 1.0) -> Callable[[str], Awaitable[None]]:
    """Return what publishes a text on ``channel``. It raises ``DependencyError`` when Redis did not take it in time."""

    async def publish(payload: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                await service.client.publish(channel, payload)
        except (RedisError, OSError, TimeoutError) as error:
            raise dependency_error(service.display_name, error) from error

    return publish
