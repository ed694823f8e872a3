"""Reads of the record on real servers: what filters find, pages, plans, time-outs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from random import Random
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from benchmarks.events import DAYS, FIRST_DAY, LAST_DAY

from hx_gateway.db.partitions import ensure_partitions, partition_name
from hx_gateway.db.schemas import PARTITIONED_TABLES, TRACE_EVENTS, PartitionedTable
from hx_gateway.errors import InvalidRequest, Unavailable
from hx_gateway.migrations.runner import upgrade
from hx_gateway.observability.filters import MAX_LIMIT, RecordFilters, RoutingFilters, TraceFilters
from hx_gateway.observability.repository import (
    QUERY_POOL_OPTIONS,
    ConnectionPool,
    Page,
    QueryTooSlow,
    RecordRepository,
)
from hx_gateway.services.base import DependencyError, FailureKind
from tests.fixtures.servers import Servers
from tests.integration.observability.samples import PLAN, Row, Sample, insert, samples

TABLES = [table.name for table in PARTITIONED_TABLES]
NOON = LAST_DAY + timedelta(hours=12)
MICROSECOND = timedelta(microseconds=1)
# The design figure is 5 s.
GIVEN_UP_SECONDS = 25.0

Pool: TypeAlias = "asyncpg.Pool[Any]"


@pytest.fixture(scope="module")
def record() -> dict[str, Sample]:
    return samples()


@pytest.fixture(scope="module")
def filled(servers: Servers, record: dict[str, Sample]) -> str:
    """Migrate the database and fill it with the samples."""

    async def fill() -> None:
        await upgrade(servers.postgres.url)
        connection = await asyncpg.connect(servers.postgres.url)
        await ensure_partitions(connection, now=LAST_DAY, back=DAYS - 1)
        for sample in record.values():
            await insert(connection, sample.table, sample.rows)
            await connection.execute(f"ANALYZE {sample.table.qualified}")
        await connection.close()

    asyncio.run(fill())
    return servers.postgres.url


@pytest.fixture
async def pool(filled: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(filled, min_size=1, max_size=1, **QUERY_POOL_OPTIONS) as pool:
        yield pool


@pytest.fixture
def repository(pool: Pool) -> RecordRepository:
    return RecordRepository(pool)


@pytest.fixture
async def writer(filled: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(filled)
    yield connection
    await connection.close()


async def page_of(repository: RecordRepository, table: str, filters: RecordFilters) -> Page:
    page: Page = await getattr(repository, table)(filters)
    return page


async def ids_by_page(repository: RecordRepository, table: str, filters: RecordFilters) -> list[str]:
    """Return the ids of all pages; every page but the last is full."""
    found: list[str] = []
    while True:
        page = await page_of(repository, table, filters)
        found += [item["event_id"] for item in page.items]
        if page.next_cursor is None:
            return found
        assert len(page.items) == filters.limit
        filters = replace(filters, cursor=page.next_cursor)


def event(moment: datetime, number: int, **values: Any) -> Row:
    return {
        "timestamp": moment,
        "event_id": UUID(int=number),
        "trace_id": "t",
        "event_type": "step",
        "agent_name": "planner",
        "level": 9,
        **values,
    }


@pytest.mark.parametrize("table", TABLES)
async def test_every_set_of_filters_finds_exactly_what_it_should(
    repository: RecordRepository, record: dict[str, Sample], table: str
) -> None:
    sample, random = record[table], Random(table)
    for names in sample.combinations():
        values = sample.draw(names, random)
        expected = sample.expected(values)
        assert expected
        limit = max(random.randint(1, MAX_LIMIT), len(expected) // 10)
        found = await ids_by_page(repository, table, sample.kind(**values, limit=min(limit, MAX_LIMIT)))
        assert found == expected, values


@pytest.mark.parametrize("table", TABLES)
async def test_what_was_never_stored_is_not_found(
    repository: RecordRepository, record: dict[str, Sample], table: str
) -> None:
    sample = record[table]
    for name in sample.fields:
        if not name.startswith("min_"):
            page = await page_of(repository, table, sample.kind(tenant_id="default", **{name: "never stored"}))
            assert page == Page([], None)
    assert await page_of(repository, table, sample.kind(tenant_id="never stored")) == Page([], None)


@pytest.mark.parametrize("limit", [1, 2, 7, 40, 119, 120, 121])
async def test_pages_through_events_of_the_same_instant_lose_and_repeat_nothing(
    repository: RecordRepository, writer: asyncpg.Connection[Any], limit: int
) -> None:
    random, tenant = Random(limit), f"ties-{limit}"
    instants = [NOON, NOON + MICROSECOND, NOON - timedelta(days=1)]
    rows = [event(random.choice(instants), random.getrandbits(128), tenant_id=tenant) for _ in range(120)]
    await insert(writer, TRACE_EVENTS, rows)
    rows.sort(key=lambda row: (row["timestamp"], row["event_id"].int), reverse=True)
    expected = [str(row["event_id"]) for row in rows]
    for chosen in ({}, {"trace_id": "t"}, {"agent_name": "planner"}, {"event_type": "step"}):
        filters = TraceFilters(tenant_id=tenant, limit=limit, **chosen)  # type: ignore[arg-type]
        assert await ids_by_page(repository, "trace_events", filters) == expected


async def test_what_is_stored_between_pages_moves_none_of_those_to_come(
    repository: RecordRepository, writer: asyncpg.Connection[Any]
) -> None:
    filters = TraceFilters(tenant_id="moving", limit=2)
    moments = [NOON + number * MICROSECOND for number in range(4)]
    await insert(writer, TRACE_EVENTS, [event(moment, 10, tenant_id="moving") for moment in moments])
    page = await repository.trace_events(filters)
    await insert(writer, TRACE_EVENTS, [event(moment, 11, tenant_id="moving") for moment in moments[2:]])
    assert page.next_cursor is not None
    rest = await repository.trace_events(replace(filters, cursor=page.next_cursor, limit=10))
    assert [item["timestamp"] for item in rest.items] == [moments[1], moments[0]]


@pytest.mark.parametrize("table", TABLES)
async def test_another_tenants_records_are_found_under_no_filter(
    repository: RecordRepository, writer: asyncpg.Connection[Any], record: dict[str, Sample], table: str
) -> None:
    sample = record[table]
    full = next(row for row in sample.rows if all(row.get(name, "") is not None for name in sample.fields))
    pair = [{**full, "tenant_id": tenant} for tenant in ("left", "right") for _ in range(1)]
    await insert(writer, sample.table, pair)
    try:
        for names in sample.combinations():
            values = {**sample.draw([], Random(0)), **_values_of(full, names), "tenant_id": "left"}
            page = await page_of(repository, table, sample.kind(**values))
            assert [item["tenant_id"] for item in page.items] == ["left"], names
            assert [item["tenant_id"] async for item in repository.export(sample.kind(**values))] == ["left"]
    finally:
        await writer.execute(f"DELETE FROM {sample.table.qualified} WHERE tenant_id IN ('left', 'right')")


def _values_of(row: Row, names: tuple[str, ...]) -> Row:
    """Return filters that just let ``row`` through."""
    special = {"start_time": row["timestamp"], "end_time": row["timestamp"] + MICROSECOND, "min_level": "TRACE"}
    special["min_confidence"] = row.get("confidence_score")
    return {name: special.get(name, row.get(name)) for name in names}


async def test_a_trace_of_the_same_id_stays_with_its_tenant(
    repository: RecordRepository, writer: asyncpg.Connection[Any]
) -> None:
    rows = [event(NOON, number, tenant_id=f"owner-{number}", trace_id="shared") for number in (1, 2)]
    await insert(writer, TRACE_EVENTS, rows)
    trace = await repository.trace("owner-1", "shared")
    assert [item["tenant_id"] for item in trace.events] == ["owner-1"]
    assert (await repository.trace("owner-3", "shared")).events == []


async def test_a_cursor_opens_no_other_query_and_no_other_tenant(repository: RecordRepository) -> None:
    page = await repository.trace_events(TraceFilters(tenant_id="default", limit=1))
    for filters in (
        TraceFilters(tenant_id="tenant-1", cursor=page.next_cursor),
        TraceFilters(tenant_id="default", agent_name="agent-000", cursor=page.next_cursor),
        TraceFilters(tenant_id="default", cursor="x"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await repository.trace_events(filters)
        assert caught.value.param == "cursor"


async def test_a_window_is_exact_to_the_microsecond(
    repository: RecordRepository, writer: asyncpg.Connection[Any]
) -> None:
    moments = [NOON - MICROSECOND, NOON, NOON + MICROSECOND, NOON + 2 * MICROSECOND]
    rows = [event(moment, number, tenant_id="exact") for number, moment in enumerate(moments)]
    await insert(writer, TRACE_EVENTS, rows)

    async def found(**times: datetime) -> list[int]:
        page = await repository.trace_events(TraceFilters(tenant_id="exact", **times))  # type: ignore[arg-type]
        return [UUID(item["event_id"]).int for item in page.items]

    assert await found(start_time=NOON) == [3, 2, 1]
    assert await found(end_time=NOON) == [0]
    assert await found(start_time=NOON, end_time=NOON + MICROSECOND) == [1]
    assert await found(start_time=NOON, end_time=NOON) == []
    assert await found(start_time=NOON - MICROSECOND, end_time=NOON + 2 * MICROSECOND) == [2, 1, 0]


async def test_a_window_may_lie_where_there_are_no_partitions(repository: RecordRepository) -> None:
    for start in (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)):
        filters = TraceFilters(tenant_id="default", start_time=start, end_time=start + timedelta(days=1))
        assert await repository.trace_events(filters) == Page([], None)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    page = await repository.trace_events(TraceFilters(tenant_id="default", start_time=first, end_time=last))
    assert len(page.items) == 100


async def test_records_come_as_python_values(repository: RecordRepository, writer: asyncpg.Connection[Any]) -> None:
    metadata = {"nested": [1, 2.5, None, "é"], "deep": {"a": True}}
    rows = [
        event(NOON, 5, tenant_id="values", level=20, metadata=json.dumps(metadata)),
        event(NOON, 4, tenant_id="values", level=13, metadata='["a list"]'),
        event(NOON, 3, tenant_id="values", level=1, metadata='"a text"'),
        event(NOON, 2, tenant_id="values", level=24, metadata='{"beyond": 1e5000}'),
    ]
    await insert(writer, TRACE_EVENTS, rows)
    items = (await repository.trace_events(TraceFilters(tenant_id="values"))).items
    assert [item["level"] for item in items] == ["ERROR", "WARN", "TRACE", "FATAL"]
    assert [item["metadata"] for item in items[:3]] == [metadata, ["a list"], "a text"]
    # Text is what is left of a number that Python does not read.
    assert items[3]["metadata"] == f'{{"beyond": 1{"0" * 5_000}}}'
    first = items[0]
    assert first["event_id"] == "00000000-0000-0000-0000-000000000005"
    assert (first["timestamp"], first["timestamp"].tzinfo) == (NOON, UTC)
    assert (first["ts_clamped"], first["span_id"], first["duration_ms"]) == (False, None, None)
    columns = await writer.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum",
        TRACE_EVENTS.qualified,
    )
    assert list(first) == [row["attname"] for row in columns]


@pytest.mark.parametrize("table", TABLES)
async def test_every_column_is_read(
    repository: RecordRepository, writer: asyncpg.Connection[Any], record: dict[str, Sample], table: str
) -> None:
    page = await page_of(repository, table, record[table].kind(tenant_id="default", limit=1))
    columns = await writer.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum",
        record[table].table.qualified,
    )
    assert list(page.items[0]) == [row["attname"] for row in columns]


async def test_a_trace_is_read_whole_oldest_first(repository: RecordRepository, record: dict[str, Sample]) -> None:
    for trace_id in (PLAN.big_trace, PLAN.long_trace):
        expected = record["trace_events"].expected({"tenant_id": "default", "trace_id": trace_id})[::-1]
        trace = await repository.trace("default", trace_id)
        assert [item["event_id"] for item in trace.events] == expected
        assert not trace.truncated
        exact = await repository.trace("default", trace_id, limit=len(expected))
        assert (len(exact.events), exact.truncated) == (len(expected), False)
        short = await repository.trace("default", trace_id, limit=len(expected) - 1)
        assert [item["event_id"] for item in short.events] == expected[:-1]
        assert short.truncated


async def test_a_trace_is_read_within_a_window_or_around_a_time(repository: RecordRepository) -> None:
    start, end = FIRST_DAY + timedelta(days=7), FIRST_DAY + timedelta(days=9)
    windowed = await repository.trace("default", PLAN.long_trace, start=start, end=end)
    assert {item["timestamp"].date() for item in windowed.events} == {start.date(), (end - MICROSECOND).date()}
    around = await repository.trace("default", PLAN.long_trace, around=start + timedelta(days=1))
    assert around == windowed


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tenant_id", {"tenant_id": ""}),
        ("trace_id", {"trace_id": "\0"}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 10_001}),
        ("around", {"around": NOON, "end": NOON}),
        ("around", {"around": NOON.replace(tzinfo=None)}),
        ("around", {"around": datetime.max.replace(tzinfo=UTC)}),
        ("start", {"start": NOON.replace(tzinfo=None)}),
        ("start", {"start": NOON, "end": NOON - MICROSECOND}),
    ],
)
async def test_a_bad_bound_of_a_trace_is_refused_by_its_name(
    repository: RecordRepository, field: str, values: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await repository.trace(**{"tenant_id": "default", "trace_id": "t", **values})
    assert caught.value.param == field


async def test_an_export_holds_everything_once_and_no_connection_between_pages(
    repository: RecordRepository, record: dict[str, Sample]
) -> None:
    filters = TraceFilters(tenant_id="default", agent_name="agent-000", limit=3)
    found: list[str] = []
    async for item in repository.export(filters):
        if len(found) % 500 == 0:
            # The pool has one connection.
            assert (await repository.trace_events(replace(filters, limit=1))).items
        found.append(item["event_id"])
    assert found == record["trace_events"].expected({"tenant_id": "default", "agent_name": "agent-000"})
    assert len(found) > 2 * MAX_LIMIT


class Explaining:
    """A pool that keeps the plan of each statement before it runs it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.plans: list[dict[str, Any]] = []

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._pool.acquire() as connection:
            self._connection = connection
            yield self

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        plan = await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values)
        self.plans.append(json.loads(plan)[0]["Plan"])
        found: list[Any] = await self._connection.fetch(statement, *values)
        return found


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def scanned(plan: dict[str, Any]) -> set[str]:
    return {node["Relation Name"] for node in nodes(plan) if "Relation Name" in node}


