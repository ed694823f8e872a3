"""The schema: made once whoever comes, whole or not at all, and only where it belongs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from hx_gateway.db.locks import LOCK_CLASS, MIGRATION_LOCK
from hx_gateway.migrations import versions
from hx_gateway.migrations.runner import SchemaTooNew, current, downgrade, head, upgrade
from tests.fixtures.servers import Servers
from tests.integration.db.databases import fresh_database, migrated_database, sql, url_of

PROCESSES = 5
START_SECONDS = 60.0
# Forked, so that what they import is loaded once.
MIGRATE = """
import asyncio, os, sys
from hx_gateway.migrations import versions
from hx_gateway.migrations.runner import upgrade

def migrate():
    os.write(1, f"{asyncio.run(upgrade(sys.argv[1]))}\\n".encode())
    os._exit(0)

for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        migrate()
sys.exit(sum(os.wait()[1] != 0 for _ in range(int(sys.argv[2]))))
"""
COMMON = [
    ("timestamp", "timestamp with time zone", "NO", None),
    ("event_id", "uuid", "NO", "gen_random_uuid()"),
    ("received_at", "timestamp with time zone", "NO", "now()"),
    ("ts_clamped", "boolean", "NO", "false"),
    ("tenant_id", "text", "NO", "'default'::text"),
]
METADATA = ("metadata", "jsonb", "NO", "'{}'::jsonb")


def columns(kind: str, names: str) -> list[tuple[str, str, str, None]]:
    """Return columns that may be null."""
    return [(name, kind, "YES", None) for name in names.split()]


def needed(kind: str, names: str) -> list[tuple[str, str, str, None]]:
    """Return columns that may not be null."""
    return [(name, kind, "NO", None) for name in names.split()]


COLUMNS: dict[str, list[tuple[str, str, str, str | None]]] = {
    "agent_observability.trace_events": [
        *COMMON,
        *needed("text", "trace_id"),
        *columns("text", "span_id parent_span_id"),
        *needed("text", "event_type"),
        ("level", "smallint", "NO", "9"),
        *columns("text", "message agent_name task_id session_id user_id"),
        *columns("double precision", "duration_ms"),
        METADATA,
    ],
    "agent_observability.routing_decisions": [
        *COMMON,
        *columns("text", "trace_id task_id"),
        *needed("text", "user_request selected_agent"),
        *needed("double precision", "confidence_score"),
        ("alternatives", "jsonb", "NO", "'[]'::jsonb"),
        *columns("text", "reasoning routing_strategy"),
        *columns("double precision", "latency_ms"),
        METADATA,
    ],
    "agent_observability.performance_metrics": [
        *COMMON,
        *needed("text", "metric_name"),
        *needed("double precision", "metric_value"),
        *needed("text", "metric_type"),
        *columns("text", "component agent_name trace_id unit"),
        METADATA,
    ],
    "agent_observability.transformation_events": [
        *COMMON,
        *columns("text", "trace_id"),
        *needed("text", "transformation_type"),
        *columns("text", "source_agent target_agent input_schema output_schema"),
        *columns("bigint", "input_bytes output_bytes"),
        ("success", "boolean", "NO", "true"),
        *columns("text", "error"),
        *columns("double precision", "duration_ms"),
        METADATA,
    ],
    "hx_gateway.journal_cursors": [
        *needed("uuid", "stream_id"),
        *needed("bigint", "segment applied_seq"),
        ("updated_at", "timestamp with time zone", "NO", "now()"),
    ],
    "hx_gateway.dead_letters": [
        *needed("bigint", "id"),
        ("created_at", "timestamp with time zone", "NO", "now()"),
        ("tenant_id", "text", "NO", "'default'::text"),
        *columns("uuid", "stream_id"),
        *columns("bigint", "seq"),
        *columns("integer", "ordinal"),
        *needed("text", "target"),
        *columns("text", "sqlstate error"),
        *columns("jsonb", "payload"),
        *columns("bytea", "raw"),
        *columns("timestamp with time zone", "replayed_at"),
    ],
}
ACCESS = "tenants teams users memberships api_keys budgets audit_log idempotency_keys"
LEDGER = (
    "ledger_epoch ledger_members ledger_tenants ledger_reservations budget_windows spend_logs error_logs spend_daily "
    "model_prices"
)
REGISTRY = (
    "registry_items registry_health registry_dependencies registry_words registry_tags registry_counts "
    "registry_versions registry_health_history registry_checks registry_syncs registry_synced registry_tools "
    "registry_tool_lists registry_tool_words "
    "registry_pending_dependencies registry_self_preservation"
)
REVISIONS = sorted(path.name[:4] for path in Path(versions.__file__).parent.glob("[0-9]*.py"))
TABLES = {
    *COLUMNS,
    *(f"hx_gateway.{name}" for name in (*ACCESS.split(), *LEDGER.split())),
    *(f"hx_registry.{name}" for name in REGISTRY.split()),
    "hx_gateway.alembic_version",
}
KEY = '(tenant_id, "timestamp", event_id)'
INDEXES = {
    "agent_observability.trace_events": {
        KEY,
        '(tenant_id, trace_id, "timestamp")',
        '(tenant_id, agent_name, "timestamp" DESC) WHERE (agent_name IS NOT NULL)',
        '(tenant_id, event_type, "timestamp" DESC)',
        '(tenant_id, agent_name, event_type, "timestamp" DESC) WHERE (agent_name IS NOT NULL)',
        '(tenant_id, "timestamp" DESC) WHERE (level >= 17)',
    },
    "agent_observability.routing_decisions": {
        KEY,
        '(tenant_id, selected_agent, "timestamp" DESC)',
        '(tenant_id, routing_strategy, "timestamp" DESC)',
        '(tenant_id, confidence_score, "timestamp" DESC)',
        '(tenant_id, trace_id, "timestamp") WHERE (trace_id IS NOT NULL)',
    },
    "agent_observability.performance_metrics": {
        KEY,
        '(tenant_id, metric_name, component, "timestamp" DESC)',
        '(tenant_id, metric_name, "timestamp" DESC)',
        '(tenant_id, component, "timestamp" DESC) WHERE (component IS NOT NULL)',
        '(tenant_id, metric_type, "timestamp" DESC)',
    },
    "agent_observability.transformation_events": {
        KEY,
        '(tenant_id, trace_id, "timestamp") WHERE (trace_id IS NOT NULL)',
        '(tenant_id, source_agent, "timestamp" DESC) WHERE (source_agent IS NOT NULL)',
        '(tenant_id, target_agent, "timestamp" DESC) WHERE (target_agent IS NOT NULL)',
        '(tenant_id, transformation_type, "timestamp" DESC)',
    },
    "hx_gateway.journal_cursors": {"(stream_id, segment)"},
    "hx_gateway.dead_letters": {"(id)", "(tenant_id, id)"},
}


async def fetch(url: str, query: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def execute(url: str, *statements: str) -> None:
    for statement in statements:
        await fetch(url, statement)


async def tables(url: str) -> set[str]:
    """Return what lies in any schema but the system's."""
    query = """
    SELECT n.nspname || '.' || c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm')
    """
    return {row["name"] for row in await fetch(url, query)}


