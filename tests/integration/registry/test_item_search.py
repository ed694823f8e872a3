"""Searches find what the rows say, near or gathered, page by page; words, tags and counts follow every change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_items import RegistryItem, ServicePriority, ServiceStatus
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.errors import NotFound
from hx_gateway.migrations.runner import downgrade, upgrade
from hx_gateway.registry import item_search
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.repository import Page
from hx_gateway.registry.searches import ServiceSearch
from hx_gateway.services.base import DependencyError
from tests.fixtures.servers import Servers
from tests.integration.db.databases import migrated_database
from tests.integration.registry.registries import NOON, Registry, names

MINUTE = timedelta(minutes=1)
VOCABULARY = ("mail", "mailer", "store", "index", "m", "v2", "relay")
TAGS = ("x", "y", "z", "X")
WORDS_OF_ROWS = """
SELECT tenant_id, lexeme AS word, id AS item_id FROM hx_registry.registry_items, unnest(words)
WHERE deleted_at IS NULL ORDER BY 1, 2, 3
"""
WORDS_KEPT = "SELECT tenant_id, word, item_id FROM hx_registry.registry_words ORDER BY 1, 2, 3"
TAGS_OF_ROWS = """
SELECT DISTINCT tenant_id, tag COLLATE "C" AS tag, id AS item_id FROM hx_registry.registry_items, unnest(tags) AS tag
WHERE deleted_at IS NULL AND tag IS NOT NULL ORDER BY 1, 2, 3
"""
TAGS_KEPT = "SELECT tenant_id, tag, item_id FROM hx_registry.registry_tags ORDER BY 1, 2, 3"
LIKE = "build_type, protocol, priority, status, is_enabled, is_required, is_active"
COUNTS_OF_ROWS = f"""
SELECT i.tenant_id, {LIKE}, count(*) AS items FROM hx_registry.registry_items AS i
JOIN hx_registry.registry_health AS h ON h.tenant_id = i.tenant_id AND h.item_id = i.id
GROUP BY i.tenant_id, {LIKE} ORDER BY i.tenant_id, {LIKE}
"""
COUNTS_KEPT = f"""
SELECT tenant_id, {LIKE}, items FROM hx_registry.registry_counts WHERE items <> 0 ORDER BY tenant_id, {LIKE}
"""
IN_STEP = ((WORDS_KEPT, WORDS_OF_ROWS), (TAGS_KEPT, TAGS_OF_ROWS), (COUNTS_KEPT, COUNTS_OF_ROWS))


async def assert_in_step(registry: Registry) -> None:
    """Assert that words, tags and counts are what follows from the rows."""
    for kept, rows in IN_STEP:
        assert await registry.rows(kept) == await registry.rows(rows)


def drawn(random: Random) -> dict[str, Any]:
    """Return fields that are looked for."""
    return {
        "display_name": " ".join(random.choices(VOCABULARY, k=2)),
        "description": random.choice([None, "", "Keeps " + " ".join(random.choices(VOCABULARY, k=3)), "mail " * 99]),
        "tags": random.sample(TAGS, random.randrange(len(TAGS))),
        "build_type": random.choice(["docker", "stub"]),
        "protocol": random.choice(["stdio", "http"]),
        "priority": random.choice([*ServicePriority]).value,
        "is_required": random.random() < 0.3,
        "is_enabled": random.random() < 0.8,
    }


# What triggers keep


@pytest.mark.parametrize("seed", range(3))
async def test_words_tags_and_counts_follow_every_change(registry: Registry, rival: Registry, seed: int) -> None:
    random = Random(seed)
    items = [await registry.create(f"{seed}-{number}", **drawn(random)) for number in range(6)]
    await rival.create("mail", tags=["x"])
    async with registry.open() as repository:
        many = [{"name": f"{random.choice(VOCABULARY)}/{number}", **drawn(random)} for number in range(20)]
        items += (await repository.bulk_create(many)).items
    changes: list[Callable[[RegistryItemRepository, RegistryItem], Any]] = [
        lambda r, item: r.update(item.id, drawn(random)),
        lambda r, item: r.update(item.id, {"name": f"{random.choice(VOCABULARY)}-{random.random()}"}),
        lambda r, item: r.bulk_update([(item.id, {"tags": random.sample(TAGS, 2), "port": 1})]),
        lambda r, item: r.delete(item.id),
        lambda r, item: r.restore(item.id),
        lambda r, item: r.update_health_status(item.id, random.choice([*ServiceStatus])),
        lambda r, item: r.update_health_status(item.id, ServiceStatus.HEALTHY),
    ]
    for _ in range(80):
        item, change = random.choice(items), random.choice(changes)
        async with registry.open() as repository:
            found = await repository.get(item.id, include_deleted=True)
            assert found is not None
            if found.deleted_at is None or change is changes[4]:
                await change(repository, item)
    await assert_in_step(registry)
    async with registry.open() as repository:
        counted = await repository.get_service_statistics()
        assert counted.active == await repository.count()
        assert counted.total == len(items)
        assert counted.by_status[ServiceStatus.HEALTHY] == await repository.count({"status": "healthy"})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE hx_registry.registry_items SET name = 'other ' || name, tags = '{a,a,b,NULL}'",
        "UPDATE hx_registry.registry_items SET deleted_at = now(), is_active = false WHERE name = 'b'",
        "UPDATE hx_registry.registry_items SET priority = 'low', is_required = true WHERE name <> 'a'",
        "UPDATE hx_registry.registry_health SET status = 'disabled'",
        "DELETE FROM hx_registry.registry_health",
        "DELETE FROM hx_registry.registry_items WHERE name <> 'a'",
        "DELETE FROM hx_registry.registry_items",
        (
            "INSERT INTO hx_registry.registry_items (tenant_id, name, tags) SELECT tenant_id, name || ' too', '{x,x}' "
            "FROM hx_registry.registry_items"
        ),
        (
            "WITH made AS (INSERT INTO hx_registry.registry_items (tenant_id, name, tags) "
            "SELECT tenant_id, 'no health', '{x}' FROM hx_registry.registry_items LIMIT 1 RETURNING id) "
            "UPDATE hx_registry.registry_items SET priority = 'low' WHERE name = 'a'"
        ),
    ],
)
async def test_whoever_writes_by_hand_changes_words_tags_and_counts_too(registry: Registry, statement: str) -> None:
    for name in ("a", "b", "c"):
        await registry.create(name, tags=["x", name], description="mail")
    await registry.rows(f"{statement} RETURNING 1")
    await assert_in_step(registry)


async def test_tables_that_are_emptied_leave_nothing(registry: Registry, migrated: str) -> None:
    await registry.create("a", tags=["x"])
    connection = await asyncpg.connect(migrated)
    try:
        async with connection.transaction():
            await connection.execute("TRUNCATE hx_registry.registry_items CASCADE")
            for table in ("words", "tags", "counts"):
                assert await connection.fetch(f"SELECT FROM hx_registry.registry_{table}") == []
            raise asyncio.CancelledError
    except asyncio.CancelledError:
        pass
    finally:
        await connection.close()
    await assert_in_step(registry)


async def test_of_two_who_change_a_service_and_its_status_at_once_both_count(registry: Registry) -> None:
    items = await registry.create_all(*(f"s{number}" for number in range(8)))

    async def write(statement: str, item: RegistryItem) -> None:
        async with registry.database.session(registry.tenant) as session:
            await session.execute(sql(statement), {"id": item.id})
            # Both have begun by now.
            await asyncio.sleep(0.02)

    async def attempt(statement: str, item: RegistryItem) -> None:
        # Whoever came second may wait for the first, which waits for it: then one is refused, and nothing is lost.
        with suppress(DBAPIError, DependencyError):
            await write(statement, item)

    change = "UPDATE hx_registry.registry_items SET priority = 'low' WHERE id = :id"
    probe = "UPDATE hx_registry.registry_health SET status = 'healthy' WHERE item_id = :id"
    await asyncio.gather(*(attempt(statement, item) for item in items[:2] for statement in (change, probe)))
    await assert_in_step(registry)


async def test_a_probe_that_finds_nothing_new_writes_no_index(registry: Registry) -> None:
    item = await registry.create("mail", status="healthy")
    written = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'registry_health'"
    async with registry.open() as items:
        # To be seen for the first time is something new.
        await items.update_health_status(item.id, ServiceStatus.HEALTHY, response_time_ms=1.0)
        [(before, hot_before)] = (await items._session.execute(sql(written))).all()
        await items.update_health_status(item.id, ServiceStatus.HEALTHY, response_time_ms=2.0)
        [(after, hot_after)] = (await items._session.execute(sql(written))).all()
        assert (after - before, hot_after - hot_before) == (1, 1)
        counts = (await items._session.execute(sql(written.replace("registry_health", "registry_counts")))).all()
        assert all(row.n_tup_upd == 0 for row in counts)


async def test_the_database_numbers_statuses_in_their_order(registry: Registry) -> None:
    for status in ServiceStatus:
        await registry.create(f"one that is {status.value}", status=status)
    found = await registry.rows("SELECT status, status_rank FROM hx_registry.registry_health ORDER BY status")
    assert [tuple(row.values()) for row in found] == [(status.value, rank) for rank, status in enumerate(ServiceStatus)]


async def test_tenants_see_none_of_each_others_words(registry: Registry, rival: Registry) -> None:
    await registry.create("mail", tags=["x"])
    await rival.create("mail secret", tags=["x", "hidden"])
    assert {row["word"] for row in await registry.rows(WORDS_KEPT)} == {"mail", "x"}
    assert {row["tag"] for row in await registry.rows(TAGS_KEPT)} == {"x"}
    assert len(await registry.rows(COUNTS_KEPT)) == 1
    async with registry.open() as items:
        assert (await items.search("secret")).items == []
        assert (await items.get_by_tags(["hidden"])).items == []
        assert (await items.get_service_statistics()).total == 1


async def test_services_of_before_the_migration_are_filled_in(servers: Servers) -> None:
    with migrated_database(servers.postgres) as url:
        assert "0007" in await downgrade(url, "0006")
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                "INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by) VALUES ('t', 't', 'x', 'x');"
                "INSERT INTO hx_registry.registry_items (tenant_id, name, tags, deleted_at, is_active) VALUES "
                "('t', 'mail sender', '{x,x}', NULL, true), ('t', 'gone', '{y}', now(), false);"
                "INSERT INTO hx_registry.registry_health (tenant_id, item_id, status) "
                "SELECT 't', id, 'unhealthy' FROM hx_registry.registry_items;"
            )
            assert "0007" in await upgrade(url)
            for kept, rows in IN_STEP:
                assert await connection.fetch(kept) == await connection.fetch(rows)
            words = [row["word"] for row in await connection.fetch(WORDS_KEPT)]
            assert words == ["mail", "sender", "x"]
            assert await connection.fetchval("SELECT sum(items) FROM hx_registry.registry_counts") == 2
        finally:
            await connection.close()


# Searches


@pytest.fixture(params=[1, 7, item_search.NEARBY], ids=["gathered", "mostly gathered", "near"])
def nearby(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many be looked at one by one: with few, what is not found there is gathered."""
    monkeypatch.setattr(item_search, "NEARBY", request.param)


