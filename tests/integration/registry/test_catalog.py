"""The catalogue answers in an actor's name: services by id or name, what they depend on, many at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from hx_gateway.access.errors import Conflict
from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId
from hx_gateway.access.resources import Actor
from hx_gateway.errors import HXError, NotFound
from hx_gateway.registry import (
    Bulk,
    BulkOptions,
    Deleted,
    Dependencies,
    DependencyCycle,
    HasDependents,
    ServiceStatus,
    Standing,
    Transactions,
    VersionConflict,
)
from hx_gateway.registry.catalog import Catalog, OnConflict
from hx_gateway.registry.item_repository import ServiceSearch
from tests.integration.registry.registries import Registry, SetClock

AUDIT_KEY = b"k" * 32


class Desk:
    """The catalogue, asked by a member of the tenant."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.clock = SetClock()
        transactions = Transactions(registry.database, audit_key=AUDIT_KEY, clock=self.clock)
        self.catalog = Catalog(transactions)
        self.bulk = Bulk(transactions)
        self.dependencies = Dependencies(transactions)
        self.standing = Standing(transactions)
        self.member = self.actor(Role.MEMBER)

    def actor(self, role: Role) -> Actor:
        principal = Principal(
            key_id=KeyId("key-ann"),
            tenant_id=TenantId(self.registry.tenant),
            user_id="us-ann",
            role=role,
            scopes=frozenset(Scope),
        )
        return Actor(principal=principal, request_id="req_test", client="192.0.2.1")

    async def create(self, name: str, **fields: Any) -> dict[str, Any]:
        made, new = await self.catalog.create(self.member, {"name": name, **fields})
        assert new
        return made

    async def names(self, search: ServiceSearch, **more: Any) -> list[str]:
        page = await self.catalog.find(self.member, search, sort="name", **more)
        return [item["name"] for item in page.items]


@pytest.fixture
def desk(registry: Registry) -> Desk:
    return Desk(registry)


async def test_a_service_is_found_by_its_id_and_by_its_name(desk: Desk) -> None:
    made = await desk.create("Weather", tags=["demo"], endpoint="https://weather.example.org/mcp")
    for ref in (made["id"], made["id"].upper(), "Weather", "weather", "WEATHER"):
        assert (await desk.catalog.get(desk.member, ref))["id"] == made["id"]
    assert (made["created_by"], made["status"], made["row_version"]) == ("us-ann", "unknown", 1)


@pytest.mark.parametrize("ref", ["6f1f2f0e-0000-4000-8000-000000000000", "nothing", "", "x" * 300, "a\0b"])
async def test_what_is_not_there_is_not_found(desk: Desk, ref: str) -> None:
    await desk.create("weather")
    with pytest.raises(NotFound) as caught:
        await desk.catalog.get(desk.member, ref)
    assert caught.value.param == "ref"


async def test_a_name_that_reads_like_an_id_is_one_all_the_same(desk: Desk) -> None:
    name = str(uuid4())
    made = await desk.create(name)
    assert (await desk.catalog.get(desk.member, name))["id"] == made["id"]


async def test_nobody_asks_for_another_tenant_but_an_admin_of_the_platform(desk: Desk, rival: Registry) -> None:
    theirs = Desk(rival)
    made = await theirs.create("weather")
    for ask in (desk.catalog.get(desk.member, made["id"]), desk.catalog.get(desk.member, "weather")):
        with pytest.raises(NotFound):
            await ask
    with pytest.raises(NotFound) as caught:
        await desk.catalog.get(desk.actor(Role.TENANT_ADMIN), "weather", tenant_id=rival.tenant)
    assert caught.value.param == "tenant_id"
    root = desk.actor(Role.PLATFORM_ADMIN)
    assert (await desk.catalog.get(root, "weather", tenant_id=rival.tenant))["id"] == made["id"]
    assert await desk.names(ServiceSearch()) == []


