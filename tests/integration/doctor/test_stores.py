"""What the doctor says of real PostgreSQL and Redis servers, good and bad."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from hx_gateway.db.partitions import ensure_partitions
from hx_gateway.doctor.findings import Finding, Surroundings
from hx_gateway.doctor.postgres import examine_postgres
from hx_gateway.doctor.redis import examine_redis
from hx_gateway.doctor.schema import TABLES
from hx_gateway.migrations import runner
from hx_gateway.services.redis_pipe import RedisPipe
from hx_gateway.settings import Settings
from tests.fixtures.servers import Servers
from tests.integration.db.databases import fresh_database, migrated_database, ready_database, sql


def around(given: Mapping[str, str], *, ahead: float = 0.0) -> Surroundings:
    """``ahead``: by how many seconds this host's clock is."""
    return Surroundings(settings=Settings.model_validate(given), now=lambda: time.time() + ahead)


def at(subject: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def only(subject: str, findings: list[Finding]) -> Finding:
    (finding,) = at(subject, findings)
    return finding


@pytest.fixture(scope="module")
def ready(servers: Servers) -> Iterator[str]:
    """Give a database that a gateway has made ready, for a role without special rights."""
    with ready_database(servers.postgres) as url:
        yield servers.postgres.ordinary_url(url)


@pytest.fixture
def spoilt(servers: Servers) -> Iterator[str]:
    """Give one that may be spoilt."""
    with ready_database(servers.postgres) as url:
        yield url


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


# PostgreSQL


async def test_a_database_that_is_ready_has_nothing_wrong(ready: str, servers: Servers) -> None:
    found = await examine_postgres(around({"PG_URL": ready, "POOL_OVERFLOW": "0", "POOL_SIZE": "5"}))
    assert {finding.subject: finding.state for finding in found} == {
        "PostgreSQL": "ok", "pools": "ok", "clock": "ok", "schema": "ok", "partitions": "ok"
    }  # fmt: skip
    version = sql(servers.postgres, "SHOW server_version")
    assert only("PostgreSQL", found).detail == f"PostgreSQL {version} at {ready.replace('hx_ordinary@', '')}"
    assert only("schema", found).detail == f"revision {runner.head()}, the newest"


async def test_more_connections_than_the_server_allows_are_a_problem(ready: str) -> None:
    found = only("pools", await examine_postgres(around({"PG_URL": ready, "HX_WORKERS": "2"})))
    assert (found.state, found.detail) == ("problem", "2 x 47 = 94 of 40 connections")


@pytest.mark.parametrize(("ahead", "state", "way"), [(60.0, "problem", "behind"), (-3.0, "note", "ahead of")])
async def test_a_clock_that_differs_from_the_databases_is_told(ready: str, ahead: float, state: str, way: str) -> None:
    found = only("clock", await examine_postgres(around({"PG_URL": ready}, ahead=ahead)))
    assert found.state == state
    assert f"s {way} this host" in found.detail


async def test_an_empty_database_waits_for_the_first_start(servers: Servers) -> None:
    with fresh_database(servers.postgres) as url:
        found = await examine_postgres(around({"PG_URL": url}))
    assert only("schema", found).state == "note"
    assert "hx-gateway db upgrade" in only("schema", found).remedy
    assert at("partitions", found) == []


async def test_what_is_to_come_is_named_and_a_migrated_database_has_no_partitions_yet(servers: Servers) -> None:
    with fresh_database(servers.postgres) as url:
        await runner.upgrade(url)
        await runner.downgrade(url, "0012")
        found = await examine_postgres(around({"PG_URL": url}))
    assert only("schema", found).state == "note"
    assert only("schema", found).detail.startswith("revision 0012; ")
    assert "0013, 0014" in only("schema", found).detail
    assert only("partitions", found).state == "note"


async def test_a_newer_database_is_left_to_the_newer_program(spoilt: str) -> None:
    await execute(spoilt, "UPDATE hx_gateway.alembic_version SET version_num = '9999'")
    found = only("schema", await examine_postgres(around({"PG_URL": spoilt})))
    assert found.state == "problem"
    assert "'9999'" in found.detail


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM hx_gateway.alembic_version", "names no revision"),
        ("INSERT INTO hx_gateway.alembic_version VALUES ('0001')", "several revisions: 0001, "),
        ("DROP TABLE hx_gateway.ledger_epoch CASCADE", "tables are missing: hx_gateway.ledger_epoch"),
        ("DROP TABLE agent_observability.trace_events CASCADE", "tables are missing: agent_observability.trace_events"),
    ],
)
async def test_half_a_schema_is_a_problem(spoilt: str, statement: str, said: str) -> None:
    await execute(spoilt, statement)
    found = only("schema", await examine_postgres(around({"PG_URL": spoilt})))
    assert found.state == "problem"
    assert said in found.detail


async def test_the_tables_that_are_looked_for_are_those_that_the_migrations_make(servers: Servers) -> None:
    with migrated_database(servers.postgres) as url:
        listed = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname ~ '^(hx_|agent_)'"
        there = set(sql(servers.postgres, listed, url.rpartition("/")[2]).split())
    expected = {f"{schema}.{name}" for schema, names in TABLES.items() for name in names.split()}
    assert expected == there - {"hx_gateway.alembic_version"}


