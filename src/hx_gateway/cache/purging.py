"""Forgets answers in every place that has any, to the end, also where nobody waits for that any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hx_gateway.kit.tasks import end_tasks
from hx_gateway.services.base import DependencyError


class Forgetful(Protocol):
    """What an ``AnswerCache`` is to whoever makes it forget."""

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int: ...


@dataclass(frozen=True, slots=True)
class Purged:
    """How many answers are forgotten; ``failure`` is why some may be left."""

    count: int
    failure: DependencyError | None = None


class Purging:
    """Purges of all ``caches``. One that is away keeps the others from nothing. Close it before them."""

    def __init__(self, caches: Sequence[Forgetful]) -> None:
        self._caches = tuple(caches)
        self._jobs: set[asyncio.Task[Purged]] = set()

    async def purge(
        self,
        tenant_id: str,
        *,
        key_id: str | None = None,
        model: str | None = None,
        then: Callable[[Purged], Awaitable[None]] | None = None,
    ) -> Purged:
        """Forget a tenant's answers, those of a key or a model only if one is given; then tell ``then``.

        Both are done also where the caller is cancelled. Raises what ``then`` raises.
        """
        job = asyncio.create_task(self._purge(tenant_id, key_id, model, then))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.shield(job)

    async def aclose(self) -> None:
        """End what is under way."""
        await end_tasks(self._jobs)

    async def _purge(
        self, tenant_id: str, key_id: str | None, model: str | None, then: Callable[[Purged], Awaitable[None]] | None
    ) -> Purged:
        count, failure = 0, None
        for cache in self._caches:
            try:
                count += await cache.purge(tenant_id, key_id=key_id, model=model)
            except DependencyError as error:
                failure = error
        purged = Purged(count, failure)
        if then is not None:
            await then(purged)
        return purged
