"""Measures what is asked of a large registry: ``python -m benchmarks.registry`` prints a table and writes JSON.

A PostgreSQL of its own holds 100,000 services of one tenant and 20,000 of another, and stays for the next run. They are
asked for through the repository that serves them, as the gateway's ordinary role, behind row-level security; a time is
that of the whole transaction. Then one of them is read from a gateway's memory. Ends with status 1 where a 99th
percentile, or the CPU time of such a read, is over the promise.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import text

from benchmarks import cached_read
from benchmarks.figures import read_stat, schedstat
from benchmarks.measuring import PROMISE_MS, conclude, introduce, quantiles, server, write
from benchmarks.registry_cases import (
    DEEP,
    EDGE_COLUMNS,
    HEALTH_COLUMNS,
    ITEM_COLUMNS,
    NOW,
    OWN,
    READ_ALL,
    TENANTS,
    Case,
    Known,
    cases,
    deep_cursor,
    services_of,
)
from benchmarks.targets import OUT
from hx_gateway.access.audit import AuditChain
from hx_gateway.cli.server import calm_collector
from hx_gateway.db.row_security import EVERY_TENANT_SETTINGS, exempt_role
from hx_gateway.db.schemas import REGISTRY_SCHEMA
from hx_gateway.migrations.runner import upgrade
from hx_gateway.registry.audit_trail import AuditTrail, Author
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.services.database import DatabaseManager
from hx_gateway.services.embedded.postgres import EmbeddedPostgres

FOLDER = OUT / "registry"
RESULT = OUT / "registry.json"
SEED = 1
ROWS_A_COPY = 2_000
DEEP_PAGES = 100
KNOWN = 1_000
TABLES = ("registry_items", "registry_health", "registry_dependencies")
_ADD_TENANT = "INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by) VALUES ($1, $1, 'x', 'x')"
_INDEXED = ("registry_words", "registry_tags", "registry_counts")


@dataclass(frozen=True, slots=True)
class Timed:
    """What a case took, in milliseconds. ``cpu``: on a CPU, here and in the server's process, in the median."""

    name: str
    runs: int
    cpu: float
    p50: float
    p99: float
    greatest: float
    promised: bool


def main() -> None:
    """Load what is missing, measure, print, write."""
    options = arguments()
    console = Console(width=110)
    calm_collector()
    began = read_stat()
    postgres = EmbeddedPostgres(FOLDER / f"{sum(TENANTS.values())}-{SEED}", notify=console.print)
    with server(postgres, options.dsn) as dsn:
        results = asyncio.run(run(dsn, options, console))
        results["cached_read"] = cached_read.measure(dsn, OWN, results.pop("read"))
    results |= {"load": os.getloadavg(), "options": vars(options)}
    write(results, RESULT, began)
    slow = [timed for timed in results["cases"] if timed.promised and timed.p99 > PROMISE_MS]
    report(console, results, slow)
    sys.exit(1 if slow or results["cached_read"].server_cpu >= cached_read.PROMISE_MS else 0)


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="how often each case is asked")
    parser.add_argument("--seconds", type=float, default=300, help="ends the rounds after so long")
    parser.add_argument("--dsn", help="an empty database to measure instead of our own, of a role without BYPASSRLS")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    return parser.parse_args()


