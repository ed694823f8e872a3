"""Which deployments can serve a call, best first."""

from __future__ import annotations

import time
from typing import ClassVar, Protocol

from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.services.upstream.base import Deployment


class ModelDirectory(Protocol):
    """Knows who serves a model. Raises ``NotFound`` or ``NotImplementedHere`` for one that nobody does."""

    def resolve(self, model: str) -> tuple[Deployment, ...]: ...


class Cache(Protocol):
    """Knows answers to requests that were asked before."""

    async def look(self, ctx: Context) -> None:
        """Set ``cache`` of a request that is to be answered from the cache, or its answer kept. Never fails for it."""
        ...


class RoutingStage:
    """Looks the model up. Its deployments are the candidates, in the order they are listed; the first is called.

    Then the response cache is asked, if there is one: who may not use the model never comes so far.
    """

    name: ClassVar[str] = "routing"
    provides: ClassVar[frozenset[str]] = frozenset({"candidates", "cache"})
    requires: ClassVar[frozenset[str]] = frozenset({"call"})

    def __init__(self, models: ModelDirectory, cache: Cache | None = None) -> None:
        self._models = models
        self._cache = cache

    async def __call__(self, ctx: Context) -> Reply | None:
        """Set ``candidates`` and ``cache``."""
        if ctx.call is not None:
            began = time.monotonic()
            ctx.candidates = self._models.resolve(ctx.call.model)
            ctx.timings.routing = time.monotonic() - began
            if self._cache is not None:
                await self._cache.look(ctx)
        return None
