"""Paths that are the gateway's own but not built yet: they answer 501 and never leave it."""

from __future__ import annotations

from collections.abc import Iterable

from hx_gateway.access.principal import Scope
from hx_gateway.errors import NotImplementedHere
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.routes import BodyRule, ErrorShape, Needs, RouteSpec, needs, under

RESERVED_PREFIXES = (
    *("/v1/audit", "/v1/cache", "/v1/cost", "/v1/decisions", "/v1/prices", "/v1/spend"),
    *("/v1/traces", "/v1/vector_stores"),
)


async def _not_built(ctx: Context) -> Reply:
    raise NotImplementedHere(f"{ctx.path} is not part of this version.")


def reserved_routes(guarded_prefixes: Iterable[str], built: frozenset[str] = frozenset()) -> list[RouteSpec]:
    """Return two routes a prefix: the path itself, and everything below it. They need the admin's rights.

    Prefixes that are ``built``, or lie below one that is, have routes of their own.
    """

    def spec(prefix: str, below: bool, stores: Needs) -> RouteSpec:
        name = prefix.strip("/").replace("/", "_") + ("_below" if below else "")
        return RouteSpec(
            name=name,
            methods=frozenset({"*"}),
            path=f"{prefix}/{{rest}}" if below else prefix,
            policy=needs(Scope.ADMIN),
            handler=_not_built,
            needs=stores,
            body=BodyRule.STREAM,
            errors=ErrorShape.OPENAI,
        )

    kept = dict.fromkeys((*guarded_prefixes, *RESERVED_PREFIXES))
    prefixes = [prefix for prefix in kept if not under(prefix, tuple(built))]
    return [spec(prefix, below, Needs.STORES) for prefix in prefixes for below in (False, True)]