def passes(item: RegistryItem, search: ServiceSearch) -> bool:
    """Say the same in Python, of the plain words that are drawn here."""
    shown = " ".join(filter(None, (item.name, item.display_name, item.description, *item.tags))).lower()
    words = shown.replace("/", " ").replace("-", " ").split()
    beginnings = (search.text or "").lower().split()
    if not all(any(word.startswith(beginning) for word in words) for beginning in beginnings):
        return False
    has = [tag in item.tags for tag in search.tags]
    if search.tags and not {"any": any(has), "all": all(has), "none": not any(has)}[search.tags_match]:
        return False
    if search.stale_for is not None and item.last_seen is not None and item.last_seen >= NOON - search.stale_for:
        return False
    return all(getattr(item, field) in wanted for field, wanted in search.filters.items())


def search_of(random: Random) -> ServiceSearch:
    """Return a search that few or many pass."""
    filters: dict[str, Any] = {}
    if random.random() < 0.4:
        filters["priority"] = random.sample([*ServicePriority], 2)
    if random.random() < 0.3:
        filters["status"] = random.sample([*ServiceStatus], 2)
    if random.random() < 0.3:
        filters["is_required"] = [random.random() < 0.5]
    texts = [None, "MAIL", "m", "mail store", "keeps relay", "v2", "nothing", "s1"]
    return ServiceSearch(
        filters=filters,
        text=random.choice(texts),
        tags=frozenset(random.sample(TAGS, random.choice([0, 0, 1, 2]))),
        tags_match=random.choice(["any", "all", "none"]),
        stale_for=random.choice([None, None, MINUTE * 3]),
    )


