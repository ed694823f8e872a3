"""The second wall between tenants: what a statement that forgets its tenant finds, on every table that has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from hx_gateway.access.key_source import PostgresKeySource
from hx_gateway.db.row_security import EVERY_TENANT, EVERY_TENANT_SETTINGS, TENANT_SETTING, exempt_role
from hx_gateway.doctor.examination import examine
from hx_gateway.journal.connecting import Connector
from hx_gateway.kit.clock import SystemClock
from hx_gateway.migrations.runner import downgrade, upgrade
from hx_gateway.observability.repository import QUERY_POOL_OPTIONS
from hx_gateway.observability.upkeep import Upkeep
from hx_gateway.services.database import DatabaseManager
from hx_gateway.services.postgres import PostgresService
from hx_gateway.settings import load_settings
from hx_gateway.spend.filters import RowFilters
from hx_gateway.spend.queries import page_statement
from hx_gateway.spend.rights import Sight
from hx_gateway.spend.sources import LOGS
from tests.fixtures.servers import Servers
from tests.integration.db.databases import fresh_database, sql

# Tables with a tenant that have no policy, and why.
BY_COPY = "its rows come by COPY, which PostgreSQL refuses where there are policies"
EXCEPTIONS = {
    "agent_observability.trace_events": BY_COPY,
    "agent_observability.routing_decisions": BY_COPY,
    "agent_observability.performance_metrics": BY_COPY,
    "agent_observability.transformation_events": BY_COPY,
}
# Partitions by the name of their table: a policy of the table does not hold for who asks a partition by its own name.
CATALOGUE = """
SELECT n.nspname || '.' || c.relname AS name,
    c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid) AS walled,
    (SELECT r.oid::regclass::text FROM pg_class AS r WHERE r.oid = pg_partition_root(c.oid)) AS root
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('hx_gateway', 'hx_registry', 'agent_observability') AND c.relkind IN ('r', 'p')
    AND (c.oid = 'hx_gateway.tenants'::regclass OR EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped))
