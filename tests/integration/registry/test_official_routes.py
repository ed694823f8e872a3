"""Servers that everybody may read: one tenant's, without what is known of their services."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hx_gateway.access.principal import Scope
from hx_gateway.pipeline.routes import RouteSpec, Who, needs, open_to_all
from hx_gateway.registry.official.routes import official_routes
from hx_gateway.registry.official.server_json import OFFICIAL_META
from tests.integration.registry.registries import Registry
from tests.integration.registry.test_official_registry import Desk
from tests.unit.pipeline.doubles import context
from tests.unit.registry.official.documents import server

READS = {"servers", "server", "validate"}
OPEN = {"auth", "health", "ping", "version"}


def specs(desk: Desk, public_reads_tenant: str | None) -> dict[str, RouteSpec]:
    routes = official_routes(desk.official, public_reads_tenant=public_reads_tenant)
    return {route.name.removeprefix("registry_v01_"): route for route in routes if "_v01_" in route.name}


async def answered(spec: RouteSpec, path: str, desk: Desk | None = None, body: bytes = b"", **params: str) -> Any:
    ctx = context(path, method=next(iter(spec.methods)), body=body, spec=spec)
    ctx.path_params = params
    ctx.principal = desk.ann.principal if desk is not None else None
    assert spec.handler is not None
    reply = await spec.handler(ctx)
    assert isinstance(reply.body, bytes)
    return msgspec.json.decode(reply.body)


@pytest.fixture
def desk(registry: Registry) -> Desk:
    return Desk(registry)


def test_nothing_is_public_unless_it_is_said_whose(desk: Desk) -> None:
    closed = specs(desk, None)
    assert {name for name, route in closed.items() if route.policy.who is Who.ANYONE} == OPEN
    assert {name for name, route in closed.items() if route.policy == needs(Scope.REGISTRY_READ)} == READS
    opened = specs(desk, desk.registry.tenant)
    assert {name for name, route in opened.items() if route.policy == open_to_all(Scope.REGISTRY_READ)} == READS
    assert {name for name, route in opened.items() if route.policy.who is Who.ANYONE} == OPEN


async def test_who_shows_no_key_reads_the_public_tenant_and_learns_nothing_of_its_services(
    desk: Desk, rival: Registry
) -> None:
    other = Desk(rival)
    await desk.publish()
    await other.publish(name="com.example/secret")
    routes = specs(desk, desk.registry.tenant)
    page = await answered(routes["servers"], "/v0.1/servers")
    assert [each["server"]["name"] for each in page["servers"]] == ["com.example/mail"]
    assert page["servers"][0]["_meta"].keys() == {OFFICIAL_META}
    rest = "com.example/mail/versions/latest"
    one = await answered(routes["server"], f"/v0.1/servers/{rest}", rest=rest)
    assert one == page["servers"][0]
    body = msgspec.json.encode(server(version="2.0.0"))
    assert (await answered(routes["validate"], "/v0.1/validate", body=body))["valid"] is True


async def test_who_shows_a_key_reads_its_own_tenant(desk: Desk, rival: Registry) -> None:
    other = Desk(rival)
    await desk.publish()
    await other.publish(name="com.example/secret")
    page = await answered(specs(desk, desk.registry.tenant)["servers"], "/v0.1/servers", other)
    assert [each["server"]["name"] for each in page["servers"]] == ["com.example/secret"]
    assert "com.acme/service" in page["servers"][0]["_meta"]
