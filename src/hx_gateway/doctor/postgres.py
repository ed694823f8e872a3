"""PostgreSQL: reachable, new enough, large enough, and what the gateway's database looks like."""

from __future__ import annotations

from functools import partial
from typing import Any

from hx_gateway.db.row_security import exempt_role
from hx_gateway.doctor.clock import difference, judge_difference
from hx_gateway.doctor.embedded import find_cluster
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem, unreachable
from hx_gateway.doctor.pools import judge_pools
from hx_gateway.doctor.schema import examine_partitions, examine_schema
from hx_gateway.doctor.threads import in_thread
from hx_gateway.doctor.versions import judge_server
from hx_gateway.migrations.runner import DRIVER_ERRORS
from hx_gateway.services.base import DependencyError
from hx_gateway.services.dsn import DsnError, place_of
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.failures import classify
from hx_gateway.services.postgres import PostgresService
from hx_gateway.settings import NOT_CONFIGURED

# What is raised while the database is away, and what it refuses.
AWAY: tuple[type[Exception], ...] = (DependencyError, *DRIVER_ERRORS)
_READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"


async def examine_postgres(around: Surroundings) -> list[Finding]:
    """Look at the server that is set, or at our own where it runs."""
    settings = around.settings
    if settings.pg_url is None:
        if not settings.embedded:
            return [problem(Subject.POSTGRES, "no URL and HX_EMBEDDED is off", "Set PG_URL.")]
        return await _examine_embedded(around)
    url = settings.pg_url.get_secret_value()
    if url == NOT_CONFIGURED:
        return [note(Subject.POSTGRES, "left out on purpose")]
    return await _examine_server(around, url)


async def _examine_embedded(around: Surroundings) -> list[Finding]:
    try:
        cluster = await in_thread(partial(find_cluster, around))
    except EmbeddedError as error:
        return [problem(Subject.POSTGRES, str(error), "Set PG_URL.")]
    if cluster.files not in (None, cluster.programs):
        detail = f"the embedded cluster is of PostgreSQL {cluster.files}, its programs are of {cluster.programs}"
        remedy = "Run the program it was made with, dump it there and restore it here; or set PG_URL."
        return [problem(Subject.POSTGRES, detail, remedy)]
    if cluster.url is None:
        state = "not made yet" if cluster.files is None else "not running"
        return [ok(Subject.POSTGRES, f"embedded, PostgreSQL {cluster.programs}, {state}")]
    return await _examine_server(around, cluster.url, "embedded")


async def _examine_server(around: Surroundings, url: str, where: str | None = None) -> list[Finding]:
    try:
        service = PostgresService(url)
    except DsnError as error:
        return [problem(Subject.POSTGRES, str(error), "Correct PG_URL.")]
    place = place_of(url)
    await service.connect()
    found: list[Finding] = []
    try:
        if not service.sample.healthy:
            return [unreachable(Subject.POSTGRES, place, str(service.sample.failure), "PG_URL")]
        async with service.acquire() as connection:
            version = str(await connection.fetchval("SHOW server_version"))
            found.append(judge_server(Subject.POSTGRES, "PostgreSQL", version, where or f"at {place}"))
            for look in (_writable, _pools, _second_wall, _clock, examine_schema, examine_partitions):
                found += await look(connection, around)
    except AWAY as error:
        why = str(classify(error).kind) if isinstance(error, DependencyError) else str(error)
        remedy = "See the server's log; give PG_URL's role its rights on the schemas (hx-gateway db upgrade)."
        found.append(problem(Subject.POSTGRES, f"it could not be looked at further: {why}", remedy))
    finally:
        await service.close()
    return found


async def _writable(connection: Any, _around: Surroundings) -> list[Finding]:
    if not await connection.fetchval(_READ_ONLY):
        return []
    return [problem(Subject.POSTGRES, "it is a standby, or read-only", "Let PG_URL point to the primary.")]


async def _pools(connection: Any, around: Surroundings) -> list[Finding]:
    return [judge_pools(around.settings, int(await connection.fetchval("SHOW max_connections")))]


async def _second_wall(connection: Any, _around: Surroundings) -> list[Finding]:
    role = await exempt_role(connection)
    if role is None:
        return []
    detail = f"row-level security does not hold for {role!r}: it is a superuser or has BYPASSRLS"
    return [note(Subject.TENANTS, detail, "Give PG_URL a role without SUPERUSER and BYPASSRLS.")]


async def _clock(connection: Any, around: Surroundings) -> list[Finding]:
    async def ask() -> float:
        return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))

    return [judge_difference("PostgreSQL", await difference(ask, around.now))]