"""
# A row of the tenant $1 in each table with policies. Ids hold the tenant, so that each may have its own.
ROWS = {
    "tenants": "(id, name, created_by, updated_by) VALUES ($1, 'x', 'x', 'x')",
    "teams": "(id, tenant_id, name, created_by, updated_by) VALUES ('tm-' || $1, $1, 'x', 'x', 'x')",
    "users": "(id, tenant_id, name, created_by, updated_by) VALUES ('us-' || $1, $1, 'x', 'x', 'x')",
    "api_keys": (
        "(id, tenant_id, name, prefix, last_four, digest, pepper_id, created_by, updated_by) "
        "VALUES ('key-' || $1, $1, 'x', 'sk-hx', 'abcd', '\\x00', 'pp', 'x', 'x')"
    ),
    "memberships": "(team_id, user_id, tenant_id) VALUES ('tm-' || $1, 'us-' || $1, $1)",
    "budgets": (
        "(id, tenant_id, owner_kind, owner_id, period, limit_nano) VALUES ('bg-' || $1, $1, 'tenant', $1, 'day', 1)"
    ),
    "audit_log": (
        "(tenant_id, at, actor_key, action, object_kind, object_id, request_id, hash) "
        "VALUES ($1, now(), 'x', 'created', 'team', 'x', 'x', '\\x00')"
    ),
    "idempotency_keys": (
        "(tenant_id, actor, key, fingerprint, status, response) VALUES ($1, 'x', 'x', '\\x00', 201, '{}')"
    ),
    "ledger_tenants": "(tenant_id, epoch) VALUES ($1, 1)",
    "ledger_reservations": (
        "(call_id, tenant_id, stream_id, state, amount_nano, admitted_at) "
        "VALUES (gen_random_uuid(), $1, gen_random_uuid(), 'sent', 1, now())"
    ),
    "budget_windows": "(budget_id, window_id, tenant_id) VALUES ('bg-' || $1, 'day', $1)",
    "spend_logs": (
        "(call_id, request_id, tenant_id, key_id, operation, requested_model, model, status, ending, usage_source, "
        "cost_nano, settled_by, admitted_at) "
        "VALUES (gen_random_uuid(), 'x', $1, 'x', 'chat', 'm', 'm', 200, 'stop', 'none', 1, 'done', now())"
    ),
    "error_logs": (
        "(call_id, request_id, tenant_id, status, ending, at) VALUES (gen_random_uuid(), 'x', $1, 429, 'x', now())"
    ),
    "spend_daily": ("(tenant_id, day, key_id, team_id, user_id, model) VALUES ($1, '2026-01-01', 'x', '', '', 'm')"),
    "dead_letters": "(tenant_id, target) VALUES ($1, 'x')",
    "registry_items": (
        "(id, tenant_id, name) VALUES (md5($1)::uuid, $1, 'one'), (md5($1 || ' other')::uuid, $1, 'other')"
    ),
    "registry_health": "(item_id, tenant_id) VALUES (md5($1)::uuid, $1)",
    "registry_health_history": (
        "(tenant_id, item_id, bucket, successes, failures, measured, response_ms_sum, response_ms_max, response_times) "
        "VALUES ($1, md5($1)::uuid, now(), 1, 0, 0, 0, 0, '{}')"
    ),
    "registry_checks": "(tenant_id, id, asked_at, item_ids) VALUES ($1, md5($1)::uuid, now(), '{}')",
    "registry_dependencies": (
        "(item_id, depends_on_id, tenant_id) VALUES (md5($1)::uuid, md5($1 || ' other')::uuid, $1)"
    ),
    # Beside the rows that the services have there already.
    "registry_words": "(item_id, word, tenant_id) VALUES (md5($1)::uuid, 'x', $1)",
    "registry_tags": "(item_id, tag, tenant_id) VALUES (md5($1)::uuid, 'x', $1)",
    "registry_counts": (
        "(tenant_id, build_type, protocol, priority, status, is_enabled, is_required, is_active, items) "
        "VALUES ($1, 'stub', 'tcp', 'low', 'healthy', true, true, true, 1)"
    ),
    "registry_syncs": "(tenant_id, url) VALUES ($1, 'https://registry.example.com')",
    "registry_synced": (
        "(tenant_id, url, name, item_id, managed) "
        "VALUES ($1, 'https://registry.example.com', 'a/b', md5($1)::uuid, '{}')"
    ),
    "registry_pending_dependencies": "(item_id, tenant_id, name) VALUES (md5($1)::uuid, $1, 'to come')",
    "registry_self_preservation": "(tenant_id, gateway, until) VALUES ($1, md5($1)::uuid, now())",
    "registry_versions": (
        "(item_id, tenant_id, name, version, document, status_changed_at, published_at, updated_at) "
        "VALUES (md5($1)::uuid, $1, 'a/b', '1.0.0', '{}', now(), now(), now())"
    ),
    "registry_tools": (
        "(item_id, tenant_id, name, definition_hash, first_seen, updated_at) "
        "VALUES (md5($1)::uuid, $1, 'add', 'x', now(), now())"
    ),
    "registry_tool_lists": "(item_id, tenant_id, asked_at) VALUES (md5($1)::uuid, $1, now())",
    # Beside the word that the tool has there already.
    "registry_tool_words": "(item_id, tenant_id, name, word) VALUES (md5($1)::uuid, $1, 'add', 'x')",
}
OWN, OTHER = "acme", "rival"


def qualified(table: str) -> str:
    """Return a table's name with its schema."""
    return f"{'hx_registry' if table.startswith('registry_') else 'hx_gateway'}.{table}"


def statement(table: str) -> str:
    """Return what adds a row of the tenant ``$1``."""
    return f"INSERT INTO {qualified(table)} {ROWS[table].replace('$1', '$1::text')}"


