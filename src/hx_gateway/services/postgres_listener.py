"""Listens for PostgreSQL's notifications."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import asyncpg

from hx_gateway.services.dsn import postgres_dsn
from hx_gateway.services.listener import CONNECT_SECONDS, Ears, Listener


class PostgresListener(Listener):
    """``LISTEN`` on a session of its own. ``url`` as for ``PostgresService``.

    Each beat notifies a channel of its own and waits for that to come back: a pooler that pools transactions takes a
    ``LISTEN`` and never delivers anything, which counts as lost here.
    """

    def __init__(self, url: str, channel: str, ears: Ears) -> None:
        super().__init__(channel, ears)
        self._dsn = postgres_dsn(url)
        self._echo_channel = f"hx_echo_{secrets.token_hex(8)}"

    async def _listen(self) -> None:
        ended, echoed = asyncio.Event(), asyncio.Event()
        connection = await asyncpg.connect(self._dsn, timeout=CONNECT_SECONDS)
        try:
            connection.add_termination_listener(lambda _connection: ended.set())
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.add_listener(self._channel, self._take)
                await connection.add_listener(self._echo_channel, lambda *_told: echoed.set())
            await self._echo(connection, echoed)
            self._stand()
            while not await _within(self._ears.beat, ended):
                await self._echo(connection, echoed)
        finally:
            connection.terminate()

    def _take(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        self._ears.heard(payload)

    async def _echo(self, connection: Any, echoed: asyncio.Event) -> None:
        echoed.clear()
        async with asyncio.timeout(self._ears.beat_timeout):
            await connection.execute(f"NOTIFY {self._echo_channel}")
            await echoed.wait()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
