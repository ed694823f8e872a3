"""Old rows taken away: exactly those, with nobody waiting, and gone on with wherever it was interrupted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from hx_gateway.db import retention
from hx_gateway.db.locks import LOCK_CLASS, PARTITION_LOCK, RETENTION_LOCK
from hx_gateway.db.partitions import (
    Retired,
    ensure_partition,
    ensure_partitions,
    read_coverage,
    retire_partitions,
    trim_boundary,
)
from hx_gateway.db.retention import RETIRING
from hx_gateway.db.schemas import ROUTING_DECISIONS, TRACE_EVENTS
from tests.integration.db.test_partitions import DAY, INSERT, NOW, TABLE, partitions, tables

Connection: TypeAlias = "asyncpg.Connection[Any]"

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
OLD = f"{TABLE}_p20261120"
MANY = f"""
INSERT INTO {TABLE} (timestamp, trace_id, event_type, tenant_id)
SELECT $1::timestamptz + n * interval '1 second', 'trace', 'type', 'tenant-' || n % $3
FROM generate_series(0, $2 - 1) AS n
"""
# Far below a second is the promise; a busy machine gets five times a second.
PROMPT_SECONDS = 5.0
FEW_SECONDS = 30.0


@pytest.fixture
async def week(connection: Connection) -> Connection:
    """Return a connection to a database with 17 to 24 November, 10 rows on the 17th, 11 on the 18th and so on."""
    for day in range(8):
        start = MIDNIGHT + (day - 7) * DAY
        await ensure_partition(connection, TRACE_EVENTS, start)
        await connection.execute(MANY, start, 10 + day, 3)
    return connection


async def count(connection: Connection, before: datetime | None = None) -> int:
    """Return how many rows there are, or how many before a time."""
    query = f"SELECT count(*) FROM {TABLE} WHERE timestamp < coalesce($1, 'infinity'::timestamptz)"
    return int(await connection.fetchval(query, before))


async def is_pending(connection: Connection, leaf: str) -> bool | None:
    """Return whether a partition is half detached; ``None`` for one that is not a partition."""
    query = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)"
    found = await connection.fetchval(query, leaf)
    return None if found is None else bool(found)


async def interrupt_detachment(connection: Connection, reader: Connection, leaf: str) -> None:
    """Leave ``leaf`` half detached: the detachment waits for a transaction of ``reader``, and is cancelled there."""
    async with reader.transaction():
        await reader.fetchval(f"SELECT count(*) FROM {TABLE}")
        await connection.execute("SET statement_timeout = 300")
        with pytest.raises(asyncpg.QueryCanceledError):
            await connection.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {leaf} CONCURRENTLY")
        await connection.execute("RESET statement_timeout")
    assert await is_pending(connection, leaf)


async def until_waiting(connection: Connection, pid: int) -> None:
    """Wait until the session ``pid`` waits for a lock."""
    query = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1"
    deadline = time.monotonic() + FEW_SECONDS
    while await connection.fetchval(query, pid) != "Lock":
        assert time.monotonic() < deadline, "it does not wait"
        await asyncio.sleep(0.01)


async def test_what_ends_at_the_cutoff_or_before_goes_and_the_rest_stays(week: Connection) -> None:
    retired = await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 4 * DAY)
    assert retired == [
        Retired("trace_events_p20261117", 10),
        Retired("trace_events_p20261118", 11),
        Retired("trace_events_p20261119", 12),
    ]
    left = {f"trace_events_p202611{day}" for day in (20, 21, 22, 23, 24)}
    assert await partitions(week) == left == await tables(week)
    assert await count(week) == 13 + 14 + 15 + 16 + 17
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 4 * DAY) == []


async def test_a_partition_that_straddles_the_cutoff_stays_whole(week: Connection) -> None:
    tick = timedelta(microseconds=1)
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY - tick) == []
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY) == [Retired("trace_events_p20261117", 10)]
    assert await count(week, MIDNIGHT - 5 * DAY) == 11


async def test_weeks_go_as_a_whole(connection: Connection) -> None:
    monday = datetime(2026, 11, 9, tzinfo=UTC)
    for offset in (0, 7, 14):
        await ensure_partition(connection, ROUTING_DECISIONS, monday + offset * DAY)
    assert await retire_partitions(connection, ROUTING_DECISIONS, monday + 13 * DAY) == [
        Retired("routing_decisions_p20261109", 0)
    ]
    assert await partitions(connection) == {"routing_decisions_p20261116", "routing_decisions_p20261123"}


async def test_one_table_is_retired_at_a_time(connection: Connection) -> None:
    await ensure_partitions(connection, now=NOW)
    before = await partitions(connection)
    await retire_partitions(connection, TRACE_EVENTS, NOW + 100 * DAY)
    assert before - await partitions(connection) == {name for name in before if name.startswith("trace_events_p")}


async def test_the_session_is_left_as_it_was(week: Connection, other: Connection) -> None:
    await week.execute("SET lock_timeout = 1234")
    await retire_partitions(week, TRACE_EVENTS, MIDNIGHT, lock_timeout=0.5)
    assert await week.fetchval("SHOW lock_timeout") == "1234ms"
    free = f"SELECT pg_try_advisory_lock({LOCK_CLASS}, {RETENTION_LOCK})"
    assert await other.fetchval(free)


async def test_the_session_is_left_as_it_was_after_an_error_too(week: Connection, other: Connection) -> None:
    await week.execute(f"CREATE TABLE agent_observability.trace_events_rest PARTITION OF {TABLE} DEFAULT")
    await week.execute("SET lock_timeout = 1234")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await retire_partitions(week, TRACE_EVENTS, MIDNIGHT)
    assert await week.fetchval("SHOW lock_timeout") == "1234ms"
    assert await other.fetchval(f"SELECT pg_try_advisory_lock({LOCK_CLASS}, {RETENTION_LOCK})")
    assert await count(week) == sum(range(10, 18))


async def test_one_process_retires_and_the_others_leave_it_to_it(week: Connection, other: Connection) -> None:
    await other.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {RETENTION_LOCK})")
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT) == []
    assert len(await partitions(week)) == 8
    await other.execute(f"SELECT pg_advisory_unlock({LOCK_CLASS}, {RETENTION_LOCK})")
    found = await asyncio.gather(*(retire_partitions(one, TRACE_EVENTS, MIDNIGHT) for one in (week, other)))
    assert sorted(gone.rows for retired in found for gone in retired) == list(range(10, 17))
    assert await partitions(week) == {"trace_events_p20261124"}


async def test_a_long_reader_is_waited_for_within_bounds_and_the_next_round_goes_on(
    week: Connection, other: Connection
) -> None:
    async with other.transaction():
        await other.fetchval(f"SELECT count(*) FROM {TABLE}")
        began = time.monotonic()
        assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 5 * DAY, lock_timeout=0.2) == []
        assert time.monotonic() - began < PROMPT_SECONDS
        assert await is_pending(week, f"{TABLE}_p20261117")
        # The reader's own transaction still sees it all.
        assert await other.fetchval(f"SELECT count(*) FROM {TABLE}_p20261117") == 10
    retired = await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 5 * DAY, lock_timeout=0.2)
    assert retired == [Retired("trace_events_p20261117", 10), Retired("trace_events_p20261118", 11)]
    assert await tables(week) == {f"trace_events_p202611{day}" for day in range(19, 25)}


async def test_nobody_waits_for_a_retirement_that_waits_itself(
    week: Connection, other: Connection, migrated: str
) -> None:
    third = await asyncpg.connect(migrated)
    try:
        reading = other.transaction()
        await reading.start()
        await other.fetchval(f"SELECT count(*) FROM {TABLE}")
        pid = week.get_server_pid()
        retiring = asyncio.create_task(retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY, lock_timeout=20))
        await until_waiting(third, pid)
        # Whoever is held up by it runs into this.
        await third.execute("SET lock_timeout = 500")
        await third.execute(INSERT, NOW)
        assert await count(third) == sum(range(11, 18)) + 1
        await other.execute(INSERT, NOW)
        assert not retiring.done()
        await reading.commit()
        assert await retiring == [Retired("trace_events_p20261117", 10)]
    finally:
        await third.close()


@asynccontextmanager
async def writing(url: str, gaps: list[float], written: list[int]) -> AsyncIterator[None]:
    """Insert rows of the present as fast as it goes, in transactions; keep how long each took."""
    connection = await asyncpg.connect(url)
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            began = time.monotonic()
            async with connection.transaction():
                await connection.execute(INSERT, NOW)
                await connection.execute(INSERT, NOW - 3 * DAY)
            gaps.append(time.monotonic() - began)
            written.append(2)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        stop.set()
        await task
        await connection.close()


async def test_under_load_it_takes_no_time_and_no_younger_row(week: Connection, migrated: str) -> None:
    await week.execute(MANY, MIDNIGHT - 7 * DAY, 50_000, 3)
    before = await count(week)
    gaps: list[float] = []
    written: list[int] = []
    async with writing(migrated, gaps, written), writing(migrated, gaps, written):
        await asyncio.sleep(0.2)
        began = time.monotonic()
        retired = await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 4 * DAY)
        took = time.monotonic() - began
        await asyncio.sleep(0.1)
    assert [gone.rows for gone in retired] == [50_010, 11, 12]
    assert await count(week) == before - sum(gone.rows for gone in retired) + sum(written)
    assert took < PROMPT_SECONDS
    assert max(gaps) < PROMPT_SECONDS
    assert len(gaps) > 10


async def test_a_detachment_that_was_interrupted_is_finished(week: Connection, other: Connection) -> None:
    await interrupt_detachment(week, other, f"{TABLE}_p20261118")
    coverage = await read_coverage(week)
    assert len(coverage["trace_events"].ranges) == 2
    assert not await ensure_partition(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY)
    retired = await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 5 * DAY)
    assert sorted(retired, key=lambda gone: gone.name) == [
        Retired("trace_events_p20261117", 10),
        Retired("trace_events_p20261118", 11),
    ]
    assert await tables(week) == {f"trace_events_p202611{day}" for day in range(19, 25)}


async def test_a_detachment_of_a_younger_one_is_finished_without_dropping_it(
    week: Connection, other: Connection
) -> None:
    await interrupt_detachment(week, other, f"{TABLE}_p20261123")
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY) == [Retired("trace_events_p20261117", 10)]
    assert await is_pending(week, f"{TABLE}_p20261123") is None
    assert await week.fetchval(f"SELECT count(*) FROM {TABLE}_p20261123") == 16


async def test_a_retirement_that_is_cancelled_is_gone_on_with(
    week: Connection, other: Connection, migrated: str
) -> None:
    async with other.transaction():
        await other.fetchval(f"SELECT count(*) FROM {TABLE}")
        doomed = await asyncpg.connect(migrated)
        retiring = asyncio.create_task(retire_partitions(doomed, TRACE_EVENTS, MIDNIGHT - 6 * DAY, lock_timeout=20))
        await until_waiting(week, doomed.get_server_pid())
        retiring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await retiring
        # Its owner closes such a connection. The server may hear of that in the middle of it or after the detachment.
        doomed.terminate()
    assert await is_pending(week, f"{TABLE}_p20261117") is not False
    deadline = time.monotonic() + FEW_SECONDS
    while not (retired := await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY)):
        assert time.monotonic() < deadline, "the lock of the session that was closed is still held"
        await asyncio.sleep(0.02)
    assert retired == [Retired("trace_events_p20261117", 10)]


async def test_what_was_detached_and_not_dropped_is_dropped(week: Connection) -> None:
    await week.execute(f"COMMENT ON TABLE {OLD} IS '{RETIRING}'")
    await week.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {OLD}")
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 4 * DAY + timedelta(hours=1)) == [
        Retired("trace_events_p20261117", 10),
        Retired("trace_events_p20261118", 11),
        Retired("trace_events_p20261119", 12),
    ]
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 3 * DAY) == [Retired("trace_events_p20261120", 13)]
    assert await tables(week) == {f"trace_events_p202611{day}" for day in range(21, 25)}


async def test_what_somebody_detached_to_keep_stays(week: Connection) -> None:
    await week.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {OLD}")
    await week.execute(f"CREATE TABLE {OLD}_copy AS TABLE {OLD}")
    await week.execute(f"COMMENT ON TABLE {OLD}_copy IS '{RETIRING}'")
    await retire_partitions(week, TRACE_EVENTS, MIDNIGHT + DAY)
    assert await tables(week) == {"trace_events_p20261120", "trace_events_p20261120_copy"}
    assert await week.fetchval(f"SELECT count(*) FROM {OLD}") == 13


async def test_who_reads_a_detached_one_holds_up_the_drop_only(week: Connection, other: Connection) -> None:
    await week.execute(f"COMMENT ON TABLE {OLD} IS '{RETIRING}'")
    await week.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {OLD}")
    async with other.transaction():
        await other.fetchval(f"SELECT count(*) FROM {OLD}")
        assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT, lock_timeout=0.1) == []
    assert len(await retire_partitions(week, TRACE_EVENTS, MIDNIGHT)) == 7


async def test_a_partition_that_was_made_in_its_place_is_not_dropped(
    week: Connection, other: Connection, migrated: str
) -> None:
    await week.execute(f"COMMENT ON TABLE {OLD} IS '{RETIRING}'")
    await week.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {OLD}")
    third = await asyncpg.connect(migrated)
    try:
        # The old one is counted and about to be dropped when somebody needs a new one.
        await third.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {PARTITION_LOCK})")
        retiring = asyncio.create_task(retire_partitions(other, TRACE_EVENTS, MIDNIGHT - 3 * DAY, lock_timeout=20))
        await until_waiting(week, other.get_server_pid())
        assert await ensure_partition(third, TRACE_EVENTS, MIDNIGHT - 4 * DAY)
        await third.execute(INSERT, MIDNIGHT - 4 * DAY)
        await third.execute(f"SELECT pg_advisory_unlock({LOCK_CLASS}, {PARTITION_LOCK})")
        retired = await retiring
    finally:
        await third.close()
    assert [gone.rows for gone in retired] == [13, 10, 11, 12]
    assert await count(week, MIDNIGHT - 3 * DAY) == 1


async def test_a_partition_too_large_to_count_is_dropped_with_an_estimate(
    week: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await week.execute(f"ANALYZE {TABLE}_p20261117")
    await week.execute(MANY, MIDNIGHT - 7 * DAY, 5, 3)
    monkeypatch.setattr(retention, "COUNT_SECONDS", 1e-6)
    assert await retire_partitions(week, TRACE_EVENTS, MIDNIGHT - 6 * DAY) == [Retired("trace_events_p20261117", 10)]
    assert await tables(week) == {f"trace_events_p202611{day}" for day in range(18, 25)}


@pytest.mark.parametrize("batch_rows", [1, 2, 10_000])
async def test_the_edge_is_trimmed_to_the_microsecond(week: Connection, batch_rows: int) -> None:
    # On the 20th there is a row a second, of three tenants in turn.
    cutoff = MIDNIGHT - 4 * DAY + timedelta(seconds=6)
    before = await count(week)
    assert await trim_boundary(week, TRACE_EVENTS, cutoff, batch_rows=batch_rows) == 6
    assert await count(week) == before - 6
    assert await week.fetchval(f"SELECT min(timestamp) FROM {OLD}") == cutoff
    # Only there: what lies before is the business of whole partitions.
    assert await count(week, MIDNIGHT - 4 * DAY) == 10 + 11 + 12
    assert await trim_boundary(week, TRACE_EVENTS, cutoff, batch_rows=batch_rows) == 0
    assert await trim_boundary(week, TRACE_EVENTS, cutoff + timedelta(microseconds=1), batch_rows=batch_rows) == 1


async def test_a_cutoff_between_two_partitions_trims_nothing(week: Connection) -> None:
    assert await trim_boundary(week, TRACE_EVENTS, MIDNIGHT - 4 * DAY) == 0
    assert await trim_boundary(week, TRACE_EVENTS, MIDNIGHT - 100 * DAY) == 0
    assert await count(week) == sum(range(10, 18))


async def test_rows_of_one_moment_are_more_than_a_batch(week: Connection) -> None:
    rows = [(NOW, "trace", "type", f"tenant-{number % 2}") for number in range(50)]
    names = ["timestamp", "trace_id", "event_type", "tenant_id"]
    await week.copy_records_to_table("trace_events", schema_name="agent_observability", columns=names, records=rows)
    assert await trim_boundary(week, TRACE_EVENTS, NOW, batch_rows=10) == 17
    assert await trim_boundary(week, TRACE_EVENTS, NOW + timedelta(microseconds=1), batch_rows=10) == 50


async def test_two_who_trim_at_once_delete_each_row_once(week: Connection, other: Connection) -> None:
    await week.execute(MANY, MIDNIGHT, 3000, 3)
    found = await asyncio.gather(
        *(trim_boundary(one, TRACE_EVENTS, MIDNIGHT + timedelta(seconds=2000), batch_rows=100) for one in (week, other))
    )
    rest = await trim_boundary(week, TRACE_EVENTS, MIDNIGHT + timedelta(seconds=2000))
    assert sum(found) + rest == 2000 + 17
    assert await week.fetchval(f"SELECT count(*) FROM {TABLE}_p20261124") == 1000


async def test_rows_that_cannot_be_deleted_are_not_tried_without_end(week: Connection) -> None:
    await week.execute(
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        f"CREATE TRIGGER keep BEFORE DELETE ON {OLD} FOR EACH ROW EXECUTE FUNCTION public.keep()"
    )
    async with asyncio.timeout(FEW_SECONDS):
        assert await trim_boundary(week, TRACE_EVENTS, MIDNIGHT - 4 * DAY + timedelta(hours=1), batch_rows=1) == 0


async def test_a_batch_finds_its_rows_by_index_alone(week: Connection) -> None:
    await week.execute(MANY, MIDNIGHT, 20_000, 2)
    await week.execute(f"ANALYZE {TABLE}_p20261124")
    leaf = f"{TABLE}_p20261124"
    statement = retention._TRIM.format(leaf=leaf)
    found = [
        await week.fetch(f"EXPLAIN {statement}", "tenant-1", MIDNIGHT, MIDNIGHT + timedelta(hours=3), 1000),
        await week.fetch(f"EXPLAIN (VERBOSE) {retention._TENANTS.format(leaf=leaf)}"),
    ]
    plans = ["\n".join(row[0] for row in plan) for plan in found]
    assert all("Seq Scan" not in plan for plan in plans), plans
    assert "trace_events_p20261124_pkey" in plans[0]
