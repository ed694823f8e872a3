"""Sees that every row has a partition before it is copied: one that has none would fail its whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, TypeAlias

import asyncpg
import structlog

from hx_gateway.db.coverage import Coverage, read_coverage
from hx_gateway.db.intervals import LENGTHS, bounds
from hx_gateway.db.partitions import AHEAD, ensure_partition
from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA, PARTITIONED_TABLES, PartitionedTable
from hx_gateway.journal.copy_rows import row_time, split_rows
from hx_gateway.journal.format import Record
from hx_gateway.journal.kinds import Kind
from hx_gateway.kit.clock import Clock
from hx_gateway.kit.epochs import from_postgres_us, postgres_us

Span: TypeAlias = "tuple[datetime, datetime]"

_kind_of, _low_of, _high_of = attrgetter("kind"), attrgetter("low"), attrgetter("high")
_TABLES = {table.name: table for table in PARTITIONED_TABLES}
# Of a row: its time, and whether that was changed (see the columns that all partitioned tables begin with).
_TIME = slice(6, 14)
_CLAMPED = 50


class Placement:
    """Knows which times have partitions and makes those that are missing.

    Rows older than their table's ``retention`` are dropped: they would be removed at once. Rows from a future that
    has no partition yet (a clock was wrong, and is right again) get the present time and are marked as clamped.
    """

    def __init__(self, retention: Mapping[str, timedelta], clock: Clock) -> None:
        self._retention = retention
        self._clock = clock
        self._coverage: Mapping[str, Coverage] = {}
        self._log = structlog.get_logger()

    async def place(
        self, connection: asyncpg.Connection[Any], records: Sequence[Record], kinds: Mapping[int, Kind]
    ) -> tuple[Sequence[Record], dict[str, int]]:
        """Return the records to apply and how many rows of which table were dropped. Not inside a transaction."""
        spans: dict[int, tuple[int, int]] = {}
        for number in set(map(_kind_of, records)):
            same = [record for record in records if record.kind == number]
            spans[number] = (min(map(_low_of, same)), max(map(_high_of, same)))
        lost = [
            number
            for number, (low, high) in spans.items()
            if (table := _partitioned(kinds.get(number))) is not None and not self._covers(table, low, high)
        ]
        if not lost:
            return records, {}
        now = await self._between_clocks(connection)
        await self._make_partitions(connection, [record for record in records if record.kind in lost], kinds, now)
        dropped: dict[str, int] = {}
        placed = [
            record if record.kind not in lost else self._fit(record, kinds[record.kind], dropped, now)
            for record in records
        ]
        if dropped:
            self._log.warning("events_expired", **dropped)
        return [record for record in placed if record.rows], dropped

    def look_again(self) -> None:
        """Forget what is known of partitions: one has gone that was there."""
        self._coverage = {}

    def _covers(self, table: PartitionedTable, low: int, high: int) -> bool:
        coverage = self._coverage.get(table.name)
        return coverage is not None and coverage.covers(low, high)

    async def _between_clocks(self, connection: asyncpg.Connection[Any]) -> Span:
        """Return the earlier and the later of our time and the database's.

        Where one of them is wrong by years, nothing is old by the earlier or from the future by the later that is not.
        """
        ours, theirs = self._clock.now(), await connection.fetchval("SELECT clock_timestamp()")
        return min(ours, theirs), max(ours, theirs)

    async def _make_partitions(
        self,
        connection: asyncpg.Connection[Any],
        records: Sequence[Record],
        kinds: Mapping[int, Kind],
        now: Span,
    ) -> None:
        self._coverage = await read_coverage(connection)
        made = False
        for table, lower in sorted(_missing(records, kinds, self._coverage), key=lambda pair: pair[1]):
            length = LENGTHS[table.interval]
            oldest, newest = now[0] - self._retention[table.name] - length, now[1] + AHEAD[table.interval] * length
            if oldest <= lower <= newest:
                made = await ensure_partition(connection, table, lower) or made
        if made:
            self._coverage = await read_coverage(connection)

    def _fit(self, record: Record, kind: Kind, dropped: dict[str, int], now: Span) -> Record:
        """Return ``record`` without the rows that are past their retention.

        A row that has no place for any other reason stays: the database refuses it, and it becomes a dead letter.
        """
        table = _partitioned(kind)
        assert table is not None
        if self._covers(table, record.low, record.high):
            return record
        coverage, ours = self._coverage[table.name], postgres_us(self._clock.now())
        oldest, newest = postgres_us(now[0] - self._retention[table.name]), postgres_us(now[1])
        whole, rows = _rows(record), []
        if not whole:
            return record
        for row in whole:
            time = row_time(row)
            if time > newest and not coverage.covers(time, time) and coverage.covers(ours, ours):
                rows.append(_at(row, ours))
            elif time >= oldest or coverage.covers(time, time):
                rows.append(row)
            else:
                dropped[kind.name] = dropped.get(kind.name, 0) + 1
        return Record(record.seq, record.kind, record.flags, len(rows), record.low, record.high, b"".join(rows))


def _partitioned(kind: Kind | None) -> PartitionedTable | None:
    if kind is None or kind.format is None or kind.format.schema != OBSERVABILITY_SCHEMA:
        return None
    return _TABLES.get(kind.format.table)


def _missing(
    records: Sequence[Record], kinds: Mapping[int, Kind], coverage: Mapping[str, Coverage]
) -> set[tuple[PartitionedTable, datetime]]:
    """Return the tables and first moments of partitions that rows fall in and that are not there."""
    found = set()
    for record in records:
        table = _partitioned(kinds[record.kind])
        if table is None or coverage[table.name].covers(record.low, record.high):
            continue
        for row in _rows(record):
            time = row_time(row)
            if not coverage[table.name].covers(time, time):
                with suppress(OverflowError):
                    found.add((table, bounds(table, from_postgres_us(time))[0]))
    return found


def _rows(record: Record) -> list[bytes]:
    """Return a record's rows, none where it is not made of rows: it is not for here to say what becomes of it."""
    try:
        return list(split_rows(record.payload))
    except ValueError:
        return []


def _at(row: bytes, time: int) -> bytes:
    """Return ``row`` moved to ``time`` and marked as clamped."""
    moved = row[: _TIME.start] + time.to_bytes(8, "big", signed=True) + row[_TIME.stop :]
    return moved[:_CLAMPED] + b"\1" + moved[_CLAMPED + 1 :]
