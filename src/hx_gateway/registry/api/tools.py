"""The routes of tools: of one service, of all, and a look at them now."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Asks, answer
from hx_gateway.registry.api.parameters import DEFAULT_PAGE, Cursor, Name, SearchedWords, Several
from hx_gateway.registry.api.services import InTenant
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.probing import FailureClass

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)


class ToolPaging(InTenant):
    """Which part of a list of tools: ``cursor`` is the ``next_cursor`` of the page before."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Cursor | None = None


class ToolQuery(ToolPaging):
    """Which tools: those that pass all that is given; of several values of one parameter, any."""

    q: SearchedWords | None = Field(None, description="Words that each begin one of name, title or description.")
    service: Several[Name] | None = Field(None, description="Ids, or names, of services.")
    tags: Several[Name] | None = Field(None, description="Of the service.")


class Tool(BaseModel):
    """A tool as its server told it. ``updated_at`` is when that changed last, and the hash with it."""

    name: str
    title: str | None
    description: str | None
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any] | None
    definition_hash: str
    first_seen: datetime
    updated_at: datetime


class ServiceTool(Tool):
    """A tool, and whose it is."""

    service_id: str
    service: str


class ToolPage(BaseModel):
    """Tools by name, and then by service."""

    items: list[ServiceTool]
    next_cursor: str | None
    has_more: bool


class ToolsOfService(BaseModel):
    """A service's tools by name, as they were told last (``fetched_at``). It was asked last ``asked_at``.

    ``failure_class`` and ``last_error`` say why it did not tell them then, ``warnings`` what of it is not kept.
    """

    service_id: str
    service: str
    total: int
    asked_at: datetime | None
    fetched_at: datetime | None
    failure_class: FailureClass | None
    last_error: str | None
    warnings: list[str]
    items: list[Tool]
    next_cursor: str | None
    has_more: bool


class Refreshed(BaseModel):
    """How many tools a service has, and the names of those that came, went, or are defined otherwise than before."""

    service_id: str
    service: str
    tools: int
    added: list[str]
    removed: list[str]
    changed: list[str]
    warnings: list[str]
    fetched_at: datetime


@router.get("/tools", response_model=ToolPage)
async def list_tools(parameters: Annotated[ToolQuery, Query()], ask: Asks) -> Response:
    """List the tools of living services."""
    page = await ask.registry.tools.find(
        ask.actor,
        text=parameters.q,
        services=parameters.service,
        tags=parameters.tags,
        limit=parameters.limit,
        cursor=parameters.cursor,
        tenant_id=parameters.tenant_id,
    )
    return answer(page)


@router.get("/services/{ref}/tools", response_model=ToolsOfService)
async def list_tools_of_service(ref: str, parameters: Annotated[ToolPaging, Query()], ask: Asks) -> Response:
    """List the tools of a service, as its server told them last."""
    page = await ask.registry.tools.of_service(
        ask.actor, ref, limit=parameters.limit, cursor=parameters.cursor, tenant_id=parameters.tenant_id
    )
    return answer(page)


@router.post("/services/{ref}/refresh", response_model=Refreshed, responses=operations.NOT_TOLD)
async def refresh_tools(ref: str, ask: Asks, where: Where) -> Response:
    """Ask a service for its tools now. One that does not tell them keeps those that it told before."""
    return answer(await ask.registry.tools.refresh(ask.actor, ref, tenant_id=where.tenant_id))
