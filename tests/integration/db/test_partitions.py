"""Partitions made ahead of time: the right ones, whole, once, and without holding up who writes."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from hx_gateway.db.coverage import Coverage
from hx_gateway.db.locks import ATTEMPTS, LOCK_CLASS, PARTITION_LOCK
from hx_gateway.db.partitions import (
    bounds,
    ensure_partition,
    ensure_partitions,
    partition_name,
    partitions_ahead,
    read_coverage,
)
from hx_gateway.db.retention import RETIRING
from hx_gateway.db.schemas import PARTITIONED_TABLES, PERFORMANCE_METRICS, ROUTING_DECISIONS, TRACE_EVENTS
from hx_gateway.kit.epochs import postgres_us

Connection: TypeAlias = "asyncpg.Connection[Any]"

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TABLE = "agent_observability.trace_events"
TODAY = f"{TABLE}_p20261124"
INSERT = f"INSERT INTO {TABLE} (timestamp, trace_id, event_type) VALUES ($1, 'trace', 'type')"
WEEKS = ["20261116", "20261123", "20261130", "20261207", "20261214"]
START_SECONDS = 60.0
# Forked, so that what they import is loaded once.
ENSURE = """
import asyncio, os, sys
from datetime import datetime
import asyncpg
from hx_gateway.db.partitions import ensure_partitions

async def ensure():
    connection = await asyncpg.connect(sys.argv[1])
    made = await ensure_partitions(connection, now=datetime.fromisoformat(sys.argv[2]), lock_timeout=30)
    os.write(1, " ".join([*made, ""]).encode())

for _ in range(2):
    if os.fork() == 0:
        asyncio.run(ensure())
        os._exit(0)
