"""Every row gets a partition, the present time, or an end that is counted; a wrong clock costs none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hx_gateway.db.coverage import Coverage
from hx_gateway.db.intervals import LENGTHS, bounds
from hx_gateway.db.schemas import PartitionedTable
from hx_gateway.journal import placement as module
from hx_gateway.journal.copy_rows import decode_row, encode_row
from hx_gateway.journal.format import Record
from hx_gateway.journal.placement import Placement
from hx_gateway.kit.clock import SystemClock
from hx_gateway.kit.epochs import postgres_us
from hx_gateway.observability.tables import FORMATS, TRACE_EVENTS, record_kinds, retention_of

KINDS = {kind.number: kind for kind in record_kinds()}
FORM = FORMATS[TRACE_EVENTS]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock(SystemClock):
    """A clock that stands."""

    def __init__(self, now: datetime) -> None:
        self.at = now

    def now(self) -> datetime:
        return self.at


class Database:
    """A connection to tables whose partitions are days in ``days``; makes what is asked for unless ``stuck``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: datetime = NOON) -> None:
        self.now = now
        self.days = {bounds_of(NOON + step * DAY)[0] for step in range(-1, 8)}
        self.made: list[datetime] = []
        self.reads = 0
        self.stuck = False
        monkeypatch.setattr(module, "read_coverage", self.read_coverage)
        monkeypatch.setattr(module, "ensure_partition", self.ensure_partition)

    async def fetchval(self, _: str) -> datetime:
        return self.now

    async def read_coverage(self, _: object) -> dict[str, Coverage]:
        self.reads += 1
        spans = [(postgres_us(day), postgres_us(day + DAY)) for day in self.days]
        return {form.table: Coverage(spans) for form in FORMATS.values()}

    async def ensure_partition(self, _: object, table: PartitionedTable, moment: datetime) -> bool:
        if self.stuck:
            return False
        self.made.append(moment)
        self.days.add(bounds(table, moment)[0])
        return True


def bounds_of(moment: datetime) -> tuple[datetime, datetime]:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return day, day + LENGTHS["day"]


def row(moment: datetime) -> bytes:
    values = {
        "timestamp": moment.isoformat(),
        "event_id": "11111111-2222-3333-4444-555555555555",
        "received_at": NOON.isoformat(),
        "ts_clamped": False,
        "tenant_id": "t",
        "trace_id": "t",
        "event_type": "e",
        "level": 9,
        "metadata": {},
    }
    return encode_row(values, FORM)


def record(*moments: datetime) -> Record:
    times = [postgres_us(moment) for moment in moments]
    return Record(7, TRACE_EVENTS, 1, len(times), min(times), max(times), b"".join(map(row, moments)))


async def place(
    database: Database, clock: datetime, *records: Record
) -> tuple[list[dict[str, Any]], dict[str, int], Placement]:
    placement = Placement(retention_of({}), Clock(clock))
    placed, dropped = await placement.place(database, records, KINDS)
    size = len(row(NOON))
    rows = [decode_row(one.payload[at : at + size], FORM) for one in placed for at in range(0, len(one.payload), size)]
    assert sum(one.rows for one in placed) == len(rows)
    return rows, dropped, placement


def times(rows: list[dict[str, Any]]) -> list[datetime]:
    return [datetime.fromisoformat(one["timestamp"]) for one in rows]


async def test_rows_with_a_partition_go_as_they_are_and_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(monkeypatch)
    one = record(NOON, NOON - DAY)
    rows, dropped, placement = await place(database, NOON, one)
    assert (times(rows), dropped, database.made) == ([NOON, NOON - DAY], {}, [])
    again, _ = await placement.place(database, [one], KINDS)
    assert again == [one]
    assert database.reads == 1
    placement.look_again()
    await placement.place(database, [one], KINDS)
    assert database.reads == 2


async def test_a_missing_partition_within_retention_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(monkeypatch)
    rows, dropped, _ = await place(database, NOON, record(NOON, NOON - 20 * DAY))
    assert times(rows) == [NOON, NOON - 20 * DAY]
    assert database.made == [bounds_of(NOON - 20 * DAY)[0]]
    assert dropped == {}


async def test_a_row_past_its_retention_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(monkeypatch)
    rows, dropped, _ = await place(database, NOON, record(NOON, NOON - 40 * DAY), record(NOON - 400 * DAY))
    assert times(rows) == [NOON]
    assert dropped == {"trace_events": 2}
    assert database.made == []


async def test_a_row_of_the_future_is_clamped_to_now(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(monkeypatch)
    rows, dropped, _ = await place(database, NOON, record(NOON, NOON + 3652 * DAY))
    assert times(rows) == [NOON, NOON]
    assert [one["ts_clamped"] for one in rows] == [False, True]
    assert dropped == {}


async def test_a_row_whose_partition_cannot_be_made_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(monkeypatch)
    database.stuck = True
    rows, dropped, _ = await place(database, NOON, record(NOON - 20 * DAY))
    assert times(rows) == [NOON - 20 * DAY]
    assert dropped == {}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(NOON, NOON + 3652 * DAY), (NOON + 3652 * DAY, NOON)],
    ids=["theirs ten years ahead", "ours ten years ahead"],
)
async def test_a_clock_years_ahead_makes_no_row_old(
    monkeypatch: pytest.MonkeyPatch, ours: datetime, theirs: datetime
) -> None:
    database = Database(monkeypatch, now=theirs)
    rows, dropped, _ = await place(database, ours, record(NOON, NOON - 20 * DAY))
    assert times(rows) == [NOON, NOON - 20 * DAY]
    assert dropped == {}


async def test_a_record_that_is_not_made_of_rows_is_left_to_whoever_applies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = Database(monkeypatch)
    time = postgres_us(NOON - 20 * DAY)
    broken = Record(7, TRACE_EVENTS, 1, 1, time, time, b"no row")
    placement = Placement(retention_of({}), Clock(NOON))
    placed, dropped = await placement.place(database, [broken, record(NOON)], KINDS)
    assert dropped == {}
    assert len(placed) == 2
