"""The record under test: a layer with short times, what is in its files, and what is in its tables."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.segment import segment_number
from hx_gateway.journal.streams import stream_folders
from hx_gateway.kit.clock import Clock
from hx_gateway.observability.config import DatabaseConfig
from hx_gateway.observability.layer import DatabaseIntegrationLayer

SOON_SECONDS = 30.0
TABLES = ("trace_events", "routing_decisions", "performance_metrics", "transformation_events")


def amount(variable: str, default: int) -> int:
    """Return how much of something a test does: a little, or what the long run asks for."""
    return int(os.environ.get(variable, default))


def configuration(url: str, root: Path, **changes: Any) -> DatabaseConfig:
    """Return a configuration that notices, waits and recovers in fractions of a second."""
    settings: dict[str, Any] = {
        "url": url,
        "journal_dir": root,
        "batch_seconds": 0.05,
        "failure_threshold": 3,
        "failure_window": 5.0,
        "recovery_seconds": 0.2,
        "success_threshold": 1,
        "connect_seconds": 2.0,
        "shutdown_seconds": 2.0,
        "pool_min_size": 0,
        "pool_max_size": 2,
        "journal_min_free_bytes": 0,
        "journal_ballast_bytes": 0,
        "segment_bytes": 128 * 1024,
    }
    return DatabaseConfig(**{**settings, **changes})


def make_layer(
    url: str, root: Path, *, clock: Clock | None = None, batch_seconds: float = 10.0, **changes: Any
) -> DatabaseIntegrationLayer:
    """Return a layer that adopts and resumes quickly; ``batch_seconds`` is when its database counts as hung."""
    made = DatabaseIntegrationLayer(configuration(url, root, **changes), clock=clock)
    assert made.drain is not None
    options = made.drain._options
    made.drain._options = replace(options, batch_seconds=batch_seconds, pause_seconds=0.2, adopt_seconds=0.1)
    return made


@asynccontextmanager
async def running(
    url: str, root: Path, *, clock: Clock | None = None, batch_seconds: float = 10.0, **changes: Any
) -> AsyncIterator[DatabaseIntegrationLayer]:
    """Run a layer; account for every row at the end."""
    made = make_layer(url, root, clock=clock, batch_seconds=batch_seconds, **changes)
    async with made:
        yield made


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = SOON_SECONDS) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


async def write(layer: DatabaseIntegrationLayer, numbers: range, **more: Any) -> list[int]:
    """Write a numbered event each; return those that were acknowledged."""
    done = []
    for number in numbers:
        await layer.write_trace_event("trace", "numbered", task_id=str(number), **more)
        done.append(number)
        if number % 50 == 0:
            await asyncio.sleep(0)
    return done


async def stored(url: str) -> Counter[int]:
    """Return how often each number is in the table."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT task_id FROM agent_observability.trace_events")
    finally:
        await connection.close()
    return Counter(int(row["task_id"]) for row in rows)


async def drained(layer: DatabaseIntegrationLayer, seconds: float = SOON_SECONDS) -> None:
    """Wait until nothing is waiting, of our own or of others."""
    assert layer.drain is not None
    drain = layer.drain
    await asyncio.sleep(2 * drain._options.adopt_seconds)
    async with asyncio.timeout(seconds):
        while not (await layer.flush(1.0) and drain.idle):
            await asyncio.sleep(0.02)


async def rows_in_files(url: str, root: Path) -> Counter[str]:
    """Return how many rows of which kind wait in the files below ``root``, told by the files and the cursors alone."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch("SELECT stream_id, segment, applied_seq FROM hx_gateway.journal_cursors")
    finally:
        await connection.close()
    cursors = {(str(row["stream_id"]), row["segment"]): row["applied_seq"] for row in found}
    waiting: Counter[str] = Counter()
    for folder in stream_folders(root / "events"):
        for path in folder.iterdir():
            number = segment_number(path.name)
            if number is None:
                continue
            applied = cursors.get((folder.name, number), number - 1)
            for record in read_segment(path):
                if record.seq > applied:
                    waiting[TABLES[record.kind - 1]] += record.rows
    return waiting


async def account(layer: DatabaseIntegrationLayer, url: str, root: Path) -> dict[str, int]:
    """Check that every row is accounted for, by two ways that do not know of each other; return the sums.

    What waits by the counts is what waits in the files; what is committed by the counts (of all who wrote to this
    database, here one) is in the tables. Nothing may be under way: the layer is drained, or its database was away.
    """
    in_files = await rows_in_files(url, root)
    sums: Counter[str] = Counter()
    for table in TABLES:
        counts = layer.journal.counts.of(table)
        gone = sum(counts.dropped.values()) + sum(counts.dead_lettered.values())
        assert counts.waiting == in_files[table], (table, counts, in_files)
        assert counts.received + counts.recovered == counts.committed + counts.duplicate + gone + in_files[table]
        sums.update(
            received=counts.received,
            recovered=counts.recovered,
            committed=counts.committed,
            duplicate=counts.duplicate,
            dead=sum(counts.dead_lettered.values()),
            dropped=sum(counts.dropped.values()),
            refused=sum(counts.refused.values()),
            waiting=in_files[table],
        )
    return dict(sums)


async def settled(
    layer: DatabaseIntegrationLayer, url: str, root: Path, numbers: range | list[int], *, seconds: float = SOON_SECONDS
) -> dict[str, int]:
    """Drain; check that exactly ``numbers`` are in the table, once each, and account for every row."""
    began = time.monotonic()
    await drained(layer, seconds)
    found = await stored(url)
    assert sorted(found) == sorted(numbers)
    assert set(found.values()) <= {1}
    sums = await account(layer, url, root)
    assert sums["waiting"] == 0
    return {**sums, "milliseconds": int(1000 * (time.monotonic() - began))}
