"""Every route of the program, asked by everybody: what each gets is said in one table, and nothing is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hx_gateway.app import build_app
from hx_gateway.pipeline.routes import RouteSpec
from hx_gateway.settings import Settings
from tests.acceptance.people import World, living, populate, somewhere
from tests.fixtures.servers import Servers

CALLERS = ("no key", "revoked", "expired", "other tenant", "member", "team admin", "tenant admin", "platform admin")
# Let in: whatever the route then says of the made-up request.
IN = "in"
NOT_IN = (401, 403, 429)
NOT_BUILT = 501
# What no route of its own takes beside one for every method.
OTHER_METHOD = "PATCH"

ANYONE = "in  in  in  in  in  in  in  in"
A_KEY = "401 401 401 in  in  in  in  in"
TENANT_ADMINS = "401 401 401 in  403 403 in  in"
THE_ADMIN = "401 401 401 403 403 403 403 in"
HERE_OR_ADMIN = "in  401 401 403 403 403 403 in"
# An admin of the platform is in a tenant of its own, too, unless it names another.
OF_TENANT = "401 401 401 404 200 200 200 404"
REGISTRY = "/api/v1/registry"

# The callers in their order. "Other tenant" is its admin; what everybody asks for is of the tenant of the others.
MATRIX: Mapping[str, str] = {
    "GET /": ANYONE,
    "GET /healthz": ANYONE,
    "GET /livez": ANYONE,
    "GET /readyz": ANYONE,
    "GET /healthz/deps": ANYONE,
    "GET /openapi.json": ANYONE,
    "* /{path}": ANYONE,
    "GET /health": HERE_OR_ADMIN,
    "GET /health/{part}": HERE_OR_ADMIN,
    "GET /metrics": HERE_OR_ADMIN,
    "GET /v1/models": A_KEY,
    "GET /v1/models/{model}": A_KEY,
    "POST /v1/chat/completions": A_KEY,
    "POST /v1/completions": A_KEY,
    "POST /v1/embeddings": A_KEY,
    "POST /v1/cost/estimate": A_KEY,
    "* /v1/{path}": THE_ADMIN,
    "POST /v1/traces": A_KEY,
    "POST /api/v1/observability/otlp/v1/traces": A_KEY,
    "POST /api/v1/observability/events": A_KEY,
    "GET /api/v1/observability/trace_events": A_KEY,
    "GET /api/v1/observability/routing_decisions": A_KEY,
    "GET /api/v1/observability/performance_metrics": A_KEY,
    "GET /api/v1/observability/transformation_events": A_KEY,
    "GET /api/v1/observability/traces/{trace_id}": A_KEY,
    "GET /api/v1/observability/export/{table}": A_KEY,
    "GET /api/v1/observability/health": A_KEY,
    "POST /api/v1/observability/retention": THE_ADMIN,
    "GET /api/v1/observability/dead_letters": THE_ADMIN,
    "DELETE /api/v1/observability/dead_letters": THE_ADMIN,
    "POST /api/v1/observability/dead_letters/replay": THE_ADMIN,
    "GET /api/v1/observability/dead_letters/{id}": THE_ADMIN,
    f"GET {REGISTRY}/services": A_KEY,
    f"POST {REGISTRY}/services": "401 401 401 201 201 201 201 201",
    f"GET {REGISTRY}/services/healthy": A_KEY,
    f"GET {REGISTRY}/services/unhealthy": A_KEY,
    f"GET {REGISTRY}/services/required": A_KEY,
    f"GET {REGISTRY}/services/stale": A_KEY,
    f"GET {REGISTRY}/services/facets": A_KEY,
    f"GET {REGISTRY}/services/by-tag/{{tag}}": A_KEY,
    f"POST {REGISTRY}/services/bulk": A_KEY,
    f"PATCH {REGISTRY}/services/bulk": A_KEY,
    f"DELETE {REGISTRY}/services/bulk": A_KEY,
    f"POST {REGISTRY}/services/bulk/restore": A_KEY,
    f"GET {REGISTRY}/services/{{ref}}": OF_TENANT,
    f"PUT {REGISTRY}/services/{{ref}}": OF_TENANT,
    f"PATCH {REGISTRY}/services/{{ref}}": OF_TENANT,
    f"DELETE {REGISTRY}/services/{{ref}}": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/restore": OF_TENANT,
    f"PUT {REGISTRY}/services/{{ref}}/health": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/enable": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/disable": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/maintenance": OF_TENANT,
    f"DELETE {REGISTRY}/services/{{ref}}/maintenance": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/heartbeat": A_KEY,
    f"GET {REGISTRY}/services/{{ref}}/dependencies": OF_TENANT,
    f"GET {REGISTRY}/services/{{ref}}/dependents": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/dependencies": A_KEY,
    f"PUT {REGISTRY}/services/{{ref}}/dependencies/{{dependency}}": OF_TENANT,
    f"DELETE {REGISTRY}/services/{{ref}}/dependencies/{{dependency}}": OF_TENANT,
    f"POST {REGISTRY}/heartbeats": A_KEY,
    f"GET {REGISTRY}/statistics": A_KEY,
    f"GET {REGISTRY}/statistics/timeseries": A_KEY,
    f"GET {REGISTRY}/tags": A_KEY,
    f"GET {REGISTRY}/tools": A_KEY,
    f"GET {REGISTRY}/services/{{ref}}/tools": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/refresh": "401 401 401 404 in  in  in  404",
    f"GET {REGISTRY}/services/{{ref}}/health": OF_TENANT,
    f"GET {REGISTRY}/services/{{ref}}/health/history": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/check": OF_TENANT,
    f"POST {REGISTRY}/services/check": A_KEY,
    f"GET {REGISTRY}/checks/{{job}}": A_KEY,
    f"GET {REGISTRY}/services/{{ref}}/impact": OF_TENANT,
    f"POST {REGISTRY}/services/import": A_KEY,
    f"GET {REGISTRY}/services/export": A_KEY,
    f"GET {REGISTRY}/graph": A_KEY,
    f"GET {REGISTRY}/graph/order": A_KEY,
    f"GET {REGISTRY}/graph/cycles": A_KEY,
    f"POST {REGISTRY}/graph/validate": A_KEY,
    f"GET {REGISTRY}/health/summary": A_KEY,
    f"GET {REGISTRY}/audit": A_KEY,
    f"GET {REGISTRY}/services/{{ref}}/audit": OF_TENANT,
    f"GET {REGISTRY}/services/{{ref}}/versions": OF_TENANT,
    f"GET {REGISTRY}/services/{{ref}}/versions/{{version}}": OF_TENANT,
    f"POST {REGISTRY}/services/{{ref}}/versions/{{version}}/revert": OF_TENANT,
    f"GET {REGISTRY}/sync": TENANT_ADMINS,
    f"POST {REGISTRY}/sync": TENANT_ADMINS,
    f"GET {REGISTRY}/changes": A_KEY,
    f"GET {REGISTRY}/events": "401 401 401 400 400 400 400 400",
    "GET /v1/spend/logs": A_KEY,
    "GET /v1/spend/errors": A_KEY,
    "GET /v1/spend/summary": A_KEY,
    "GET /v1/decisions/{request_id}": A_KEY,
    "GET /v1/prices": THE_ADMIN,
    "GET /v1/prices/{model}": THE_ADMIN,
    "PUT /v1/prices/{model}": THE_ADMIN,
    "DELETE /v1/prices/{model}": THE_ADMIN,
    "DELETE /v1/cache": TENANT_ADMINS,
    "* /v1/cache": THE_ADMIN,
    "* /v1/cache/{rest}": THE_ADMIN,
    "* /v1/spend": THE_ADMIN,
    "* /v1/spend/{rest}": THE_ADMIN,
    "* /v1/decisions": THE_ADMIN,
    "* /v1/decisions/{rest}": THE_ADMIN,
    "* /v1/cost": THE_ADMIN,
    "* /v1/cost/{rest}": THE_ADMIN,
    "* /v1/traces": THE_ADMIN,
    "* /v1/traces/{rest}": THE_ADMIN,
    "* /v1/vector_stores": THE_ADMIN,
    "* /v1/vector_stores/{rest}": THE_ADMIN,
    "GET /v1/audit": "401 401 401 200 403 403 200 200",
    "GET /v1/audit/check": "401 401 401 200 403 403 200 200",
    "GET /v1/tenants": "401 401 401 200 403 403 200 200",
    "POST /v1/tenants": "401 401 401 403 403 403 403 201",
    "GET /v1/tenants/{tenant_id}": "401 401 401 404 403 403 200 200",
    "PATCH /v1/tenants/{tenant_id}": "401 401 401 404 403 403 200 200",
    "DELETE /v1/tenants/{tenant_id}": "401 401 401 404 403 403 403 200",
    "POST /v1/tenants/{tenant_id}/restore": "401 401 401 404 403 403 403 200",
    "GET /v1/teams": "401 401 401 200 403 200 200 200",
    "POST /v1/teams": "401 401 401 201 403 403 201 201",
    "GET /v1/teams/{team_id}": "401 401 401 404 403 200 200 200",
    "PATCH /v1/teams/{team_id}": "401 401 401 404 403 403 200 200",
    "DELETE /v1/teams/{team_id}": "401 401 401 404 403 403 200 200",
    "POST /v1/teams/{team_id}/restore": "401 401 401 404 403 403 200 200",
    "GET /v1/teams/{team_id}/members": "401 401 401 404 403 200 200 200",
    "PUT /v1/teams/{team_id}/members/{user_id}": "401 401 401 404 403 200 200 200",
    "DELETE /v1/teams/{team_id}/members/{user_id}": "401 401 401 404 403 200 200 200",
    "GET /v1/users": "401 401 401 200 403 200 200 200",
    "POST /v1/users": "401 401 401 201 403 403 201 201",
    "GET /v1/users/{user_id}": "401 401 401 404 200 200 200 200",
    "PATCH /v1/users/{user_id}": "401 401 401 404 403 403 200 200",
    "DELETE /v1/users/{user_id}": "401 401 401 404 403 403 200 200",
    "POST /v1/users/{user_id}/restore": "401 401 401 404 403 403 200 200",
    **{
        row.replace("/v0.1", prefix): cells
        for prefix in ("/v0.1", "/v0")
        for row, cells in {
            "GET /v0.1/servers": A_KEY,
            "GET /v0.1/servers/{rest}": A_KEY,
            "PUT /v0.1/servers/{rest}": TENANT_ADMINS,
            "DELETE /v0.1/servers/{rest}": A_KEY,
            "PATCH /v0.1/servers/{rest}": A_KEY,
            "POST /v0.1/publish": A_KEY,
            "POST /v0.1/validate": A_KEY,
            "POST /v0.1/auth/{method}": ANYONE,
            "GET /v0.1/health": ANYONE,
            "GET /v0.1/ping": ANYONE,
            "GET /v0.1/version": ANYONE,
        }.items()
    },
    **{
        row.replace("/v1/keys", prefix): cells
        for prefix in ("/v1/keys", "/v1/api_keys")
        for row, cells in {
            "GET /v1/keys": "401 401 401 200 403 200 200 200",
            "POST /v1/keys": "401 401 401 404 403 201 201 201",
            "GET /v1/keys/{key_id}": "401 401 401 404 200 200 200 200",
            "PATCH /v1/keys/{key_id}": "401 401 401 404 403 200 200 200",
            "DELETE /v1/keys/{key_id}": "401 401 401 404 403 200 200 200",
            "POST /v1/keys/{key_id}/restore": "401 401 401 404 403 200 200 200",
            "POST /v1/keys/{key_id}/rotate": "401 401 401 404 403 200 200 200",
            "POST /v1/keys/{key_id}/block": "401 401 401 404 403 200 200 200",
            "POST /v1/keys/{key_id}/unblock": "401 401 401 404 403 200 200 200",
        }.items()
    },
}

MADE_UP = {
    "{path}": "nothing-is-here",
    "{rest}": "nothing",
    "{part}": "db",
    "{model}": "hx-chat",
    "{trace_id}": "made-up",
    "{table}": "trace_events",
    "{id}": "1",
    "{request_id}": "req_made_up",
    "{tag}": "made-up",
    "{method}": "github-at",
    "{job}": "made-up",
}
BODIES: Mapping[str, object] = {
    "POST /v1/chat/completions": {"model": "hx-chat", "messages": [{"role": "user", "content": "hello"}]},
    "POST /v1/completions": {"model": "hx-chat", "prompt": "hello"},
    "POST /v1/embeddings": {"model": "emb-premium", "input": "hello"},
    "PUT /v1/teams/{team_id}/members/{user_id}": {"role": "member"},
    f"PUT {REGISTRY}/services/{{ref}}/health": {"status": "healthy"},
}


# Rights are the program's, whatever the servers are: one pair of them will do.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def world(servers: Servers) -> Iterator[World]:
    with living(servers) as people:
        yield populate(people)


def operations(routes: Iterable[RouteSpec], document: Mapping[str, Any]) -> set[str]:
    """Return what can be asked: the routes of the table, or what the document knows below one that takes a rest."""
    table = {(method, route.path) for route in routes for method in route.methods}
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} - table
    found: set[str] = set()
    for method, path in table:
        prefix = path.removesuffix("{rest}")
        below = {each for of, each in documented if prefix != path and of == method and each.startswith(prefix)}
        found |= {f"{method} {each}" for each in below or {path}}
    return found


def test_every_route_is_in_the_table_and_the_table_has_no_other(world: World, servers: Servers, tmp_path: Path) -> None:
    document = world.people.gateway.get("/openapi.json").json()
    stores = {"PG_URL": servers.postgres.ordinary_url(), "REDIS_URL": servers.redis.url, "QDRANT_URL": "none"}
    app = build_app(Settings.model_validate({**stores, "HX_DATA_DIR": tmp_path}))
    assert operations(app.pipeline.routes.routes, document) == MATRIX.keys()


def test_every_caller_is_there(world: World) -> None:
    assert tuple(world.keys) == CALLERS


@pytest.mark.parametrize(("row", "cells"), MATRIX.items(), ids=list(MATRIX))
def test_everybody_gets_what_the_table_says(world: World, row: str, cells: str) -> None:
    said = dict(zip(CALLERS, cells.split(), strict=True))
    assert {caller: got(world, row, caller, cell) for caller, cell in said.items()} == said


def test_a_key_that_may_only_register_is_let_in_nowhere_with_what_is_not_its_own(world: World) -> None:
    key = world.people.key(tenant_id=world.tenant, scopes=["registry:register:own-"])["key"]
    world.people.until(key, let_in=False)
    rows = [row for row in MATRIX if REGISTRY in row]
    refused = {row for row in rows if got(world, row, "member", "403", key=key) == "403"}
    # What a body names is looked at: none is named there.
    assert set(rows) - refused == {f"POST {REGISTRY}/heartbeats"}


def got(world: World, row: str, caller: str, cell: str, *, key: str | None = None) -> str:
    """Return what a caller gets, in the words of the table: a status, or that it was let in where the table says so."""
    method, _, template = row.partition(" ")
    path = Target(world, row, caller, changes=cell in ("200", "201")).path(template)
    headers = somewhere() if caller in ("revoked", "expired") else None
    body = body_of(world, row, caller)
    method = OTHER_METHOD if method == "*" else method
    answer = world.people.ask(method, path, body, key=key or world.keys[caller], headers=headers)
    let_in = answer.status not in NOT_IN and (answer.status < 500 or answer.status == NOT_BUILT)
    return IN if cell == IN and let_in else str(answer.status)


def body_of(world: World, row: str, caller: str) -> object:
    """Return a body that nothing is wrong with."""
    method, _, template = row.partition(" ")
    if row in BODIES:
        return BODIES[row]
    if row in (f"POST {REGISTRY}/services", f"PUT {REGISTRY}/services/{{ref}}"):
        return {"name": f"{method} {caller}"}
    if method == "PATCH":
        return {"tags": ["asked"]}
    if method != "POST" or not template.startswith(
        ("/v1/tenants", "/v1/teams", "/v1/users", "/v1/keys", "/v1/api_keys")
    ):
        return {} if method in ("POST", "PUT") else None
    if "{" in template:
        return {}
    body: dict[str, object] = {"name": f"{row} {caller}"}
    if template.endswith("keys"):
        body |= {"team_id": world.team, "scopes": ["models"]}
        body |= {"tenant_id": world.tenant} if caller == "platform admin" else {}
    return body


class Target:
    """Fills a path with what exists: with new objects where a request ``changes`` them, as far as it may be any."""

    def __init__(self, world: World, row: str, caller: str, *, changes: bool) -> None:
        self._world = world
        self._row = row
        self._fresh = changes and not row.startswith("GET ")
        self._caller = caller

    def path(self, template: str) -> str:
        """Return the path to ask for."""
        world = self._world
        if template == f"{REGISTRY}/events":
            # It would go on for minutes.
            return f"{template}?types=made-up"
        if "{ref}" in template:
            template = template.replace("{version}", "1")
            return template.replace("{ref}", self._service()).replace("{dependency}", self._service())
        ids = {"{tenant_id}": world.tenant, "{team_id}": world.team, "{user_id}": world.user, "{key_id}": world.own_key}
        first = next((part for part in template.split("/") if part in ids), None)
        if self._fresh and "/members/" in template:
            ids["{user_id}"] = self._member()
        elif self._fresh and first is not None and self._may_be_any(first):
            ids[first] = self._made(first)
        for name, value in {**MADE_UP, **ids}.items():
            template = template.replace(name, value)
        return template

    def _may_be_any(self, first: str) -> bool:
        return first != "{tenant_id}" or self._caller == "platform admin"

    def _made(self, first: str) -> str:
        people, tenant = self._world.people, self._world.tenant
        if first == "{tenant_id}":
            kind, made = "tenants", people.made("tenants")
        elif first == "{key_id}":
            kind, made = "keys", people.key(tenant_id=tenant, team_id=self._world.team)
        else:
            kind = {"{team_id}": "teams", "{user_id}": "users"}[first]
            made = people.made(kind, tenant_id=tenant)
        if self._row.endswith("/restore"):
            people.done("DELETE", f"/v1/{kind}/{made['id']}")
        return str(made["id"])

    def _service(self) -> str:
        people, key = self._world.people, self._world.keys["tenant admin"]
        answer = people.ask("POST", f"{REGISTRY}/services", {"name": f"made up {uuid4().hex}"}, key=key)
        assert answer.status == 201, answer.body
        return str(answer.json()["id"])

    def _member(self) -> str:
        people, team = self._world.people, self._world.team
        user = people.made("users", tenant_id=self._world.tenant)["id"]
        if self._row.startswith("DELETE "):
            people.done("PUT", f"/v1/teams/{team}/members/{user}", {"role": "member"})
        return str(user)