async def all_pages(registry: Registry, search: ServiceSearch, sort: str) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    async with registry.open() as items:
        while True:
            page: Page[RegistryItem] = await items.find(search, sort=sort, limit=4, cursor=cursor)
            assert len(page.items) == 4 or page.next_cursor is None
            found += names(page.items)
            assert len(found) == len(set(found))
            cursor = page.next_cursor
            if cursor is None:
                return found


@pytest.mark.usefixtures("nearby")
async def test_every_search_in_every_order_finds_what_the_rows_say(registry: Registry, rival: Registry) -> None:
    random = Random(7)
    await rival.create("mail", tags=["x"])
    made = []
    for number in range(40):
        some = registry.at(NOON - MINUTE * random.randrange(9))
        item = await some.create(f"s{number}", **drawn(random), status=random.choice([*ServiceStatus]))
        made.append(item)
    async with registry.open() as items:
        for number, item in enumerate(made):
            if number % 3:
                await items.bulk_update_last_seen([item.id], at=NOON - MINUTE * (number % 7))
        await items.delete(made[3].id)
    living = [await registry.get(item) for number, item in enumerate(made) if number != 3]
    orders: dict[str, Callable[[RegistryItem], Any]] = {
        "created_at": lambda item: item.created_at,
        "name": lambda item: item.name,
        "priority": lambda item: [*ServicePriority].index(item.priority),
        "status": lambda item: [*ServiceStatus].index(item.status),
    }
    for number in range(60):
        search = search_of(random)
        sort = [*orders][number % len(orders)]
        down = number % 3 == 0
        wanted = sorted(
            (item for item in living if passes(item, search)),
            key=lambda item: (orders[sort](item), item.id),
            reverse=down,
        )
        assert await all_pages(registry, search, f"-{sort}" if down else sort) == names(wanted), search


