"""The routes of what became of services."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Ask, Asks, answer, shown
from hx_gateway.registry.api.parameters import DEFAULT_PAGE, Cursor, Instant, Name
from hx_gateway.registry.api.schemas import Service
from hx_gateway.registry.api.services import InTenant
from hx_gateway.registry.api.standing import Where

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
Version = Annotated[int, Path(ge=1, le=1_000_000_000)]
Action = Literal["created", "updated", "deleted", "restored", "purged", "noticed"]


class OneHistoryQuery(InTenant):
    """Which part of a service's changes, newest first."""

    action: Action | None = None
    actor: Name | None = Field(None, description="The id of a key.")
    request_id: Name | None = None
    since: Instant | None = None
    until: Instant | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Cursor | None = None


class HistoryQuery(OneHistoryQuery):
    """Which part of all changes, newest first."""

    service: Name | None = Field(None, description="An id, or a name.")


class FieldDifference(BaseModel):
    """A field or a member of one that differs: ``null`` where it was not, or is not there."""

    path: str
    old: Any
    new: Any


class HistoryEntry(BaseModel):
    """Who changed what of a service. ``version``: which of its versions that made, where one service was asked for."""

    seq: int
    at: datetime
    action: Action
    service_id: str
    actor_key: str
    actor_user: str | None
    request_id: str
    changes: list[FieldDifference]
    version: int | None = None


class HistoryPage(BaseModel):
    """A page of changes, newest first."""

    items: list[HistoryEntry]
    next_cursor: str | None
    has_more: bool


class Versions(BaseModel):
    """The versions of a service, the first one first."""

    items: list[HistoryEntry]


class OneVersion(BaseModel):
    """The fields that a service had; values named like secrets are masked."""

    version: int
    fields: dict[str, Any]


@router.get("/audit", response_model=HistoryPage)
async def list_changes(parameters: Annotated[HistoryQuery, Query()], ask: Asks) -> Response:
    """List who changed what, newest first."""
    return await _entries(ask, parameters, parameters.service)


@router.get("/services/{ref}/audit", response_model=HistoryPage)
async def list_service_changes(ref: str, parameters: Annotated[OneHistoryQuery, Query()], ask: Asks) -> Response:
    """List who changed what of a service, newest first."""
    return await _entries(ask, parameters, ref)


@router.get("/services/{ref}/versions", response_model=Versions)
async def list_versions(ref: str, ask: Asks, where: Where) -> Response:
    """List the versions of a service, with what each changed."""
    return answer({"items": await ask.registry.history.versions(ask.actor, ref, tenant_id=where.tenant_id)})


@router.get("/services/{ref}/versions/{version}", response_model=OneVersion)
async def get_version(ref: str, version: Version, ask: Asks, where: Where) -> Response:
    """Show what a service was in one version."""
    return answer(await ask.registry.history.version(ask.actor, ref, version, tenant_id=where.tenant_id))


@router.post("/services/{ref}/versions/{version}/revert", response_model=Service)
async def revert_service(ref: str, version: Version, ask: Asks, where: Where) -> Response:
    """Set the fields of a service to what they were in one version; its status and what is masked stay.

    What it depended on then and is gone by now is among its `pending_dependencies`, by its name.
    """
    return shown(await ask.registry.history.revert(ask.actor, ref, version, tenant_id=where.tenant_id))


async def _entries(ask: Ask, parameters: OneHistoryQuery, ref: str | None) -> Response:
    asked = {"action": parameters.action, "actor_key": parameters.actor, "request_id": parameters.request_id}
    page = await ask.registry.history.entries(
        ask.actor,
        {name: value for name, value in asked.items() if value is not None},
        tenant_id=parameters.tenant_id,
        ref=ref,
        since=parameters.since,
        until=parameters.until,
        limit=parameters.limit,
        cursor=parameters.cursor,
    )
    return answer(page)
