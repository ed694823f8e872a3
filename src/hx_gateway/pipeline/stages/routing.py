"""Which deployments can serve a call, best first."""

from __future__ import annotations

import time
from typing import ClassVar, Protocol

from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.services.upstream.base import Deployment


class ModelDirectory(Protocol):
    """Knows who serves a model. Raises ``NotFound`` or ``NotImplementedHere`` for one that nobody does."""

    def resolve(self, model: str) -> tuple[Deployment, ...]: ...


class RoutingStage:
    """Looks the model up. Its deployments are the candidates, in the order they are listed; the first is called."""

    name: ClassVar[str] = "routing"
    provides: ClassVar[frozenset[str]] = frozenset({"candidates"})
    requires: ClassVar[frozenset[str]] = frozenset({"call"})

    def __init__(self, models: ModelDirectory) -> None:
        self._models = models

    async def __call__(self, ctx: Context) -> Reply | None:
        """Set ``candidates``."""
        if ctx.call is not None:
            began = time.monotonic()
            ctx.candidates = self._models.resolve(ctx.call.model)
            ctx.timings.routing = time.monotonic() - began
        return None