async def test_what_becomes_of_a_name_that_is_taken_is_the_askers_choice(desk: Desk) -> None:
    first = await desk.create("weather", version="1")
    with pytest.raises(Conflict):
        await desk.catalog.create(desk.member, {"name": "Weather", "version": "2"})
    ways: tuple[OnConflict, ...] = ("update", "restore")
    for way in ways:
        same, new = await desk.catalog.create(desk.member, {"name": "weather", "version": way}, on_conflict=way)
        assert (same["id"], same["version"], new) == (first["id"], way, False)
    await desk.catalog.delete(desk.member, "weather")
    fresh, new = await desk.catalog.create(desk.member, {"name": "weather"}, on_conflict="update")
    assert (new, fresh["id"] == first["id"]) == (True, False)
    desk.clock.time += timedelta(minutes=1)
    await desk.catalog.delete(desk.member, "weather")
    back, new = await desk.catalog.create(desk.member, {"name": "weather", "version": "3"}, on_conflict="restore")
    assert (back["id"], back["version"], back["is_deleted"], new) == (fresh["id"], "3", False, False)


async def test_of_two_that_register_themselves_at_once_one_is_made(desk: Desk) -> None:
    asks = (desk.catalog.create(desk.member, {"name": "weather"}, on_conflict="update") for _ in range(4))
    made = await asyncio.gather(*asks)
    assert sorted(new for _, new in made) == [False, False, False, True]
    assert len({item["id"] for item, _ in made}) == 1


async def test_a_list_takes_all_that_is_asked_together(desk: Desk) -> None:
    await desk.create("alpha", tags=["a", "x"], description="forecasts", is_required=True)
    await desk.create("beta", tags=["b", "x"], description="forecasts")
    await desk.create("gamma", tags=["c"], description="maps")
    await desk.create("delta", tags=["a"])
    await desk.catalog.delete(desk.member, "delta")
    assert await desk.names(ServiceSearch(text="forecast", tags=frozenset({"a"}))) == ["alpha"]
    assert await desk.names(ServiceSearch(tags=frozenset({"a", "x"}), tags_match="all")) == ["alpha"]
    assert await desk.names(ServiceSearch(tags=frozenset({"a", "b"}))) == ["alpha", "beta"]
    assert await desk.names(ServiceSearch(tags=frozenset({"x"}), tags_match="none")) == ["gamma"]
    assert await desk.names(ServiceSearch(deleted="only")) == ["delta"]
    assert await desk.names(ServiceSearch(deleted="with", tags=frozenset({"a"}))) == ["alpha", "delta"]
    assert await desk.names(ServiceSearch(filters={"is_required": True}, stale_for=timedelta(hours=1))) == ["alpha"]
    page = await desk.catalog.find(desk.member, ServiceSearch(text="forecast"), sort="name", limit=1)
    rest = await desk.catalog.find(
        desk.member, ServiceSearch(text="forecast"), sort="name", limit=1, cursor=page.next_cursor
    )
    assert [item["name"] for item in (*page.items, *rest.items)] == ["alpha", "beta"]
    with pytest.raises(HXError):
        await desk.catalog.find(desk.member, ServiceSearch(text="maps"), sort="name", cursor=page.next_cursor)


async def test_who_changes_something_may_say_which_version_it_has_read(desk: Desk) -> None:
    made = await desk.create("weather")
    changed = await desk.catalog.update(desk.member, "weather", {"version": "2"}, expected_version=1)
    assert (changed["version"], changed["row_version"]) == ("2", 2)
    with pytest.raises(VersionConflict):
        await desk.catalog.update(desk.member, "weather", {"version": "3"}, expected_version=1)
    with pytest.raises(VersionConflict):
        await desk.catalog.delete(desk.member, "weather", expected_version=1)
    assert (await desk.catalog.get(desk.member, made["id"]))["version"] == "2"


async def test_what_others_need_is_not_deleted_by_accident(desk: Desk) -> None:
    for name in ("database", "api", "web"):
        await desk.create(name)
    await desk.dependencies.add(desk.member, "api", "database")
    await desk.dependencies.add(desk.member, "web", "api")
    with pytest.raises(HasDependents) as caught:
        await desk.catalog.delete(desk.member, "database")
    assert caught.value.dependents == ("api",)
    left = await desk.catalog.delete(desk.member, "database", dependents="force")
    api = await desk.catalog.get(desk.member, "api")
    assert (left["is_deleted"], api["dependencies"]) == (True, [left["id"]])
    assert await desk.dependencies.of(desk.member, "api") == []
    await desk.catalog.restore(desk.member, "database")
    await desk.catalog.delete(desk.member, "api", dependents="detach")
    assert (await desk.catalog.get(desk.member, "web"))["dependencies"] == []
    with pytest.raises(Deleted):
        await desk.catalog.get(desk.member, "api")
    assert (await desk.catalog.get(desk.member, "api", include_deleted=True))["is_deleted"]


