"""Whether the stores answer, with what was given for them."""

from __future__ import annotations

import asyncio

from hx_gateway.services.base import FailureKind
from hx_gateway.services.dsn import place_of
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.watched import WatchedService
from hx_gateway.wiring.inputs import LEFT_OUT, Stores
from hx_gateway.wiring.report import Step

_VARIABLES = {
    "postgres": "PG_HOST, PG_PORT, PG_DB, PG_USER and PG_PASS",
    "redis": "REDIS_HOST, REDIS_PORT and REDIS_PASS",
    "qdrant": "QDRANT_URL and QDRANT_API_KEY",
}


def probe_stores(stores: Stores) -> list[Step]:
    """Ask each store once, all at the same time; each has its service's own time-outs."""
    return asyncio.run(_probe(stores))


async def _probe(stores: Stores) -> list[Step]:
    asked = [
        _ask(PostgresService(stores.postgres, max_size=1), stores.postgres),
        _ask(RedisService(stores.redis), stores.redis),
    ]
    if stores.qdrant != LEFT_OUT:
        asked.append(_ask(QdrantService(stores.qdrant, api_key=stores.qdrant_api_key), stores.qdrant))
    steps = await asyncio.gather(*asked)
    return [*steps, Step("Qdrant", "skip", "left out")] if stores.qdrant == LEFT_OUT else steps


async def _ask(service: WatchedService, url: str) -> Step:
    place = place_of(url)
    try:
        if await service.healthy():
            return Step(service.display_name, "pass", f"answers at {place}")
        failure = service.sample.failure
    finally:
        await service.close()
    variables = _VARIABLES[service.key]
    remedy = f"See whether it runs at {place} and lets this host in; correct {variables}."
    if failure is FailureKind.AUTH:
        remedy = f"It refuses the credentials: correct {variables}."
    return Step(service.display_name, "fail", f"not reachable at {place}: {failure}", remedy)
