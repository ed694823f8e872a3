"""What every repository does: read in pages, change whole or not at all, and write each change down."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from hx_gateway.access.errors import Conflict, InvalidField
from hx_gateway.db.models.registry_items import BuildType, ServicePriority, ServiceStatus
from hx_gateway.db.models.validation import InvalidModel
from hx_gateway.errors import HXError, NotFound
from hx_gateway.registry.errors import VersionConflict
from hx_gateway.registry.repository import MAX_BULK, BulkRefused
from tests.integration.registry.registries import ANN, NOON, Registry, names

NOBODY = UUID(int=7)
MINUTE = timedelta(minutes=1)


async def test_what_was_created_is_read_as_it_was_given(registry: Registry) -> None:
    given: dict[str, Any] = {
        "name": "mail",
        "display_name": "Mail",
        "description": "Sends mail.",
        "build_type": "docker",
        "protocol": "http",
        "priority": "critical",
        "status": "maintenance",
        "location": "rack 1",
        "endpoint": "http://mail.example.org/mcp",
        "port": 443,
        "version": "1.2.3",
        "tags": ["mail", "out"],
        "service_metadata": {"owner": "ann", "n": 1.5},
        "config": {"health": {"interval": 15}},
        "health_check_url": "http://mail.example.org/health",
        "is_required": True,
        "is_enabled": False,
        "auto_start": True,
        "source": "official",
        "registry_url": "http://registry.example.org",
    }
    async with registry.open() as items:
        made = await items.create(given)
        shown = made.to_dict(exclude={"age_seconds"})
    found = (await registry.get(made)).to_dict(exclude={"age_seconds"})
    assert found == shown
    assert {name: found[name] for name in given} == given
    assert (found["tenant_id"], found["row_version"], found["created_by"]) == (registry.tenant, 1, ANN.name)
    assert found["created_at"] == found["updated_at"] == NOON.isoformat()


async def test_what_is_not_there_is_none_or_not_found(registry: Registry) -> None:
    async with registry.open() as items:
        assert await items.get(NOBODY) is None
        assert await items.get_by_field("source", "nowhere") is None
        for asked in (items.update(NOBODY, {"port": 1}), items.delete(NOBODY), items.restore(NOBODY)):
            with pytest.raises(NotFound, match="There is no registry_item"):
                await asked


async def test_an_update_is_noted_once(registry: Registry) -> None:
    item = await registry.create("mail", port=25)
    later = registry.at(NOON + MINUTE)
    async with later.open() as items:
        await items.update(item.id, {"port": 465, "tags": ["a"], "status": "disabled"})
        await items.update(item.id, {"port": 465})
    found = await registry.get(item)
    assert (found.port, found.tags, found.status, found.row_version) == (465, ["a"], ServiceStatus.DISABLED, 2)
    assert (found.updated_at, found.updated_by, found.created_at) == (NOON + MINUTE, ANN.name, NOON)


async def test_a_version_that_is_not_expected_is_refused(registry: Registry) -> None:
    item = await registry.create("mail")
    async with registry.open() as items:
        assert (await items.update(item.id, {"port": 1}, expected_version=1)).row_version == 2
        with pytest.raises(VersionConflict, match="version 2, not 1") as caught:
            await items.update(item.id, {"port": 2}, expected_version=1)
        with pytest.raises(VersionConflict):
            await items.delete(item.id, expected_version=1)
    assert caught.value.status == 412
    assert (await registry.get(item)).port == 1


async def test_a_deleted_one_is_out_of_sight_and_comes_back(registry: Registry) -> None:
    item = await registry.create("mail")
    async with registry.open() as items:
        await items.delete(item.id)
        assert await items.get(item.id) is None
        assert (await items.get_multi()).items == []
        assert (await items.count(), await items.exists({"name": "mail"})) == (0, False)
        with pytest.raises(NotFound):
            await items.delete(item.id)
        with pytest.raises(NotFound):
            await items.update(item.id, {"port": 1})
        found = await items.get(item.id, include_deleted=True)
        assert found is not None
        assert (found.is_deleted, found.is_active, found.deleted_at) == (True, False, NOON)
        assert (await items.count(include_deleted=True), await items.exists(include_deleted=True)) == (1, True)
        assert names((await items.get_multi(include_deleted=True)).items) == ["mail"]
        await items.restore(item.id)
        assert (await items.restore(item.id)).row_version == 3
        assert await items.get(item.id) is not None


async def test_a_deleted_name_is_taken_again_and_not_given_back(registry: Registry) -> None:
    first = await registry.create("Mail")
    async with registry.open() as items:
        await items.delete(first.id)
    second = await registry.create("mail")
    async with registry.open() as items:
        with pytest.raises(Conflict, match="name: a service with this name exists already") as caught:
            await items.restore(first.id)
        assert caught.value.param == "name"
        found = await items.get_by_name("MAIL")
        assert found is not None
        assert found.id == second.id
        await items.delete(second.id)
        await items.restore(first.id)


async def test_a_name_of_the_living_is_taken_whatever_its_case(registry: Registry) -> None:
    await registry.create("mail")
    other = await registry.create("store")
    async with registry.open() as items:
        with pytest.raises(Conflict) as caught:
            await items.create({"name": "MAIL"})
        assert (caught.value.status, caught.value.param) == (409, "name")
        with pytest.raises(Conflict):
            await items.update(other.id, {"name": "Mail"})
    assert (await registry.get(other)).name == "store"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "name"),
        ({"name": "mail", "colour": "red"}, "colour"),
        ({"name": "mail", "id": str(NOBODY)}, "id"),
        ({"name": "mail", "tenant_id": "rival"}, "tenant_id"),
        ({"name": "mail", "success_count": 5}, "success_count"),
        ({"name": "mail", "port": 0}, "port"),
        ({"name": "mail", "dependencies": [str(NOBODY)]}, "dependencies"),
    ],
)
async def test_what_breaks_a_rule_is_not_created(registry: Registry, values: dict[str, Any], field: str) -> None:
    async with registry.open() as items:
        with pytest.raises(HXError) as caught:
            await items.create(values)
        assert caught.value.param == field
        assert await items.count(include_deleted=True) == 0
    assert await registry.audit() == []


# What the program checks first the database refuses too.
BROKEN_ROWS = {
    "port = 0": "registry_items_port_check",
    "service_metadata = '[]'": "registry_items_service_metadata_check",
    "config = '1'": "registry_items_config_check",
    "is_active = false": "registry_items_check",
    "tenant_id = 'nobody'": "registry_items_tenant_id_fkey",
}


@pytest.mark.parametrize("broken", BROKEN_ROWS)
async def test_the_rules_of_the_database_have_their_errors(registry: Registry, broken: str) -> None:
    item = await registry.create("mail")
    async with registry.open() as items:
        rule = items.rules[BROKEN_ROWS[broken]]
        if broken.startswith("tenant_id"):
            await items._session.execute(text("SELECT set_config('hx.tenant', '*', true)"))
            await items._session.execute(text("DELETE FROM hx_registry.registry_health"))
        statement = text(f"UPDATE hx_registry.registry_items SET {broken} WHERE id = :id")
        with pytest.raises(type(rule.broken()), match=f"{rule.field}: ") as caught:
            async with items._write():
                await items._session.execute(statement, {"id": item.id})
        assert caught.value.param == rule.field


# Lists


async def test_lists_are_filtered_by_values_lists_of_them_and_none(registry: Registry) -> None:
    await registry.create("mail", build_type="docker", port=25, is_required=True)
    await registry.create("store", build_type="stub", source="x")
    await registry.create("index", status="healthy")
    wanted: list[tuple[dict[str, Any], list[str]]] = [
        ({"build_type": BuildType.DOCKER}, ["mail"]),
        ({"build_type": "stub"}, ["store"]),
        ({"build_type": ["docker", "stub"]}, ["mail", "store"]),
        ({"build_type": set()}, []),
        ({"source": None}, ["index", "mail"]),
        ({"port": 25, "is_required": True}, ["mail"]),
        ({"port": 25, "is_required": False}, []),
        ({"status": "healthy"}, ["index"]),
        ({"name": "MAIL"}, ["mail"]),
        ({"name": ["Mail", "STORE"]}, ["mail", "store"]),
        ({"success_count": 0, "last_seen": None}, ["index", "mail", "store"]),
    ]
    async with registry.open() as items:
        for filters, found in wanted:
            assert names((await items.get_multi(filters, sort="name")).items) == found, filters
            assert await items.count(filters) == len(found)
            assert await items.exists(filters) is bool(found)


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"colour": 1}, "colour"),
        ({"tags": ["a"]}, "tags"),
        ({"port": "25"}, "port"),
        ({"build_type": "x"}, "build_type"),
        ({"source": ["a\0"]}, "source"),
        ({"port": [*range(501)]}, "port"),
    ],
)
async def test_a_filter_that_fits_no_field_is_refused(registry: Registry, filters: dict[str, Any], field: str) -> None:
    async with registry.open() as items:
        for asked in (items.get_multi(filters), items.count(filters), items.search("a", filters=filters)):
            with pytest.raises(HXError) as caught:
                await asked
            assert (caught.value.status, caught.value.param) == (422, field)


@pytest.mark.parametrize("sort", ["name", "-name", "created_at", "-created_at", "priority", "-priority", "status"])
async def test_pages_hold_everything_once_and_in_order(registry: Registry, sort: str) -> None:
    priorities = list(ServicePriority)
    for number in range(11):
        made = registry.at(NOON + MINUTE * (number % 3))
        await made.create(
            f"s{number % 7}{number}", priority=priorities[number % 4], status=list(ServiceStatus)[number % 5]
        )
    async with registry.open() as items:
        whole = (await items.get_multi(sort=sort)).items
        pages, cursor = [], None
        while True:
            page = await items.get_multi(sort=sort, limit=3, cursor=cursor)
            pages.append(page.items)
            cursor = page.next_cursor
            if cursor is None:
                break
    assert [len(page) for page in pages] == [3, 3, 3, 2]
    assert [item.id for page in pages for item in page] == [item.id for item in whole]
    field = sort.removeprefix("-")
    values = [getattr(item, field) for item in whole]
    ranks: dict[str, list[Any]] = {"priority": priorities, "status": list(ServiceStatus)}
    shown = [ranks[field].index(value) if field in ranks else value for value in values]
    assert shown == sorted(shown, reverse=sort.startswith("-"))


@pytest.mark.parametrize(
    ("options", "field"),
    [({"sort": "port"}, "sort"), ({"limit": 0}, "limit"), ({"limit": 201}, "limit"), ({"cursor": "abc"}, "cursor")],
)
async def test_pages_have_bounds(registry: Registry, options: dict[str, Any], field: str) -> None:
    async with registry.open() as items:
        with pytest.raises(InvalidField) as caught:
            await items.get_multi(**options)
    assert caught.value.param == field


async def test_a_cursor_is_good_for_the_same_list_only(registry: Registry) -> None:
    await registry.create_all("a", "b", "c")
    async with registry.open() as items:
        cursor = (await items.get_multi({"port": None}, sort="name", limit=1)).next_cursor
        assert names((await items.get_multi({"port": None}, sort="name", limit=1, cursor=cursor)).items) == ["b"]
        for filters, sort in (({}, "name"), ({"port": None}, "-name")):
            with pytest.raises(InvalidField, match="other filters"):
                await items.get_multi(filters, sort=sort, cursor=cursor)


async def test_the_oldest_of_several_is_got_by_a_field(registry: Registry) -> None:
    await registry.at(NOON + MINUTE).create("late", source="x")
    early = await registry.create("early", source="x")
    async with registry.open() as items:
        found = await items.get_by_field("source", "x")
    assert found is not None
    assert found.id == early.id


# Many at once


async def test_one_bad_item_of_500_is_told_and_the_rest_is_kept(registry: Registry) -> None:
    await registry.create("s321")
    many: list[dict[str, Any]] = [{"name": f"s{number}", "tags": ["bulk"]} for number in range(MAX_BULK)]
    many[17] = {"name": "s17", "port": 0}
    async with registry.open() as items:
        result = await items.bulk_create(many)
    assert [(failure.index, failure.error.param) for failure in result.failures] == [(17, "port"), (321, "name")]
    assert isinstance(result.failures[1].error, Conflict)
    assert names(result.items) == [f"s{number}" for number in range(MAX_BULK) if number not in (17, 321)]
    async with registry.open() as items:
        assert await items.count() == MAX_BULK - 1
    assert len(await registry.audit()) == MAX_BULK - 1
    assert await registry.first_broken_entry() is None


@pytest.mark.parametrize("bad", [{"name": "s1", "port": 0}, {"name": "TAKEN"}], ids=["rule", "taken"])
async def test_of_many_that_belong_together_nothing_is_kept(registry: Registry, bad: dict[str, Any]) -> None:
    await registry.create("taken")
    many: list[dict[str, Any]] = [{"name": f"s{number}"} for number in range(MAX_BULK)]
    many[250] = bad
    async with registry.open() as items:
        with pytest.raises(BulkRefused, match="Nothing was kept: 1 cannot be; the one at 250: ") as caught:
            await items.bulk_create(many, atomic=True)
        assert [failure.index for failure in caught.value.failures] == [250]
        assert await items.count() == 1
    assert len(await registry.audit()) == 1


async def test_many_that_are_right_are_kept_together(registry: Registry) -> None:
    async with registry.open() as items:
        result = await items.bulk_create([{"name": f"s{number}"} for number in range(MAX_BULK)], atomic=True)
        assert (len(result.items), result.failures) == (MAX_BULK, [])
        with pytest.raises(InvalidField, match="At most 500 at once, not 501"):
            await items.bulk_create([{}] * (MAX_BULK + 1))


async def test_a_name_that_is_there_twice_is_kept_once(registry: Registry) -> None:
    async with registry.open() as items:
        result = await items.bulk_create([{"name": "a"}, {"name": "A"}, {"name": "b"}])
    assert names(result.items) == ["a", "b"]
    assert [failure.index for failure in result.failures] == [1]


async def test_many_are_updated_but_for_those_that_cannot_be(registry: Registry) -> None:
    a, b, c = await registry.create_all("a", "b", "c")
    changes: list[tuple[UUID, dict[str, Any]]] = [
        (a.id, {"port": 1}),
        (b.id, {"name": "C"}),
        (NOBODY, {"port": 1}),
        (c.id, {"port": 3}),
        (c.id, {"port": 4}),
        (uuid4(), {"colour": 1}),
    ]
    async with registry.open() as items:
        result = await items.bulk_update(changes)
        told = [(failure.index, failure.error.param) for failure in result.failures]
        assert told == [(1, "name"), (2, "id"), (4, "id"), (5, "colour")]
        assert [(item.name, item.port) for item in result.items] == [("a", 1), ("c", 3)]
        with pytest.raises(BulkRefused):
            await items.bulk_update([(a.id, {"port": 9}), (b.id, {"port": 0})], atomic=True)
    assert [(await registry.get(item)).port for item in (a, b, c)] == [1, None, 3]


# Errors and the audit log


async def test_what_fails_leaves_nothing_and_the_transaction_goes_on(registry: Registry) -> None:
    item = await registry.create("mail", port=25)
    await registry.create("taken")
    async with registry.open() as items:
        with pytest.raises(InvalidModel):
            await items.update(item.id, {"tags": ["x"], "port": 0})
        with pytest.raises(Conflict):
            await items.update(item.id, {"tags": ["x"], "name": "taken"})
        await items.update(item.id, {"port": 26})
    found = await registry.get(item)
    assert (found.name, found.tags, found.port, found.row_version) == ("mail", [], 26, 2)
    assert [action for action, _, _ in await registry.audit(item)] == ["created", "updated"]


async def test_an_undone_transaction_leaves_nothing(registry: Registry) -> None:
    async def work() -> None:
        async with registry.open() as items:
            await items.bulk_create([{"name": "a"}, {"name": "b"}])
            raise KeyError

    with pytest.raises(KeyError):
        await work()
    assert await registry.audit() == []
    for table in ("items", "health", "dependencies"):
        assert await registry.rows(f"SELECT * FROM hx_registry.registry_{table}") == []


async def test_each_change_is_written_down_with_what_differs(registry: Registry) -> None:
    item = await registry.create("mail", config={"api_key": "s3cret", "n": 1})
    async with registry.open() as items:
        await items.update(item.id, {"port": 25, "config": {"api_key": "other", "n": 1}})
        await items.update(item.id, {"port": 25})
        await items.delete(item.id)
        await items.restore(item.id)
    created, updated, deleted, restored = await registry.audit(item)
    assert (created[0], created[1], created[2]["name"]) == ("created", None, "mail")
    assert created[2]["config"] == {"api_key": "***", "n": 1}
    assert not {"updated_at", "row_version", "success_count", "age_seconds"} & created[2].keys()
    masked = {"api_key": "***", "n": 1}
    assert updated == ("updated", {"port": None, "config": masked}, {"port": 25, "config": masked})
    assert (deleted[0], deleted[1]["port"], deleted[2]) == ("deleted", 25, None)
    assert restored == ("restored", {"deleted_at": NOON.isoformat()}, {"deleted_at": None})
    (row, *_) = await registry.rows("SELECT * FROM hx_gateway.audit_log ORDER BY id")
    named = (row["actor_key"], row["actor_user"], row["object_kind"], row["request_id"], row["at"])
    assert named == (ANN.key, ANN.user, "registry_item", ANN.request_id, NOON)
    assert await registry.first_broken_entry() is None


async def test_changes_at_once_keep_the_chain_whole(registry: Registry) -> None:
    await asyncio.gather(*(registry.create(f"s{number}") for number in range(12)))
    assert len(await registry.audit()) == 12
    assert await registry.first_broken_entry() is None


async def test_nothing_is_registered_for_a_tenant_that_is_not_there(registry: Registry) -> None:
    await registry.rows("UPDATE hx_gateway.tenants SET deleted_at = now() RETURNING id")
    with pytest.raises(NotFound, match="There is no tenant") as caught:
        await registry.create("mail")
    assert caught.value.param == "tenant_id"


# Tenants


async def test_tenants_share_neither_names_nor_services(registry: Registry, rival: Registry) -> None:
    own, theirs = await registry.create("mail"), await rival.create("mail")
    async with registry.open() as items:
        assert [item.id for item in (await items.get_multi(include_deleted=True)).items] == [own.id]
        assert await items.get(theirs.id) is None
        for asked in (
            items.update(theirs.id, {"port": 1}),
            items.delete(theirs.id),
            items.update(own.id, {"dependencies": [theirs.id]}),
            items.add_dependency(own.id, theirs.id),
            items.update_health_status(theirs.id, ServiceStatus.HEALTHY),
        ):
            with pytest.raises(NotFound):
                await asked
        assert await items.bulk_update_last_seen([own.id, theirs.id]) == {own.id}
    assert (await rival.get(theirs)).last_seen is None


async def test_statements_that_forget_the_tenant_find_its_own_rows(registry: Registry, rival: Registry) -> None:
    for side in (registry, rival):
        first, second = await side.create_all("a", "b")
        async with side.open() as items:
            await items.add_dependency(first.id, second.id)
    for table in ("items", "health", "dependencies"):
        rows = await registry.rows(f"SELECT tenant_id FROM hx_registry.registry_{table}")
        assert {row["tenant_id"] for row in rows} == {registry.tenant}