@pytest.mark.usefixtures("nearby")
async def test_lists_in_several_orders_at_once_are_sorted_by_each_in_turn(registry: Registry, rival: Registry) -> None:
    random = Random(11)
    await rival.create("mail", tags=["x"])
    living = []
    for number in range(40):
        some = registry.at(NOON - MINUTE * random.randrange(4))
        item = await some.create(f"s{number}", **drawn(random), status=random.choice([*ServiceStatus]))
        living.append(await registry.get(item))
    async with registry.open() as items:
        await items.delete(living.pop().id)
    fields: dict[str, Callable[[RegistryItem], Any]] = {
        "created_at": lambda item: item.created_at,
        "name": lambda item: item.name,
        "priority": lambda item: [*ServicePriority].index(item.priority),
        "status": lambda item: [*ServiceStatus].index(item.status),
        "protocol": lambda item: item.protocol == "http",
    }
    for number in range(60):
        search = ServiceSearch() if number % 3 == 0 else search_of(random)
        chosen = [(field, random.random() < 0.5) for field in random.sample([*fields], random.randrange(2, 5))]
        wanted = sorted((item for item in living if passes(item, search)), key=lambda item: item.id)
        if chosen[-1][1]:
            wanted.reverse()
        # The least important first: sorting keeps the order of what is the same.
        for field, down in reversed(chosen):
            wanted.sort(key=fields[field], reverse=down)
        sort = ",".join(f"-{field}" if down else field for field, down in chosen)
        assert await all_pages(registry, search, sort) == names(wanted), (sort, search)


@pytest.mark.usefixtures("nearby")
@pytest.mark.parametrize("sort", ["name", "-priority,name"])
async def test_pages_by_number_are_those_that_cursors_lead_to(registry: Registry, sort: str) -> None:
    random = Random(5)
    for number in range(23):
        await registry.create(f"s{number}", **drawn(random))
    for search in (ServiceSearch(), ServiceSearch(text="mail"), ServiceSearch(filters={"is_enabled": True})):
        wanted = await all_pages(registry, search, sort)
        found: list[str] = []
        for skip in range(0, 24, 4):
            async with registry.open() as items:
                page = await items.find(search, sort=sort, limit=4, skip=skip)
                assert (page.next_cursor is not None) is (skip + 4 < len(wanted))
                found += names(page.items)
                if page.next_cursor is not None:
                    further = await items.find(search, sort=sort, limit=4, cursor=page.next_cursor)
                    assert names(further.items) == wanted[skip + 4 : skip + 8]
        assert found == wanted


@pytest.mark.parametrize("sort", ["", "name,", "name,-name", "name,nothing", "-", "name priority"])
async def test_a_list_is_sorted_by_known_fields_each_once(registry: Registry, sort: str) -> None:
    async with registry.open() as items:
        with pytest.raises(InvalidField) as caught:
            await items.find(ServiceSearch(), sort=sort)
    assert caught.value.param == "sort"


