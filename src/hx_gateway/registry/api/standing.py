"""The routes of how services stand: reports, decisions, and signs of life."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Ask, Asks, NamingAsks, answer, shown
from hx_gateway.registry.api.schemas import HealthReport, Heartbeat, Heartbeats, HeartbeatsAnswer, Maintenance, Service
from hx_gateway.registry.api.services import InTenant

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
Where = Annotated[InTenant, Query()]
_OPEN_ENDED = Maintenance()
_ALIVE = Heartbeat()


@router.put("/services/{ref}/health", response_model=Service)
async def report_health(ref: str, body: HealthReport, ask: Asks, where: Where) -> Response:
    """Note what somebody else found out; `maintenance` and `disabled` stay until they are taken back."""
    item = await ask.registry.standing.note_health(
        ask.actor,
        ref,
        body.status,
        tenant_id=where.tenant_id,
        response_time_ms=body.response_time_ms,
        why=(body.failure_class, body.message),
        checked_at=body.checked_at,
    )
    ask.noted(where.tenant_id)
    return shown(item)


@router.post("/services/{ref}/enable", response_model=Service)
async def enable_service(ref: str, ask: Asks, where: Where) -> Response:
    """Let a service be used again."""
    return shown(await ask.registry.standing.enable(ask.actor, ref, tenant_id=where.tenant_id))


@router.post("/services/{ref}/disable", response_model=Service)
async def disable_service(ref: str, ask: Asks, where: Where) -> Response:
    """Let a service not be used, whatever is found out about it."""
    return shown(await ask.registry.standing.disable(ask.actor, ref, tenant_id=where.tenant_id))


@router.post("/services/{ref}/maintenance", response_model=Service)
async def begin_maintenance(ref: str, ask: Asks, where: Where, body: Maintenance = _OPEN_ENDED) -> Response:
    """Say that somebody works on a service: what is found out meanwhile does not change its status."""
    until = body.given().get("until")
    return shown(await ask.registry.standing.begin_maintenance(ask.actor, ref, until=until, tenant_id=where.tenant_id))


@router.delete("/services/{ref}/maintenance", response_model=Service)
async def end_maintenance(ref: str, ask: Asks, where: Where) -> Response:
    """Say that nobody works on it any more: what was found out meanwhile counts again."""
    return shown(await ask.registry.standing.end_maintenance(ask.actor, ref, tenant_id=where.tenant_id))


@router.post("/services/{ref}/heartbeat", response_model=HeartbeatsAnswer)
async def heartbeat(ref: str, ask: NamingAsks, where: Where, body: Heartbeat = _ALIVE) -> Response:
    """Note a sign of life of one service, and what it says of itself."""
    ask.check_registers(ref)
    beat, described = body.beat(ref), body.described()
    unknown = await ask.registry.standing.heartbeat(ask.actor, beat, described, tenant_id=where.tenant_id)
    return _noted(ask, where, 1, unknown)


@router.post("/heartbeats", response_model=HeartbeatsAnswer)
async def heartbeats(body: Heartbeats, ask: NamingAsks, where: Where) -> Response:
    """Note signs of life of up to 1,000 services at once."""
    for one in body.items:
        ask.check_registers(one.ref)
    beats = [one.beat(one.ref) for one in body.items]
    unknown = await ask.registry.standing.heartbeats(ask.actor, beats, tenant_id=where.tenant_id)
    return _noted(ask, where, len(beats), unknown)


def _noted(ask: Ask, where: InTenant, beats: int, unknown: list[str]) -> Response:
    ask.noted(where.tenant_id)
    return answer({"updated": beats - len(unknown), "unknown": unknown})
