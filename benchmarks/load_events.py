"""Fills a database with trace events: ``python -m benchmarks.load_events --dsn postgresql://…``.

Goes on where it was interrupted: days that are complete are left as they are, others are done anew.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import asyncpg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.events import COLUMNS, DAYS, FIRST_DAY, LAST_DAY, Plan, events_of
from hx_gateway.db.partitions import ensure_partitions, partition_name
from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA, TRACE_EVENTS
from hx_gateway.migrations.runner import upgrade

SLICE_ROWS = 10_000
POLL_SECONDS = 0.2
_SIZES = """
SELECT sum(pg_relation_size(leaf.relid)) AS heap, sum(pg_indexes_size(leaf.relid)) AS indexes,
    sum(pg_total_relation_size(leaf.relid)) AS total
FROM pg_partition_tree($1::regclass) AS leaf WHERE leaf.isleaf
"""
_INDEX_SIZES = """
SELECT root.indexrelid::regclass::text AS name, sum(pg_relation_size(leaf.relid)) AS bytes
FROM pg_index AS root CROSS JOIN LATERAL pg_partition_tree(root.indexrelid) AS leaf
WHERE root.indrelid = $1::regclass AND leaf.isleaf GROUP BY root.indexrelid ORDER BY 2 DESC
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was done and what is there now. ``rows`` counts what this run copied, in ``seconds`` with generation."""

    rows: int
    seconds: float
    sizes: dict[str, int]
    index_bytes: dict[str, int]

    @property
    def rows_per_second(self) -> float:
        """Rows copied a second; 0 where all was there."""
        return self.rows / self.seconds if self.rows else 0.0


class _Counter:
    """The count of rows that are there, which the processes share."""

    shared: Synchronized[int]


def load(dsn: str, plan: Plan, processes: int, console: Console) -> Loaded:
    """Bring the database at ``dsn`` to hold the events of ``plan``, indexes and statistics included."""
    asyncio.run(_prepare(dsn))
    began = time.monotonic()
    rows = _copy_days(dsn, plan, processes, console)
    seconds = time.monotonic() - began
    return asyncio.run(_finish(dsn, rows, seconds))


async def _prepare(dsn: str) -> None:
    await upgrade(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await ensure_partitions(connection, now=LAST_DAY, back=DAYS - 1)
    finally:
        await connection.close()


def _copy_days(dsn: str, plan: Plan, processes: int, console: Console) -> int:
    context = multiprocessing.get_context("spawn")
    there = context.Value("q", 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, transient=True) as progress,
        ProcessPoolExecutor(processes, mp_context=context, initializer=_share, initargs=(there,)) as pool,
    ):
        work = progress.add_task("loading", total=plan.rows)
        pending: set[Future[int]] = {pool.submit(copy_day, dsn, plan, day) for day in range(DAYS)}
        rows = 0
        while pending:
            done, pending = wait_for(pending, timeout=POLL_SECONDS)
            rows += sum(future.result() for future in done)
            progress.update(work, completed=there.value)
    return rows


def _share(there: Synchronized[int]) -> None:
    _Counter.shared = there


def _advance(rows: int) -> None:
    with _Counter.shared.get_lock():
        _Counter.shared.value += rows


def copy_day(dsn: str, plan: Plan, day: int) -> int:
    """Copy one day unless it is complete; return how many rows were copied. Runs in a process of its own."""
    return asyncio.run(_copy_day(dsn, plan, day))


async def _copy_day(dsn: str, plan: Plan, day: int) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        leaf = f"{OBSERVABILITY_SCHEMA}.{partition_name(TRACE_EVENTS, FIRST_DAY + timedelta(days=day))}"
        found = await connection.fetchval(f"SELECT count(*) FROM {leaf}")
        if found == plan.rows_of(day):
            _advance(found)
            return 0
        if found:
            await connection.execute(f"TRUNCATE {leaf}")
        rows = events_of(plan, day)
        for place in range(0, len(rows), SLICE_ROWS):
            part = rows[place : place + SLICE_ROWS]
            await copy(connection, part)
            _advance(len(part))
        return len(rows)
    finally:
        await connection.close()


async def copy(connection: asyncpg.Connection[Any], rows: list[tuple[object, ...]]) -> None:
    """Copy rows, as :mod:`benchmarks.events` makes them, in one transaction, in binary."""
    await connection.copy_records_to_table(
        TRACE_EVENTS.name, schema_name=OBSERVABILITY_SCHEMA, columns=COLUMNS, records=rows
    )


async def _finish(dsn: str, rows: int, seconds: float) -> Loaded:
    connection = await asyncpg.connect(dsn)
    try:
        if rows:
            await connection.execute(f"ANALYZE {TRACE_EVENTS.qualified}")
        sizes = dict(await connection.fetchrow(_SIZES, TRACE_EVENTS.qualified) or {})
        indexes = await connection.fetch(_INDEX_SIZES, TRACE_EVENTS.qualified)
    finally:
        await connection.close()
    return Loaded(
        rows=rows,
        seconds=seconds,
        sizes={name: int(size) for name, size in sizes.items()},
        index_bytes={row["name"].removeprefix(f"{OBSERVABILITY_SCHEMA}."): int(row["bytes"]) for row in indexes},
    )


def report(loaded: Loaded, plan: Plan, console: Console) -> None:
    """Print rates and sizes."""
    if loaded.rows:
        rate = f"{loaded.rows_per_second:,.0f} rows/s"
        console.print(f"loaded {loaded.rows:,} rows in {loaded.seconds:,.1f} s: {rate}, generation included")
    else:
        console.print(f"all {plan.rows:,} rows were there")
    parts = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in loaded.sizes.items())
    console.print(f"{parts}; {loaded.sizes['total'] / plan.rows:,.0f} bytes a row")
    console.print(", ".join(f"{name} {size / 2**20:,.0f}" for name, size in loaded.index_bytes.items()) + " MiB")


def main() -> None:
    """Load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", required=True, help="the database; its schema is brought up to date")
    parser.add_argument("--rows", type=int, default=10_000_000, help="events in all, over 30 days")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    plan = Plan(options.rows, options.seed)
    console = Console()
    report(load(options.dsn, plan, options.processes, console), plan, console)


if __name__ == "__main__":
    main()