async def indexes(url: str, table: str) -> set[str]:
    """Return what the indexes of ``table`` are over, all of them B-trees."""
    found = await fetch(url, "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass($1)", table)
    return {row[0].split(" USING btree ")[1] for row in found}


@pytest.fixture(scope="module")
def schema(servers: Servers) -> Iterator[str]:
    """Give the URL of a migrated database that is only looked at."""
    with migrated_database(servers.postgres) as url:
        yield url


async def test_an_empty_database_gets_the_whole_schema_and_then_nothing_more(empty: str) -> None:
    assert await current(empty) is None
    assert await upgrade(empty) == REVISIONS
    assert await current(empty) == head() == REVISIONS[-1]
    assert await tables(empty) == TABLES
    assert await upgrade(empty) == []


@pytest.mark.parametrize("table", COLUMNS)
async def test_a_table_has_the_columns_that_were_agreed(schema: str, table: str) -> None:
    query = """
    SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema || '.' || table_name = $1 ORDER BY ordinal_position
    """
    assert [tuple(row) for row in await fetch(schema, query, table)] == COLUMNS[table]


@pytest.mark.parametrize("table", INDEXES)
async def test_a_table_has_the_indexes_that_were_agreed(schema: str, table: str) -> None:
    assert await indexes(schema, table) == INDEXES[table]


@pytest.mark.parametrize("table", [name for name in COLUMNS if name.startswith("agent_observability.")])
async def test_the_record_is_partitioned_by_time(schema: str, table: str) -> None:
    found = await fetch(schema, "SELECT pg_get_partkeydef(to_regclass($1))", table)
    assert found[0][0] == 'RANGE ("timestamp")'


ALL_TIME = (
    "CREATE TABLE agent_observability.{0}_all PARTITION OF agent_observability.{0} "
    "FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
)


