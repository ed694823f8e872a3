"""Applies records to PostgreSQL: one transaction moves the cursor and copies the rows, so each is there once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from hx_gateway.db.schemas import GATEWAY_SCHEMA
from hx_gateway.journal.copy_rows import COPY_HEADER, COPY_TRAILER, RowFormat, decode_row, split_rows
from hx_gateway.journal.format import Record
from hx_gateway.journal.kinds import Kind
from hx_gateway.journal.outcomes import Outcome, outcome_of, sqlstate_of

Connection: TypeAlias = "asyncpg.Connection[Any]"
SetAside = Callable[[bytes, str], None]

MAX_ERROR_LENGTH = 500
# The errors that a row may be to blame for: the server's, and the checks of the driver or an applier.
POISONING = (asyncpg.PostgresError, ValueError)
DEFAULT_TENANT = "default"
# After a duplicate was met, so many batches of that table go through the stage at once.
STAGED_BATCHES = 16

_ADVANCE = f"""
INSERT INTO {GATEWAY_SCHEMA}.journal_cursors AS cursor (stream_id, segment, applied_seq) VALUES ($1, $2, $3)
ON CONFLICT (stream_id, segment) DO UPDATE SET applied_seq = EXCLUDED.applied_seq, updated_at = now()
WHERE cursor.applied_seq = $4
"""  # noqa: S608 - the schema's name is ours
_READ = f"SELECT applied_seq FROM {GATEWAY_SCHEMA}.journal_cursors WHERE stream_id = $1 AND segment = $2"  # noqa: S608
_FORGET = f"DELETE FROM {GATEWAY_SCHEMA}.journal_cursors WHERE stream_id = $1 AND segment = ANY($2::bigint[])"  # noqa: S608
_BURY = f"""
INSERT INTO {GATEWAY_SCHEMA}.dead_letters (tenant_id, stream_id, seq, ordinal, target, sqlstate, error, payload, raw)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9)
"""  # noqa: S608


class CursorMoved(Exception):
    """Somebody else has applied records of this segment; nothing was done. Read the cursor."""


@dataclass(slots=True)
class Tally:
    """What became of a batch's rows, by table; true once the transaction has committed."""

    committed: dict[str, int] = field(default_factory=dict)
    duplicate: dict[str, int] = field(default_factory=dict)
    dead: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch stands: its stream and segment, and the last record that is applied."""

    stream: UUID
    segment: int
    applied_seq: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, or a whole record, that may turn out to be poison; ``rows`` is how many events it stands for."""

    record: Record
    ordinal: int
    data: bytes
    rows: int = 1


async def read_cursor(connection: Connection, place: Place) -> int:
    """Return the last record that is applied: the truth, whatever this process remembers."""
    applied = await connection.fetchval(_READ, place.stream, place.segment)
    return place.segment - 1 if applied is None else int(applied)


