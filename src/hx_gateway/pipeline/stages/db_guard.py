"""Admin routes answer 503, and do nothing, while a store they need is away."""

from __future__ import annotations

import random
from typing import ClassVar

from hx_gateway.errors import Unavailable
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import under
from hx_gateway.services.base import DataService


class DbGuardMiddleware:
    """Reads the health sample of both stores; it never probes, so a storm of requests makes no storm of probes.

    ``guarded_prefixes`` match whole path segments. Model traffic is not guarded. Fails closed.
    """

    name: ClassVar[str] = "db_guard"
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset({"principal"})

    def __init__(
        self, pg: DataService, redis: DataService, guarded_prefixes: tuple[str, ...], *, enabled: bool = True
    ) -> None:
        self._stores = (pg, redis)
        self._prefixes = guarded_prefixes
        self._enabled = enabled

    async def __call__(self, ctx: Context) -> Reply | None:
        """Refuse with 503 ``dependency_unavailable``, naming exactly what failed."""
        if not self._enabled or not under(ctx.path, self._prefixes):
            return None
        failed = [store.display_name for store in self._stores if not store.sample.healthy]
        if failed:
            raise Unavailable(
                f"Gateway dependency unavailable: {', '.join(failed)}.",
                retry_after_seconds=random.randint(1, 5),  # noqa: S311
            )
        return None