@pytest.mark.usefixtures("nearby")
async def test_words_are_found_in_any_case_and_script_as_the_database_has_them(registry: Registry) -> None:
    shown = ["Über/Größe", "Ärger", "почта", "почтовый", "日本語", "x²", "a1b2", "12", "ﬀ", "naïve", "e\u0301t", "100%"]
    for name in shown:
        await registry.create(name)
    for text, wanted in {
        "größe": {"Über/Größe"},
        "Ärg": {"Ärger"},
        "почт": {"почта", "почтовый"},
        "日本": {"日本語"},
        "A1": {"a1b2"},
        "NAïVE": {"naïve"},
        "1": {"12", "100%"},
    }.items():
        async with registry.open() as items:
            assert set(names((await items.search(text)).items)) == wanted, text


@pytest.mark.parametrize("text", ["x²", "ﬀ", "e\u0301t", "ⅷ", "a\u200bb", "١٢", "mail ²", "İ", "U\U0010ffff"])
async def test_near_and_gathered_agree_about_what_is_a_word(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for number, name in enumerate(["x²", "x", "ﬀ", "ff", "e\u0301t", "ⅷ", "a\u200bb", "a b", "١٢", "mail ²", "i̇", "U"]):
        await registry.at(NOON + MINUTE * number).create(name)
    found = []
    for nearby in (item_search.NEARBY, 1):
        monkeypatch.setattr(item_search, "NEARBY", nearby)
        async with registry.open() as items:
            found.append(names((await items.search(text, limit=1)).items))
    assert found[0] == found[1]


@pytest.mark.usefixtures("nearby")
async def test_pages_of_a_search_repeat_nothing_while_others_write(registry: Registry) -> None:
    random = Random(3)
    made = [await registry.at(NOON + MINUTE * number).create(f"mail {number}") for number in range(30)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        async with registry.open() as items:
            page = await items.search("mail", limit=4, cursor=cursor)
        seen += [str(item.id) for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        one, other, third = random.sample(made, 3)
        await registry.create(f"mail {random.random()}")
        async with registry.open() as items:
            with suppress(NotFound):
                await items.update(one.id, {"name": f"mail post {random.random()}"})
            with suppress(NotFound):
                await items.delete(other.id)
            await items.restore(third.id)
    assert len(seen) == len(set(seen))


async def test_a_search_among_the_deleted_finds_their_words_and_tags(registry: Registry) -> None:
    gone = await registry.create("mail gone", tags=["x"])
    await registry.at(NOON + MINUTE).create("mail here", tags=["x"])
    async with registry.open() as items:
        await items.delete(gone.id)
        for search in (ServiceSearch(text="mail"), ServiceSearch(tags=frozenset("x"))):
            only = ServiceSearch(text=search.text, tags=search.tags, deleted="only")
            both = ServiceSearch(text=search.text, tags=search.tags, deleted="with")
            assert names((await items.find(search)).items) == ["mail here"]
            assert names((await items.find(only)).items) == ["mail gone"]
            assert names((await items.find(both)).items) == ["mail gone", "mail here"]
        await items.restore(gone.id)
        assert len((await items.find(ServiceSearch(text="gone", tags=frozenset("x")))).items) == 1


# Plans


@pytest.mark.parametrize(
    ("query", "index", "condition"),
    [
        ("item_id FROM hx_registry.registry_words WHERE word >= 's77' AND word < 's78'", "registry_words_pkey", "word"),
        ("item_id FROM hx_registry.registry_tags WHERE tag = 't77'", "registry_tags_pkey", "tag"),
        ("item_id FROM hx_registry.registry_health WHERE status_rank = 3", "registry_health_by_status", "status_rank"),
        (
            "id FROM hx_registry.registry_items WHERE deleted_at IS NULL AND name > 's77'",
            "registry_items_living_by_name",
            "name",
        ),
    ],
)
async def test_what_is_looked_for_uses_its_index_behind_row_level_security(
    registry: Registry, query: str, index: str, condition: str
) -> None:
    async with registry.open() as items:
        await items.bulk_create([{"name": f"s{number}", "tags": [f"t{number}"]} for number in range(500)])
    async with registry.database.session(EVERY_TENANT) as session:
        for table in ("items", "health", "words", "tags"):
            await session.execute(sql(f"ANALYZE hx_registry.registry_{table}"))
    async with registry.database.session(registry.tenant) as session:
        await session.execute(sql("SET LOCAL enable_seqscan = off"))
        plan = await session.scalars(sql(f"EXPLAIN SELECT {query} AND tenant_id = '{registry.tenant}'"))
        lines = list(plan.all())
    assert any(index in line for line in lines), lines
    assert any("Index Cond" in line and condition in line for line in lines), lines