def partitions(table: PartitionedTable, first: datetime, last: datetime) -> set[str]:
    days = (last.date() - first.date()).days
    return {partition_name(table, first + timedelta(days=day)) for day in range(days + 1)}


@pytest.mark.parametrize("table", TABLES)
async def test_every_set_of_filters_is_answered_from_indexes(pool: Pool, record: dict[str, Sample], table: str) -> None:
    explaining, sample, random = Explaining(pool), record[table], Random(1)
    repository = RecordRepository(explaining)
    filled = {partition_name(sample.table, row["timestamp"]) for row in sample.rows}
    for names in sample.combinations():
        for cursor in (False, True):
            filters = sample.kind(**{**sample.draw(names, random), "tenant_id": "default"}, limit=1)
            page = await page_of(repository, table, filters)
            if cursor and page.next_cursor is not None:
                await page_of(repository, table, replace(filters, cursor=page.next_cursor))
            for node in nodes(explaining.plans[-1]):
                assert node["Node Type"] != "Seq Scan" or node["Relation Name"] not in filled, (names, cursor)


@pytest.mark.parametrize("table", TABLES)
async def test_a_selective_filter_alone_or_in_a_pair_is_looked_up_and_not_filtered(
    pool: Pool, record: dict[str, Sample], table: str
) -> None:
    explaining, sample = Explaining(pool), record[table]
    filled = {partition_name(sample.table, row["timestamp"]) for row in sample.rows}
    texts = [name for name in sample.fields if not name.startswith("min_")]
    for names in (*combinations(texts, 1), *combinations(texts, 2)):
        values: dict[str, Any] = dict.fromkeys(names, "never stored")
        await page_of(RecordRepository(explaining), table, sample.kind(tenant_id="default", **values))
        leaves = [node for node in nodes(explaining.plans[-1]) if node.get("Relation Name") in filled]
        assert len(leaves) == len(filled)
        for leaf in leaves:
            conditions = [node.get("Index Cond", "") for node in nodes(leaf)]
            assert any(name in condition for name in names for condition in conditions), names


