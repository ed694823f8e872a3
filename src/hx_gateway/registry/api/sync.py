"""The routes of the registries that a tenant takes servers from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Asks, answer
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.sync.followed import SyncState
from hx_gateway.registry.transactions import tenant_of

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)

_EXAMPLE: dict[str, Any] = {
    "tenant_id": "default",
    "url": "https://registry.example.com",
    "running": False,
    "watermark": "2026-11-24T09:00:00Z",
    "next_at": "2026-11-24T10:00:00Z",
    "succeeded_at": "2026-11-24T09:00:00Z",
    "failed_at": None,
    "last_error": None,
    "created": 3,
    "updated": 1,
    "disabled": 0,
    "skipped": 0,
}


class FollowedRegistry(BaseModel):
    """A registry that is followed (`HX_REGISTRY_SYNC`).

    What changed there until ``watermark`` is known. The numbers are of the last time that all of it was read: services
    that were made, changed and disabled, and servers that were passed over.
    """

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    tenant_id: str
    url: str
    running: bool
    watermark: datetime | None
    next_at: datetime
    succeeded_at: datetime | None
    failed_at: datetime | None
    last_error: str | None
    created: int
    updated: int
    disabled: int
    skipped: int


class FollowedRegistries(BaseModel):
    """All that a tenant takes servers from, by their addresses."""

    items: list[FollowedRegistry]


@router.get("/sync", response_model=FollowedRegistries)
async def show_sync(ask: Asks, where: Where) -> Response:
    """Tell how far the registries are followed that the tenant takes servers from."""
    return answer(_shown(await ask.registry.sync.states(tenant_of(ask.actor, where.tenant_id))))


@router.post("/sync", response_model=FollowedRegistries, status_code=202)
async def sync_now(ask: Asks, where: Where) -> Response:
    """Follow them now, rather than when they are due; answers before it is done.

    One that is being read is read once more.
    """
    return answer(_shown(await ask.registry.sync.ask(tenant_of(ask.actor, where.tenant_id))), status=202)


def _shown(states: list[SyncState]) -> dict[str, object]:
    return {"items": [state.to_dict() for state in states]}
