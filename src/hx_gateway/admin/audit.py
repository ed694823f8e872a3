"""The route of the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from hx_gateway.admin.answers import AuditCheck, AuditEntry, ListOf
from hx_gateway.admin.caller import Asks, shown_page
from hx_gateway.admin.operations import RESPONSES
from hx_gateway.admin.schemas import AuditList
from hx_gateway.http.bodies import StrictJsonRoute

TenantId = Annotated[str, Query(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", examples=["default"])]

router = APIRouter(tags=["audit"], route_class=StrictJsonRoute, responses=RESPONSES)


@router.get("", response_model=ListOf[AuditEntry], summary="List changes")
async def list_audit(parameters: Annotated[AuditList, Query()], ask: Asks) -> dict[str, Any]:
    """List who changed what, newest first: for admins of the tenant, and of the platform."""
    return shown_page(await ask.directory.audit(ask.actor, parameters.query()))


@router.get("/check", response_model=AuditCheck, summary="Check the log of changes")
async def check_audit(ask: Asks, tenant_id: TenantId | None = None) -> dict[str, Any]:
    """Go through a tenant's log, one's own unless said, and look for entries that were changed or taken out."""
    tenant = tenant_id or ask.actor.principal.tenant_id
    state = await ask.directory.check_audit(ask.actor, tenant)
    return {"tenant_id": tenant, "entries": state.entries, "broken_at": state.broken_at}