async def test_an_index_that_was_not_finished_is_named_with_the_command(spoilt: str) -> None:
    await execute(spoilt, "CREATE TABLE hx_gateway.twice AS SELECT 1 AS n FROM generate_series(1, 2)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(spoilt, "CREATE UNIQUE INDEX CONCURRENTLY half ON hx_gateway.twice (n)")
    found = only("schema", await examine_postgres(around({"PG_URL": spoilt})))
    assert found.state == "problem"
    assert "REINDEX INDEX CONCURRENTLY hx_gateway.half" in found.remedy


async def test_partitions_that_end_are_told_before_and_after_they_did(ready: str) -> None:
    for days, said in ((30, "none for now"), (7, "the current one is the last: trace_events")):
        moment = timedelta(days=days).total_seconds()
        found = only("partitions", await examine_postgres(around({"PG_URL": ready}, ahead=moment)))
        assert found.state == "problem"
        assert said in found.detail


async def test_a_role_without_rights_is_told_and_a_read_only_database_too(spoilt: str, servers: Servers) -> None:
    name = spoilt.rpartition("/")[2]
    await execute(spoilt, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert [finding.state for finding in at("PostgreSQL", await examine_postgres(around({"PG_URL": spoilt})))] == [
        "ok",
        "problem",
    ]
    sql(servers.postgres, "DROP ROLE IF EXISTS hx_nobody; CREATE ROLE hx_nobody LOGIN")
    found = await examine_postgres(around({"PG_URL": spoilt.replace("//hx@", "//hx_nobody@")}))
    assert "permission denied" in found[-1].detail
    assert found[-1].state == "problem"


async def test_a_server_that_is_not_there_is_a_problem_and_its_password_is_not_told() -> None:
    (found,) = await examine_postgres(around({"PG_URL": "postgresql://u:s3cret@127.0.0.1:1/db"}))
    assert found.state == "problem"
    assert "s3cret" not in str(found)
    (broken,) = await examine_postgres(around({"PG_URL": "postgresql://u:s3/cret@127.0.0.1:1/db"}))
    assert broken.state == "problem"


# Redis


async def test_a_redis_that_keeps_what_it_is_given_has_nothing_wrong(servers: Servers) -> None:
    found = await examine_redis(around({"REDIS_URL": servers.redis.url}))
    assert {finding.subject: finding.state for finding in found} == {"Redis": "ok", "Redis memory": "ok", "clock": "ok"}
    assert only("Redis", found).detail.startswith(("Valkey 9.", "Redis 6.2"))


@pytest.mark.parametrize(
    ("limit", "policy", "state"),
    [
        ("0", "allkeys-lru", "note"),
        ("100mb", "allkeys-lru", "problem"),
        ("100mb", "volatile-ttl", "problem"),
        ("100mb", "noeviction", "ok"),
        ("600kb", "noeviction", "problem"),
    ],
)
async def test_a_redis_that_evicts_or_is_nearly_full_is_told(
    servers: Servers, limit: str, policy: str, state: str
) -> None:
    pipe = RedisPipe(servers.redis.url)
    try:
        await pipe.command("CONFIG", "SET", "maxmemory-policy", policy)
        await pipe.command("CONFIG", "SET", "maxmemory", limit)
        found = only("Redis memory", await examine_redis(around({"REDIS_URL": servers.redis.url})))
    finally:
        await pipe.command("CONFIG", "SET", "maxmemory", "0")
        await pipe.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await pipe.close()
    assert found.state == state
    assert found.detail.startswith(policy)


async def test_a_replica_and_a_user_without_the_right_to_look_are_problems(servers: Servers) -> None:
    pipe = RedisPipe(servers.redis.url)
    try:
        await pipe.command("REPLICAOF", "127.0.0.1", "1")
        found = await examine_redis(around({"REDIS_URL": servers.redis.url}))
        assert "it is a replica, which refuses writes" in [finding.detail for finding in found]
        await pipe.command("REPLICAOF", "NO", "ONE")
        await pipe.command("ACL", "SETUSER", "small", "on", ">made-up", "~*", "+@read", "+ping")
        url = servers.redis.url.replace("redis://", "redis://small:made-up@")
        (refused,) = await examine_redis(around({"REDIS_URL": url}))
    finally:
        await pipe.command("REPLICAOF", "NO", "ONE")
        await pipe.command("ACL", "DELUSER", "small")
        await pipe.close()
    assert refused.state == "problem"
    assert "+info +time" in refused.remedy
    assert "made-up" not in str(refused)


async def test_a_clock_that_differs_from_redis_is_told(servers: Servers) -> None:
    found = only("clock", await examine_redis(around({"REDIS_URL": servers.redis.url}, ahead=60.0)))
    assert found.state == "problem"


async def test_a_redis_that_is_not_there_and_one_that_would_be_started(tmp_path: Path) -> None:
    (away,) = await examine_redis(around({"REDIS_URL": "redis://:s3cret@127.0.0.1:1/0"}))
    assert away.state == "problem"
    assert "s3cret" not in str(away)
    (own,) = await examine_redis(around({"HX_WORKERS": "2", "HX_DATA_DIR": str(tmp_path)}))
    assert own.state == "ok"
    assert own.detail.endswith("embedded, not running")


async def test_partitions_are_made_from_the_same_clock(spoilt: str) -> None:
    connection = await asyncpg.connect(spoilt)
    try:
        await ensure_partitions(connection, now=datetime.now(UTC) + timedelta(days=14))
    finally:
        await connection.close()
    found = only("partitions", await examine_postgres(around({"PG_URL": spoilt}, ahead=14 * 86_400.0)))
    assert found.state == "ok"
