"""Measures queries of trace events: ``python -m benchmarks.queries`` prints a table and writes JSON.

A PostgreSQL of its own holds ten million events and stays for the next run. Ends with status 1 where the 99th
percentile of a query is over the promise.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import load_events
from benchmarks.events import DAYS, LAST_DAY, Plan, Row, events_of
from benchmarks.figures import read_stat
from benchmarks.measuring import PROMISE_MS, conclude, introduce, quantiles, server, write
from benchmarks.query_cases import Case, cases, under_load
from benchmarks.targets import OUT
from hx_gateway.cli.server import calm_collector
from hx_gateway.db.partitions import partition_name
from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA, TRACE_EVENTS
from hx_gateway.observability.filters import TraceFilters
from hx_gateway.observability.repository import QUERY_POOL_OPTIONS, QueryTooSlow, RecordRepository
from hx_gateway.services.embedded.postgres import EmbeddedPostgres

FOLDER = OUT / "queries"
RESULT = OUT / "queries.json"
COLD_CONNECTIONS = 20
WRITTEN_ROWS_A_COPY = 1_000
WRITTEN_ROWS_A_ROUND = 20_000
# What is written stands for a busy day that passes quickly: rows come in the order of their times.
WRITTEN_ROUND = timedelta(minutes=10)
WRITING_SEED = 1_000
NEXT_DAY = LAST_DAY + timedelta(days=1)
STOP_SECONDS = 60
READ_BYTES = 4 * 1024**2


class BenchPostgres(EmbeddedPostgres):
    """The embedded PostgreSQL, with settings as PostgreSQL ships them but for ``shared_buffers``."""

    shared_buffers = "512MB"

    def command(self) -> list[str]:
        """Return the server's command line: of a setting that is given twice the last counts."""
        return [*super().command(), "-c", f"shared_buffers={self.shared_buffers}"]


@dataclass(frozen=True, slots=True)
class Timed:
    """What the runs of a case took, in milliseconds, and how many rows they brought in the median.

    ``given_up`` counts those that the server ended after the time-out.
    """

    name: str
    window: str
    runs: int
    given_up: int
    rows: int
    p50: float
    p99: float
    greatest: float


def main() -> None:
    """Load what is missing, measure, print, write."""
    options = arguments()
    console = Console(width=110)
    plan = Plan(options.rows, options.seed)
    began = read_stat()
    calm_collector()
    postgres = BenchPostgres(FOLDER / f"{options.rows}-{options.seed}", notify=console.print)
    with server(postgres, options.dsn) as dsn:
        loaded = load_events.load(dsn, plan, 2, console)
        load_events.report(loaded, plan, console)
        console.print(
            f"read {warm(FOLDER) / 2**30:.1f} GiB of the database into memory: the figures are for a warm cache"
        )
        results = asyncio.run(measure(dsn, plan, options, console))
    results |= {"options": vars(options), "load": asdict(loaded)}
    write(results, RESULT, began)
    slow = [timed for timed in results["quiet"] if timed.p99 > PROMISE_MS]
    report(console, results, slow)
    sys.exit(1 if slow else 0)


def warm(folder: Path) -> int:
    """Read every file below ``folder`` once, so that the kernel has it in memory if there is room; return the bytes.

    What the promise is about is what the queries cost, not when a disk was read last.
    """
    size = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        with path.open("rb", buffering=0) as file:
            while block := file.read(READ_BYTES):
                size += len(block)
    return size


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="events over 30 days")
    parser.add_argument("--runs", type=int, default=300, help="queries a case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dsn", help="a database to measure instead of our own; its record is filled with events")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    return parser.parse_args()