@pytest.fixture(scope="module")
def own_url(servers: Servers) -> Iterator[str]:
    """Give a database of an ordinary role, which made all tables itself, with a row of two tenants in each of them."""

    async def fill() -> None:
        await upgrade(url)
        connection = await asyncpg.connect(url, server_settings={**EVERY_TENANT_SETTINGS})
        for tenant in (OWN, OTHER):
            for table in ROWS:
                await connection.execute(statement(table), tenant)
        await connection.close()

    ordinary = servers.postgres.ordinary_url()
    with fresh_database(servers.postgres) as made:
        name = made.rpartition("/")[2]
        sql(servers.postgres, f"ALTER DATABASE {name} OWNER TO hx_ordinary")
        url = f"{ordinary.rpartition('/')[0]}/{name}"
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, fill()).result()
        yield url


@pytest.fixture
async def session(own_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Give a plain session of the gateway's role, in a transaction that is undone."""
    connection = await asyncpg.connect(own_url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def work_for(connection: asyncpg.Connection[Any], tenant: str) -> None:
    await connection.execute("SELECT set_config($1, $2, true)", TENANT_SETTING, tenant)


async def tenants_in(connection: asyncpg.Connection[Any], table: str) -> list[str]:
    """Return whose rows a statement without any condition finds."""
    column = "id" if table == "tenants" else "tenant_id"
    return [row[0] for row in await connection.fetch(f"SELECT DISTINCT {column} FROM {qualified(table)} ORDER BY 1")]


async def open_tables(connection: asyncpg.Connection[Any]) -> set[str]:
    """Return the tables with a tenant that have no forced policy, partitions by their table's name."""
    return {row["root"] or row["name"] for row in await connection.fetch(CATALOGUE) if not row["walled"]}


# The catalogue


async def test_every_table_with_a_tenant_has_a_policy_or_a_reason(session: asyncpg.Connection[Any]) -> None:
    assert await open_tables(session) == EXCEPTIONS.keys()
    walled = {row["name"] for row in await session.fetch(CATALOGUE) if row["walled"]}
    assert walled == {qualified(table) for table in ROWS}


@pytest.mark.parametrize("left_out", ["ENABLE", "FORCE"])
async def test_a_table_whose_wall_is_half_built_is_found(session: asyncpg.Connection[Any], left_out: str) -> None:
    await session.execute("CREATE TABLE hx_gateway.notes (tenant_id text NOT NULL)")
    await session.execute("CREATE POLICY of_tenant ON hx_gateway.notes USING (true)")
    for part in {"ENABLE", "FORCE"} - {left_out}:
        await session.execute(f"ALTER TABLE hx_gateway.notes {part} ROW LEVEL SECURITY")
    assert "hx_gateway.notes" in await open_tables(session)


# SQL of one's own


@pytest.mark.parametrize("table", ROWS)
async def test_without_a_tenant_there_are_no_rows(session: asyncpg.Connection[Any], table: str) -> None:
    assert await tenants_in(session, table) == []
    await work_for(session, "")
    assert await tenants_in(session, table) == []


@pytest.mark.parametrize("table", ROWS)
async def test_a_statement_without_a_condition_finds_the_tenants_own_rows(
    session: asyncpg.Connection[Any], table: str
) -> None:
    await work_for(session, OWN)
    assert await tenants_in(session, table) == [OWN]
    await work_for(session, EVERY_TENANT)
    assert {OWN, OTHER} <= set(await tenants_in(session, table))


@pytest.mark.parametrize("table", ROWS)
async def test_who_works_for_one_tenant_finds_nothing_of_the_one_that_is_asked_for(
    session: asyncpg.Connection[Any], table: str
) -> None:
    column = "id" if table == "tenants" else "tenant_id"
    for setting in (OTHER, "nobody", f"{OWN},{OTHER}", "%", f"{OWN}' OR ''='", " "):
        await work_for(session, setting)
        assert await session.fetch(f"SELECT * FROM {qualified(table)} WHERE {column} = $1", OWN) == []


@pytest.mark.parametrize("setting", ["", OTHER])
@pytest.mark.parametrize("table", ROWS)
async def test_a_row_of_another_tenant_is_refused(session: asyncpg.Connection[Any], table: str, setting: str) -> None:
    await work_for(session, setting)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await session.execute(statement(table), "third")


@pytest.mark.parametrize("change", ["UPDATE hx_gateway.{} SET tenant_id = tenant_id", "DELETE FROM hx_gateway.{}"])
async def test_rows_of_others_are_neither_changed_nor_deleted(session: asyncpg.Connection[Any], change: str) -> None:
    await work_for(session, OWN)
    assert (await session.execute(change.format("spend_logs"))).endswith(" 1")
    await work_for(session, "")
    assert (await session.execute(change.format("spend_logs"))).endswith(" 0")


async def test_a_row_is_not_given_to_another_tenant(session: asyncpg.Connection[Any]) -> None:
    await work_for(session, OWN)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await session.execute("UPDATE hx_gateway.spend_logs SET tenant_id = $1", OTHER)


async def test_references_are_checked_whoever_works(session: asyncpg.Connection[Any]) -> None:
    await work_for(session, OWN)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await session.execute("UPDATE hx_gateway.api_keys SET team_id = $1", f"tm-{OTHER}")


# Connections of the gateway


async def test_a_transaction_for_a_tenant_leaves_nothing_to_the_next_one(own_url: str) -> None:
    database = DatabaseManager(own_url, pool_size=1, max_overflow=0)
    everything = text("SELECT tenant_id FROM hx_gateway.teams ORDER BY 1")
    try:
        for tenant, found in ((OWN, [OWN]), (EVERY_TENANT, [OWN, OTHER]), (OTHER, [OTHER]), ("", [])):
            async with database.session(tenant) as session:
                assert list((await session.scalars(everything)).all()) == found
    finally:
        await database.close()


@pytest.mark.parametrize("options", [{}, QUERY_POOL_OPTIONS], ids=["plain", "record"])
async def test_a_pooled_connection_works_for_all_again_after_whatever_was_set(
    own_url: str, options: dict[str, Any]
) -> None:
    async with PostgresService(own_url, max_size=1, pool_options=options) as service:
        async with service.acquire() as connection:
            pid = connection.get_server_pid()
            await connection.execute(f"SET {TENANT_SETTING} = '{OWN}'")
            assert await tenants_in(connection, "teams") == [OWN]
        async with service.acquire() as connection:
            assert connection.get_server_pid() == pid
            assert await tenants_in(connection, "teams") == [OWN, OTHER]
            async with connection.transaction():
                await work_for(connection, OTHER)
                assert await tenants_in(connection, "teams") == [OTHER]
            assert await tenants_in(connection, "teams") == [OWN, OTHER]
            await connection.execute("RESET ALL")
            assert await tenants_in(connection, "teams") == [OWN, OTHER]


async def test_keys_of_every_tenant_are_looked_up(own_url: str) -> None:
    async with PostgresService(own_url, max_size=1) as service:
        source = PostgresKeySource(service)
        for tenant in (OWN, OTHER):
            known = await source.load(f"key-{tenant}")
            assert known is not None
            assert known.principal.tenant_id == tenant


async def test_who_stores_the_journal_works_for_all(own_url: str) -> None:
    connector = Connector(own_url, timeout=5.0)
    for connection in (await connector.connect(), await connector.connect_ready()):
        try:
            assert await tenants_in(connection, "dead_letters") == [OWN, OTHER]
        finally:
            await connection.close()


async def test_copy_into_a_table_with_policies_is_refused(session: asyncpg.Connection[Any]) -> None:
    await work_for(session, EVERY_TENANT)
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="COPY FROM not supported with row-level security"):
        await session.copy_records_to_table(
            "ledger_tenants", schema_name="hx_gateway", columns=["tenant_id", "epoch"], records=[("third", 1)]
        )


# Roles


async def test_a_role_that_no_policy_holds_for_is_told(servers: Servers, own_url: str) -> None:
    sql(servers.postgres, "DROP ROLE IF EXISTS hx_passing; CREATE ROLE hx_passing LOGIN BYPASSRLS")
    found = {}
    for role in ("hx", "hx_ordinary", "hx_passing"):
        connection = await asyncpg.connect(own_url.replace("//hx_ordinary@", f"//{role}@"))
        found[role] = await exempt_role(connection)
        await connection.close()
    assert found == {"hx": "hx", "hx_ordinary": None, "hx_passing": "hx_passing"}


async def test_the_doctor_tells_of_such_a_role(own_url: str, tmp_path: Path) -> None:
    found = {}
    for role in ("hx", "hx_ordinary"):
        url = own_url.replace("//hx_ordinary@", f"//{role}@")
        environ = {"PG_URL": url, "REDIS_URL": "none", "QDRANT_URL": "none", "HX_DATA_DIR": str(tmp_path)}
        found[role] = [finding for finding in await examine(load_settings(environ)) if finding.subject == "tenants"]
    assert found["hx_ordinary"] == []
    (note,) = found["hx"]
    assert note.state == "note"
    assert "'hx'" in note.detail
    assert "BYPASSRLS" in note.remedy


async def test_the_log_tells_of_such_a_role_at_the_start(own_url: str) -> None:
    told = {}
    for role in ("hx", "hx_ordinary"):
        url = own_url.replace("//hx_ordinary@", f"//{role}@")
        with capture_logs() as logs:
            await Upkeep(url, Connector(url, timeout=5.0).connect, {}, migrate=True, clock=SystemClock()).prepare()
        told[role] = [entry for entry in logs if entry["event"] == "row_security_bypassed"]
    assert told == {"hx": [{"event": "row_security_bypassed", "log_level": "warning", "role": "hx"}], "hx_ordinary": []}


# Plans


@pytest.mark.parametrize("tenant", [OWN, EVERY_TENANT])
async def test_a_page_of_spend_is_read_from_the_end_of_an_index(session: asyncpg.Connection[Any], tenant: str) -> None:
    await work_for(session, EVERY_TENANT)
    many = statement("spend_logs").replace("$1::text", "tenant").replace("now()", "now() - n * interval '1 second'")
    many = many.replace("VALUES (", "SELECT ").removesuffix(")")
    await session.execute(f"{many} FROM generate_series(1, 5000) AS n, unnest(ARRAY['{OWN}', '{OTHER}']) AS tenant")
    await session.execute("ANALYZE hx_gateway.spend_logs")
    filters = RowFilters(
        sight=Sight(tenant_id=OWN, whole=True), start=datetime(2020, 1, 1, tzinfo=UTC), end=None, chosen={}
    )
    await work_for(session, tenant)
    query, values = page_statement(LOGS, filters)
    plan = "\n".join(row[0] for row in await session.fetch(f"EXPLAIN {query}", *values))
    assert "Index Scan using spend_logs_by_time" in plan
    assert "Presorted Key: admitted_at" in plan


# The migration


async def test_the_wall_is_taken_down_and_built_again(servers: Servers) -> None:
    with fresh_database(servers.postgres) as url:
        await upgrade(url)
        assert (await downgrade(url, "0003"))[-1] == "0004"
        connection = await asyncpg.connect(url)
        try:
            assert await connection.fetchval("SELECT count(*) FROM pg_policy") == 0
            assert {qualified(table) for table in ROWS if not table.startswith("registry_")} <= await open_tables(
                connection
            )
            assert (await upgrade(url))[0] == "0004"
            assert await open_tables(connection) == EXCEPTIONS.keys()
        finally:
            await connection.close()
