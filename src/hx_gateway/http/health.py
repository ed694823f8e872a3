"""Health, as machines and people ask for it. Everything is read from samples: no request waits for a probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from hx_gateway import __version__
from hx_gateway.errors import NotFound
from hx_gateway.http.drain import Drain
from hx_gateway.pipeline.routes import ANYONE, LOCAL_OR_ADMIN, Handler, Policy, RouteSpec
from hx_gateway.services.base import DataService
from hx_gateway.telemetry import Metrics

SERVICE = "hx-gateway"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PARTS = {"db": "postgres", "cache": "redis", "vector": "qdrant"}


@dataclass(frozen=True, slots=True)
class HealthSources:
    """What the endpoints read."""

    stores: Mapping[str, DataService]
    drain: Drain
    metrics: Metrics
    detailed: bool = True


class PoolState(BaseModel):
    """Connections of a pool."""

    size: int
    checked_in: int
    checked_out: int
    maximum: int


class DependencyState(BaseModel):
    """One dependency. ``last_error`` is a code of ours, never a driver's text; ``circuit`` is open while it is down."""

    status: Literal["healthy", "unhealthy", "not_configured"]
    latency_ms: float | None = None
    pool: PoolState | None = None
    circuit: Literal["closed", "open"] = "closed"
    last_error: str | None = None


class ConnectionPool(BaseModel):
    """The database's pool, in short."""

    size: int
    checked_in: int
    checked_out: int


class DatabaseState(BaseModel):
    """The database, in short."""

    status: str
    connection_pool: ConnectionPool


class ServiceHealth(BaseModel):
    """The service, in short."""

    status: str
    service: str
    database: DatabaseState


def dependency_state(store: DataService) -> DependencyState:
    """Return the sample of ``store`` for people."""
    sample = store.sample
    figures = store.pool
    if not store.configured:
        return DependencyState(status="not_configured")
    return DependencyState(
        status="healthy" if sample.healthy else "unhealthy",
        latency_ms=round(sample.latency_seconds * 1000, 3) if sample.latency_seconds is not None else None,
        pool=None
        if figures is None
        else PoolState(
            size=figures.size,
            checked_in=figures.checked_in,
            checked_out=figures.checked_out,
            maximum=figures.maximum,
        ),
        circuit="closed" if sample.healthy else "open",
        last_error=sample.failure.value if sample.failure is not None else None,
    )


def _sources(request: Request) -> HealthSources:
    sources = request.app.state.health
    assert isinstance(sources, HealthSources)
    return sources


Sources = Annotated[HealthSources, Depends(_sources)]

router = APIRouter(tags=["health"])


@router.get("/", summary="Name, version and links")
async def root() -> dict[str, Any]:
    """Return what this is and where to go on."""
    links = {"models": "/v1/models", "health": "/healthz", "openapi": "/openapi.json"}
    return {"name": SERVICE, "version": __version__, "links": links}


@router.get("/healthz", summary="Alive")
async def healthz() -> dict[str, str]:
    """Answer while the process serves, whatever its dependencies do."""
    return {"status": "ok"}


@router.get("/livez", summary="Alive")
async def livez() -> dict[str, str]:
    """Answer while the process serves: restarting it would not help a dependency."""
    return {"status": "ok"}


@router.get("/readyz", summary="Ready for traffic", responses={503: {"description": "About to stop"}})
async def readyz(sources: Sources, response: Response) -> dict[str, str]:
    """Answer 200 while model traffic is served, which no store's loss stops; 503 once the server drains."""
    if sources.drain.draining:
        response.status_code = 503
        return {"status": "draining"}
    return {"status": "ready"}


@router.get("/healthz/deps", summary="Each dependency as a boolean")
async def healthz_deps(sources: Sources) -> dict[str, bool]:
    """Return 200 with one boolean a store; one that is not configured counts as healthy."""
    return {key: store.sample.healthy for key, store in sources.stores.items()}


@router.get("/health", summary="The service and its database")
async def health(sources: Sources) -> ServiceHealth:
    """Return 200 also while the database is away: the service itself is up."""
    store = sources.stores["postgres"]
    figures = store.pool
    pool = ConnectionPool(
        size=figures.size if figures else 0,
        checked_in=figures.checked_in if figures else 0,
        checked_out=figures.checked_out if figures else 0,
    )
    status = dependency_state(store).status
    return ServiceHealth(
        status="degraded" if status == "unhealthy" else "healthy",
        service=SERVICE,
        database=DatabaseState(status=status, connection_pool=pool),
    )


@router.get("/health/all", summary="All dependencies", responses={503: {"description": "One of them is down"}})
async def health_all(sources: Sources, response: Response) -> dict[str, DependencyState]:
    """Return the state of each store; 503 when one is down."""
    _require_detailed(sources)
    states = {part: dependency_state(sources.stores[key]) for part, key in _PARTS.items()}
    if any(state.status == "unhealthy" for state in states.values()):
        response.status_code = 503
    return states


@router.get("/health/{part}", summary="One dependency", responses={503: {"description": "It is down"}})
async def health_part(part: str, sources: Sources, response: Response) -> DependencyState:
    """Return the state of ``db``, ``cache`` or ``vector``; 503 when it is down."""
    _require_detailed(sources)
    if part not in _PARTS:
        raise NotFound(f"There is no health of {part!r}: ask for db, cache, vector or all.")
    state = dependency_state(sources.stores[_PARTS[part]])
    if state.status == "unhealthy":
        response.status_code = 503
    return state


@router.get("/metrics", summary="Prometheus metrics of all workers", response_class=Response)
async def metrics(sources: Sources) -> Response:
    """Return the text exposition."""
    return Response(sources.metrics.render(), media_type=METRICS_TYPE)


def _require_detailed(sources: HealthSources) -> None:
    if not sources.detailed:
        raise NotFound("The detailed health endpoints are turned off.")


def health_routes(handler: Handler) -> list[RouteSpec]:
    """Return the specs of the routes above, all answered by ``handler``."""
    get = frozenset({"GET"})

    def spec(name: str, path: str, policy: Policy) -> RouteSpec:
        return RouteSpec(name=name, methods=get, path=path, policy=policy, handler=handler, while_draining=True)

    return [
        spec("root", "/", ANYONE),
        spec("healthz", "/healthz", ANYONE),
        spec("livez", "/livez", ANYONE),
        spec("readyz", "/readyz", ANYONE),
        spec("healthz_deps", "/healthz/deps", ANYONE),
        spec("health", "/health", LOCAL_OR_ADMIN),
        spec("health_part", "/health/{part}", LOCAL_OR_ADMIN),
        spec("metrics", "/metrics", LOCAL_OR_ADMIN),
    ]