async def test_dependencies_are_seen_from_both_ends_and_close_no_cycle(desk: Desk) -> None:
    for name in ("database", "api", "web"):
        await desk.create(name)
    await desk.dependencies.add(desk.member, "web", "api")
    await desk.dependencies.add(desk.member, "api", "database")
    assert [item["name"] for item in await desk.dependencies.dependents_of(desk.member, "database")] == ["api"]
    assert [item["name"] for item in await desk.dependencies.of(desk.member, "web")] == ["api"]
    with pytest.raises(DependencyCycle) as caught:
        await desk.dependencies.add(desk.member, "database", "web")
    assert caught.value.path == ("database", "web", "api", "database")
    with pytest.raises(NotFound) as unknown:
        await desk.dependencies.add(desk.member, "web", "nothing")
    assert unknown.value.param == "depends_on"
    await desk.dependencies.remove(desk.member, "api", "database")
    assert await desk.dependencies.dependents_of(desk.member, "database") == []


async def test_of_the_deleted_the_last_one_of_a_name_comes_back(desk: Desk) -> None:
    ids = []
    for _ in range(2):
        ids.append((await desk.create("weather"))["id"])
        desk.clock.time += timedelta(minutes=1)
        await desk.catalog.delete(desk.member, "weather")
    assert (await desk.catalog.restore(desk.member, "weather"))["id"] == ids[1]
    with pytest.raises(Conflict):
        await desk.catalog.restore(desk.member, ids[0])


async def test_many_are_made_and_each_is_told_of(desk: Desk) -> None:
    await desk.create("taken")
    several: list[dict[str, Any]] = [
        {"name": "one"},
        {"name": "taken"},
        {"name": "two", "port": 70_000},
        {"name": "three"},
    ]
    told = await desk.bulk.create(desk.member, several, BulkOptions(dry_run=True))
    assert (told.created, told.failed, told.dry_run) == (2, 2, True)
    assert await desk.names(ServiceSearch()) == ["taken"]
    refused = await desk.bulk.create(desk.member, several, BulkOptions(atomic=True))
    assert (refused.created, refused.failed, refused.results[2]["param"]) == (0, 4, "port")
    assert [result["code"] for result in refused.results if result["index"] != 2] == ["not_kept"] * 3
    assert await desk.names(ServiceSearch()) == ["taken"]
    kept = await desk.bulk.create(desk.member, several)
    assert [(result["index"], result["item"]["name"]) for result in kept.results if "item" in result] == [
        (0, "one"),
        (3, "three"),
    ]
    assert [(result["index"], result["param"]) for result in kept.results if "error" in result] == [
        (1, "name"),
        (2, "port"),
    ]
    assert await desk.names(ServiceSearch()) == ["one", "taken", "three"]


async def test_what_is_found_out_is_noted_and_sights_come_many_at_once(desk: Desk) -> None:
    made = await desk.create("weather")
    await desk.create("Maps")
    noted = await desk.standing.note_health(desk.member, "weather", ServiceStatus.HEALTHY, response_time_ms=12.5)
    assert (noted["status"], noted["response_time_ms"], noted["health_score"]) == ("healthy", 12.5, 1.0)
    desk.clock.time += timedelta(minutes=5)
    unknown = str(uuid4())
    missed = await desk.standing.heartbeats(desk.member, [made["id"], "maps", unknown, "nothing", "a\0b"])
    assert missed == [unknown, "nothing", "a\0b"]
    assert await desk.names(ServiceSearch(stale_for=timedelta(minutes=1))) == []
    desk.clock.time += timedelta(minutes=5)
    assert await desk.names(ServiceSearch(stale_for=timedelta(minutes=1))) == ["Maps", "weather"]
    numbers = await desk.catalog.statistics(desk.member)
    assert (numbers["active"], numbers["by_status"]["healthy"]) == (2, 2)


async def test_changes_are_in_the_audit_log_with_who_made_them(desk: Desk) -> None:
    await desk.create("weather")
    await desk.catalog.update(desk.member, "weather", {"version": "2"})
    await desk.catalog.delete(desk.member, "weather")
    assert [action for action, _, _ in await desk.registry.audit()] == ["created", "updated", "deleted"]
    assert await desk.registry.first_broken_entry() is None