async def test_decisions_of_high_confidence_are_looked_up(pool: Pool, record: dict[str, Sample]) -> None:
    explaining = Explaining(pool)
    filters = RoutingFilters(tenant_id="default", min_confidence=1.0)
    assert (await RecordRepository(explaining).routing_decisions(filters)).items
    conditions = [node["Index Cond"] for node in nodes(explaining.plans[-1]) if "Index Cond" in node]
    assert any("confidence_score" in condition for condition in conditions)


async def test_only_partitions_of_the_window_are_planned(pool: Pool) -> None:
    explaining = Explaining(pool)
    repository = RecordRepository(explaining)
    start, end = FIRST_DAY + timedelta(days=3, hours=5), FIRST_DAY + timedelta(days=4, hours=5)
    filters = TraceFilters(tenant_id="default", start_time=start, end_time=end, limit=1)
    for chosen in ({}, {"agent_name": "agent-000"}, {"trace_id": PLAN.long_trace, "min_level": "ERROR"}):
        await repository.trace_events(replace(filters, **chosen))  # type: ignore[arg-type]
        assert scanned(explaining.plans[-1]) == partitions(TRACE_EVENTS, start, end)
        assert not any(node.get("Subplans Removed") for node in nodes(explaining.plans[-1]))
    await repository.trace("default", PLAN.long_trace, around=start)
    around = partitions(TRACE_EVENTS, start - timedelta(days=1), start + timedelta(days=1))
    assert scanned(explaining.plans[-1]) == around


