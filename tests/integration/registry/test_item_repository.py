"""Services by what they are and how they are, and their dependencies, which never close a cycle."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import text as sql

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_items import BuildType, ServicePriority, ServiceProtocol, ServiceStatus
from hx_gateway.db.models.validation import InvalidModel
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.errors import NotFound
from hx_gateway.registry.errors import DependencyCycle
from tests.integration.registry.registries import NOON, Registry, names

NOBODY = UUID(int=7)
MINUTE = timedelta(minutes=1)
HEALTHY, UNHEALTHY = ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY


async def test_services_are_found_by_what_they_are(registry: Registry) -> None:
    await registry.create("mail", build_type="docker", is_required=True, status="healthy")
    await registry.create("store", status="healthy", is_enabled=False)
    await registry.create("index", status="disabled")
    async with registry.open() as items:
        found = await items.get_by_name("Mail")
        assert found is not None
        assert found.name == "mail"
        assert await items.get_by_name("mai") is None
        assert names((await items.get_by_build_type(BuildType.DOCKER)).items) == ["mail"]
        assert sorted(names((await items.get_by_status(HEALTHY)).items)) == ["mail", "store"]
        assert names((await items.get_healthy_services()).items) == ["mail"]
        assert names((await items.get_required_services()).items) == ["mail"]
        page = await items.get_by_status(HEALTHY, limit=1)
        assert len((await items.get_by_status(HEALTHY, limit=1, cursor=page.next_cursor)).items) == 1


async def test_services_are_found_by_any_or_all_of_tags(registry: Registry) -> None:
    await registry.create("a", tags=["x", "y"])
    await registry.at(NOON + MINUTE).create("b", tags=["y"])
    await registry.create("c")
    async with registry.open() as items:
        assert names((await items.get_by_tags(["y", "z"])).items) == ["a", "b"]
        assert names((await items.get_by_tags(["x", "y"], match_all=True)).items) == ["a"]
        assert names((await items.get_by_tags(["Y"])).items) == []
        page = await items.get_by_tags({"y"}, limit=1)
        assert names((await items.get_by_tags({"y"}, limit=1, cursor=page.next_cursor)).items) == ["b"]
        for broken in ([], ["a\0"], [1]):
            with pytest.raises(InvalidField, match="tags: must be one text or more"):
                await items.get_by_tags(broken)  # type: ignore[arg-type]


async def test_services_are_found_by_the_beginnings_of_words(registry: Registry) -> None:
    await registry.create("com.example/Mail-Sender_v2", display_name="Outgoing post", tags=["smtp-relay"])
    await registry.at(NOON + MINUTE).create(
        "store", description="Keeps what mail holds; see http://docs.example.org/mail"
    )
    wanted = {
        "mail": ["com.example/Mail-Sender_v2", "store"],
        "MAIL send": ["com.example/Mail-Sender_v2"],
        "example": ["com.example/Mail-Sender_v2", "store"],
        "v2": ["com.example/Mail-Sender_v2"],
        "post": ["com.example/Mail-Sender_v2"],
        "relay": ["com.example/Mail-Sender_v2"],
        "keeps hold": ["store"],
        "ail": [],
        "mail nothing": [],
        "mail' | 'x": [],
        "mail & !store": ["store"],
    }
    async with registry.open() as items:
        for text, found in wanted.items():
            assert names((await items.search(text)).items) == found, text
        assert names((await items.search("mail", filters={"display_name": None})).items) == ["store"]
        page = await items.search("mail", limit=1)
        assert names((await items.search("mail", limit=1, cursor=page.next_cursor)).items) == ["store"]
        for text in ("", "  -- ", "x" * 201, "x " * 17, "a\0"):
            with pytest.raises(InvalidField, match="text: must have 1 to"):
                await items.search(text)


async def test_what_was_renamed_is_found_by_its_new_name(registry: Registry) -> None:
    item = await registry.create("mail")
    async with registry.open() as items:
        await items.update(item.id, {"name": "post"})
        assert (await items.search("mail")).items == []
        assert names((await items.search("post")).items) == ["post"]
        assert await items.get_by_name("mail") is None


# Health


async def test_a_probe_counts_and_leaves_the_wide_row_alone(registry: Registry) -> None:
    item = await registry.create("mail")
    for number, status in enumerate((HEALTHY, HEALTHY, UNHEALTHY, HEALTHY)):
        async with registry.at(NOON + MINUTE * number).open() as items:
            shown = await items.update_health_status(item.id, status, response_time_ms=float(number))
            assert shown.status is status
    found = await registry.get(item)
    assert (found.success_count, found.failure_count, found.get_health_score()) == (3, 1, 0.75)
    assert (found.last_seen, found.last_health_check, found.response_time_ms) == (NOON + MINUTE * 3,) * 2 + (3.0,)
    query = "SELECT xmin::text, ctid::text FROM hx_registry.registry_items"
    before = await registry.rows(query)
    async with registry.open() as items:
        await items.update_health_status(item.id, HEALTHY)
    assert await registry.rows(query) == before


async def test_only_a_change_of_the_status_is_written_down(registry: Registry) -> None:
    item = await registry.create("mail")
    for status in (HEALTHY, HEALTHY, UNHEALTHY, UNHEALTHY):
        async with registry.open() as items:
            await items.update_health_status(item.id, status)
    assert (await registry.audit(item))[1:] == [
        ("updated", {"status": "unknown"}, {"status": "healthy"}),
        ("updated", {"status": "healthy"}, {"status": "unhealthy"}),
    ]
    assert (await registry.get(item)).row_version == 3
    assert await registry.first_broken_entry() is None


async def test_a_probe_does_not_end_a_maintenance(registry: Registry) -> None:
    item = await registry.create("mail")
    for status in (ServiceStatus.MAINTENANCE, HEALTHY, UNHEALTHY):
        async with registry.open() as items:
            await items.update_health_status(item.id, status)
    found = await registry.get(item)
    assert (found.status, found.success_count, found.failure_count) == (ServiceStatus.MAINTENANCE, 1, 1)
    assert len(await registry.audit(item)) == 2


async def test_probes_at_once_all_count(registry: Registry) -> None:
    item = await registry.create("mail")

    async def probe(status: ServiceStatus) -> None:
        async with registry.open() as items:
            await items.update_health_status(item.id, status)

    await asyncio.gather(*(probe(HEALTHY if number % 3 else UNHEALTHY) for number in range(24)))
    found = await registry.get(item)
    assert (found.success_count, found.failure_count) == (16, 8)
    assert await registry.first_broken_entry() is None


async def test_a_probe_waits_for_nobody_who_changes_other_things(registry: Registry) -> None:
    item = await registry.create("mail", status="healthy")
    other = await registry.create("store")
    async with registry.open() as slow:
        await slow.update(other.id, {"port": 1})
        async with asyncio.timeout(2), registry.open() as items:
            assert (await items.update_health_status(item.id, HEALTHY)).success_count == 1


async def test_a_probe_of_what_is_not_there_or_makes_no_sense_is_refused(registry: Registry) -> None:
    item = await registry.create("mail")
    async with registry.open() as items:
        with pytest.raises(NotFound):
            await items.update_health_status(NOBODY, HEALTHY)
        for time in (-1.0, float("nan")):
            with pytest.raises(InvalidModel, match="response_time_ms: must"):
                await items.update_health_status(item.id, HEALTHY, response_time_ms=time)
        await items.delete(item.id)
        with pytest.raises(NotFound):
            await items.update_health_status(item.id, HEALTHY)
    assert (await registry.get(item)).success_count == 0


async def test_services_that_were_not_seen_for_long_or_never_are_stale(registry: Registry) -> None:
    never, early, late = await registry.create_all("never", "early", "late")
    async with registry.open() as items:
        assert await items.bulk_update_last_seen([early.id, NOBODY], at=NOON - MINUTE) == {early.id}
        assert await items.bulk_update_last_seen([late.id]) == {late.id}
        assert await items.bulk_update_last_seen([]) == set()
    async with registry.at(NOON + MINUTE).open() as items:
        assert sorted(names((await items.get_stale_services(MINUTE)).items)) == ["early", "never"]
        assert names((await items.get_stale_services(MINUTE * 2)).items) == ["never"]
        assert await items.bulk_update_last_seen([late.id], at=NOON - MINUTE * 9) == {late.id}
        await items.delete(never.id)
        assert await items.bulk_update_last_seen([never.id]) == set()
        assert (await items.get_stale_services(MINUTE * 2)).items == []
        with pytest.raises(InvalidField, match="At most 500 at once"):
            await items.bulk_update_last_seen([UUID(int=number) for number in range(501)])
    assert (await registry.get(late)).last_seen == NOON
    assert len(await registry.audit(late)) == 1


async def test_sights_at_once_in_any_order_do_not_meet(registry: Registry) -> None:
    ids = [item.id for item in await registry.create_all(*(f"s{number}" for number in range(20)))]

    async def see(order: list[UUID]) -> None:
        async with registry.open() as items:
            assert await items.bulk_update_last_seen(order) == set(ids)

    await asyncio.gather(*(see(ids[:: 1 if number % 2 else -1]) for number in range(10)))


async def test_sights_of_several_wait_for_none_while_they_keep_others_from_one(registry: Registry) -> None:
    ids = sorted([(await registry.create(f"s{number}")).id for number in range(2)])
    async with registry.open() as items:
        await items.update(ids[1], {"version": "2"})

        async def see() -> set[UUID]:
            async with registry.open() as others:
                return await others.bulk_update_last_seen(ids)

        seeing = asyncio.create_task(see())
        await asyncio.sleep(0.2)
        # The other way round: where the sights held this one, both would wait until PostgreSQL ended one of them.
        await items.update(ids[0], {"version": "2"})
        assert not seeing.done()
    assert await seeing == set(ids)


async def test_statistics_are_those_of_the_services(registry: Registry) -> None:
    async with registry.open() as items:
        empty = await items.get_service_statistics()
    assert (empty.total, empty.success_count, empty.average_response_time_ms) == (0, 0, None)
    mail = await registry.create("mail", build_type="docker", is_required=True, priority="critical")
    await registry.create("store", protocol="http", is_required=True, is_enabled=False)
    gone = await registry.create("gone")
    async with registry.open() as items:
        await items.update_health_status(mail.id, HEALTHY, response_time_ms=4.0)
        await items.update_health_status(gone.id, UNHEALTHY, response_time_ms=9.0)
        await items.delete(gone.id)
        found = await items.get_service_statistics()
    assert (found.total, found.active, found.deleted, found.enabled) == (3, 2, 1, 1)
    assert (found.required, found.required_not_healthy) == (2, 1)
    assert (found.success_count, found.failure_count, found.average_response_time_ms) == (1, 0, 4.0)
    assert found.by_status == {**dict.fromkeys(ServiceStatus, 0), HEALTHY: 1, ServiceStatus.UNKNOWN: 1}
    assert found.by_build_type == {**dict.fromkeys(BuildType, 0), BuildType.DOCKER: 1, BuildType.FASTMCP: 1}
    assert found.by_protocol == {**dict.fromkeys(ServiceProtocol, 0), ServiceProtocol.HTTP: 1, ServiceProtocol.STDIO: 1}
    wanted = {**dict.fromkeys(ServicePriority, 0), ServicePriority.CRITICAL: 1, ServicePriority.MEDIUM: 1}
    assert found.by_priority == wanted


# Dependencies


async def test_both_ends_tell_of_a_dependency(registry: Registry) -> None:
    mail, store, index = await registry.create_all("mail", "store", "index")
    async with registry.open() as items:
        shown = await items.add_dependency(mail.id, store.id)
        assert shown.dependencies == [store.id]
        await items.add_dependency(mail.id, index.id)
        await items.add_dependency(mail.id, index.id)
        assert names(await items.get_dependencies(mail.id)) == ["index", "store"]
        with pytest.raises(NotFound):
            await items.get_dependencies(NOBODY)
    assert (await registry.get(mail)).dependencies == sorted([store.id, index.id])
    assert (await registry.get(store)).dependents == [mail.id]
    async with registry.open() as items:
        await items.remove_dependency(mail.id, store.id)
        await items.remove_dependency(mail.id, store.id)
    assert (await registry.get(mail)).dependencies == [index.id]
    assert (await registry.get(store)).dependents == []
    told = await registry.audit(mail)
    assert [action for action, _, _ in told] == ["created", "updated", "updated", "updated"]
    assert told[1][1:] == ({"dependencies": []}, {"dependencies": [str(store.id)]})


async def test_dependencies_are_given_with_the_other_fields(registry: Registry) -> None:
    store, index = await registry.create_all("store", "index")
    mail = await registry.create("mail", dependencies=[str(store.id)])
    assert (await registry.get(mail)).dependencies == [store.id]
    async with registry.open() as items:
        await items.update(mail.id, {"dependencies": [index.id]})
        with pytest.raises(NotFound) as caught:
            await items.update(mail.id, {"dependencies": [NOBODY]})
        assert caught.value.param == "dependencies"
    assert (await registry.get(mail)).dependencies == [index.id]
    assert (await registry.get(store)).dependents == []


async def test_what_is_deleted_keeps_its_edges_and_takes_no_new_ones(registry: Registry) -> None:
    mail, store, index = await registry.create_all("mail", "store", "index")
    async with registry.open() as items:
        await items.add_dependency(mail.id, store.id)
        await items.delete(store.id)
        assert await items.get_dependencies(mail.id) == []
        with pytest.raises(NotFound):
            await items.add_dependency(index.id, store.id)
        await items.restore(store.id)
        assert names(await items.get_dependencies(mail.id)) == ["store"]


async def test_a_cycle_is_refused_with_its_path(registry: Registry) -> None:
    a, b, c = await registry.create_all("a", "b", "c")
    async with registry.open() as items:
        await items.add_dependency(a.id, b.id)
        await items.add_dependency(b.id, c.id)
        with pytest.raises(DependencyCycle, match="c → a → b → c") as caught:
            await items.add_dependency(c.id, a.id)
        assert (caught.value.status, caught.value.path) == (409, ("c", "a", "b", "c"))
        with pytest.raises(DependencyCycle, match="b → a → b"):
            await items.update(b.id, {"dependencies": [c.id, a.id]})
        with pytest.raises(DependencyCycle, match="a → a"):
            await items.add_dependency(a.id, a.id)
        # Also through what is deleted: it may be restored.
        await items.delete(b.id)
        with pytest.raises(DependencyCycle, match="c → a → b → c"):
            await items.add_dependency(c.id, a.id)
    assert (await registry.get(c)).dependencies == []


async def test_updates_of_many_close_no_cycle_between_them(registry: Registry) -> None:
    a, b = await registry.create_all("a", "b")
    changes = [(a.id, {"dependencies": [b.id]}), (b.id, {"dependencies": [a.id]})]
    async with registry.open() as items:
        result = await items.bulk_update(changes)
    assert names(result.items) == ["a"]
    assert isinstance(result.failures[0].error, DependencyCycle)
    assert (await registry.get(b)).dependencies == []


@pytest.mark.parametrize("length", [2, 4])
async def test_of_those_who_would_close_a_cycle_together_one_is_refused(registry: Registry, length: int) -> None:
    for attempt in range(5):
        ring = await registry.create_all(*(f"{attempt}-{number}" for number in range(length)))

        async def add(item_id: UUID, depends_on_id: UUID) -> bool:
            try:
                async with registry.open() as items:
                    await items.add_dependency(item_id, depends_on_id)
                    # Others have begun by now, and would not see this edge.
                    await asyncio.sleep(0.02)
            except DependencyCycle:
                return False
            return True

        pairs = zip(ring, [*ring[1:], ring[0]], strict=True)
        done = await asyncio.gather(*(add(item.id, other.id) for item, other in pairs))
        assert sorted(done) == [False, *[True] * (length - 1)]
    edges = await registry.rows("SELECT * FROM hx_registry.registry_dependencies")
    assert len(edges) == 5 * (length - 1)


async def test_a_long_way_round_is_found_and_not_told_in_full(registry: Registry) -> None:
    async with registry.open() as items:
        chain = (await items.bulk_create([{"name": f"s{number}"} for number in range(60)])).items
        for item, other in pairwise(chain):
            await items.add_dependency(item.id, other.id)
        with pytest.raises(DependencyCycle) as caught:
            await items.add_dependency(chain[-1].id, chain[0].id)
    assert len(caught.value.path) == 61
    assert caught.value.message.endswith("… → s59.")


@pytest.mark.parametrize(
    ("ends", "constraint"),
    [
        ("(:a, :a)", "registry_dependencies_not_itself"),
        ("(:a, gen_random_uuid())", "registry_dependencies_depends_on_fkey"),
    ],
)
async def test_the_database_refuses_edges_too(registry: Registry, ends: str, constraint: str) -> None:
    item = await registry.create("a")
    values = ends.replace("(", f"('{registry.tenant}', ", 1)
    with pytest.raises(Exception, match=constraint):
        await registry.rows(
            "INSERT INTO hx_registry.registry_dependencies (tenant_id, item_id, depends_on_id) "
            f"VALUES {values} RETURNING tenant_id",
            a=item.id,
        )


# Plans


@pytest.mark.parametrize(
    ("condition", "index"),
    [("name_key = lower('S77')", "registry_items_by_name"), ("created_at > now()", "registry_items_living_by_age")],
)
async def test_look_ups_use_their_index_behind_row_level_security(
    registry: Registry, condition: str, index: str
) -> None:
    async with registry.open() as items:
        await items.bulk_create([{"name": f"s{number}"} for number in range(500)])
    async with registry.database.session(EVERY_TENANT) as session:
        await session.execute(sql("ANALYZE hx_registry.registry_items"))
    query = f"SELECT id FROM hx_registry.registry_items WHERE tenant_id = '{registry.tenant}' AND deleted_at IS NULL"
    plan = await registry.rows(f"EXPLAIN {query} AND {condition}")
    lines = [row["QUERY PLAN"] for row in plan]
    assert any(index in line for line in lines), lines
    assert any("Index Cond" in line and condition.split(maxsplit=1)[0] in line for line in lines), lines
