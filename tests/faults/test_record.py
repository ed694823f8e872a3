"""Whatever happens to the process, the disk or the database: what was acknowledged is in the table once, or counted."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from tests.faults.proxies import CuttingProxy
from tests.faults.record import (
    account,
    amount,
    drained,
    make_layer,
    running,
    settled,
    stored,
    until,
    write,
)
from tests.fixtures.servers import PostgresServer, Servers
from tests.integration.db.databases import ready_database, sql

KILLS = amount("HX_TEST_KILLS", 4)
OUTAGE_SECONDS = amount("HX_TEST_OUTAGE_SECONDS", 2)
OUTAGE_RATE = amount("HX_TEST_OUTAGE_RATE", 500)
LONG_SECONDS = 60 + 10 * KILLS + 5 * OUTAGE_SECONDS

pytestmark = pytest.mark.timeout(LONG_SECONDS)


@pytest.fixture
def url(servers: Servers) -> Iterator[str]:
    with ready_database(servers.postgres) as made:
        yield made


def show(capsys: pytest.CaptureFixture[str], what: str, **figures: object) -> None:
    """Print what a run found, past pytest's capture: it stands in the report of the long run."""
    with capsys.disabled():
        sys.stdout.write(f"\n{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()) + "\n")


# The process


class Writer:
    """A writing process, and the numbers it has acknowledged."""

    def __init__(self, url: str, root: Path, first: int) -> None:
        command = [sys.executable, "-m", "tests.faults.record_writer", url, str(root), str(first)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def kill_after(self, seconds: float) -> tuple[int, int]:
        """Kill it so long after its first word; return the last number it acknowledged and its duplicates."""
        lines = [self.stdout.readline()]
        time.sleep(seconds)
        self.process.kill()
        lines += self.stdout.read().splitlines(keepends=True)
        self.process.wait()
        self.stdout.close()
        # Its log is among them.
        whole = [found for line in lines if (found := re.fullmatch(rb"(\d+) (\d+)\n", line))]
        return (int(whole[-1][1]), int(whole[-1][2])) if whole else (-1, 0)


async def test_a_process_killed_at_any_moment_loses_and_repeats_nothing(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acknowledged: set[int] = set()
    duplicates, first = 0, 0
    for _ in range(KILLS):
        last, met = await asyncio.to_thread(Writer(url, tmp_path, first).kill_after, random.uniform(0, 0.4))
        acknowledged |= set(range(first, last + 1))
        duplicates += met
        first = max(first, last) + 1000
    async with running(url, tmp_path) as layer:
        await drained(layer, LONG_SECONDS)
        found = await stored(url)
        counts = await account(layer, url, tmp_path)
    missing = acknowledged - set(found)
    repeated = [number for number, times in found.items() if times > 1]
    show(
        capsys,
        f"killed {KILLS} times",
        acknowledged=len(acknowledged),
        stored=len(found),
        missing=len(missing),
        repeated=len(repeated),
        recovered_last=counts["recovered"],
    )
    assert missing == set()
    assert repeated == []
    assert duplicates + counts["duplicate"] == 0
    assert len(set(found) - acknowledged) <= 20 * KILLS
    assert [path for path in (tmp_path / "events").iterdir() if path.is_dir()] == []


# The database


def end(server: PostgresServer) -> None:
    """Kill every process of a server, those that are just being started too: one that lived on would write beside
    the next server, and what it commits then is lost, which no client can help."""
    server.freeze()
    server.kill()


async def test_a_database_that_is_killed_and_comes_back_gets_everything_once(
    url: str, tmp_path: Path, servers: Servers
) -> None:
    async with running(url, tmp_path) as layer:
        written = await write(layer, range(300))
        end(servers.postgres)
        try:
            written += await write(layer, range(300, 900))
            assert layer.drain is not None
            drain = layer.drain
            await until(lambda: drain.figures.failures >= 3)
            written += await write(layer, range(900, 1000))
        finally:
            servers.postgres.start()
        sums = await settled(layer, url, tmp_path, written)
    assert sums["duplicate"] == 0
    assert sums["committed"] == 1000


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Hold a lock on the table of events; give what tells whether somebody waits for it, inside of a transaction."""
    holder, observer = await asyncpg.connect(url), await asyncpg.connect(url)

    async def waited_for() -> bool:
        return bool(await observer.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))

    await holder.execute("BEGIN; LOCK TABLE agent_observability.trace_events IN ACCESS EXCLUSIVE MODE")
    try:
        yield waited_for
    finally:
        holder.terminate()
        observer.terminate()


async def test_a_database_that_hangs_is_left_alone_and_gets_everything_when_it_wakes(
    url: str, tmp_path: Path, servers: Servers
) -> None:
    async with running(url, tmp_path, batch_seconds=1.0, connect_seconds=0.5, ingest_connections=1) as layer:
        written = await write(layer, range(200))
        await drained(layer)
        assert layer.drain is not None
        drain = layer.drain
        async with locked(url) as waited_for:
            written += await write(layer, range(200, 300))
            await until(waited_for)
            servers.postgres.freeze()
            try:
                began = time.monotonic()
                written += await write(layer, range(300, 600))
                assert time.monotonic() - began < 5
                # The batch that is under way does not wait for the server to wake: it is given up, others too, and
                # the circuit opens.
                await until(lambda: drain.figures.failures >= 3 and layer.breaker.opened_count >= 1)
            finally:
                servers.postgres.thaw()
        sums = await settled(layer, url, tmp_path, written)
    assert sums["duplicate"] == 0


async def test_a_record_is_closed_in_time_while_its_database_hangs(url: str, tmp_path: Path, servers: Servers) -> None:
    layer = make_layer(url, tmp_path, shutdown_seconds=0.3, ingest_connections=1)
    await layer.initialize()
    await drained(layer)
    async with locked(url) as waited_for:
        await write(layer, range(200))
        await until(waited_for)
        servers.postgres.freeze()
        try:
            async with asyncio.timeout(10):
                await layer.shutdown()
        finally:
            servers.postgres.thaw()
    async with running(url, tmp_path) as later:
        await drained(later)
        found = await stored(url)
    assert sorted(found) == list(range(200))


async def test_a_database_that_turns_read_only_gets_everything_when_it_turns_back(
    url: str, tmp_path: Path, servers: Servers
) -> None:
    name = url.rpartition("/")[2]
    async with running(url, tmp_path) as layer:
        written = await write(layer, range(100))
        await drained(layer)
        assert layer.drain is not None
        drain = layer.drain
        sql(servers.postgres, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        # As after a failover: old sessions end, new ones find a replica.
        sql(servers.postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        written += await write(layer, range(100, 400))
        await until(lambda: drain.figures.last_error == "25006")
        assert len(await stored(url)) == 100
        sql(servers.postgres, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        sql(servers.postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        sums = await settled(layer, url, tmp_path, written)
    assert sums["duplicate"] + sums["dead"] == 0


async def test_a_database_without_a_free_connection_gets_everything_later(url: str, tmp_path: Path) -> None:
    held: list[asyncpg.Connection[object]] = []
    with suppress(asyncpg.TooManyConnectionsError):
        while True:
            held.append(await asyncpg.connect(url))
    try:
        layer = make_layer(url, tmp_path)
        await layer.initialize()
        written = await write(layer, range(300))
        assert layer.drain is not None
        drain = layer.drain
        await until(lambda: drain.figures.last_error == "53300")
    finally:
        for connection in held:
            connection.terminate()
    sums = await settled(layer, url, tmp_path, written)
    await layer.shutdown()
    assert sums["duplicate"] + sums["dead"] == 0


async def test_a_commit_whose_answer_is_lost_is_neither_repeated_nor_forgotten(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with CuttingProxy(url, every=3, cuts=8) as proxy:
        written: list[int] = []
        async with running(
            proxy.url, tmp_path, max_batch_size=50, failure_threshold=100, segment_bytes=32 * 1024
        ) as layer:
            for first in range(0, 2000, 100):
                written += await write(layer, range(first, first + 100))
                await asyncio.sleep(0.02)
            await until(lambda: proxy.done == 8)
            sums = await settled(layer, url, tmp_path, written)
            show(capsys, "commits cut off from their answer", cuts=proxy.done, **sums)
        assert sums["duplicate"] == 0
        assert sums["committed"] == 2000


async def test_a_backlog_drains_while_writes_go_on(
    url: str, tmp_path: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    slowest = 0.0

    async def live(layer: object, first: int, seconds: float) -> int:
        nonlocal slowest
        began, number = time.monotonic(), first
        while (passed := time.monotonic() - began) < seconds:
            while number - first < passed * OUTAGE_RATE:
                before = time.perf_counter()
                await write(layer, range(number, number + 1))  # type: ignore[arg-type]
                slowest = max(slowest, time.perf_counter() - before)
                number += 1
            await asyncio.sleep(0.005)
        return number

    async with running(url, tmp_path, segment_bytes=1024**2, journal_max_bytes=2 * 1024**3) as layer:
        number = await live(layer, 0, 0.3)
        end(servers.postgres)
        try:
            number = await live(layer, number, OUTAGE_SECONDS)
        finally:
            servers.postgres.start()
        waiting = layer.journal.counts.of("trace_events").waiting
        began = time.monotonic()
        number = await live(layer, number, 1.0)
        sums = await settled(layer, url, tmp_path, range(number), seconds=LONG_SECONDS)
        show(
            capsys,
            f"outage of {OUTAGE_SECONDS} s at {OUTAGE_RATE}/s",
            backlog=waiting,
            drained_after=f"{time.monotonic() - began:.2f} s",
            slowest_write=f"{slowest * 1000:.1f} ms",
            **sums,
        )
    assert sums["committed"] == number
    assert slowest < 5
