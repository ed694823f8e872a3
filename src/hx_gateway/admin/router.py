"""The admin API as a whole: where its routes are, and who may take them."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from hx_gateway.access.directory import Directory
from hx_gateway.access.principal import Role
from hx_gateway.admin import audit, keys, teams, tenants, users
from hx_gateway.http.bodies import MAX_BODY_BYTES
from hx_gateway.pipeline.routes import BodyRule, ErrorShape, Handler, Needs, Policy, RouteSpec, needs, needs_role

ROUTERS: tuple[tuple[str, str, APIRouter], ...] = (
    ("/v1/tenants", "tenant", tenants.router),
    ("/v1/teams", "team", teams.router),
    ("/v1/users", "user", users.router),
    ("/v1/keys", "key", keys.router),
    ("/v1/api_keys", "api_key", keys.router),
)
AUDIT = "/v1/audit"
# What is built here of the paths that are kept for the gateway.
BUILT = frozenset({*(prefix for prefix, _, _ in ROUTERS), AUDIT})
ANY_KEY = needs()
ADMINS = needs_role(Role.TENANT_ADMIN, Role.TEAM_ADMIN)
_BODIES = frozenset({"POST", "PATCH", "PUT"})


def include(api: FastAPI, directory: Directory) -> None:
    """Add the routes to ``api``; they ask ``directory``."""
    api.state.directory = directory
    for prefix, _, router in ROUTERS:
        api.include_router(router, prefix=prefix)
    api.include_router(audit.router, prefix=AUDIT)


def admin_routes(handler: Handler) -> list[RouteSpec]:
    """Return the routes of the table, all answered by ``handler`` (the FastAPI application).

    Any key reaches what may be its own (``GET`` below a collection), and the directory decides. Everything else is for
    those who administer something; what exactly, the directory decides too.
    """
    specs: list[RouteSpec] = []
    for prefix, one, _ in ROUTERS:
        below = f"{prefix}/{{rest}}"
        specs += [
            _spec(f"{one}s_list", "GET", prefix, handler),
            _spec(f"{one}_create", "POST", prefix, handler),
            _spec(f"{one}_read", "GET", below, handler, policy=ANY_KEY),
            _spec(f"{one}_update", "PATCH", below, handler),
            _spec(f"{one}_delete", "DELETE", below, handler),
            _spec(f"{one}_action", "POST", below, handler),
        ]
    return [
        *specs,
        _spec("team_member_set", "PUT", "/v1/teams/{rest}", handler),
        _spec("audit", "GET", AUDIT, handler),
        _spec("audit_check", "GET", f"{AUDIT}/check", handler),
    ]


def _spec(name: str, method: str, path: str, handler: Handler, *, policy: Policy = ADMINS) -> RouteSpec:
    return RouteSpec(
        name=name,
        methods=frozenset({method}),
        path=path,
        policy=policy,
        handler=handler,
        needs=Needs.STORES,
        body=BodyRule.JSON if method in _BODIES else BodyRule.NONE,
        body_limit=MAX_BODY_BYTES,
        errors=ErrorShape.OPENAI,
    )