async def test_a_trace_event_that_breaks_a_rule_is_refused(connection: asyncpg.Connection[Any]) -> None:
    await connection.execute(ALL_TIME.format("trace_events"))
    await connection.execute(
        "INSERT INTO agent_observability.trace_events (timestamp, trace_id, event_type) VALUES (now(), 'trace', 'type')"
    )
    for broken in ("level = 0", "level = 25", "tenant_id = NULL", "trace_id = NULL", "event_type = NULL"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await connection.execute(f"UPDATE agent_observability.trace_events SET {broken}")


async def test_a_confidence_outside_of_0_to_1_is_refused(connection: asyncpg.Connection[Any]) -> None:
    await connection.execute(ALL_TIME.format("routing_decisions"))
    insert = (
        "INSERT INTO agent_observability.routing_decisions (timestamp, user_request, selected_agent, confidence_score) "
        "VALUES (now(), 'request', 'agent', {})"
    )
    for allowed in ("0", "1", "0.5"):
        await connection.execute(insert.format(allowed))
    for broken in ("-0.001", "1.001", "'NaN'", "NULL"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await connection.execute(insert.format(broken))


async def test_the_cursors_leave_room_for_updates(schema: str) -> None:
    found = await fetch(schema, "SELECT reloptions FROM pg_class WHERE oid = 'hx_gateway.journal_cursors'::regclass")
    assert found[0][0] == ["fillfactor=50"]


async def test_nothing_is_put_anywhere_else(empty: str) -> None:
    query = """
    SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    """
    # Also where unqualified names would land there.
    await execute(empty, 'CREATE SCHEMA "$user"', "CREATE SCHEMA hx")
    await upgrade(empty)
    assert await fetch(empty, query) == []
    assert await tables(empty) == TABLES
    schemas = await fetch(empty, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1")
    ours = {row[0] for row in schemas} - {"$user", "hx"}
    assert ours == {"agent_observability", "hx_gateway", "hx_registry", "information_schema", "public"}


async def test_a_role_that_may_not_make_schemas_uses_those_made_for_it(servers: Servers, empty: str) -> None:
    database = empty.rpartition("/")[2]
    sql(
        servers.postgres,
        "DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN; CREATE SCHEMA hx_gateway AUTHORIZATION limited; "
        "CREATE SCHEMA agent_observability AUTHORIZATION limited; CREATE SCHEMA hx_registry AUTHORIZATION limited",
        database,
    )
    try:
        assert await upgrade(empty.replace("//hx@", "//limited@")) == REVISIONS
        assert await upgrade(empty.replace("//hx@", "//limited@")) == []
    finally:
        sql(servers.postgres, "DROP OWNED BY limited CASCADE; DROP ROLE limited", database)


async def test_five_processes_at_once_migrate_once(empty: str) -> None:
    gate = await asyncpg.connect(empty)
    await gate.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {MIGRATION_LOCK})")
    command = [sys.executable, "-c", MIGRATE, empty, str(PROCESSES)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        await _until_waiting(gate, PROCESSES)
        await gate.execute(f"SELECT pg_advisory_unlock({LOCK_CLASS}, {MIGRATION_LOCK})")
        output, _ = await asyncio.to_thread(started.communicate, timeout=START_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
        await gate.close()
    assert sorted(output.split("\n")) == ["", str(REVISIONS), *["[]"] * (PROCESSES - 1)]
    assert started.returncode == 0


async def _until_waiting(gate: asyncpg.Connection[Any], sessions: int) -> None:
    # Between two questions for the lock each of them is in the middle of nothing, just after a COMMIT.
    query = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ 'advisory|COMMIT'
    """
    deadline = time.monotonic() + START_SECONDS
    while await gate.fetchval(query) < sessions:
        assert time.monotonic() < deadline, "not all are there in time"
        await asyncio.sleep(0.02)


async def test_five_tasks_at_once_migrate_once(empty: str) -> None:
    results = await asyncio.gather(*(upgrade(empty) for _ in range(5)))
    assert sorted(results) == [[], [], [], [], REVISIONS]


async def test_two_databases_are_migrated_at_once_without_mixing_them_up(servers: Servers) -> None:
    with fresh_database(servers.postgres) as one, fresh_database(servers.postgres) as two:
        assert list(await asyncio.gather(upgrade(one), upgrade(two))) == [REVISIONS, REVISIONS]
        for url in (one, two):
            assert await tables(url) == TABLES


async def test_who_waits_too_long_for_another_gives_up(empty: str) -> None:
    gate = await asyncpg.connect(empty)
    await gate.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {MIGRATION_LOCK})")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="another process migrates"):
        await upgrade(empty, wait_seconds=0.2)
    assert 0.2 <= time.monotonic() - began < 5.0
    assert await current(empty) is None
    await gate.close()
    assert await upgrade(empty) == REVISIONS


async def test_a_database_that_is_current_is_not_locked_to_find_that_out(migrated: str) -> None:
    gate = await asyncpg.connect(migrated)
    await gate.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {MIGRATION_LOCK})")
    await gate.execute("BEGIN; LOCK TABLE hx_gateway.alembic_version IN EXCLUSIVE MODE")
    assert await upgrade(migrated, wait_seconds=0.2) == []
    await gate.close()


async def test_a_lock_that_others_hold_ends_the_migration_without_a_trace(empty: str) -> None:
    gate = await asyncpg.connect(empty)
    await gate.execute("BEGIN; CREATE SCHEMA agent_observability")
    began = time.monotonic()
    with pytest.raises(asyncpg.LockNotAvailableError):
        await upgrade(empty, lock_timeout_seconds=0.2)
    assert 0.2 <= time.monotonic() - began < 5.0
    await gate.execute("ROLLBACK")
    await gate.close()
    assert await current(empty) is None
    assert await upgrade(empty) == REVISIONS


async def test_a_migration_that_fails_at_its_end_leaves_nothing(empty: str) -> None:
    await execute(empty, "CREATE SCHEMA hx_gateway", "CREATE TABLE hx_gateway.dead_letters ()")
    with pytest.raises(asyncpg.DuplicateTableError):
        await upgrade(empty)
    assert await current(empty) is None
    assert await tables(empty) == {"hx_gateway.dead_letters"}
    await execute(empty, "DROP TABLE hx_gateway.dead_letters")
    assert await upgrade(empty) == REVISIONS


async def test_a_newer_database_is_left_alone(migrated: str) -> None:
    await execute(migrated, "UPDATE hx_gateway.alembic_version SET version_num = '0099'")
    for attempt in (upgrade(migrated), downgrade(migrated, "base")):
        with pytest.raises(SchemaTooNew, match=f"'0099'.*'{head()}'") as caught:
            await attempt
        assert (caught.value.found, caught.value.head) == ("0099", head())
    assert await current(migrated) == "0099"
    assert await tables(migrated) == TABLES


async def test_a_database_that_becomes_newer_while_we_wait_is_left_alone(empty: str) -> None:
    gate = await asyncpg.connect(empty)
    await gate.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {MIGRATION_LOCK})")
    waiting = asyncio.create_task(upgrade(empty))
    await _until_waiting(gate, 1)
    await gate.execute(
        "CREATE SCHEMA hx_gateway; CREATE TABLE hx_gateway.alembic_version (version_num varchar(32) PRIMARY KEY); "
        "INSERT INTO hx_gateway.alembic_version VALUES ('0099')"
    )
    await gate.close()
    with pytest.raises(SchemaTooNew):
        await waiting
    assert await tables(empty) == {"hx_gateway.alembic_version"}


async def test_down_is_back_to_nothing_and_up_again(migrated: str) -> None:
    assert await downgrade(migrated, "base") == REVISIONS[::-1]
    assert await current(migrated) is None
    assert await tables(migrated) == {"hx_gateway.alembic_version"}
    schemas = await fetch(migrated, "SELECT 1 FROM pg_namespace WHERE nspname = 'agent_observability'")
    assert schemas == []
    assert await downgrade(migrated, "base") == []
    assert await upgrade(migrated) == REVISIONS
    assert await tables(migrated) == TABLES


async def test_the_drivers_errors_come_as_they_are(servers: Servers) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await upgrade(url_of(servers.postgres, "nowhere"))
    with pytest.raises(ConnectionRefusedError):
        await upgrade("postgresql://hx@127.0.0.1:1/nowhere")


async def test_logging_stays_as_it_was_set_up(empty: str) -> None:
    root = logging.getLogger()
    mine = logging.getLogger("tests.mine")
    before = (list(root.handlers), root.level, mine.disabled, logging.getLogger("alembic").handlers)
    await upgrade(empty)
    assert (list(root.handlers), root.level, mine.disabled, logging.getLogger("alembic").handlers) == before


def test_every_revision_says_what_it_follows() -> None:
    assert re.fullmatch(r"\d{4}", head())
