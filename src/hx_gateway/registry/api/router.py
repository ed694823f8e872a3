"""The registry's routes as a whole: where they are, and which rights they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, FastAPI

from hx_gateway.access.principal import BoundScope, Scope
from hx_gateway.http.bodies import MAX_BODY_BYTES
from hx_gateway.pipeline.routes import BodyRule, Handler, Needs, Policy, RouteSpec, Who, needs
from hx_gateway.registry.api import dependencies, health, history, overview, services, standing, sync, tools, transfer
from hx_gateway.registry.api.asking import RegistryParts
from hx_gateway.registry.api.changes import ChangeRoutes, poll_operation, stream_operation
from hx_gateway.registry.official.routes import EDIT

PREFIX = "/api/v1/registry"
# In this order: the paths of lists come before those of one service.
ROUTERS: tuple[APIRouter, ...] = (
    transfer.router,
    services.router,
    standing.router,
    dependencies.router,
    health.router,
    history.router,
    tools.router,
    overview.router,
    sync.router,
)
# Whoever administers a tenant says what becomes of its services.
SYNC_READ = Policy(Who.KEY, frozenset({Scope.REGISTRY_READ}), EDIT.roles)
READ, WRITE = needs(Scope.REGISTRY_READ), needs(Scope.REGISTRY_WRITE)
# Some of what is below lets those in who register themselves, by their names.
OWN = replace(WRITE, bound=BoundScope.REGISTER)
SERVICES = f"{PREFIX}/services"
_OWN = frozenset({("POST", f"{SERVICES}/{{rest}}"), ("PUT", f"{SERVICES}/{{rest}}"), ("POST", f"{PREFIX}/heartbeats")})
_METHODS = {"GET": "read", "POST": "act", "PUT": "put", "PATCH": "update", "DELETE": "delete"}
# How a route of the table is named in logs and metrics, its method and its path.
_COLLECTION = {"registry_list": ("GET", SERVICES), "registry_create": ("POST", SERVICES)}
_OTHERS = {
    "registry_check": ("GET", f"{PREFIX}/checks/{{rest}}"),
    "registry_heartbeats": ("POST", f"{PREFIX}/heartbeats"),
    "registry_statistics": ("GET", f"{PREFIX}/statistics"),
    "registry_statistics_timeseries": ("GET", f"{PREFIX}/statistics/timeseries"),
    "registry_graph": ("GET", f"{PREFIX}/graph"),
    "registry_graph_part": ("GET", f"{PREFIX}/graph/{{rest}}"),
    "registry_health_summary": ("GET", f"{PREFIX}/health/summary"),
    "registry_tags": ("GET", f"{PREFIX}/tags"),
    "registry_tools": ("GET", f"{PREFIX}/tools"),
    "registry_audit": ("GET", f"{PREFIX}/audit"),
}


def include(api: FastAPI, parts: RegistryParts) -> None:
    """Add the routes that FastAPI serves to ``api``; they ask ``parts``."""
    api.state.registry = parts
    for router in ROUTERS:
        api.include_router(router, prefix=PREFIX)


def registry_routes(parts: RegistryParts, handler: Handler) -> list[RouteSpec]:
    """Return the routes of the table: those of changes, and all others answered by ``handler`` (the FastAPI app)."""
    changes = ChangeRoutes(parts.feed)
    below = [
        _spec(f"registry_service_{what}", method, f"{SERVICES}/{{rest}}", handler) for method, what in _METHODS.items()
    ]
    # Nothing is changed by it.
    validate = _spec("registry_graph_validate", "POST", f"{PREFIX}/graph/validate", handler, policy=READ)
    following = [
        _spec("registry_sync", "GET", f"{PREFIX}/sync", handler, policy=SYNC_READ),
        _spec("registry_sync_now", "POST", f"{PREFIX}/sync", handler, policy=EDIT),
    ]
    return [
        validate,
        *following,
        *[_spec(name, method, path, handler) for name, (method, path) in {**_COLLECTION, **_OTHERS}.items()],
        *below,
        _spec("registry_events", "GET", f"{PREFIX}/events", changes.events, operation=stream_operation()),
        _spec("registry_changes", "GET", f"{PREFIX}/changes", changes.changes, operation=poll_operation()),
    ]


def _spec(
    name: str,
    method: str,
    path: str,
    handler: Handler,
    *,
    policy: Policy | None = None,
    operation: Mapping[str, Any] | None = None,
) -> RouteSpec:
    policy = policy or (READ if method == "GET" else OWN if (method, path) in _OWN else WRITE)
    has_body = method != "GET"
    return RouteSpec(
        name=name,
        methods=frozenset({method}),
        path=path,
        policy=policy,
        handler=handler,
        needs=Needs.STORES,
        body=BodyRule.JSON if has_body else BodyRule.NONE,
        body_limit=MAX_BODY_BYTES if has_body else None,
        openapi=operation or {},
    )