async def run(dsn: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Load, and time every case in turn."""
    await upgrade(dsn)
    connection = await asyncpg.connect(dsn, server_settings={**EVERY_TENANT_SETTINGS})
    try:
        exempt = await exempt_role(connection)
        if exempt is not None:
            raise SystemExit(f"row-level security does not hold for {exempt!r}: name another role")
        results: dict[str, Any] = {"postgres": await connection.fetchval("SHOW server_version")}
        results["loaded_seconds"] = await load(connection, console)
        results["bytes"] = await sizes(connection)
    finally:
        await connection.close()
    # One connection, which meets every case: plans of one are not kept for another.
    async with DatabaseManager(dsn, pool_size=1, max_overflow=0) as database:
        known = await look(database)
        chosen = [case for case in cases(known) if options.only in case.name]
        results["cases"] = await measure(database, chosen, options, console)
    results["read"] = str(known.ids[0])
    return results


async def load(connection: asyncpg.Connection[Any], console: Console) -> float:
    """Copy the services that are missing, a tenant in a transaction; return the seconds that the database took."""
    there = dict(await connection.fetch("SELECT tenant_id, count(*) FROM hx_registry.registry_items GROUP BY 1"))
    seconds = 0.0
    for tenant, count in TENANTS.items():
        if there.get(tenant) == count:
            continue
        made = services_of(tenant, count, SEED)
        began = time.monotonic()
        with Progress(console=console, transient=True) as progress:
            work = progress.add_task(f"loading {tenant}", total=len(made.items) + len(made.health) + len(made.edges))
            async with connection.transaction():
                await connection.execute(_ADD_TENANT, tenant)
                parts = zip(TABLES, (made.items, made.health, made.edges), _COLUMNS, strict=True)
                for table, rows, columns in parts:
                    for place in range(0, len(rows), ROWS_A_COPY):
                        some = rows[place : place + ROWS_A_COPY]
                        await insert(connection, table, columns, some)
                        progress.advance(work, len(some))
        seconds += time.monotonic() - began
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM hx_registry.registry_health_history)"):
        for often, days in HISTORY:
            await connection.execute(_ADD_HISTORY, OWN, NOW, often, timedelta(days=days))
        await connection.execute(f"VACUUM (ANALYZE) {REGISTRY_SCHEMA}.registry_health_history")
    if seconds:
        for table in (*TABLES, *_INDEXED):
            await connection.execute(f"VACUUM (ANALYZE) {REGISTRY_SCHEMA}.{table}")
    return seconds


# Of the first services by their ids: how many have a history of how many days. What is sampled is sampled there.
HISTORY = ((200, 7.0), (5_000, 0.25))
_ADD_HISTORY = """
INSERT INTO hx_registry.registry_health_history
SELECT few.tenant_id, few.item_id, at, 4 + random() * 4, random() * 1.05, 4, 40 + random() * 100, 40,
    ARRAY[random() * 20, random() * 20, random() * 40, 40]::real[]
FROM (
    SELECT tenant_id, item_id FROM hx_registry.registry_health WHERE tenant_id = $1 ORDER BY item_id LIMIT $3
) AS few
CROSS JOIN generate_series($2::timestamptz - $4::interval, $2, interval '5 minutes') AS at
ON CONFLICT DO NOTHING
"""
_COLUMNS = (ITEM_COLUMNS, HEALTH_COLUMNS, EDGE_COLUMNS)
# PostgreSQL refuses COPY into tables with policies; arrays of whole columns are nearly as quick.
_TYPES = {
    "id": "uuid",
    "item_id": "uuid",
    "depends_on_id": "uuid",
    "build_type": "hx_registry.service_build_type",
    "protocol": "hx_registry.service_protocol",
    "priority": "hx_registry.service_priority",
    "status": "hx_registry.service_status",
    "service_metadata": "jsonb",
    "config": "jsonb",
    "is_required": "boolean",
    "is_enabled": "boolean",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "success_count": "bigint",
    "failure_count": "bigint",
    "last_health_check": "timestamptz",
    "response_time_ms": "double precision",
    "last_seen": "timestamptz",
}


async def insert(
    connection: asyncpg.Connection[Any], table: str, columns: list[str], rows: list[tuple[object, ...]]
) -> None:
    """Add rows in one statement. Tags, which are arrays themselves, travel as texts with commas."""
    given = [f"${number}::{_TYPES.get(name, 'text')}[]" for number, name in enumerate(columns, 1)]
    taken = [f"string_to_array({name}, ',')" if name == "tags" else name for name in columns]
    values = [
        [",".join(value) if isinstance(value, list) else value for value in column]
        for column in zip(*rows, strict=True)
    ]
    names = ", ".join(columns)
    await connection.execute(
        f"INSERT INTO {REGISTRY_SCHEMA}.{table} ({names}) "
        f"SELECT {', '.join(taken)} FROM unnest({', '.join(given)}) AS given ({names})",
        *values,
    )


async def sizes(connection: asyncpg.Connection[Any]) -> dict[str, int]:
    """Return the bytes of the tables with their indexes."""
    query = "SELECT pg_total_relation_size($1::text::regclass)"
    return {table: await connection.fetchval(query, f"{REGISTRY_SCHEMA}.{table}") for table in (*TABLES, *_INDEXED)}


@asynccontextmanager
async def repository(database: DatabaseManager) -> AsyncIterator[RegistryItemRepository]:
    """Open a transaction of the tenant, as the catalogue does."""
    author = Author(key="benchmark", request_id="benchmark")
    async with database.session(OWN) as session:
        trail = AuditTrail(session, AuditChain(b"k" * 32), tenant_id=OWN, author=author, now=NOW)
        yield RegistryItemRepository(session, trail)


async def look(database: DatabaseManager) -> Known:
    """Return what the cases need to know, asked for as anybody would."""
    made = services_of(OWN, TENANTS[OWN], SEED).items
    some = Random(SEED).sample(made, KNOWN)
    async with repository(database) as items:
        deep = {name: await deep_cursor(items, *search, DEEP_PAGES) for name, search in DEEP.items()}
    hub, ids, names = made[0][0], [row[0] for row in some], [row[2] for row in some]
    return Known(hub=hub, ids=ids, names=names, deep=deep)  # type: ignore[arg-type]


async def measure(
    database: DatabaseManager, chosen: list[Case], options: argparse.Namespace, console: Console
) -> list[Timed]:
    """Ask for each case once a round: what the machine does meanwhile it does to all."""
    took: dict[str, list[tuple[float, float]]] = {case.name: [] for case in chosen}
    async with database.session(OWN) as session:
        server_pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    random = Random(SEED)
    ends = time.monotonic() + options.seconds
    with Progress(console=console, transient=True) as progress:
        work = progress.add_task("asking", total=options.rounds)
        # The first round reads what was not in memory.
        for number in range(options.rounds + 1):
            for case in chosen:
                began, on_cpu = time.perf_counter(), cpu_ns(server_pid)
                async with repository(database) as items:
                    await case.ask(items, random)
                if number:
                    spent = (cpu_ns(server_pid) - on_cpu) / 1e6
                    took[case.name].append(((time.perf_counter() - began) * 1_000, spent))
            progress.update(work, completed=number)
            if number and time.monotonic() > ends:
                break
    return [timed(name, times) for name, times in took.items()]


def cpu_ns(server_pid: int) -> int:
    """Return nanoseconds that this process and the server's have been on a CPU; of a server elsewhere, none."""
    return time.process_time_ns() + schedstat(Path(f"/proc/{server_pid}/schedstat"))


def timed(name: str, took: list[tuple[float, float]]) -> Timed:
    """Return the figures of a case."""
    cpu, _, _ = quantiles([spent for _, spent in took])
    return Timed(name, len(took), cpu, *quantiles([time for time, _ in took]), name not in READ_ALL)


def report(console: Console, results: dict[str, Any], slow: list[Timed]) -> None:
    """Print the table."""
    introduce(console, results)
    if results["loaded_seconds"]:
        rate = sum(TENANTS.values()) / results["loaded_seconds"]
        console.print(f"loaded {sum(TENANTS.values()):,} services in {results['loaded_seconds']:.0f} s, {rate:,.0f}/s")
    megabytes = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in results["bytes"].items())
    console.print(f"{megabytes} MiB, with indexes")
    table = Table("asked for", "runs", "cpu ms", "p50 ms", "p99 ms", "max ms")
    for case in results["cases"]:
        figures = [f"{value:.2f}" for value in (case.cpu, case.p50, case.p99, case.greatest)]
        table.add_row(case.name if case.promised else f"({case.name})", str(case.runs), *figures)
    read = results["cached_read"]
    figures = [f"{value:.2f}" for value in (read.server_cpu, read.p50, read.p99, read.greatest)]
    table.add_row("a service from memory, over HTTP", str(read.reads), *figures)
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in results["load"])
    console.print(f"load average of the last 1, 5 and 15 minutes: {load}")
    conclude(console, results, RESULT)
    for case in slow:
        console.print(f"over {PROMISE_MS:g} ms: {case.name}: p99 {case.p99:.1f} ms")
    if read.server_cpu >= cached_read.PROMISE_MS:
        console.print(f"a read from memory takes {read.server_cpu:.2f} ms of the server's CPU time")


if __name__ == "__main__":
    main()
