"""The routes of tenants."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from hx_gateway.access.resources import ResourceKind
from hx_gateway.admin.answers import ListOf, Tenant
from hx_gateway.admin.caller import Asks, announce_created
from hx_gateway.admin.operations import BODY_EXAMPLES, CREATED_HEADERS, PATCH_EXAMPLE, RESPONSES
from hx_gateway.admin.schemas import ListParameters, TenantCreate, TenantPatch
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.request_headers import IdempotencyKey

router = APIRouter(tags=["tenants"], route_class=StrictJsonRoute, responses=RESPONSES)
TENANT = ResourceKind.TENANT


@router.post("", status_code=201, response_model=Tenant, responses=CREATED_HEADERS, summary="Make a tenant")
async def create_tenant(
    fields: Annotated[TenantCreate, Body(examples=[BODY_EXAMPLES["tenant"]])],
    ask: Asks,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Make a tenant; platform admins only."""
    return announce_created(request, response, await ask.create(TENANT, fields.values(), idempotency_key))


@router.get("", response_model=ListOf[Tenant], summary="List tenants")
async def list_tenants(parameters: Annotated[ListParameters, Query()], ask: Asks) -> dict[str, Any]:
    """List tenants: a tenant's admin sees its own."""
    return await ask.page(TENANT, parameters.query())


@router.get("/{tenant_id}", response_model=Tenant, summary="Show a tenant")
async def get_tenant(tenant_id: str, ask: Asks, include_deleted: bool = False) -> dict[str, Any]:
    """Return one, with what its budgets have spent."""
    return await ask.get(TENANT, tenant_id, include_deleted=include_deleted)


@router.patch("/{tenant_id}", response_model=Tenant, summary="Change a tenant")
async def update_tenant(
    tenant_id: str, fields: Annotated[TenantPatch, Body(examples=[PATCH_EXAMPLE])], ask: Asks
) -> dict[str, Any]:
    """Change what is sent, and nothing else; objects and lists are replaced whole."""
    return await ask.update(TENANT, tenant_id, fields.values())


@router.delete("/{tenant_id}", response_model=Tenant, summary="Delete a tenant")
async def delete_tenant(tenant_id: str, ask: Asks) -> dict[str, Any]:
    """Delete one: it stops working at once, and can be restored."""
    return await ask.delete(TENANT, tenant_id)


@router.post("/{tenant_id}/restore", response_model=Tenant, summary="Restore a tenant")
async def restore_tenant(tenant_id: str, ask: Asks) -> dict[str, Any]:
    """Undo a deletion."""
    return await ask.restore(TENANT, tenant_id)