sys.exit(sum(os.wait()[1] != 0 for _ in range(2)))
"""


async def partitions(connection: Connection) -> set[str]:
    """Return the names of all partitions, attached or half detached."""
    rows = await connection.fetch(
        "SELECT c.relname FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid WHERE c.relkind = 'r'"
    )
    return {row["relname"] for row in rows}


async def tables(connection: Connection) -> set[str]:
    """Return the names of all tables beside the partitioned ones."""
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'agent_observability'::regnamespace AND relkind = 'r'"
    )
    return {row["relname"] for row in rows}


def expected() -> set[str]:
    """Return what there is to be at :data:`NOW`."""
    days = [(NOW + offset * DAY).strftime("%Y%m%d") for offset in range(-1, 8)]
    weekly = [table.name for table in PARTITIONED_TABLES if table.interval == "week"]
    return {f"trace_events_p{day}" for day in days} | {f"{table}_p{week}" for table in weekly for week in WEEKS}


async def test_a_week_of_days_and_three_weeks_are_made_ahead(connection: Connection) -> None:
    made = await ensure_partitions(connection, now=NOW)
    assert set(made) == expected() == await partitions(connection)
    assert len(made) == len(set(made)) == 24
    coverage = await read_coverage(connection)
    assert [partitions_ahead(coverage, table, NOW) for table in PARTITIONED_TABLES] == [7, 3, 3, 3]
    assert await ensure_partitions(connection, now=NOW) == []


async def test_only_what_is_missing_is_made(connection: Connection) -> None:
    await ensure_partitions(connection, now=NOW)
    assert await ensure_partitions(connection, now=NOW + DAY) == ["trace_events_p20261202"]
    await connection.execute(f"DROP TABLE {TODAY}")
    assert await ensure_partitions(connection, now=NOW + DAY) == ["trace_events_p20261124"]


async def test_how_many_are_made_can_be_said(connection: Connection) -> None:
    ahead = {table.name: 0 for table in PARTITIONED_TABLES} | {"trace_events": 1}
    made = await ensure_partitions(connection, now=NOW, ahead=ahead, back=0)
    assert made == [
        "trace_events_p20261124",
        "trace_events_p20261125",
        "routing_decisions_p20261123",
        "performance_metrics_p20261123",
        "transformation_events_p20261123",
    ]


async def test_the_turn_of_the_year_leaves_no_gap(connection: Connection) -> None:
    await ensure_partitions(connection, now=datetime(2026, 12, 30, tzinfo=UTC))
    coverage = await read_coverage(connection)
    day = datetime(2026, 12, 29, tzinfo=UTC)
    monday = datetime(2026, 12, 21, tzinfo=UTC)
    assert coverage["trace_events"].ranges == ((postgres_us(day), postgres_us(day + 9 * DAY)),)
    assert coverage["routing_decisions"].ranges == ((postgres_us(monday), postgres_us(monday + 35 * DAY)),)


async def test_rows_at_the_edges_go_where_they_belong(connection: Connection) -> None:
    await ensure_partitions(connection, now=NOW)
    for table in (TRACE_EVENTS, PERFORMANCE_METRICS):
        lower, upper = bounds(table, NOW)
        for moment in (lower, upper - timedelta(microseconds=1), upper):
            if table is TRACE_EVENTS:
                await connection.execute(INSERT, moment)
            else:
                await connection.execute(
                    "INSERT INTO agent_observability.performance_metrics (timestamp, metric_name, metric_value, "
                    "metric_type) VALUES ($1, 'name', 1, 'gauge')",
                    moment,
                )
        rows = await connection.fetch(
            f"SELECT tableoid::regclass::text AS leaf FROM {table.qualified} ORDER BY timestamp"
        )
        here, after = partition_name(table, NOW), partition_name(table, upper)
        assert [row["leaf"].rpartition(".")[2] for row in rows] == [here, here, after]


COLUMNS = """
SELECT attname, atttypid, attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = to_regclass($1) AND attnum > 0 ORDER BY attnum
"""
CHECKS = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'c'"
INDEXES = """
SELECT split_part(pg_get_indexdef(indexrelid), ' USING ', 2) AS definition FROM pg_index
WHERE indrelid = to_regclass($1) ORDER BY 1
"""
ATTACHED_INDEXES = (
    "SELECT count(*) FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid WHERE indrelid = to_regclass($1)"
)


async def test_a_partition_is_made_like_its_table(connection: Connection) -> None:
    await ensure_partitions(connection, now=NOW)
    for table in PARTITIONED_TABLES:
        leaf = f"agent_observability.{partition_name(table, NOW)}"
        for query in (COLUMNS, CHECKS, INDEXES):
            assert await connection.fetch(query, leaf) == await connection.fetch(query, table.qualified)
        indexes = await connection.fetch(INDEXES, leaf)
        assert len(indexes) >= 5
        assert await connection.fetchval(ATTACHED_INDEXES, leaf) == len(indexes)


async def test_a_partition_is_vacuumed_by_the_number_of_new_rows(connection: Connection) -> None:
    await ensure_partition(connection, TRACE_EVENTS, NOW)
    options = await connection.fetchval("SELECT reloptions FROM pg_class WHERE oid = to_regclass($1)", TODAY)
    assert options == [
        "autovacuum_vacuum_insert_scale_factor=0",
        "autovacuum_vacuum_insert_threshold=500000",
        "autovacuum_analyze_scale_factor=0.02",
    ]


async def test_a_row_without_a_partition_is_refused_until_there_is_one(connection: Connection) -> None:
    rows = [(NOW, "trace", "type")]
    copy = {"schema_name": "agent_observability", "columns": ["timestamp", "trace_id", "event_type"]}
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await connection.copy_records_to_table("trace_events", records=rows, **copy)
    assert caught.value.sqlstate == "23514"
    assert await ensure_partition(connection, TRACE_EVENTS, NOW)
    assert not await ensure_partition(connection, TRACE_EVENTS, NOW)
    await connection.copy_records_to_table("trace_events", records=rows, **copy)
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 1


async def test_partitions_are_made_while_writers_hold_the_tables(connection: Connection, other: Connection) -> None:
    await ensure_partition(connection, TRACE_EVENTS, NOW)
    await other.execute("BEGIN")
    await other.execute(INSERT, NOW)
    made = await ensure_partitions(connection, now=NOW, lock_timeout=0.5)
    assert set(made) == expected() - {"trace_events_p20261124"}
    # The transaction that was open all the time goes on, into the new ones too.
    await other.execute(INSERT, NOW + DAY)
    await other.execute("COMMIT")
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 2


async def test_writers_and_readers_go_on_while_a_partition_is_made(connection: Connection, other: Connection) -> None:
    await ensure_partition(connection, TRACE_EVENTS, NOW)
    # Whoever waits for the end of a transaction that makes one is cut off by this.
    await other.execute("SET lock_timeout = 500")
    async with connection.transaction():
        assert await ensure_partition(connection, TRACE_EVENTS, NOW + DAY)
        await other.execute(INSERT, NOW)
        assert await other.fetchval(f"SELECT count(*) FROM {TABLE}") == 1
        modes = await connection.fetch(
            "SELECT mode FROM pg_locks WHERE relation = to_regclass($1) AND pid = pg_backend_pid()", TABLE
        )
        assert {row["mode"] for row in modes} <= {"AccessShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"}
    await other.execute(INSERT, NOW + DAY)


async def test_a_table_that_stays_locked_is_not_waited_for_without_end(
    connection: Connection, other: Connection
) -> None:
    await other.execute(f"BEGIN; LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
    began = time.monotonic()
    with pytest.raises(asyncpg.LockNotAvailableError):
        await ensure_partitions(connection, now=NOW, lock_timeout=0.2)
    assert ATTEMPTS * 0.2 <= time.monotonic() - began < 5.0
    assert await partitions(connection) == set()
    await other.execute("ROLLBACK")
    assert set(await ensure_partitions(connection, now=NOW, lock_timeout=0.2)) == expected()


async def test_a_lock_that_is_given_up_in_time_is_waited_for(connection: Connection, other: Connection) -> None:
    await other.execute(f"BEGIN; LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
    waiting = asyncio.create_task(ensure_partition(connection, TRACE_EVENTS, NOW, lock_timeout=2.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await other.execute("ROLLBACK")
    assert await waiting


async def test_the_lock_time_out_of_the_session_stays(connection: Connection) -> None:
    await connection.execute("SET lock_timeout = 1234")
    await ensure_partition(connection, TRACE_EVENTS, NOW)
    assert await connection.fetchval("SHOW lock_timeout") == "1234ms"


async def test_two_processes_at_once_make_each_partition_once(migrated: str, connection: Connection) -> None:
    await connection.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {PARTITION_LOCK})")
    command = [sys.executable, "-c", ENSURE, migrated, NOW.isoformat()]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    try:
        deadline = time.monotonic() + START_SECONDS
        while await connection.fetchval(waiting) < 2:
            assert time.monotonic() < deadline, "not both are there in time"
            await asyncio.sleep(0.02)
        await connection.execute(f"SELECT pg_advisory_unlock({LOCK_CLASS}, {PARTITION_LOCK})")
        output, _ = await asyncio.to_thread(started.communicate, timeout=START_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
    assert started.returncode == 0
    made = output.split()
    assert sorted(made) == sorted(expected())
    assert await partitions(connection) == expected()


async def test_many_at_once_and_a_writer_who_asks_for_one_do_not_get_in_each_others_way(migrated: str) -> None:
    connections = [await asyncpg.connect(migrated) for _ in range(5)]
    try:
        asked, made = await asyncio.gather(
            ensure_partition(connections[0], TRACE_EVENTS, NOW),
            asyncio.gather(*(ensure_partitions(connection, now=NOW) for connection in connections[1:])),
        )
        names = [name for names in made for name in names] + ["trace_events_p20261124"] * asked
        assert sorted(names) == sorted(expected())
    finally:
        for connection in connections:
            await connection.close()


async def test_an_empty_table_in_the_place_of_a_partition_is_replaced(connection: Connection) -> None:
    await connection.execute(f"CREATE TABLE {TODAY} (anything int)")
    assert await ensure_partition(connection, TRACE_EVENTS, NOW)
    await connection.execute(INSERT, NOW)
    assert await connection.fetchval(f"SELECT count(*) FROM {TODAY}") == 1


async def test_a_table_with_rows_in_the_place_of_a_partition_is_attached(connection: Connection) -> None:
    await connection.execute(f"CREATE TABLE {TODAY} (LIKE {TABLE} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    await connection.execute(INSERT.replace(TABLE, TODAY), NOW)
    assert await ensure_partition(connection, TRACE_EVENTS, NOW)
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 1
    assert await connection.fetchval("SELECT count(*) FROM pg_index WHERE indrelid = to_regclass($1)", TODAY) == 6


async def test_a_table_with_rows_of_another_time_is_left_alone(connection: Connection) -> None:
    await connection.execute(f"CREATE TABLE {TODAY} (LIKE {TABLE} INCLUDING ALL)")
    await connection.execute(INSERT.replace(TABLE, TODAY), NOW + DAY)
    with pytest.raises(asyncpg.CheckViolationError):
        await ensure_partition(connection, TRACE_EVENTS, NOW)
    assert await connection.fetchval(f"SELECT count(*) FROM {TODAY}") == 1


async def test_what_was_detached_to_be_dropped_does_not_come_back(connection: Connection) -> None:
    await ensure_partition(connection, TRACE_EVENTS, NOW)
    await connection.execute(INSERT, NOW)
    await connection.execute(f"COMMENT ON TABLE {TODAY} IS '{RETIRING}'")
    await connection.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {TODAY}")
    assert await ensure_partition(connection, TRACE_EVENTS, NOW)
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 0
    assert await connection.fetchval("SELECT obj_description(to_regclass($1))", TODAY) is None


async def test_what_somebody_detached_to_keep_is_taken_back_with_its_rows(connection: Connection) -> None:
    await ensure_partition(connection, TRACE_EVENTS, NOW)
    await connection.execute(INSERT, NOW)
    await connection.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {TODAY}")
    assert await ensure_partition(connection, TRACE_EVENTS, NOW)
    assert await connection.fetchval(f"SELECT count(*) FROM {TABLE}") == 1


async def test_a_view_in_the_place_of_a_partition_is_an_error(connection: Connection) -> None:
    await connection.execute(f"CREATE VIEW {TODAY} AS SELECT 1")
    with pytest.raises(asyncpg.DuplicateTableError):
        await ensure_partition(connection, TRACE_EVENTS, NOW)


async def test_without_the_schema_nothing_is_covered_and_nothing_is_made(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    try:
        coverage = await read_coverage(connection)
        assert {name: found.ranges for name, found in coverage.items()} == {
            table.name: () for table in PARTITIONED_TABLES
        }
        with pytest.raises((asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)):
            await ensure_partitions(connection, now=NOW)
    finally:
        await connection.close()


async def test_the_settings_of_the_session_do_not_change_what_is_covered(connection: Connection) -> None:
    lower, _ = bounds(TRACE_EVENTS, NOW)
    ends = itertools.count(1)
    for style in ("ISO, YMD", "German, DMY", "SQL, DMY", "Postgres, MDY"):
        for zone in ("UTC", "Asia/Kolkata", "America/St_Johns", "Europe/Berlin"):
            await connection.execute(f"SET DateStyle = '{style}'; SET TimeZone = '{zone}'")
            end = next(ends)
            assert await ensure_partition(connection, TRACE_EVENTS, NOW + (end - 1) * DAY)
            coverage = await read_coverage(connection)
            expected = ((postgres_us(lower), postgres_us(lower + end * DAY)),)
            assert coverage["trace_events"].ranges == expected, (style, zone)
            assert await connection.fetchval("SHOW DateStyle") == style


async def test_partitions_that_others_made_count_as_they_are(connection: Connection) -> None:
    of = "PARTITION OF agent_observability"
    await connection.execute(
        f"CREATE TABLE agent_observability.old {of}.trace_events FOR VALUES FROM (MINVALUE) TO ('2026-11-01+00');"
        f"CREATE TABLE agent_observability.mid {of}.trace_events FOR VALUES FROM ('2026-11-03+0') TO ('2026-11-04+0');"
        f"CREATE TABLE agent_observability.new {of}.trace_events FOR VALUES FROM ('2026-11-05+00') TO ('infinity');"
        f"CREATE TABLE agent_observability.rest {of}.routing_decisions DEFAULT"
    )
    coverage = await read_coverage(connection)
    day = [postgres_us(datetime(2026, 11, day, tzinfo=UTC)) for day in range(1, 6)]
    assert coverage["trace_events"].ranges == ((-(2**63), day[0]), (day[2], day[3]), (day[4], 2**63 - 1))
    assert coverage["routing_decisions"].ranges == ()
    assert await ensure_partitions(connection, now=NOW, ahead={"routing_decisions": 0}, back=0) != []
    assert not {name for name in await partitions(connection) if name.startswith("trace_events_p")}


async def test_what_is_covered_is_what_can_be_written(connection: Connection) -> None:
    await ensure_partition(connection, ROUTING_DECISIONS, NOW)
    coverage: Coverage = (await read_coverage(connection))["routing_decisions"]
    lower, upper = bounds(ROUTING_DECISIONS, NOW)
    tick = timedelta(microseconds=1)
    for moment in (lower - tick, lower, upper - tick, upper):
        at = postgres_us(moment)
        try:
            await connection.execute(
                "INSERT INTO agent_observability.routing_decisions (timestamp, user_request, selected_agent, "
                "confidence_score) VALUES ($1, 'request', 'agent', 1)",
                moment,
            )
            written = True
        except asyncpg.CheckViolationError:
            written = False
        assert coverage.covers(at, at) == written
