"""The routes of what services are together: numbers, and tags."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel

from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Asks, answer, encoded
from hx_gateway.registry.api.schemas import Numbers, TagCount
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.transactions import tenant_of

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)


class TagCounts(BaseModel):
    """Tags, the most frequent first: at most 1,000."""

    items: list[TagCount]


@router.get("/statistics", response_model=Numbers)
async def statistics(ask: Asks, where: Where) -> Response:
    """Count services by status, build type, protocol and priority."""

    async def load() -> bytes:
        seq = await ask.registry.feed.head(tenant_of(ask.actor, where.tenant_id))
        numbers = await ask.registry.catalog.statistics(ask.actor, tenant_id=where.tenant_id)
        return encoded({**numbers, "last_change_seq": seq})

    return answer(await ask.kept(where.tenant_id, ("statistics",), load))


@router.get("/tags", response_model=TagCounts)
async def list_tags(ask: Asks, where: Where) -> Response:
    """List tags with how many services have each."""

    async def load() -> bytes:
        return encoded({"items": await ask.registry.catalog.tags(ask.actor, tenant_id=where.tenant_id)})

    return answer(await ask.kept(where.tenant_id, ("tags",), load))