class Batches:
    """Applies batches over one connection, which it is made for and dies with."""

    def __init__(self, connection: Connection, kinds: Mapping[int, Kind], set_aside: SetAside) -> None:
        self.connection = connection
        self._kinds = kinds
        self._set_aside = set_aside
        self._staged: dict[str, int] = {}

    async def apply(
        self, place: Place, records: Sequence[Record], last_seq: int, *, forget: Sequence[int] = (), careful: bool
    ) -> Tally:
        """Apply ``records`` and move the cursor to ``last_seq``, or do nothing.

        ``careful`` looks for the rows that cannot be stored and sets them aside as dead letters; without it such a
        row fails the batch. ``forget`` names segments whose cursors are not needed any more. Raises
        :class:`CursorMoved`, and what the driver raises: then it is not known whether the batch was committed.
        """
        tally = Tally()
        async with self.connection.transaction():
            moved = await self.connection.execute(_ADVANCE, place.stream, place.segment, last_seq, place.applied_seq)
            if moved == "INSERT 0 0":
                raise CursorMoved
            if forget:
                await self.connection.execute(_FORGET, place.stream, list(forget))
            for number, group in _grouped(records, self._kinds):
                kind = self._kinds[number]
                if careful:
                    rows, unreadable = _rows_of(kind, group)
                    for whole, error in unreadable:
                        await self._bury(place, kind, whole, error, tally)
                    if rows:
                        await self._apply_rows(place, kind, rows, tally)
                elif kind.format is None:
                    await self._call(kind, group)
                    _add(tally.committed, kind.name, sum(record.rows for record in group))
                else:
                    payload = b"".join([record.payload for record in group])
                    await self._insert(kind, payload, sum(record.rows for record in group), tally)
        return tally

    async def forget(self, stream: UUID, segments: Sequence[int]) -> None:
        """Remove the cursors of segments that are gone."""
        await self.connection.execute(_FORGET, stream, list(segments))

    async def _insert(self, kind: Kind, payload: bytes, rows: int, tally: Tally) -> None:
        assert kind.format is not None
        if self._staged.get(kind.name, 0) > 0:
            self._staged[kind.name] -= 1
            stored = await self._insert_staged(kind.format, payload, rows)
            _add(tally.committed, kind.name, stored)
            _add(tally.duplicate, kind.name, rows - stored)
            return
        try:
            await self._copy(kind.format, payload, rows)
        except asyncpg.UniqueViolationError:
            self._staged[kind.name] = STAGED_BATCHES
            raise
        _add(tally.committed, kind.name, rows)

    async def _copy(self, form: RowFormat, payload: bytes, rows: int, *, table: str | None = None) -> None:
        """Copy rows. Raises ``ValueError`` where they are not as many as they should be: one is not what it seems."""
        done = await self.connection.copy_to_table(
            table or form.table,
            schema_name=form.schema if table is None else None,
            columns=form.names,
            source=_once(COPY_HEADER + payload + COPY_TRAILER),
            format="binary",
        )
        if done != f"COPY {rows}":
            raise ValueError(f"{rows} rows were sent and the database answered {done!r}")

    async def _insert_staged(self, form: RowFormat, payload: bytes, rows: int) -> int:
        """Insert what is not there yet; return how many rows that was."""
        stage = f"hx_stage_{form.table}"
        columns = ", ".join(f'"{name}"' for name in form.names)
        await self.connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {form.schema}.{form.table}) ON COMMIT DELETE ROWS"
        )
        await self._copy(form, payload, rows, table=stage)
        done = await self.connection.execute(
            f"INSERT INTO {form.schema}.{form.table} ({columns}) SELECT {columns} FROM {stage} "  # noqa: S608
            'ORDER BY tenant_id, "timestamp", event_id ON CONFLICT DO NOTHING'
        )
        await self.connection.execute(f"DELETE FROM {stage}")  # noqa: S608
        return int(done.rpartition(" ")[2])

    async def _call(self, kind: Kind, records: Sequence[Record]) -> None:
        if kind.expand is not None:
            raise ValueError(f"a record of kind {kind.name!r} cannot be read by this version")
        if kind.applier is None:
            raise LookupError(f"nothing applies records of kind {kind.name!r}")
        await kind.applier(self.connection, records)

    # Looking for poison

    async def _apply_rows(self, place: Place, kind: Kind, rows: list[_Row], tally: Tally) -> None:
        """Store ``rows`` in halves until those that cannot be are alone: k of n cost k·log2(n) statements."""
        try:
            async with self.connection.transaction():
                duplicates = 0
                if kind.format is None:
                    await self._call(kind, [row.record for row in rows])
                else:
                    payload = b"".join([row.data for row in rows])
                    duplicates = len(rows) - await self._insert_staged(kind.format, payload, len(rows))
        except POISONING as error:
            if outcome_of(error) is not Outcome.POISON:
                raise
            if len(rows) == 1:
                await self._bury(place, kind, rows[0], error, tally)
                return
            middle = len(rows) // 2
            await self._apply_rows(place, kind, rows[:middle], tally)
            await self._apply_rows(place, kind, rows[middle:], tally)
            return
        count = sum(row.rows for row in rows)
        _add(tally.committed, kind.name, count - duplicates)
        _add(tally.duplicate, kind.name, duplicates)

    async def _bury(self, place: Place, kind: Kind, row: _Row, error: Exception, tally: Tally) -> None:
        """Make a dead letter of a row, in the same transaction; set it aside on disk if not even that works."""
        shown = _shown(kind, row.data)
        tenant = str((shown or {}).get("tenant_id") or DEFAULT_TENANT)
        text = str(error).replace("\0", "")[:MAX_ERROR_LENGTH]
        state = sqlstate_of(error)
        payloads = [None] if shown is None else [msgspec.json.encode(shown).decode(), None]
        for payload in payloads:
            try:
                async with self.connection.transaction():
                    where = (place.stream, row.record.seq, row.ordinal)
                    await self.connection.execute(
                        _BURY, tenant.replace("\0", ""), *where, kind.name, state, text, payload, row.data
                    )
                break
            except POISONING as again:
                if outcome_of(again) is not Outcome.POISON:
                    raise
        else:
            self._set_aside(row.data, f"{kind.name}:{state}")
        tally.dead[kind.name, state] = tally.dead.get((kind.name, state), 0) + row.rows


def _grouped(records: Sequence[Record], kinds: Mapping[int, Kind]) -> list[tuple[int, list[Record]]]:
    """Return records by kind, each kind's all together and in their order: first those that are rows."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        group = groups.get(record.kind)
        if group is None:
            if record.kind not in kinds:
                raise LookupError(f"records of kind {record.kind} are not known to this version")
            group = groups[record.kind] = []
        group.append(record)
    return sorted(groups.items(), key=lambda group: kinds[group[0]].format is None)


def _rows_of(kind: Kind, records: Sequence[Record]) -> tuple[list[_Row], list[tuple[_Row, ValueError]]]:
    """Return what may be stored one by one, and records that are not made of as many rows as they say."""
    if kind.format is None:
        return [_Row(record, 0, record.payload, record.rows) for record in records], []
    rows, unreadable = [], []
    for record in records:
        try:
            parts = list(split_rows(record.payload))
            if len(parts) != record.rows:
                raise ValueError(f"a record of {record.rows} rows holds {len(parts)}")
        except ValueError as error:
            unreadable.append((_Row(record, 0, record.payload, record.rows), error))
        else:
            rows += [_Row(record, ordinal, data) for ordinal, data in enumerate(parts)]
    return rows, unreadable


def _shown(kind: Kind, data: bytes) -> dict[str, Any] | None:
    if kind.format is None:
        return None
    try:
        return decode_row(data, kind.format)
    except ValueError:
        return None


def _add(counts: dict[str, int], name: str, rows: int) -> None:
    if rows:
        counts[name] = counts.get(name, 0) + rows


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
