"""Short texts by name in Redis, for whoever can do without them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.failures import dependency_error
from hx_gateway.services.redis import RedisService

VALUE_SECONDS = 0.1


class RedisValues:
    """Reads and writes in ``seconds`` or not at all. Raises ``DependencyError``, at once while Redis is away."""

    def __init__(self, service: RedisService, *, seconds: float = VALUE_SECONDS) -> None:
        self._service = service
        self._seconds = seconds

    async def get(self, names: Sequence[str]) -> list[str | None]:
        """Return the texts of ``names``, ``None`` for each that is not there."""
        self._check()
        try:
            async with asyncio.timeout(self._seconds):
                found: list[Any] = await self._service.client.mget(names)
        except (RedisError, OSError, TimeoutError) as error:
            raise dependency_error(self._service.display_name, error) from error
        return found

    async def put(self, name: str, text: str, keep_seconds: int, *, forget: Sequence[str] = ()) -> None:
        """Keep ``text`` for a while, and forget others in the same step."""
        self._check()
        try:
            async with asyncio.timeout(self._seconds), self._service.client.pipeline(transaction=True) as pipe:
                pipe.set(name, text, ex=keep_seconds)
                if forget:
                    pipe.delete(*forget)
                await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise dependency_error(self._service.display_name, error) from error

    def _check(self) -> None:
        sample = self._service.sample
        if not sample.healthy:
            raise DependencyError(self._service.display_name, sample.failure or FailureKind.REFUSED)
