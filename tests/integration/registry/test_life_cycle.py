"""Services that go for good, services that are not there yet, and what is told of both."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from hx_gateway.access.principal import Role
from hx_gateway.access.resources import Actor
from hx_gateway.db.models.validation import InvalidModel
from hx_gateway.errors import Forbidden, NotFound
from hx_gateway.registry import BulkOptions, HasDependents, VersionConflict
from hx_gateway.registry.bulk import Selection
from hx_gateway.registry.errors import NotDeleted
from hx_gateway.registry.feed.changes import ChangeType
from hx_gateway.registry.feed.repository import ChangeRepository
from hx_gateway.registry.history import History
from hx_gateway.registry.item_repository import ServiceSearch
from tests.integration.registry.registries import Registry
from tests.integration.registry.test_catalog import Desk

TABLES = (
    "registry_items",
    "registry_health",
    "registry_dependencies",
    "registry_pending_dependencies",
    "registry_words",
    "registry_tags",
    "registry_versions",
)
PUBLISH = """
INSERT INTO hx_registry.registry_versions
    (item_id, tenant_id, name, version, document, status_changed_at, published_at, updated_at)
SELECT id, tenant_id, 'a/b', '1.0.0', '{}', now(), now(), now() FROM hx_registry.registry_items
WHERE name = 'weather' RETURNING 1
"""


@pytest.fixture
def desk(registry: Registry) -> Desk:
    return Desk(registry)


@pytest.fixture
def admin(desk: Desk) -> Actor:
    return desk.actor(Role.TENANT_ADMIN)


async def told(desk: Desk) -> list[tuple[str, str | None]]:
    """Return the changes as those see them who follow the registry from its beginning: type and name."""
    changes = await ChangeRepository(desk.registry.database).after(desk.registry.tenant, 0, 100)
    return [(change.type.value.partition(".")[2], change.name) for change in changes]


async def pending(desk: Desk, name: str) -> tuple[list[str], list[str]]:
    """Return the names that a service depends on, and those that it waits for."""
    item = await desk.catalog.get(desk.member, name)
    ends = [end["name"] for end in await desk.dependencies.of(desk.member, name)]
    assert len(ends) == len(item["dependencies"])
    return ends, item["pending_dependencies"]


# For good


async def test_what_is_removed_for_good_leaves_nothing_but_its_log(desk: Desk, admin: Actor) -> None:
    made = await desk.create("weather", tags=["a"], pending_dependencies=["maps"])
    await desk.create("clock")
    await desk.dependencies.add(desk.member, "weather", "clock")
    await desk.registry.rows(PUBLISH)
    await desk.catalog.delete(desk.member, "weather")
    gone = await desk.catalog.purge(admin, made["id"])
    assert (gone["id"], gone["is_deleted"]) == (made["id"], True)
    for table in TABLES:
        column = "id" if table == "registry_items" else "item_id"
        query = f"SELECT 1 FROM hx_registry.{table} WHERE {column} = :id"
        assert await desk.registry.rows(query, id=UUID(made["id"])) == [], table
    numbers = await desk.catalog.statistics(desk.member)
    assert (numbers["total"], numbers["deleted"]) == (1, 0)
    entries = [(action, after) for action, _, after in await desk.registry.audit() if action == "purged"]
    assert entries == [("purged", None)]
    assert await desk.registry.first_broken_entry() is None
    with pytest.raises(NotFound):
        await desk.catalog.purge(admin, made["id"])
    with pytest.raises(NotFound):
        await desk.catalog.get(desk.member, "weather", include_deleted=True)


async def test_only_what_is_deleted_goes_for_good_and_only_admins_let_it(desk: Desk, admin: Actor) -> None:
    await desk.create("weather")
    with pytest.raises(NotDeleted) as living:
        await desk.catalog.purge(admin, "weather")
    assert (living.value.status, living.value.code, living.value.param) == (409, "not_deleted", "hard")
    await desk.catalog.delete(desk.member, "weather")
    with pytest.raises(Forbidden):
        await desk.catalog.purge(desk.member, "weather")
    with pytest.raises(VersionConflict):
        await desk.catalog.purge(admin, "weather", expected_version=1)
    assert (await desk.catalog.purge(admin, "weather", expected_version=2))["name"] == "weather"


async def test_nobody_removes_what_is_anothers(desk: Desk, rival: Registry, admin: Actor) -> None:
    theirs = Desk(rival)
    made = await theirs.create("weather")
    await theirs.catalog.delete(theirs.member, "weather")
    for ref in (made["id"], "weather"):
        with pytest.raises(NotFound):
            await desk.catalog.purge(admin, ref)
    with pytest.raises(NotFound) as caught:
        await desk.catalog.purge(admin, "weather", tenant_id=rival.tenant)
    assert caught.value.param == "tenant_id"
    assert (await theirs.catalog.get(theirs.member, made["id"], include_deleted=True))["name"] == "weather"


async def test_those_that_depend_on_it_are_asked_about_and_may_wait_for_its_name(desk: Desk, admin: Actor) -> None:
    first = await desk.create("Maps")
    for name in ("weather", "clock"):
        await desk.create(name, dependencies=[first["id"]])
    await desk.catalog.delete(desk.member, "maps", dependents="force")
    with pytest.raises(HasDependents):
        await desk.catalog.purge(admin, "maps")
    await desk.catalog.purge(admin, "maps", dependents="force")
    for name in ("weather", "clock"):
        assert await pending(desk, name) == ([], ["Maps"])
    await desk.create("maps")
    for name in ("weather", "clock"):
        assert await pending(desk, name) == (["maps"], [])
    await desk.catalog.delete(desk.member, "maps", dependents="force")
    await desk.catalog.purge(admin, "maps", dependents="detach")
    assert await pending(desk, "weather") == ([], [])


async def test_many_are_removed_and_each_is_told_of(desk: Desk, admin: Actor) -> None:
    for name in ("one", "two", "three"):
        await desk.create(name)
    for name in ("one", "two"):
        await desk.catalog.delete(desk.member, name)
    selection = Selection(refs=["one", "two", "three", "nothing"])
    tried = await desk.bulk.purge(admin, selection, BulkOptions(dry_run=True))
    assert (tried.purged, tried.failed) == (2, 2)
    atomic = await desk.bulk.purge(admin, selection, BulkOptions(atomic=True))
    assert (atomic.purged, atomic.failed) == (0, 4)
    assert await desk.names(ServiceSearch(deleted="only")) == ["one", "two"]
    done = await desk.bulk.purge(admin, selection)
    assert [(result["status"], result.get("code")) for result in done.results] == [
        ("purged", None),
        ("purged", None),
        ("failed", "not_deleted"),
        ("failed", "not_found"),
    ]
    assert await desk.names(ServiceSearch(deleted="with")) == ["three"]
    with pytest.raises(Forbidden):
        await desk.bulk.purge(desk.member, selection)


async def test_whoever_follows_learns_the_whole_life_of_one_that_is_gone(desk: Desk, admin: Actor) -> None:
    made = await desk.create("weather", tags=["a"], is_required=True)
    await desk.catalog.update(desk.member, "weather", {"version": "2"})
    await desk.catalog.delete(desk.member, "weather")
    await desk.catalog.purge(admin, "weather")
    changes = await ChangeRepository(desk.registry.database).after(desk.registry.tenant, 0, 100)
    assert [(change.type, change.name, change.tags, change.is_required) for change in changes] == [
        (type_, "weather", frozenset("a"), True)
        for type_ in (ChangeType.CREATED, ChangeType.UPDATED, ChangeType.DELETED, ChangeType.PURGED)
    ]
    history = History(desk.catalog.transactions)
    page = await history.entries(desk.member, {}, ref=made["id"])
    assert [entry["action"] for entry in page["items"]] == ["purged", "deleted", "updated", "created"]
    with pytest.raises(NotFound):
        await history.entries(desk.member, {}, ref="weather")


async def test_a_removal_and_a_creation_of_the_same_name_at_once_are_both_done(desk: Desk, admin: Actor) -> None:
    await desk.create("web", pending_dependencies=["weather"])
    for _ in range(5):
        old = await desk.create("weather")
        await desk.catalog.delete(desk.member, "weather", dependents="force")
        made, gone = await asyncio.gather(
            desk.catalog.create(desk.member, {"name": "weather"}),
            desk.catalog.purge(admin, old["id"], dependents="force"),
        )
        assert (gone["id"], made[1]) == (old["id"], True)
        assert await pending(desk, "web") == (["weather"], [])
        assert (await desk.catalog.get(desk.member, "weather"))["id"] == made[0]["id"] != old["id"]
        await desk.catalog.delete(desk.member, "weather", dependents="force")
        await desk.catalog.purge(admin, "weather", dependents="force")


# Not there yet


async def test_what_a_service_waits_for_is_its_dependency_once_it_is_there(desk: Desk) -> None:
    await desk.create("weather", pending_dependencies=["Maps", "clock"])
    assert await pending(desk, "weather") == ([], ["Maps", "clock"])
    await desk.create("maps")
    assert await pending(desk, "weather") == (["maps"], ["clock"])
    await desk.create("watch")
    await desk.catalog.update(desk.member, "watch", {"name": "Clock"})
    assert await pending(desk, "weather") == (["Clock", "maps"], [])
    assert await told(desk) == [
        ("created", "weather"),
        ("created", "maps"),
        ("dependency_changed", "weather"),
        ("created", "watch"),
        ("updated", "Clock"),
        ("dependency_changed", "weather"),
    ]
    assert await desk.registry.first_broken_entry() is None


async def test_one_that_comes_back_is_met_too_and_one_that_is_there_already_at_once(desk: Desk) -> None:
    await desk.create("maps")
    await desk.create("clock")
    await desk.catalog.delete(desk.member, "maps")
    made = await desk.create("weather", pending_dependencies=["MAPS", "Clock"])
    assert await pending(desk, "weather") == (["clock"], ["MAPS"])
    assert made["pending_dependencies"] == ["MAPS"]
    await desk.catalog.restore(desk.member, "maps")
    assert await pending(desk, "weather") == (["clock", "maps"], [])


async def test_one_that_is_deleted_itself_meets_nobody_before_it_is_back(desk: Desk) -> None:
    await desk.create("weather", pending_dependencies=["maps"])
    await desk.catalog.delete(desk.member, "weather")
    await desk.create("maps")
    assert (await desk.catalog.get(desk.member, "weather", include_deleted=True))["pending_dependencies"] == ["maps"]
    await desk.catalog.restore(desk.member, "weather")
    assert await pending(desk, "weather") == (["maps"], [])


async def test_what_would_close_a_circle_goes_on_waiting_and_is_tried_again(desk: Desk) -> None:
    await desk.create("weather", pending_dependencies=["maps"])
    await desk.create("maps", dependencies=["weather"])
    assert await pending(desk, "weather") == ([], ["maps"])
    assert await pending(desk, "maps") == (["weather"], [])
    await desk.dependencies.remove(desk.member, "maps", "weather")
    assert await pending(desk, "weather") == ([], ["maps"])
    await desk.catalog.update(desk.member, "weather", {"version": "2"})
    assert await pending(desk, "weather") == (["maps"], [])


async def test_of_those_that_wait_for_each_other_in_a_circle_one_goes_on_waiting(desk: Desk) -> None:
    several = [{"name": name, "pending_dependencies": [end]} for name, end in ("ab", "bc", "ca")]
    assert (await desk.bulk.create(desk.member, several)).created == 3
    found = [await pending(desk, name) for name in "abc"]
    assert sorted(len(ends) for ends, _ in found) == [0, 1, 1]
    assert sorted(len(waits) for _, waits in found) == [0, 0, 1]


async def test_what_is_waited_for_may_be_set_and_taken_back(desk: Desk) -> None:
    await desk.create("weather", pending_dependencies=["maps"])
    await desk.catalog.update(desk.member, "weather", {"pending_dependencies": ["clock", "maps"]})
    assert await pending(desk, "weather") == ([], ["clock", "maps"])
    await desk.catalog.replace(desk.member, "weather", {"name": "weather"})
    assert await pending(desk, "weather") == ([], [])
    await desk.create("maps")
    assert await pending(desk, "weather") == ([], [])


async def test_a_version_that_depends_on_what_is_gone_comes_back_and_waits_for_the_names(
    desk: Desk, admin: Actor
) -> None:
    ends = ["clock", "maps", "radar", "tides"]
    for name in ends:
        await desk.create(name)
    await desk.create("weather", dependencies=ends, pending_dependencies=["CLOUDS"])
    await desk.catalog.update(desk.member, "weather", {"dependencies": [], "pending_dependencies": ["Clouds"]})
    for name in ("maps", "radar", "tides"):
        await desk.catalog.delete(desk.member, name)
    for name in ("maps", "tides"):
        await desk.catalog.purge(admin, name)
    await desk.create("Tides")
    history = History(desk.catalog.transactions)
    await history.revert(desk.member, "weather", 1)
    assert await pending(desk, "weather") == (["Tides", "clock"], ["CLOUDS", "maps", "radar"])
    await desk.catalog.restore(desk.member, "radar")
    await desk.create("maps")
    assert await pending(desk, "weather") == (["Tides", "clock", "maps", "radar"], ["CLOUDS"])
    # One that it depends on already stays its dependency, deleted or not.
    await desk.catalog.delete(desk.member, "radar", dependents="force")
    kept = await history.revert(desk.member, "weather", 6)
    assert (len(kept["dependencies"]), kept["pending_dependencies"]) == (4, ["CLOUDS"])


async def test_a_version_does_not_wait_for_its_own_name(desk: Desk, admin: Actor) -> None:
    await desk.create("radar")
    await desk.create("maps", dependencies=["radar"])
    await desk.catalog.update(desk.member, "maps", {"name": "atlas", "dependencies": []})
    await desk.catalog.update(desk.member, "radar", {"name": "Maps"})
    await desk.catalog.delete(desk.member, "Maps")
    await desk.catalog.purge(admin, "Maps")
    back = await History(desk.catalog.transactions).revert(desk.member, "atlas", 1)
    assert (back["name"], back["dependencies"], back["pending_dependencies"]) == ("maps", [], [])


@pytest.mark.parametrize(
    "names", [["weather"], ["WEATHER"], ["a", "A"], [""], [" a"], ["a\0"], ["\ud800"], ["x" * 256], [5], "maps", None]
)
async def test_names_that_nobody_can_have_are_refused(desk: Desk, names: Any) -> None:
    with pytest.raises(InvalidModel) as caught:
        await desk.create("weather", pending_dependencies=names)
    assert caught.value.param == "pending_dependencies"


async def test_names_are_waited_for_within_a_tenant(desk: Desk, rival: Registry) -> None:
    await desk.create("weather", pending_dependencies=["maps"])
    await Desk(rival).create("maps")
    assert await pending(desk, "weather") == ([], ["maps"])


async def test_of_two_that_write_at_once_each_finds_the_other(desk: Desk) -> None:
    for number in range(5):
        near, far = f"near-{number}", f"far-{number}"
        await asyncio.gather(desk.create(near, pending_dependencies=[far]), desk.create(far))
        assert await pending(desk, near) == ([far], [])
        one, other = f"one-{number}", f"other-{number}"
        await asyncio.gather(
            desk.create(one, pending_dependencies=[other]), desk.create(other, pending_dependencies=[one])
        )
        found = [await pending(desk, name) for name in (one, other)]
        assert sorted(len(ends) for ends, _ in found) == [0, 1]


# Many at once


async def test_a_new_one_may_depend_on_one_that_the_same_request_brings_back(desk: Desk) -> None:
    await desk.create("maps")
    await desk.catalog.delete(desk.member, "maps")
    several: list[dict[str, Any]] = [
        {"name": "weather", "dependencies": ["maps"]},
        {"name": "maps", "dependencies": ["tiles"]},
        {"name": "tiles"},
    ]
    done = await desk.bulk.create(desk.member, several, on_conflict="restore")
    assert [result["status"] for result in done.results] == ["created", "restored", "created"]
    assert await pending(desk, "weather") == (["maps"], [])
    assert await pending(desk, "maps") == (["tiles"], [])


async def test_an_admin_of_the_platform_is_told_of_a_tenant_that_there_is_not(desk: Desk) -> None:
    root = desk.actor(Role.PLATFORM_ADMIN)
    with pytest.raises(NotFound) as caught:
        await desk.catalog.find(root, ServiceSearch(), tenant_id="tn-nobody")
    assert caught.value.param == "tenant_id"
    assert (await desk.catalog.find(root, ServiceSearch())).items == []


async def test_a_sight_of_a_stale_one_makes_it_due(desk: Desk) -> None:
    made = await desk.create("weather", protocol="http", endpoint="http://192.0.2.1/mcp")
    later = desk.clock.now() + timedelta(days=1)
    query = "UPDATE hx_registry.registry_health SET stale = :stale, next_check_at = :later RETURNING 1"
    due = "SELECT next_check_at FROM hx_registry.registry_health"
    await desk.registry.rows(query, stale=False, later=later)
    await desk.standing.heartbeats(desk.member, [made["id"]])
    assert (await desk.registry.rows(due))[0]["next_check_at"] == later
    await desk.registry.rows(query, stale=True, later=later)
    await desk.standing.heartbeats(desk.member, [made["id"]])
    assert (await desk.registry.rows(due))[0]["next_check_at"] == desk.clock.now()
