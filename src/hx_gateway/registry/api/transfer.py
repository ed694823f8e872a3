"""The routes of documents: services as other programs write them down."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, StrictBool

from hx_gateway.access.errors import InvalidField
from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.strict_models import Strict
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Asks, answer
from hx_gateway.registry.api.parameters import ServiceFilters, TenantId
from hx_gateway.registry.api.schemas import BulkAnswer
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.bulk import BulkOptions
from hx_gateway.registry.formats import Format, read, write
from hx_gateway.registry.repository import MAX_BULK

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
MAX_EXPORTED = 5000


class ImportBody(Strict):
    """A document, and what becomes of names that are taken. A service of a document has its ``source``."""

    format: Format
    document: Any = Field(examples=[{"mcpServers": {"weather": {"url": "https://weather.example.org/mcp"}}}])
    source: Annotated[str, Field(min_length=1, max_length=255)] = "import"
    mode: Literal["atomic", "partial"] = "partial"
    on_conflict: Literal["error", "skip", "update", "restore"] = "error"
    dry_run: StrictBool = False


class ImportAnswer(BulkAnswer):
    """What became of each service of the document. ``warnings``: what of it was not kept, secrets above all."""

    warnings: list[str]


class ExportQuery(ServiceFilters):
    """Which services, and how they are written down."""

    format: Format = "mcp_servers"
    tenant_id: TenantId | None = None


class ExportAnswer(BaseModel):
    """A document, and what somebody should know who uses it."""

    document: dict[str, Any]
    warnings: list[str]


@router.post("/services/import", response_model=ImportAnswer)
async def import_services(body: ImportBody, ask: Asks, where: Where) -> Response:
    """Register the services of a document of an MCP client, or of `server.json`: at most 500. No secret is kept."""
    imported = read(body.format, body.document, naming=ask.registry.naming)
    if len(imported.services) > MAX_BULK:
        raise InvalidField(f"document: has more than {MAX_BULK} services.", param="document")
    services = [{"source": body.source, **fields} for fields in imported.services]
    options = BulkOptions(tenant_id=where.tenant_id, atomic=body.mode == "atomic", dry_run=body.dry_run)
    outcome = await ask.registry.bulk.create(ask.actor, services, options, on_conflict=body.on_conflict)
    told = {name: getattr(outcome, name) for name in outcome.__slots__}
    return answer({**told, "warnings": imported.warnings})


@router.get("/services/export", response_model=ExportAnswer)
async def export_services(parameters: Annotated[ExportQuery, Query()], ask: Asks) -> Response:
    """Write services down for an MCP client, or as pages of the official registry: at most 5,000."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    search = parameters.search()
    while True:
        page = await ask.registry.catalog.find(
            ask.actor, search, tenant_id=parameters.tenant_id, limit=MAX_PAGE, cursor=cursor
        )
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        if len(items) >= MAX_EXPORTED:
            raise InvalidField(f"More than {MAX_EXPORTED:,} services pass: ask for fewer.", param="format")
    exported = write(parameters.format, items, naming=ask.registry.naming)
    return answer({"document": exported.document, "warnings": exported.warnings})