async def measure(dsn: str, plan: Plan, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Time every case on a quiet server, the first query of a connection, and a few cases while rows are written."""
    chosen = [case for case in cases(plan) if options.only in case.name]
    results: dict[str, Any] = {"cold": await first_queries(dsn)}
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1, **QUERY_POOL_OPTIONS)
    async with pool:
        repository = RecordRepository(pool)
        async with pool.acquire() as connection:
            results["postgres"] = await connection.fetchval("SHOW server_version")
        with Progress(console=console, transient=True) as progress:
            work = progress.add_task("querying", total=len(chosen))

            async def timed(case: Case) -> Timed:
                progress.update(work, description=f"querying {case.name} ({case.window})")
                found = await time_case(repository, case, options.runs)
                progress.advance(work)
                return found

            results["quiet"] = [await timed(case) for case in chosen]
            async with writing(dsn) as written:
                loaded = under_load(plan, partial(newest_written, written))
                progress.update(work, completed=0, total=len(loaded))
                began, before = time.monotonic(), written.value
                results["while_writing"] = [await timed(case) for case in loaded]
                rate = (written.value - before) / (time.monotonic() - began)
    return results | {"written_rows_per_second": round(rate)}


async def time_case(repository: RecordRepository, case: Case, runs: int) -> Timed:
    """Run a case; nothing is warmed up for it."""
    random = Random(f"{case.name} {case.window}")
    took: list[float] = []
    rows: list[int] = []
    given_up = 0
    for _ in range(runs):
        filters = case.filters(random)
        began = time.perf_counter()
        try:
            page = await repository.trace_events(filters)
            rows.append(len(page.items))
        except QueryTooSlow:
            rows.append(0)
            given_up += 1
        took.append((time.perf_counter() - began) * 1_000)
    rows.sort()
    p50, p99, greatest = quantiles(took)
    return Timed(
        name=case.name,
        window=case.window,
        runs=runs,
        given_up=given_up,
        rows=rows[runs // 2],
        p50=p50,
        p99=p99,
        greatest=greatest,
    )


async def first_queries(dsn: str) -> dict[str, float]:
    """Return milliseconds, in the median, that a new connection takes to be ready, and for its first query."""
    ready, first = [], []
    for _ in range(COLD_CONNECTIONS):
        began = time.perf_counter()
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1, **QUERY_POOL_OPTIONS)
        ready.append(time.perf_counter() - began)
        async with pool:
            began = time.perf_counter()
            await RecordRepository(pool).trace_events(TraceFilters(tenant_id="default", agent_name="agent-000"))
            first.append(time.perf_counter() - began)
    names = {"ready_ms": ready, "first_query_ms": first}
    return {name: sorted(values)[COLD_CONNECTIONS // 2] * 1_000 for name, values in names.items()}


@asynccontextmanager
async def writing(dsn: str) -> AsyncIterator[Synchronized[int]]:
    """Copy rows into the day after the last, from another process, until the block ends; then empty that day."""
    context = multiprocessing.get_context("spawn")
    written, stop = context.Value("q", 0), context.Event()
    process = context.Process(target=keep_writing, args=(dsn, written, stop), daemon=True)
    process.start()
    try:
        while written.value == 0 and process.is_alive():
            await asyncio.sleep(0.05)
        yield written
    finally:
        stop.set()
        process.join(STOP_SECONDS)
        await empty_next_day(dsn)
    if process.exitcode:
        raise RuntimeError("the process that writes rows failed")


def keep_writing(dsn: str, written: Synchronized[int], stop: Any) -> None:
    """Copy in slices as the journal's writer does. Runs in a process of its own."""
    asyncio.run(_keep_writing(dsn, written, stop))


async def _keep_writing(dsn: str, written: Synchronized[int], stop: Any) -> None:
    connection = await asyncpg.connect(dsn)
    seed = 0
    while not stop.is_set():
        rows = _round(seed)
        for place in range(0, len(rows), WRITTEN_ROWS_A_COPY):
            if stop.is_set():
                break
            part = rows[place : place + WRITTEN_ROWS_A_COPY]
            await load_events.copy(connection, part)
            written.value += len(part)
        seed += 1
    await connection.close()


def _round(number: int) -> list[Row]:
    """Return the events of a day, pressed into the ``number``-th of the stretches that follow one another."""
    rows = events_of(Plan(WRITTEN_ROWS_A_ROUND * DAYS, WRITING_SEED + number), DAYS)
    begin = NEXT_DAY + number * WRITTEN_ROUND % timedelta(days=1)
    share = WRITTEN_ROUND / timedelta(days=1)
    return [(begin + (row[0] - NEXT_DAY) * share, *row[1:]) for row in rows]  # type: ignore[operator]


def newest_written(written: Synchronized[int]) -> datetime:
    """Return about the time of the newest row that is written beside the data."""
    return NEXT_DAY + written.value / WRITTEN_ROWS_A_ROUND * WRITTEN_ROUND


async def empty_next_day(dsn: str) -> None:
    """Remove what was written beside the data."""
    connection = await asyncpg.connect(dsn)
    try:
        leaf = partition_name(TRACE_EVENTS, NEXT_DAY)
        await connection.execute(f"TRUNCATE {OBSERVABILITY_SCHEMA}.{leaf}")
    finally:
        await connection.close()


def report(console: Console, results: dict[str, Any], slow: list[Timed]) -> None:
    """Print the tables."""
    introduce(console, results)
    console.print(_table(results["quiet"]))
    rate = results["written_rows_per_second"]
    console.print(f"while {rate:,} rows/s are written from another process:")
    console.print(_table(results["while_writing"]))
    cold = results["cold"]
    console.print(f"new connection: ready in {cold['ready_ms']:.1f} ms, first query {cold['first_query_ms']:.1f} ms")
    conclude(console, results, RESULT)
    for timed in slow:
        console.print(
            f"over {PROMISE_MS:g} ms: {timed.name} ({timed.window}): p99 {timed.p99:.1f} ms, "
            f"{timed.given_up} of {timed.runs} given up"
        )


def _table(timings: list[Timed]) -> Table:
    table = Table("filters", "window", "rows", "p50 ms", "p99 ms", "max ms")
    for column in table.columns:
        column.no_wrap = True
    for timed in timings:
        figures = [f"{value:.2f}" for value in (timed.p50, timed.p99, timed.greatest)]
        table.add_row(timed.name, timed.window, str(timed.rows), *figures)
    return table


if __name__ == "__main__":
    main()