async def test_a_later_page_does_not_plan_what_is_newer_than_it(pool: Pool) -> None:
    explaining = Explaining(pool)
    repository = RecordRepository(explaining)
    second = FIRST_DAY + timedelta(days=2)
    page = await repository.trace_events(TraceFilters(tenant_id="default", end_time=second, limit=1))
    await repository.trace_events(TraceFilters(tenant_id="default", cursor=page.next_cursor, limit=1))
    assert scanned(explaining.plans[-1]) == partitions(TRACE_EVENTS, FIRST_DAY, second - MICROSECOND)


async def test_errors_are_found_through_the_index_that_holds_only_them(pool: Pool) -> None:
    explaining = Explaining(pool)
    for level in ("ERROR", "FATAL"):
        await RecordRepository(explaining).trace_events(
            TraceFilters(tenant_id="default", min_level=level, start_time=LAST_DAY, limit=10)
        )
        used = {node.get("Index Name", "") for node in nodes(explaining.plans[-1])}
        definitions = [
            await _index_definition(pool, name) for name in used if name.startswith("trace_events_p20261124")
        ]
        assert [definition for definition in definitions if "level >= 17" in definition], level


async def _index_definition(pool: Pool, name: str) -> str:
    async with pool.acquire() as connection:
        return str(await connection.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = $1", name))


async def test_the_sessions_settings_outlive_a_release_and_no_plan_is_kept(
    pool: Pool, repository: RecordRepository
) -> None:
    for _ in range(20):
        await repository.trace_events(TraceFilters(tenant_id="default", agent_name="agent-000", limit=1))
    async with pool.acquire() as connection:
        names = ("plan_cache_mode", "jit", "statement_timeout", "application_name")
        settings = [await connection.fetchval(f"SHOW {name}") for name in names]
        plans = await connection.fetchrow(
            "SELECT sum(generic_plans) AS generic, sum(custom_plans) AS custom FROM pg_prepared_statements "
            "WHERE strpos(statement, $1) > 0",
            TRACE_EVENTS.qualified,
        )
    assert settings == ["force_custom_plan", "off", "2s", "hx_gateway_queries"]
    assert plans is not None
    assert (plans["generic"], plans["custom"]) == (0, 20)


async def test_a_query_that_takes_too_long_is_ended_and_says_what_to_do(
    repository: RecordRepository, writer: asyncpg.Connection[Any]
) -> None:
    filters = TraceFilters(tenant_id="default", limit=1)
    async with writer.transaction():
        await writer.execute(f"LOCK TABLE {TRACE_EVENTS.qualified} IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(GIVEN_UP_SECONDS):
            with pytest.raises(QueryTooSlow) as caught:
                await repository.trace_events(filters)
    assert (caught.value.status, caught.value.code) == (504, "narrow_the_window")
    assert "start_time" in caught.value.message
    assert len((await repository.trace_events(filters)).items) == 1


async def test_a_database_that_is_not_migrated_yet_is_told_as_such(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.postgres.url)
    await connection.execute("DROP DATABASE IF EXISTS bare")
    await connection.execute("CREATE DATABASE bare")
    await connection.close()
    url = servers.postgres.url.removesuffix("/postgres") + "/bare"
    async with asyncpg.create_pool(url, min_size=1, max_size=1, **QUERY_POOL_OPTIONS) as pool:
        with pytest.raises(Unavailable, match="not there yet"):
            await RecordRepository(pool).trace_events(TraceFilters(tenant_id="default"))


async def test_a_database_that_hangs_is_given_up(filled: str, servers: Servers) -> None:
    pool = await asyncpg.create_pool(filled, min_size=1, max_size=1, **QUERY_POOL_OPTIONS)
    servers.postgres.freeze()
    try:
        async with asyncio.timeout(GIVEN_UP_SECONDS):
            await _gives_up(pool, FailureKind.TIMEOUT)
    finally:
        servers.postgres.thaw()
    assert len((await RecordRepository(pool).trace_events(TraceFilters(tenant_id="default"))).items) == 100
    await pool.close()


async def test_a_database_that_is_dead_is_told_as_such(filled: str, servers: Servers) -> None:
    pool = await asyncpg.create_pool(filled, min_size=1, max_size=1, **QUERY_POOL_OPTIONS)
    servers.postgres.kill()
    try:
        await _gives_up(pool, FailureKind.LOST, FailureKind.REFUSED)
    finally:
        servers.postgres.start()
    await pool.close()


async def _gives_up(pool: ConnectionPool, *kinds: FailureKind) -> None:
    with pytest.raises(DependencyError) as caught:
        await RecordRepository(pool).trace_events(TraceFilters(tenant_id="default"))
    assert caught.value.kind in kinds
