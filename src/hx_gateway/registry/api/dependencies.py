"""The routes of what services depend on."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Asks, answer, shown
from hx_gateway.registry.api.schemas import DependencyBody, Related, Service
from hx_gateway.registry.api.standing import Where

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)


@router.get("/services/{ref}/dependencies", response_model=Related)
async def list_dependencies(ref: str, ask: Asks, where: Where) -> Response:
    """List the living services that one depends on, by name."""
    return answer({"items": await ask.registry.catalog.dependencies(ask.actor, ref, tenant_id=where.tenant_id)})


@router.get("/services/{ref}/dependents", response_model=Related)
async def list_dependents(ref: str, ask: Asks, where: Where) -> Response:
    """List the living services that depend on one, by name."""
    return answer({"items": await ask.registry.catalog.dependents(ask.actor, ref, tenant_id=where.tenant_id)})


@router.post("/services/{ref}/dependencies", response_model=Service)
async def add_dependency(ref: str, body: DependencyBody, ask: Asks, where: Where) -> Response:
    """Let a service depend on another one. What would close a cycle is refused, with its path."""
    return shown(await ask.registry.catalog.add_dependency(ask.actor, ref, body.depends_on, tenant_id=where.tenant_id))


@router.put("/services/{ref}/dependencies/{dependency}", response_model=Service)
async def put_dependency(ref: str, dependency: str, ask: Asks, where: Where) -> Response:
    """Let a service depend on another one; one that does already stays as it is."""
    return shown(await ask.registry.catalog.add_dependency(ask.actor, ref, dependency, tenant_id=where.tenant_id))


@router.delete("/services/{ref}/dependencies/{dependency}", response_model=Service)
async def remove_dependency(ref: str, dependency: str, ask: Asks, where: Where) -> Response:
    """Let a service no longer depend on another one."""
    return shown(await ask.registry.catalog.remove_dependency(ask.actor, ref, dependency, tenant_id=where.tenant_id))
