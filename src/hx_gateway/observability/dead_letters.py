"""Dead letters: rows that the database would not take, to be looked at, tried again, or thrown away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hx_gateway.db.schemas import GATEWAY_SCHEMA
from hx_gateway.errors import InvalidRequest, NotFound, Unavailable
from hx_gateway.journal.copy_rows import decode_row, encode_row, row_time, split_rows
from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.journal.kinds import Kind
from hx_gateway.migrations.runner import DRIVER_ERRORS
from hx_gateway.observability.ingest import no_record
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.repository import QueryTooSlow

MAX_AT_ONCE = 1_000
PURGED_AT_ONCE = 5_000

_TABLE = f"{GATEWAY_SCHEMA}.dead_letters"
_SHOWN = "id, created_at, tenant_id, stream_id, seq, ordinal, target, sqlstate, error, replayed_at"
# Everything that is chosen by begins with the tenant.
_LIST = f"""
SELECT {_SHOWN} FROM {_TABLE}
WHERE tenant_id = $1 AND id < $2 AND ($3::text IS NULL OR target = $3) AND ($4::text IS NULL OR sqlstate = $4)
    AND ($5::boolean IS NULL OR (replayed_at IS NOT NULL) = $5)
ORDER BY id DESC LIMIT $6
"""  # noqa: S608 - the names are ours
_ONE = f"SELECT {_SHOWN}, payload, octet_length(raw) AS raw_bytes FROM {_TABLE} WHERE tenant_id = $1 AND id = $2"  # noqa: S608
_BY_IDS = f"""
SELECT id, target, payload, raw, replayed_at FROM {_TABLE} WHERE tenant_id = $1 AND id = ANY($2::bigint[]) ORDER BY id
"""  # noqa: S608
_BY_TARGET = f"""
SELECT id, target, payload, raw, replayed_at FROM {_TABLE}
WHERE tenant_id = $1 AND target = $2 AND replayed_at IS NULL AND id > $3 ORDER BY id LIMIT $4
"""  # noqa: S608
_REPLAYED = f"UPDATE {_TABLE} SET replayed_at = now() WHERE tenant_id = $1 AND id = ANY($2::bigint[])"  # noqa: S608
_PURGE_IDS = f"DELETE FROM {_TABLE} WHERE tenant_id = $1 AND id = ANY($2::bigint[])"  # noqa: S608
# So many that a statement ends in time, whatever there is.
_PURGE_OLD = f"""
DELETE FROM {_TABLE} WHERE tenant_id = $1 AND id = ANY(ARRAY(
    SELECT id FROM {_TABLE} WHERE tenant_id = $1 AND created_at < $2 ORDER BY id LIMIT {PURGED_AT_ONCE}
))
"""  # noqa: S608
_LARGEST = (1 << 63) - 1
# SQLSTATEs: query_canceled; undefined_table, invalid_schema_name.
_CANCELED, _NOT_THERE = "57014", ("42P01", "3F000")


@dataclass(slots=True)
class Replay:
    """What came of a replay: ids that are on their way again, and why others are not.

    ``next_after`` is the id to go on behind where there may be more.
    """

    replayed: list[int] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    next_after: int | None = None

    def skip(self, number: int, reason: str) -> None:
        """Note one that was left as it is."""
        self.skipped.append({"id": number, "reason": reason})


class DeadLetters:
    """One tenant's dead letters at a time. Raises ``Unavailable`` while the database is away, ``QueryTooSlow``."""

    def __init__(self, layer: DatabaseIntegrationLayer) -> None:
        self._layer = layer

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._layer.postgres is None:
            raise no_record()
        async with self._layer.postgres.acquire() as connection:
            try:
                yield connection
            except DRIVER_ERRORS as error:
                state = getattr(error, "sqlstate", None)
                if state == _CANCELED:
                    raise QueryTooSlow("The database gave up: somebody else holds the letters.") from error
                if state in _NOT_THERE:
                    raise Unavailable("The record's tables are not there yet.") from error
                raise

    async def page(
        self,
        tenant_id: str,
        *,
        before: int | None,
        limit: int,
        target: str | None = None,
        sqlstate: str | None = None,
        replayed: bool | None = None,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return letters, newest first, and the id that the next page is before."""
        highest = _LARGEST if before is None else before
        async with self._connection() as connection:
            records = await connection.fetch(_LIST, tenant_id, highest, target, sqlstate, replayed, limit + 1)
        shown = [dict(record) for record in records[:limit]]
        return shown, shown[-1]["id"] if len(records) > limit else None

    async def one(self, tenant_id: str, number: int) -> dict[str, Any]:
        """Return a letter with its ``payload``: the row as it was to be stored. Raises ``NotFound``."""
        async with self._connection() as connection:
            record = await connection.fetchrow(_ONE, tenant_id, number)
        if record is None:
            raise NotFound(f"There is no dead letter {number}.", param="id")
        return dict(record)

    async def replay_ids(self, tenant_id: str, ids: Sequence[int]) -> Replay:
        """Send letters the way of new events again, whether or not they were before."""
        async with self._connection() as connection:
            records = await connection.fetch(_BY_IDS, tenant_id, list(ids))
        result = Replay()
        for missing in sorted(set(ids) - {record["id"] for record in records}):
            result.skip(missing, "there is no such letter")
        await self._replay(tenant_id, records, result)
        return result

    async def replay_target(self, tenant_id: str, target: str, *, after: int = 0) -> Replay:
        """Send the letters of a table that were not replayed yet, at most :data:`MAX_AT_ONCE`."""
        async with self._connection() as connection:
            records = await connection.fetch(_BY_TARGET, tenant_id, target, after, MAX_AT_ONCE)
        result = Replay()
        await self._replay(tenant_id, records, result)
        if len(records) == MAX_AT_ONCE:
            result.next_after = records[-1]["id"]
        return result

    async def _replay(self, tenant_id: str, records: Sequence[Mapping[str, Any]], result: Replay) -> None:
        """Append rows to the journal, then mark the letters.

        A crash between the two, or a letter that is sent twice, does no harm: the row's key is in the row, and it is
        stored once. One that fails again becomes a letter again, beside this one.
        """
        kinds = {kind.name: kind for kind in self._layer.journal.kinds.values()}
        try:
            for record in records:
                self._append(kinds.get(record["target"]), record, result)
        except JournalClosed as closed:
            raise no_record() from closed
        except JournalRefused:
            if not result.replayed:
                raise
            result.next_after = result.replayed[-1]
        if result.replayed:
            async with self._connection() as connection:
                await connection.execute(_REPLAYED, tenant_id, result.replayed)

    def _append(self, kind: Kind | None, record: Mapping[str, Any], result: Replay) -> None:
        number = record["id"]
        if kind is None or kind.format is None:
            result.skip(number, f"nothing here writes to {record['target']!r}")
            return
        row = _row_of(kind, record)
        if row is None:
            result.skip(number, "neither its payload nor its bytes are a row of the table")
            return
        time_us = row_time(row)
        self._layer.journal.append(kind.number, row, 1, time_us, time_us)
        result.replayed.append(number)

    async def purge(self, tenant_id: str, *, ids: Sequence[int] | None, older_than: datetime | None) -> int:
        """Delete letters by their ids, or those made before a moment; return how many."""
        statement, value = (_PURGE_IDS, list(ids)) if ids is not None else (_PURGE_OLD, older_than)
        deleted, last = 0, PURGED_AT_ONCE
        while last == PURGED_AT_ONCE:
            async with self._connection() as connection:
                last = int((await connection.execute(statement, tenant_id, value)).rpartition(" ")[2])
            deleted += last
        return deleted


def _row_of(kind: Kind, record: Mapping[str, Any]) -> bytes | None:
    """Return the row of a letter: of its payload, which a person may have mended, else its bytes as they were."""
    assert kind.format is not None
    if isinstance(record["payload"], dict):
        try:
            return encode_row(record["payload"], kind.format)
        except ValueError:
            pass
    raw = bytes(record["raw"] or b"")
    try:
        decode_row(raw, kind.format)
        whole = list(split_rows(raw)) == [raw]
    except ValueError:
        return None
    return raw if whole else None


def check_ids(ids: object) -> list[int]:
    """Return ``ids``. Raises ``InvalidRequest`` for what is no list of at most :data:`MAX_AT_ONCE` whole numbers."""
    if not isinstance(ids, list) or not ids or len(ids) > MAX_AT_ONCE:
        raise InvalidRequest(f"ids must be a list of 1 to {MAX_AT_ONCE:,} numbers.", param="ids")
    for number in ids:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= _LARGEST:
            raise InvalidRequest(f"ids must be whole numbers above 0, not {number!r:.40}.", param="ids")
    return ids
