"""The gateway's schema in a database: its revision, what a migration left half done, and its partitions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hx_gateway.db.coverage import read_coverage
from hx_gateway.db.partitions import partitions_ahead
from hx_gateway.db.schemas import (
    GATEWAY_SCHEMA,
    OBSERVABILITY_SCHEMA,
    PARTITIONED_TABLES,
    REGISTRY_SCHEMA,
    VERSION_TABLE,
)
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.kit.epochs import postgres_us
from hx_gateway.migrations import runner

SCHEMAS = (GATEWAY_SCHEMA, REGISTRY_SCHEMA, OBSERVABILITY_SCHEMA)
# What the newest revision has, by schema; a test holds this to the migrations.
TABLES = {
    GATEWAY_SCHEMA: (
        "api_keys audit_log budget_windows budgets dead_letters error_logs idempotency_keys journal_cursors "
        "ledger_epoch ledger_members ledger_reservations ledger_tenants memberships model_prices spend_daily "
        "spend_logs teams tenants users"
    ),
    REGISTRY_SCHEMA: (
        "registry_checks registry_counts registry_dependencies registry_health registry_health_history "
        "registry_items registry_pending_dependencies registry_self_preservation registry_synced registry_syncs "
        "registry_tags registry_tool_lists registry_tool_words registry_tools registry_versions registry_words"
    ),
    OBSERVABILITY_SCHEMA: " ".join(table.name for table in PARTITIONED_TABLES),
}
SHOWN = 5
_VERSIONS = f"{GATEWAY_SCHEMA}.{VERSION_TABLE}"
_REVISIONS = f"SELECT version_num FROM {_VERSIONS}"  # noqa: S608 - the name is ours
_TABLES = "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = ANY($1::text[]) AND tablename <> $2"
_MISSING = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL ORDER BY name"
# What an index that was to be built CONCURRENTLY leaves behind when it fails.
_INVALID = """
SELECT indexrelid::regclass::text AS name FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class AS class ON class.oid = indexrelid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE NOT indisvalid AND nspname = ANY($1::text[]) ORDER BY name
"""
_RESTORE = "Restore the backup of before, or give an empty database and let the gateway make the schema."


async def examine_schema(connection: Any, _around: Surroundings) -> list[Finding]:
    """Look at the revision and at what should be there with it. ``connection`` is asyncpg's, whose errors pass."""
    revisions = await _revisions(connection)
    if len(revisions) != 1:
        return await _without_revision(connection, revisions)
    try:
        pending = runner.pending(revisions[0])
    except runner.SchemaTooNew as error:
        return [problem(Subject.SCHEMA, str(error), "Run the newer program, or restore the backup of before it.")]
    broken = await _half_done(connection, is_newest=not pending)
    if broken:
        return broken
    if pending:
        detail = f"revision {revisions[0]}; {len(pending)} to come: {', '.join(pending)}"
        return [note(Subject.SCHEMA, detail, "Run hx-gateway db upgrade; the gateway's next start does so too.")]
    return [ok(Subject.SCHEMA, f"revision {revisions[0]}, the newest")]


async def examine_partitions(connection: Any, around: Surroundings) -> list[Finding]:
    """Look whether the record has a place for now and for tomorrow; nothing where there is no schema."""
    if await connection.fetchval(_MISSING, [table.qualified for table in PARTITIONED_TABLES]) is not None:
        return []
    coverage, now = await read_coverage(connection), datetime.fromtimestamp(around.now(), UTC)
    if not any(covered.ranges for covered in coverage.values()):
        return [note(Subject.PARTITIONS, "none yet; the gateway makes them when it starts")]
    absent = [table.name for table in PARTITIONED_TABLES if coverage[table.name].end(postgres_us(now)) is None]
    remedy = "Start the gateway, which makes them; if it runs, see upkeep_failed in its log."
    if absent:
        return [problem(Subject.PARTITIONS, f"none for now: {', '.join(absent)}; events wait", remedy)]
    ahead = {table.name: partitions_ahead(coverage, table, now) for table in PARTITIONED_TABLES}
    last = [name for name, count in ahead.items() if count == 0]
    if last:
        return [problem(Subject.PARTITIONS, f"the current one is the last: {', '.join(last)}", remedy)]
    return [ok(Subject.PARTITIONS, f"{min(ahead.values())} ahead at least")]


async def _revisions(connection: Any) -> list[str]:
    if await connection.fetchval("SELECT to_regclass($1)", _VERSIONS) is None:
        return []
    return [str(row["version_num"]) for row in await connection.fetch(_REVISIONS)]


async def _without_revision(connection: Any, revisions: list[str]) -> list[Finding]:
    if revisions:
        detail = f"{_VERSIONS} names several revisions: {', '.join(sorted(revisions))}"
        return [problem(Subject.SCHEMA, detail, _RESTORE)]
    tables = await connection.fetchval(_TABLES, list(SCHEMAS), VERSION_TABLE)
    if tables:
        return [problem(Subject.SCHEMA, f"{tables} tables are there, and {_VERSIONS} names no revision", _RESTORE)]
    detail = f"nothing there yet; the newest revision is {runner.head()}"
    return [note(Subject.SCHEMA, detail, "The gateway's first start makes it, or hx-gateway db upgrade.")]


async def _half_done(connection: Any, *, is_newest: bool) -> list[Finding]:
    found = []
    invalid = [row["name"] for row in await connection.fetch(_INVALID, list(SCHEMAS))]
    if invalid:
        remedy = f"Build it anew: REINDEX INDEX CONCURRENTLY {invalid[0]}; then hx-gateway db upgrade."
        found.append(problem(Subject.SCHEMA, f"indexes that were not finished: {_listed(invalid)}", remedy))
    if is_newest:
        expected = [f"{schema}.{name}" for schema, names in TABLES.items() for name in names.split()]
        missing = [row["name"] for row in await connection.fetch(_MISSING, expected)]
        if missing:
            found.append(problem(Subject.SCHEMA, f"tables are missing: {_listed(missing)}", _RESTORE))
    return found


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
