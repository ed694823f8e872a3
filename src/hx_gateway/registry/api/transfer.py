"""The routes of documents: services as other programs write them down."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, StrictBool

from hx_gateway.access.errors import InvalidField
from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import PLACE_CHARS
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.strict_models import Strict
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Ask, Asks, answer
from hx_gateway.registry.api.parameters import Instant, ServiceFilters, TenantId
from hx_gateway.registry.api.schemas import BulkAnswer
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.bulk import BulkOptions, BulkOutcome
from hx_gateway.registry.formats import OFFICIAL_REGISTRY, Format, Imported, ServersReader, read, write
from hx_gateway.registry.official.source import Bounds
from hx_gateway.registry.repository import MAX_BULK
from hx_gateway.registry.transactions import tenant_of

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
MAX_EXPORTED = MAX_IMPORTED = 5000
IMPORT_BOUNDS = Bounds(pages=200, bytes=32 * 1024 * 1024, seconds=40.0)


class ImportBody(Strict):
    """A document, and what becomes of names that are taken. A service of a document has its ``source``.

    For ``official_registry`` the ``source`` is the address of a registry, which is asked instead of a document.
    """

    format: Format | Literal["official_registry"]
    document: Any = Field(None, examples=[{"mcpServers": {"weather": {"url": "https://weather.example.org/mcp"}}}])
    source: Annotated[str, Field(min_length=1, max_length=PLACE_CHARS)] = "import"
    updated_since: Instant | None = Field(None, description="Of a registry: what changed then or later.")
    mode: Literal["atomic", "partial"] = "partial"
    on_conflict: Literal["error", "skip", "update", "restore"] = "error"
    dry_run: StrictBool = False

    def check(self) -> None:
        """Raise ``InvalidField`` for what is missing, and for what only another format is told."""
        given = self.model_fields_set
        if self.format == OFFICIAL_REGISTRY:
            _refuse("document" in given, "document", "does not go with official_registry, whose source is asked")
            _refuse("source" not in given, "source", "is missing: the address of a registry")
            return
        _refuse("document" not in given, "document", "is missing")
        _refuse("updated_since" in given, "updated_since", "goes with official_registry only")
        _refuse(len(self.source) > NAME_CHARS, "source", f"must have at most {NAME_CHARS} characters")


def _refuse(wrong: bool, field: str, rule: str) -> None:
    if wrong:
        raise InvalidField(f"{field}: {rule}.", param=field)


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


@router.post("/services/import", response_model=ImportAnswer, responses=operations.BUSY)
async def import_services(body: ImportBody, ask: Asks, where: Where) -> Response:
    """Register the services of a document of an MCP client, or of `server.json`: at most 500. No secret is kept.

    Of another registry at most 5,000 are, by 500 a transaction.
    """
    body.check()
    if body.format != OFFICIAL_REGISTRY:
        imported = read(body.format, body.document, naming=ask.registry.naming)
        return await _register(body, ask, where.tenant_id, imported, source=body.source)
    with ask.registry.imports.place(tenant_of(ask.actor, where.tenant_id)):
        imported = await _gather(body, ask)
        return await _register(body, ask, where.tenant_id, imported, registry_url=body.source)


async def _gather(body: ImportBody, ask: Ask) -> Imported:
    """Return the services of another registry. Raises ``InvalidField`` as soon as there are more than may be."""
    most = MAX_BULK if body.mode == "atomic" else MAX_IMPORTED
    reader = ServersReader(ask.registry.naming)
    pages = ask.registry.sources.pages(body.source, IMPORT_BOUNDS, updated_since=body.updated_since, latest=True)
    async for page in pages:
        # So many are looked through beside the event loop.
        await asyncio.to_thread(reader.take, page)
        if len(reader) > most:
            raise InvalidField(f"source: has more than {most:,} servers: at most so many are imported.", param="source")
    return reader.imported()


async def _register(body: ImportBody, ask: Ask, tenant_id: str | None, imported: Imported, **origin: str) -> Response:
    """Make services with their ``origin``, unless they say it themselves."""
    services = [{**origin, **fields} for fields in imported.services]
    options = BulkOptions(tenant_id=tenant_id, atomic=body.mode == "atomic", dry_run=body.dry_run)
    told = BulkOutcome(dry_run=body.dry_run)
    for start in range(0, len(services), MAX_BULK) or (0,):
        some = services[start : start + MAX_BULK]
        told.join(await ask.registry.bulk.create(ask.actor, some, options, on_conflict=body.on_conflict), start)
    return answer({**{name: getattr(told, name) for name in told.__slots__}, "warnings": imported.warnings})


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
