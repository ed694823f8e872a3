"""The route of the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from hx_gateway.admin.answers import AuditEntry, ListOf
from hx_gateway.admin.bodies import StrictJsonRoute
from hx_gateway.admin.caller import Asks, shown_page
from hx_gateway.admin.operations import RESPONSES
from hx_gateway.admin.schemas import AuditList

router = APIRouter(tags=["audit"], route_class=StrictJsonRoute, responses=RESPONSES)


@router.get("", response_model=ListOf[AuditEntry], summary="List changes")
async def list_audit(parameters: Annotated[AuditList, Query()], ask: Asks) -> dict[str, Any]:
    """List who changed what, newest first: for admins of the tenant, and of the platform."""
    return shown_page(await ask.directory.audit(ask.actor, parameters.query()))
