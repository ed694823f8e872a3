"""Measures the record's write path: accepted, drained beside raw COPY, and through HTTP.

``python -m benchmarks.record`` prints a table and writes JSON; it ends with status 1 where a figure is below what is
promised. Every round drains a journal and runs raw COPY into the same table: their ratio is the figure that holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.figures import paired_ratios, read_stat, spread, steal_share
from benchmarks.run import machine
from benchmarks.targets import OUT
from hx_gateway.observability import DatabaseConfig, DatabaseIntegrationLayer
from hx_gateway.observability.tables import FORMATS, TRACE_EVENTS
from hx_gateway.services.embedded.postgres import EmbeddedPostgres

RESULT = OUT / "record.json"
ADMIN_KEY = "sk-hx-admin-made-up-for-the-benchmark-0123456789"
COPY_ROWS = 5000
HTTP_BATCH = 500
HTTP_CONNECTIONS = 2
WAIT_SECONDS = 600.0
NOBODY = "postgresql://nobody@127.0.0.1:1/nowhere"
LEAST_ACCEPTED, LEAST_RATIO, LEAST_HTTP = 200_000, 0.8, 50_000
COLUMNS = FORMATS[TRACE_EVENTS].names


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("ERROR"))
    OUT.mkdir(exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "options": vars(options)}
    began = read_stat()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="hxbench-") as folder,
        Progress(console=console, transient=True) as progress,
    ):
        os.chmod(folder, 0o711)
        server = EmbeddedPostgres(Path(folder) / "postgres", notify=progress.console.print)
        server.start()
        try:
            results |= asyncio.run(measure(server.url, Path(folder), options, progress))
        finally:
            server.stop()
    results["steal"] = steal_share(began, read_stat())
    RESULT.write_text(json.dumps(results, indent=2, default=asdict))
    report(console, results)
    sys.exit(0 if passed(results) else 1)


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=2, help="to PostgreSQL, for both sides")
    parser.add_argument("--http-events", type=int, default=500_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, two rounds")
    options = parser.parse_args()
    if options.quick:
        options.events, options.http_events, options.rounds = options.events // 10, options.http_events // 10, 2
    return options


async def measure(url: str, folder: Path, options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Return all figures."""
    work = progress.add_task("measuring", total=options.rounds * 3 + 1)
    accepted, drained, copied = [], [], []
    async with asyncpg.create_pool(url, min_size=1, max_size=options.connections) as pool:
        await migrate(url, folder)
        for _ in range(options.rounds):
            journal = folder / "journal"
            shutil.rmtree(journal, ignore_errors=True)
            accepted.append(await accept(journal, options.events))
            progress.advance(work)
            await pool.execute("TRUNCATE agent_observability.trace_events")
            drained.append(await drain(url, journal, options.events, options.connections, pool))
            progress.advance(work)
            await pool.execute("TRUNCATE agent_observability.trace_events")
            copied.append(await raw_copy(pool, options.events, options.connections))
            progress.advance(work)
        await pool.execute("TRUNCATE agent_observability.trace_events")
        http = await through_http(url, folder, options.http_events, pool)
        progress.advance(work)
    return {
        "accepted_per_second": spread(accepted),
        "drained_per_second": spread(drained),
        "raw_copy_per_second": spread(copied),
        "drained_to_raw_copy": spread(paired_ratios(drained, copied)),
        "http": http,
    }


def event(number: int) -> dict[str, Any]:
    """Return an event like an agent's: four to five of ten fields filled, ten events a trace."""
    return {
        "trace_id": f"coord_{number // 10:08d}",
        "event_type": ("AGENT_START", "TOOL_CALL", "TOOL_RESULT", "AGENT_END")[number % 4],
        "message": "Agent execution started",
        "agent_name": f"agent-{number % 50}",
        "task_id": f"task_{number // 100}",
    }


async def migrate(url: str, folder: Path) -> None:
    """Make the tables and today's partitions."""
    async with layer_of(url, folder / "migrate"):
        pass


@asynccontextmanager
async def layer_of(url: str, journal: Path, connections: int = 2) -> AsyncIterator[DatabaseIntegrationLayer]:
    """Give a layer with the default durability and otherwise the library's defaults."""
    config = DatabaseConfig(
        url=url, journal_dir=journal, pool_min_size=0, ingest_connections=connections, journal_max_bytes=64 * 1024**3
    )
    async with DatabaseIntegrationLayer(config) as layer:
        yield layer


