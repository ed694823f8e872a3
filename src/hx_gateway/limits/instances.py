"""How many processes count against the same Redis, from their heartbeats in it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.limits.redis_store import load_script
from hx_gateway.services.base import DependencyError
from hx_gateway.services.redis_pipe import RedisPipe

KEY = "hx:instances"
BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 15

INSTANCES = load_script("instances", common=False)


class Instances:
    """Beats for one process, by a name that no other has. While Redis is away ``count`` is the last known."""

    def __init__(self, pipe: RedisPipe, name: str, *, clock: Clock | None = None) -> None:
        self.count = 1
        self._pipe = pipe
        self._name = name
        self._clock = clock or SystemClock()
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._beating = asyncio.create_task(self._beat())

    async def beat(self) -> None:
        """Say that this process lives, and count those that do. Raises ``DependencyError``."""
        self.count = max(1, int(await self._pipe.run(INSTANCES, (KEY,), (self._name, EXPIRY_SECONDS, 1))))

    async def aclose(self) -> None:
        """Stop, and leave where Redis is there; elsewhere the last beat expires."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.wait({beating})
        with suppress(DependencyError):
            await self._pipe.run(INSTANCES, (KEY,), (self._name, EXPIRY_SECONDS, 0))

    async def _beat(self) -> None:
        while True:
            with suppress(DependencyError):
                await self.beat()
            await self._clock.sleep(BEAT_SECONDS)
