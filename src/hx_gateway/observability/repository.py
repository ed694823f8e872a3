"""Reads of the record: pages of its four tables, whole traces, exports."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

import asyncpg
import msgspec

from hx_gateway.db.schemas import (
    PERFORMANCE_METRICS,
    ROUTING_DECISIONS,
    TRACE_EVENTS,
    TRANSFORMATION_EVENTS,
    PartitionedTable,
)
from hx_gateway.errors import HXError, InvalidRequest, Unavailable
from hx_gateway.observability.cursors import Position, decode_cursor, encode_cursor
from hx_gateway.observability.filters import (
    MAX_LIMIT,
    MetricFilters,
    RecordFilters,
    RoutingFilters,
    TraceFilters,
    TransformationFilters,
    check_limit,
    check_tenant,
    check_text,
    check_window,
)
from hx_gateway.observability.levels import level_name, level_number
from hx_gateway.services.base import FailureKind
from hx_gateway.services.failures import classify, dependency_error

STATEMENT_TIMEOUT_SECONDS = 2
# Waiting for a connection and the statement: what is left when the server does not even say that time is up.
QUERY_SECONDS = 5.0
MAX_TRACE_EVENTS = 10_000
# On either side of a hint when a trace happened.
AROUND = timedelta(days=1)

_COMMON = ("timestamp", "event_id", "received_at", "ts_clamped", "tenant_id")
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

# A plan is made for the values of each query: only then are partitions outside the window left out before planning,
# and only then does the planner know whether a name is common. Just-in-time compilation costs more than it saves here.
_SESSION = f"""
SET plan_cache_mode = force_custom_plan;
SET jit = off;
SET statement_timeout = {STATEMENT_TIMEOUT_SECONDS * 1000};
SET application_name = 'hx_gateway_queries';
"""


class QueryTooSlow(HXError):
    """The database gave up on a query after :data:`STATEMENT_TIMEOUT_SECONDS`: it asks for too much at once."""

    status = 504
    code = "narrow_the_window"


class ConnectionPool(Protocol):
    """Lends asyncpg's connections, prepared by :func:`prepare_query_connection`. ``asyncpg.Pool`` is one."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first, and the cursor of the next page, ``None`` on the last."""

    items: list[dict[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Trace:
    """The events of a trace, oldest first; ``truncated`` when there are more, which are later than these."""

    events: list[dict[str, Any]]
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Source:
    """A table, its columns, and the condition behind each filter."""

    table: PartitionedTable
    columns: tuple[str, ...]
    conditions: Mapping[str, str]

    @property
    def selection(self) -> str:
        names = ", ".join(f'"{name}"' for name in (*_COMMON, *self.columns))
        return f"SELECT {names} FROM {self.table.qualified}"  # noqa: S608 - the names are ours


_TRACE_EVENTS = _Source(
    TRACE_EVENTS,
    (
        "trace_id",
        "span_id",
        "parent_span_id",
        "event_type",
        "level",
        "message",
        "agent_name",
        "task_id",
        "session_id",
        "user_id",
        "duration_ms",
        "metadata",
    ),
    {
        "trace_id": "trace_id =",
        "agent_name": "agent_name =",
        "event_type": "event_type =",
        "min_level": "level >=",
    },
)
_ROUTING_DECISIONS = _Source(
    ROUTING_DECISIONS,
    (
        "trace_id",
        "task_id",
        "user_request",
        "selected_agent",
        "confidence_score",
        "alternatives",
        "reasoning",
        "routing_strategy",
        "latency_ms",
        "metadata",
    ),
    {
        "trace_id": "trace_id =",
        "selected_agent": "selected_agent =",
        "routing_strategy": "routing_strategy =",
        "min_confidence": "confidence_score >=",
    },
)
_PERFORMANCE_METRICS = _Source(
    PERFORMANCE_METRICS,
    (
        "metric_name",
        "metric_value",
        "metric_type",
        "component",
        "agent_name",
        "trace_id",
        "unit",
        "metadata",
    ),
    {"metric_name": "metric_name =", "component": "component =", "metric_type": "metric_type ="},
)
_TRANSFORMATION_EVENTS = _Source(
    TRANSFORMATION_EVENTS,
    (
        "trace_id",
        "transformation_type",
        "source_agent",
        "target_agent",
        "input_schema",
        "output_schema",
        "input_bytes",
        "output_bytes",
        "success",
        "error",
        "duration_ms",
        "metadata",
    ),
    {
        "trace_id": "trace_id =",
        "transformation_type": "transformation_type =",
        "source_agent": "source_agent =",
        "target_agent": "target_agent =",
    },
)
_SOURCES: Mapping[type[RecordFilters], _Source] = {
    TraceFilters: _TRACE_EVENTS,
    RoutingFilters: _ROUTING_DECISIONS,
    MetricFilters: _PERFORMANCE_METRICS,
    TransformationFilters: _TRANSFORMATION_EVENTS,
}


class QueryFigures:
    """How queries went since the process began; ``seconds`` are those of the last 1000 that were answered."""

    def __init__(self) -> None:
        self.queries = 0
        self.failures = 0
        self.seconds: deque[float] = deque(maxlen=1000)
        self.observe: Callable[[float], None] | None = None

    def took(self, seconds: float) -> None:
        """Note a query that was answered."""
        self.seconds.append(seconds)
        if self.observe is not None:
            self.observe(seconds)


class RecordRepository:
    """Queries of one tenant at a time. A connection is held for one statement only.

    Fail-closed: raises ``Unavailable`` before the first migration, ``DependencyError`` while the database is away or
    busy, :class:`QueryTooSlow` when it gives up, :class:`~hx_gateway.errors.InvalidRequest` for a bad cursor or bound.
    A driver's error that is a statement's fault stays the driver's.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self.figures = QueryFigures()

    async def trace_events(self, filters: TraceFilters) -> Page:
        """Return a page of trace events; ``level`` is a name."""
        return await self._page(filters)

    async def routing_decisions(self, filters: RoutingFilters) -> Page:
        """Return a page of routing decisions."""
        return await self._page(filters)

    async def performance_metrics(self, filters: MetricFilters) -> Page:
        """Return a page of performance metrics."""
        return await self._page(filters)

    async def transformation_events(self, filters: TransformationFilters) -> Page:
        """Return a page of transformation events."""
        return await self._page(filters)

    async def export(self, filters: RecordFilters) -> AsyncIterator[dict[str, Any]]:
        """Yield all that ``filters`` ask for, newest first, in pages of :data:`MAX_LIMIT`; their limit is not heeded.

        There is no snapshot: a record that is stored late, between two pages, is in it only where it is still ahead.
        """
        while True:
            page = await self._page(replace(filters, limit=MAX_LIMIT))
            for item in page.items:
                yield item
            if page.next_cursor is None:
                return
            filters = replace(filters, cursor=page.next_cursor)

    async def trace(
        self,
        tenant_id: str,
        trace_id: str,
        *,
        around: datetime | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = MAX_TRACE_EVENTS,
    ) -> Trace:
        """Return the events of a trace from the oldest on, ``limit`` at most.

        ``start`` is inside the window, ``end`` outside. ``around`` stands for :data:`AROUND` on both sides of it.
        """
        check_tenant(tenant_id)
        check_text("trace_id", trace_id)
        check_limit(limit, MAX_TRACE_EVENTS)
        if around is not None:
            if start is not None or end is not None:
                raise InvalidRequest("around stands for a window: give it or start and end.", param="around")
            start, end = _window_around(around)
        check_window("start", start, "end", end)
        query = _Query(_TRACE_EVENTS, tenant_id)
        query.where("trace_id =", trace_id)
        query.within(start, end)
        records = await self._fetch(query.oldest_first(limit + 1), query.values)
        return Trace([_item(record) for record in records[:limit]], truncated=len(records) > limit)

    async def _page(self, filters: RecordFilters) -> Page:
        query = _query(filters)
        records = await self._fetch(query.newest_first(filters.limit + 1), query.values)
        shown = records[: filters.limit]
        cursor = None
        if len(records) > len(shown):
            cursor = encode_cursor(Position(shown[-1]["timestamp"], shown[-1]["event_id"]), filters)
        return Page([_item(record) for record in shown], cursor)

    async def _fetch(self, statement: str, values: list[Any]) -> list[Any]:
        began = time.perf_counter()
        self.figures.queries += 1
        try:
            async with asyncio.timeout(QUERY_SECONDS), self._pool.acquire() as connection:
                records = await _run(connection, statement, values)
        except QueryTooSlow:
            self.figures.failures += 1
            raise
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            # The server answers before the first migration is through.
            self.figures.failures += 1
            raise Unavailable("The record's tables are not there yet.") from error
        except _DRIVER_ERRORS as error:
            self.figures.failures += 1
            if classify(error).kind is FailureKind.UNKNOWN:
                raise
            raise dependency_error("PostgreSQL", error) from error
        self.figures.took(time.perf_counter() - began)
        return records


class _Query:
    """A statement that grows with its conditions; every value is bound."""

    def __init__(self, source: _Source, tenant_id: str) -> None:
        self.values: list[Any] = []
        self._source = source
        self._conditions: list[str] = []
        self.where("tenant_id =", tenant_id)

    def where(self, condition: str, value: object) -> None:
        """Demand ``condition``, which ends before the value."""
        self._conditions.append(f"{condition} {self._bind(value)}")

    def within(self, start: datetime | None, end: datetime | None) -> None:
        """Demand a window."""
        if start is not None:
            self.where('"timestamp" >=', start)
        if end is not None:
            self.where('"timestamp" <', end)

    def behind(self, position: Position) -> None:
        """Demand what comes after ``position``, newest first."""
        timestamp, event_id = self._bind(position.timestamp), self._bind(position.event_id)
        # The second says nothing new, but partitions are pruned by plain comparisons only, not by those of rows.
        self._conditions.append(f'("timestamp", event_id) < ({timestamp}, {event_id})')
        self._conditions.append(f'"timestamp" <= {timestamp}')

    def newest_first(self, limit: int) -> str:
        """Return the statement."""
        return self._ordered("DESC", limit)

    def oldest_first(self, limit: int) -> str:
        """Return the statement."""
        return self._ordered("ASC", limit)

    def _ordered(self, order: str, limit: int) -> str:
        conditions = " AND ".join(self._conditions)
        ordering = f'ORDER BY "timestamp" {order}, event_id {order} LIMIT {self._bind(limit)}'
        return f"{self._source.selection} WHERE {conditions} {ordering}"

    def _bind(self, value: object) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def _query(filters: RecordFilters) -> _Query:
    source = _SOURCES[type(filters)]
    query = _Query(source, filters.tenant_id)
    for name, value in filters.chosen().items():
        query.where(source.conditions[name], level_number(value) if name == "min_level" else value)
    query.within(filters.start_time, filters.end_time)
    if filters.cursor is not None:
        query.behind(decode_cursor(filters.cursor, filters))
    return query


def _window_around(moment: datetime) -> tuple[datetime, datetime]:
    check_window("around", moment, "around", moment)
    try:
        return moment - AROUND, moment + AROUND
    except OverflowError:
        raise InvalidRequest(f"around is at the end of time: {moment!s}.", param="around") from None


async def _run(connection: Any, statement: str, values: list[Any]) -> list[Any]:
    try:
        records: list[Any] = await connection.fetch(statement, *values)
    except asyncpg.QueryCanceledError as error:
        raise QueryTooSlow(
            f"The query took longer than {STATEMENT_TIMEOUT_SECONDS} s: narrow its window (start_time, end_time), "
            "or filter by more."
        ) from error
    except asyncio.CancelledError:
        # The answer may still be on its way, or never come: nobody else gets this connection.
        connection.terminate()
        raise
    return records


def _item(record: Any) -> dict[str, Any]:
    item = dict(record)
    item["event_id"] = str(item["event_id"])
    if "level" in item:
        item["level"] = level_name(item["level"])
    return item


async def prepare_query_connection(connection: Any) -> None:
    """Make a connection fit for these queries: for ``init`` of a pool, once a connection."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_encode_json, decoder=_decode_json)
    await connection.execute(_SESSION)


async def restore_query_connection(connection: Any) -> None:
    """Reset a connection as asyncpg does, which forgets its settings, and set them again: for ``reset`` of a pool."""
    await connection.execute(connection.get_reset_query() + _SESSION)


# For ``asyncpg.create_pool``. One without the other loses its settings with the first query.
QUERY_POOL_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"init": prepare_query_connection, "reset": restore_query_connection}
)


def _encode_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decode_json(text: str) -> Any:
    """Return the value, or its text where it is beyond Python's numbers or too deep: a page is not lost to one row."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
