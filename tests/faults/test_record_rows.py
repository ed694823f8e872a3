"""Rows and files that are wrong, clocks that jump, disks that are full: nothing else suffers, everything is counted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import FileIO
from itertools import count
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from hx_gateway.journal.apply import Batches, CursorMoved, Place, Tally, read_cursor
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.journal.format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, Record
from hx_gateway.journal.kinds import Policy
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.sync import Durability
from hx_gateway.kit.clock import SystemClock
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.tables import TRACE_EVENTS
from tests.faults.record import account, amount, drained, make_layer, running, settled, stored, until, write
from tests.faults.test_record import show, url
from tests.fixtures.servers import Servers
from tests.integration.db.databases import sql

POISON_ROWS = amount("HX_TEST_POISON_ROWS", 5000)
PLACE = "PLACE!"
NUL = b"\\u0000"
BAD_UTF8 = b"\xff\xfe\xfd\xfc\xfb\xfa"

__all__ = ["url"]


def poison(layer: DatabaseIntegrationLayer, number: int, rotten: bytes = NUL) -> None:
    """Keep a row that PostgreSQL refuses, which no call of the layer would make."""
    row = layer._rows.trace_event("trace", "numbered", task_id=str(number), metadata={"a": PLACE})
    assert PLACE.encode() in row.data
    layer.journal.append(TRACE_EVENTS, row.data.replace(PLACE.encode(), rotten), 1, row.time_us, row.time_us)


async def dead_letters(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch("SELECT * FROM hx_gateway.dead_letters ORDER BY id")
        return found
    finally:
        await connection.close()


# Rows


async def test_one_poison_row_costs_no_other(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(url, tmp_path, segment_bytes=8 * 1024**2) as layer:
        await drained(layer)
        written = []
        for number in range(POISON_ROWS):
            if number == POISON_ROWS // 3:
                poison(layer, number)
            else:
                await layer.write_trace_event("trace", "numbered", task_id=str(number))
                written.append(number)
        sums = await settled(layer, url, tmp_path, written)
        assert layer.drain is not None
        show(capsys, f"one poison row of {POISON_ROWS}", failures=layer.drain.figures.failures, **sums)
    (letter,) = await dead_letters(url)
    assert sums["dead"] == 1
    assert letter["sqlstate"] == "22P05"
    assert letter["target"] == "trace_events"
    assert NUL in bytes(letter["raw"])
    assert layer.breaker.opened_count == 0


async def test_rows_of_bad_text_and_records_that_are_no_rows_become_dead_letters(url: str, tmp_path: Path) -> None:
    async with running(url, tmp_path) as layer:
        written = await write(layer, range(20))
        poison(layer, 20, BAD_UTF8)
        written += await write(layer, range(21, 40))
        whole = layer._rows.trace_event("trace", "numbered", task_id="40")
        at = whole.time_us
        # Cut short: its last field would be taken from the row behind it.
        layer.journal.append(TRACE_EVENTS, whole.data[:-2], 1, at, at)
        layer.journal.append(TRACE_EVENTS, b"no row at all", 3, at, at)
        written += await write(layer, range(41, 60))
        sums = await settled(layer, url, tmp_path, written)
    letters = await dead_letters(url)
    assert sums["dead"] == 5
    assert Counter(letter["sqlstate"] for letter in letters) == {"22021": 1, "client": 2}
    assert {bytes(letter["raw"]) for letter in letters} > {whole.data[:-2], b"no row at all"}


async def test_the_same_event_again_is_counted_and_stored_once(url: str, tmp_path: Path) -> None:
    moment, ids = datetime.now(UTC), [uuid4() for _ in range(30)]

    async def write_all(layer: DatabaseIntegrationLayer, tenant: str) -> None:
        for number, event_id in enumerate(ids):
            await layer.write_trace_event(
                "t", "e", task_id=str(number), timestamp=moment, event_id=event_id, tenant_id=tenant
            )

    async with running(url, tmp_path) as layer:
        await write_all(layer, "one")
        await drained(layer)
        await write_all(layer, "one")
        await drained(layer)
        await write_all(layer, "two")
        await write_all(layer, "one")
        await drained(layer)
        sums = await account(layer, url, tmp_path)
    assert (sums["committed"], sums["duplicate"]) == (60, 60)
    assert set((await stored(url)).values()) == {2}


async def test_a_partition_that_somebody_dropped_is_made_again(url: str, tmp_path: Path, servers: Servers) -> None:
    name = url.rpartition("/")[2]
    async with running(url, tmp_path) as layer:
        await write(layer, range(10))
        await drained(layer)
        today = f"agent_observability.trace_events_p{datetime.now(UTC):%Y%m%d}"
        sql(servers.postgres, f"DROP TABLE {today}", name)
        await write(layer, range(10, 20))
        sums = await settled(layer, url, tmp_path, range(10, 20))
    assert sums["dead"] + sums["dropped"] == 0


# The schema


async def test_a_schema_that_drifted_pauses_and_resumes_without_loss(
    url: str, tmp_path: Path, servers: Servers
) -> None:
    name = url.rpartition("/")[2]
    table = "agent_observability.trace_events"
    async with running(url, tmp_path) as layer:
        written = await write(layer, range(50))
        await drained(layer)
        assert layer.drain is not None
        figures = layer.drain.figures
        sql(servers.postgres, f"ALTER TABLE {table} RENAME COLUMN message TO text", name)
        written += await write(layer, range(50, 200))
        await until(lambda: figures.paused == "42703")
        # What has nothing to do with it waits too, in its order; nothing is set aside.
        assert await dead_letters(url) == []
        sql(servers.postgres, f"ALTER TABLE {table} RENAME COLUMN text TO message", name)
        sums = await settled(layer, url, tmp_path, written)
        assert figures.paused is None
    assert sums["dead"] == 0
    assert layer.breaker.opened_count == 0


async def test_an_orphan_of_another_version_holds_up_nobody_else(url: str, tmp_path: Path) -> None:
    stranger = make_layer("postgresql://hx@127.0.0.1:1/nobody", tmp_path)
    stranger.journal.open()
    stranger.journal.kinds = {**stranger.journal.kinds, 9: stranger.journal.kinds[TRACE_EVENTS]}
    stranger.journal._tables += [stranger.journal.counts.of("x")] * 9
    stranger.journal.append(9, b"from the future", 1)
    stranger.journal.close()
    async with running(url, tmp_path, ingest_connections=1) as layer:
        await asyncio.sleep(0.3)
        written = await write(layer, range(50))
        assert layer.drain is not None
        figures = layer.drain.figures
        await until(lambda: figures.paused == "LookupError")
        assert await layer.flush(20)
        assert sorted(await stored(url)) == written
        assert figures.paused == "LookupError"
    (path,) = tmp_path.rglob("*.log")
    assert [record.payload for record in read_segment(path)] == [b"from the future"]


# Clocks


class Shifted(SystemClock):
    """A clock that is wrong by ``by``."""

    def __init__(self) -> None:
        self.by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.by


YEARS = timedelta(days=3652)


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1), YEARS], ids=["+1d", "-1d", "+10y"])
@pytest.mark.parametrize("back", [True, False], ids=["set right again", "still wrong"])
async def test_a_clock_that_jumps_costs_nothing(
    url: str, tmp_path: Path, jump: timedelta, back: bool, servers: Servers
) -> None:
    clock = Shifted()
    async with running(url, tmp_path, clock=clock) as layer:
        layer._rows._time_ns = lambda: time.time_ns() + clock.by // timedelta(microseconds=1) * 1000
        written = await write(layer, range(50))
        await drained(layer)
        layer.breaker.force_open()
        written += await write(layer, range(50, 100))
        clock.by = jump
        written += await write(layer, range(100, 150))
        layer.journal.tick()
        if back:
            clock.by = timedelta()
        layer.breaker.release()
        written += await write(layer, range(150, 200))
        sums = await settled(layer, url, tmp_path, written)
    assert sums["dropped"] + sums["dead"] + sums["duplicate"] == 0


# Files


def leave_orphan(root: Path, count: int, *, segment_bytes: int = 128 * 1024) -> None:
    """Leave what a process that was killed leaves: its segments, and nobody who holds the lock."""
    child = os.fork()
    if child == 0:
        layer = make_layer("postgresql://hx@127.0.0.1:1/nobody", root, segment_bytes=segment_bytes)
        layer.journal.open()
        for number in range(count):
            row = layer._rows.trace_event("trace", "numbered", task_id=str(number))
            layer.buffers[TRACE_EVENTS].add(row)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_two_workers_share_the_orphans_of_a_third(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        leave_orphan(tmp_path, 3000, segment_bytes=64 * 1024)
    one, two = make_layer(url, tmp_path), make_layer(url, tmp_path)
    await asyncio.gather(one.initialize(), two.initialize())
    await asyncio.gather(drained(one), drained(two))
    counts = [layer.journal.counts.of("trace_events") for layer in (one, two)]
    await asyncio.gather(one.shutdown(), two.shutdown())
    assert sum(count.recovered for count in counts) == 6000
    assert sum(count.committed for count in counts) == 6000
    assert sum(count.duplicate for count in counts) == 0
    found = await stored(url)
    assert len(found) == 3000
    assert set(found.values()) == {2}
    assert list(tmp_path.rglob("*.log")) == []


async def test_of_two_who_apply_the_same_records_one_does_and_the_other_is_told(url: str, tmp_path: Path) -> None:
    layer = make_layer(url, tmp_path)
    async with layer:
        await drained(layer)
        row = layer._rows.trace_event("trace", "numbered", task_id="1")
        kinds = layer.journal.kinds
    record = Record(5, TRACE_EVENTS, 0, 1, row.time_us, row.time_us, row.data)
    place = Place(uuid4(), 5, 4)
    connections = [await asyncpg.connect(url) for _ in range(2)]
    batches = [Batches(connection, kinds, lambda *_: None) for connection in connections]
    results = await asyncio.gather(
        *[one.apply(place, [record], 5, careful=False) for one in batches], return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [CursorMoved.__name__, Tally.__name__]
    assert await read_cursor(connections[0], place) == 5
    # Neither is one who comes late with what he remembers.
    late = Record(6, TRACE_EVENTS, 0, 1, row.time_us + 1, row.time_us + 1, row.data)
    with pytest.raises(CursorMoved):
        await batches[1].apply(place, [late], 6, careful=False)
    for connection in connections:
        await connection.close()
    assert await stored(url) == {1: 1}


async def test_a_damaged_range_is_set_aside_and_counted(url: str, tmp_path: Path) -> None:
    leave_orphan(tmp_path, 100)
    (path,) = tmp_path.rglob("*.log")
    records = list(read_segment(path))
    data = bytearray(path.read_bytes())
    length = RECORD_HEADER_BYTES + len(records[0].payload)
    # Rows are numbered: those of two digits have one byte more.
    at = SEGMENT_HEADER_BYTES + 10 * length + 20 * (length + 1)
    data[at : at + length + 30] = b"\xa5" * (length + 30)
    path.write_bytes(bytes(data))
    async with running(url, tmp_path) as layer:
        sums = await settled(layer, url, tmp_path, [number for number in range(100) if number not in (30, 31)])
        counts = layer.journal.counts
    assert (counts.corrupt_ranges, counts.lost_records) == (1, 2)
    assert sums["recovered"] == sums["committed"] == 98
    assert len(list((tmp_path / "events" / "quarantine").glob("*.bin"))) == 1


async def test_a_segment_that_cannot_be_opened_now_is_not_thrown_away(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_orphan(tmp_path, 100)
    real, failures = os.open, 0

    def out_of_descriptors(path: str | Path, *arguments: int, **more: int) -> int:
        nonlocal failures
        if str(path).endswith(".log") and failures < 20:
            failures += 1
            raise OSError(24, "Too many open files")
        return real(path, *arguments, **more)

    async with running(url, tmp_path) as layer:
        monkeypatch.setattr(os, "open", out_of_descriptors)
        written = await write(layer, range(100, 150))
        await until(lambda: failures >= 4)
        monkeypatch.undo()
        await settled(layer, url, tmp_path, [*range(100), *written])


# Disks


@contextmanager
def small_disk(path: Path, megabytes: int = 8) -> Iterator[Path]:
    """Mount a file system of its own."""
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill_up(file: FileIO) -> None:
    """Write until there is no room for a byte."""
    while file.write(bytes(1024**2)):
        pass


async def test_a_share_of_the_disk_that_is_used_up_sheds_then_rejects_and_recovers(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = warned = decided = plain = 0
    with small_disk(tmp_path / "disk") as disk:
        layer = make_layer(url, disk, segment_bytes=32 * 1024)
        layer.breaker.force_open()
        async with layer:
            for number in range(4000):
                with_level = "WARNING" if number % 4 == 0 else "INFO"
                try:
                    if number % 2:
                        await layer.write_routing_decision("what", "agent", 0.5, task_id=str(number))
                        decided += 1
                    else:
                        await layer.write_trace_event("t", "e", with_level, task_id=str(number), message="m" * 200)
                        warned += with_level == "WARNING"
                        plain += with_level == "INFO"
                except JournalRefused as refusal:
                    refused += refusal.reason == "over_budget"
                if number % 50 == 0:
                    layer.journal.tick()
            shed = layer.journal.counts.of("trace_events").dropped["shed"]
            assert 0 < shed < plain
            assert refused > 0
            sums = await account(layer, url, disk)
            assert sums["refused"] == refused
            assert sums["dropped"] == shed
            assert sums["waiting"] == decided + warned + plain - shed
            assert not layer.journal.accepting
            layer.breaker.release()
            await drained(layer)
            layer.journal.tick()
            assert layer.journal.accepting
            await layer.write_routing_decision("again", "agent", 0.5)
            await drained(layer)
            sums = await account(layer, url, disk)
            show(capsys, "a full share of 8 MB", shed=shed, **sums)
    assert sums["committed"] == decided + warned + plain - shed + 1
    assert sums["waiting"] == 0
    connection = await asyncpg.connect(url)
    found = await connection.fetchval("SELECT count(*) FROM agent_observability.routing_decisions")
    await connection.close()
    assert found == decided + 1


async def test_a_disk_that_others_fill_refuses_and_recovers(url: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        ballast, free = 1024**2, 512 * 1024
        layer = make_layer(
            url, disk, segment_bytes=64 * 1024, journal_ballast_bytes=ballast, journal_min_free_bytes=free
        )
        layer.breaker.force_open()
        async with layer:
            written = await write(layer, range(100))
            assert (disk / "events" / "ballast").exists()
            hog = disk / "hog"
            with hog.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                fill_up(file)
            refused = 0
            for number in range(100, 3000):
                try:
                    written += await write(layer, range(number, number + 1), level="ERROR", message="m" * 1000)
                except JournalRefused:
                    refused += 1
            assert refused > 0
            layer.journal.tick()
            assert not (disk / "events" / "ballast").exists()
            assert (await account(layer, url, disk))["refused"] == refused
            hog.unlink()
            layer.journal.tick()
            written += await write(layer, range(5000, 5100), level="ERROR")
            layer.breaker.release()
            sums = await settled(layer, url, disk, written)
    assert sums["refused"] == refused
    assert sums["dropped"] == 0


async def test_the_oldest_make_room_during_an_outage_and_the_rest_is_stored_once(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = {"trace_events": Policy.DROP_OLDEST}
    with small_disk(tmp_path / "disk") as disk:
        layer = make_layer(url, disk, segment_bytes=32 * 1024, policies=policies)
        async with layer:
            await write(layer, range(10))
            await drained(layer)
            layer.breaker.force_open()
            decided = 0
            for number in range(10, 6000):
                await layer.write_trace_event("t", "e", task_id=str(number), message="m" * 200)
                if number % 100 == 0:
                    await layer.write_routing_decision("what", "agent", 0.5, task_id=str(number))
                    decided += 1
                if number % 50 == 0:
                    layer.journal.tick()
            layer.breaker.release()
            await drained(layer)
            sums = await account(layer, url, disk)
            show(capsys, "the oldest made room", **sums)
            dropped = layer.journal.counts.of("trace_events").dropped
    found = await stored(url)
    assert dropped == {"drop_oldest": 6000 - len(found)}
    assert sums["duplicate"] + sums["refused"] + sums["waiting"] == 0
    assert sums["committed"] == len(found) + decided
    # The youngest are all there, without a gap.
    youngest = sorted(found)[10:]
    assert youngest == list(range(youngest[0], 6000))


async def test_syncs_that_fail_now_and_then_lose_and_repeat_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fdatasync, count()

    def now_and_then(fd: int) -> None:
        if next(calls) % 4 == 1:
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", now_and_then)
    async with running(url, tmp_path, durability=Durability.GROUP, segment_bytes=16 * 1024) as layer:
        written: list[int] = []
        for first in range(0, 1000, 50):
            batches = [write(layer, range(number, number + 1)) for number in range(first, first + 50)]
            written += [number for batch in await asyncio.gather(*batches) for number in batch]
        assert next(calls) > 10
        sums = await settled(layer, url, tmp_path, written)
    assert sums["duplicate"] == 0
    assert sums["committed"] == 1000