async def accept(journal: Path, count: int) -> float:
    """Return events a second taken into the journal by one caller, while the database is away.

    Each call returns after ``write()``; none is batched.
    """
    events = [event(number) for number in range(min(count, 50_000))]
    async with layer_of(NOBODY, journal) as layer:
        write = layer.write_trace_event
        began = time.perf_counter()
        for _ in range(count // len(events)):
            for fields in events:
                await write(**fields)
        seconds = time.perf_counter() - began
    return count / seconds


async def drain(url: str, journal: Path, count: int, connections: int, pool: Any) -> float:
    """Return events a second committed of a full journal, all of them there exactly once."""
    began = time.perf_counter()
    async with layer_of(url, journal, connections) as layer:
        assert layer.drain is not None
        deadline = began + WAIT_SECONDS
        counts = layer.journal.counts.of("trace_events")
        while counts.committed < count:
            await asyncio.sleep(0.005)
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{counts} after {WAIT_SECONDS} s")
        seconds = time.perf_counter() - began
    stored = await pool.fetchrow("SELECT count(*), count(DISTINCT event_id) FROM agent_observability.trace_events")
    assert tuple(stored) == (count, count), stored
    return count / seconds


def tuples(count: int) -> list[list[tuple[Any, ...]]]:
    """Return prebuilt batches of the same events, as anybody would hand them to asyncpg."""
    now = datetime.now(UTC)
    rows = []
    for number in range(count):
        fields = event(number)
        rows.append(
            (
                now + timedelta(microseconds=number),
                UUID(bytes=os.urandom(16)),
                now,
                False,
                "default",
                fields["trace_id"],
                None,
                None,
                fields["event_type"],
                9,
                fields["message"],
                fields["agent_name"],
                fields["task_id"],
                None,
                None,
                None,
                "{}",
            )
        )
    return [rows[at : at + COPY_ROWS] for at in range(0, count, COPY_ROWS)]


async def raw_copy(pool: Any, count: int, connections: int) -> float:
    """Return rows a second of ``copy_records_to_table`` alone, each batch a transaction."""
    batches = iter(tuples(count))
    open_connections = [await pool.acquire() for _ in range(connections)]

    async def copy(connection: Any) -> None:
        for batch in batches:
            await connection.copy_records_to_table(
                "trace_events", schema_name="agent_observability", columns=COLUMNS, records=batch
            )

    try:
        began = time.perf_counter()
        await asyncio.gather(*map(copy, open_connections))
        return count / (time.perf_counter() - began)
    finally:
        for connection in open_connections:
            await pool.release(connection)


async def through_http(url: str, folder: Path, count: int, pool: Any) -> dict[str, float]:
    """Return events a second that a gateway takes in batches of 500, and that are committed meanwhile."""
    port = 4919
    environ = {
        "PATH": os.environ["PATH"],
        "HX_ADMIN_KEY": ADMIN_KEY,
        "HX_DATA_DIR": str(folder / "gateway"),
        "WRAPPER_PORT": str(port),
        "PG_URL": url,
        "REDIS_URL": "none",
        "QDRANT_URL": "none",
        "HX_JOURNAL_MAX_BYTES": str(16 * 1024**3),
    }
    with (folder / "gateway.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-m", "hx_gateway", "serve"], env=environ, stdout=log, stderr=log)
    try:
        await ready(port)
        bodies = list(http_bodies(count))
        feed = iter(bodies)
        began = time.perf_counter()
        await asyncio.gather(*(send(port, feed) for _ in range(HTTP_CONNECTIONS)))
        accepted = time.perf_counter() - began
        while await pool.fetchval("SELECT count(*) FROM agent_observability.trace_events") < count:
            await asyncio.sleep(0.05)
            if time.perf_counter() - began > WAIT_SECONDS:
                raise TimeoutError("not all that was accepted was committed")
        committed = time.perf_counter() - began
    finally:
        child.terminate()
        child.wait(60)
    return {"accepted_per_second": count / accepted, "committed_per_second": count / committed}


def http_bodies(count: int) -> Iterator[bytes]:
    """Yield request bodies of 500 events."""
    for at in range(0, count, HTTP_BATCH):
        yield msgspec.json.encode({"events": [event(number) for number in range(at, min(count, at + HTTP_BATCH))]})


async def ready(port: int) -> None:
    """Wait for the gateway."""
    deadline = time.monotonic() + 60
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def send(port: int, bodies: Iterator[bytes]) -> None:
    """Send bodies over one kept connection, each after the answer to the one before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /api/v1/observability/events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {ADMIN_KEY}\r\n"
        "content-type: application/json\r\ncontent-length: "
    ).encode()
    for body in bodies:
        writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"the gateway answered {status!r}")
        length = 0
        while (line := await reader.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
    writer.close()


def passed(results: dict[str, Any]) -> bool:
    """Return whether the medians are what is promised."""
    return bool(
        results["accepted_per_second"].median >= LEAST_ACCEPTED
        and results["drained_to_raw_copy"].median >= LEAST_RATIO
        and results["http"]["accepted_per_second"] >= LEAST_HTTP
    )


def report(console: Console, results: dict[str, Any]) -> None:
    """Print the table."""
    info = results["machine"]
    console.print(f"{info['cpu']}, {info['cores']} cores, Python {info['python']}, commit {info['commit']}")
    table = Table("figure", "median", "least", "greatest", "promised")
    names = ("accepted_per_second", "drained_per_second", "raw_copy_per_second")
    for name in names:
        found = results[name]
        promised = f"{LEAST_ACCEPTED:,}" if name == "accepted_per_second" else ""
        table.add_row(name, f"{found.median:,.0f}", f"{found.least:,.0f}", f"{found.greatest:,.0f}", promised)
    ratio = results["drained_to_raw_copy"]
    table.add_row(
        "drained to raw COPY", f"{ratio.median:.2f}", f"{ratio.least:.2f}", f"{ratio.greatest:.2f}", f"{LEAST_RATIO}"
    )
    for name, value in results["http"].items():
        promised = f"{LEAST_HTTP:,}" if name == "accepted_per_second" else ""
        table.add_row(f"HTTP, batches of {HTTP_BATCH}: {name}", f"{value:,.0f}", "", "", promised)
    console.print(table)
    console.print(f"taken by the hypervisor: {results['steal']:.1%}; median, least and greatest of rounds")


if __name__ == "__main__":
    main()
