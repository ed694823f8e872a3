"""The record as a library: events go in and are safe, queries come out, whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from hx_gateway.errors import HXError, Unavailable
from hx_gateway.journal.connecting import Connector
from hx_gateway.journal.drain import Drain, DrainOptions
from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.journal.kinds import Kind
from hx_gateway.journal.log import Journal, JournalOptions
from hx_gateway.journal.placement import Placement
from hx_gateway.journal.space import Budget, Pressure
from hx_gateway.journal.sync import Durability
from hx_gateway.kit.breaker import CircuitBreaker, CircuitState
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.observability.buffer import BatchWriteBuffer, portions
from hx_gateway.observability.config import DatabaseConfig
from hx_gateway.observability.fields import InvalidEvent
from hx_gateway.observability.filters import MetricFilters, RoutingFilters, TraceFilters, TransformationFilters
from hx_gateway.observability.health import DatabaseHealthMetrics, DatabaseHealthStatus
from hx_gateway.observability.repository import QUERY_POOL_OPTIONS, RecordRepository
from hx_gateway.observability.rows import Row, Rows
from hx_gateway.observability.tables import (
    PERFORMANCE_METRICS,
    ROUTING_DECISIONS,
    TRACE_EVENTS,
    TRANSFORMATION_EVENTS,
    record_kinds,
    retention_of,
)
from hx_gateway.observability.upkeep import UNREACHABLE, Removed, Upkeep
from hx_gateway.services.dsn import postgres_dsn
from hx_gateway.services.postgres import PostgresService

JOURNAL = "events"
SCHEMA_LOOK_SECONDS = 0.02
DEFAULT_TENANT = "default"


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """What became of one event of a batch: kept, or why not."""

    event_id: str | None = None
    error: HXError | None = None


class DatabaseIntegrationLayer:
    """Writes and reads the record. For one event loop; an ``async with`` initializes it and shuts it down.

    Every ``write_`` method returns once the event is in the journal, as durable as ``config.durability`` says, and
    never waits for the database. It raises :class:`~hx_gateway.observability.fields.InvalidEvent`, naming the field,
    or :class:`~hx_gateway.journal.errors.JournalRefused` when the disk is full. Queries raise ``DependencyError``
    while the database is away. ``kinds`` are further kinds of records for the journal.
    """

    def __init__(
        self, config: DatabaseConfig | None = None, *, clock: Clock | None = None, kinds: Sequence[Kind] = ()
    ) -> None:
        self.config = config or DatabaseConfig.from_env()
        self._clock = clock or SystemClock()
        self._retention = retention_of(self.config.retention_days)
        self._rows = Rows(self._retention)
        self.placement = Placement(self._retention, self._clock)
        self.journal = Journal(
            self.config.journal_root,
            JOURNAL,
            [*record_kinds(self.config.policies), *kinds],
            journal_options(self.config),
        )
        self.buffers = {number: BatchWriteBuffer(self.journal, number) for number in _TABLES}
        # Bound once: the way of nearly every event is as short as it can be.
        self._trace_event, self._append = self._rows.trace_event, self.journal.append
        self._syncs = self.config.durability.syncs
        self.breaker = CircuitBreaker(
            failure_threshold=self.config.failure_threshold,
            window_seconds=self.config.failure_window,
            open_seconds=self.config.recovery_seconds,
            success_threshold=self.config.success_threshold,
        )
        self._recoveries = 0
        self.breaker.on_transition(self._circuit_changed)
        self._started = self._clock.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger()
        self.postgres: PostgresService | None = None
        self.connector: Connector | None = None
        self.upkeep: Upkeep | None = None
        self.drain: Drain | None = None
        self.repository: RecordRepository | None = None
        self._status = DatabaseHealthStatus.HEALTHY
        dsn = self.config.dsn
        if dsn is not None:
            self._set_up(postgres_dsn(dsn))

    def _set_up(self, dsn: str) -> None:
        """Make everything that needs a database."""
        config = self.config
        self.connector = connector = Connector(dsn, timeout=config.connect_seconds)
        self.upkeep = Upkeep(dsn, connector.connect, self._retention, migrate=config.migrate, clock=self._clock)
        connector.before = self.upkeep.prepare
        self.postgres = PostgresService(
            dsn,
            min_size=min(config.pool_min_size, config.pool_max_size),
            max_size=config.pool_max_size,
            connect_timeout=config.connect_seconds,
            pool_options={
                **QUERY_POOL_OPTIONS,
                "max_queries": config.max_queries_per_connection,
                # A new connection's first query plans for all partitions: none is closed for having been idle.
                "max_inactive_connection_lifetime": 0,
            },
        )
        self.repository = RecordRepository(self.postgres)
        self.drain = Drain(
            self.journal,
            connector.connect_ready,
            self.breaker,
            self.placement,
            DrainOptions(
                flush_seconds=config.batch_seconds,
                batch_rows=config.max_batch_size,
                lanes=config.ingest_connections,
            ),
        )

    async def initialize(self, *, wait: bool = True) -> None:
        """Open the journal and begin to drain it; ``wait`` a moment for the database. While it is away events gather.

        With ``none`` for a database nothing is opened: events are refused, because nothing would ever read them.
        """
        if self.drain is None or self.postgres is None or self.upkeep is None:
            return
        self.journal.open()
        await self.postgres.connect()
        self.drain.start()
        self._tasks = [asyncio.create_task(self.upkeep.run()), asyncio.create_task(self._watch())]
        if not wait:
            return
        try:
            async with asyncio.timeout(self.config.connect_seconds):
                await self.upkeep.prepare()
        except UNREACHABLE as error:
            self._log.warning("record_degraded", reason=type(error).__name__)

    async def schema_ready(self, seconds: float) -> bool:
        """Return whether the schema is current, waiting for it while the database is there, at most ``seconds``."""
        if self.postgres is None or self.upkeep is None:
            return False
        deadline = self._clock.monotonic() + seconds
        while not self.upkeep.ready and self.postgres.sample.healthy and self._clock.monotonic() < deadline:
            await self._clock.sleep(SCHEMA_LOOK_SECONDS)
        return self.upkeep.ready

    async def shutdown(self) -> None:
        """Stop. What is not in the database stays in the journal and gets there by whoever opens it next."""
        await end_tasks(self._tasks)
        self._tasks = []
        if self._syncs and self.journal.last_seq:
            with suppress(HXError):
                await self.journal.synced(self.journal.last_seq)
        if self.drain is not None:
            await self.drain.stop(self.config.shutdown_seconds)
        if self.postgres is not None:
            await self.postgres.close()
        self.journal.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    # Writing

    async def write_trace_event(
        self,
        trace_id: str,
        event_type: str,
        level: str = "INFO",
        message: str | None = None,
        agent_name: str | None = None,
        task_id: str | None = None,
        **more: Any,
    ) -> None:
        """Record a trace event. ``more`` as in :meth:`hx_gateway.observability.rows.Rows.trace_event`."""
        if more:
            row = self._trace_event(trace_id, event_type, level, message, agent_name, task_id, **more)
        else:
            row = self._trace_event(trace_id, event_type, level, message, agent_name, task_id)
        time_us = row.time_us
        seq = self._append(TRACE_EVENTS, row.data, 1, time_us, time_us, row.flags)
        if self._syncs:
            await self.journal.synced(seq)

    async def write_routing_decision(
        self,
        user_request: str,
        selected_agent: str,
        confidence_score: float,
        alternatives: Sequence[Any] = (),
        reasoning: str | None = None,
        routing_strategy: str | None = None,
        **more: Any,
    ) -> None:
        """Record a routing decision. ``more`` as in :meth:`hx_gateway.observability.rows.Rows.routing_decision`."""
        row = self._rows.routing_decision(
            user_request, selected_agent, confidence_score, alternatives, reasoning, routing_strategy, **more
        )
        await self._add(ROUTING_DECISIONS, row)

    async def write_performance_metric(
        self,
        metric_name: str,
        metric_value: float,
        metric_type: str = "gauge",
        component: str | None = None,
        **more: Any,
    ) -> None:
        """Record a metric. ``more`` as in :meth:`hx_gateway.observability.rows.Rows.performance_metric`."""
        row = self._rows.performance_metric(metric_name, metric_value, metric_type, component, **more)
        await self._add(PERFORMANCE_METRICS, row)

    async def write_transformation_event(self, transformation_type: str, **more: Any) -> None:
        """Record a transformation. ``more`` as in :meth:`hx_gateway.observability.rows.Rows.transformation_event`."""
        await self._add(TRANSFORMATION_EVENTS, self._rows.transformation_event(transformation_type, **more))

    async def _add(self, table: int, row: Row) -> None:
        seq = self.buffers[table].add(row)
        if self._syncs:
            await self.journal.synced(seq)

    async def write_many(self, table: str, events: Sequence[Mapping[str, Any] | HXError]) -> list[Accepted]:
        """Record events of one table, each by itself: one that is wrong costs no other.

        ``events`` are the arguments of the ``write_`` method as mappings; an error in an event's place stays in its
        place in what is returned.
        """
        number = _NUMBERS[table]
        make = getattr(self._rows, _MAKERS[number])
        results: list[Accepted] = []
        groups: dict[int, list[tuple[int, Row]]] = {}
        for index, event in enumerate(events):
            if isinstance(event, HXError):
                results.append(Accepted(error=event))
                continue
            try:
                row = make(**event)
            except InvalidEvent as error:
                results.append(Accepted(error=error))
                continue
            except TypeError as error:
                results.append(Accepted(error=_wrong_arguments(error)))
                continue
            group = groups.get(row.flags)
            if group is None:
                group = groups[row.flags] = []
            group.append((index, row))
            results.append(Accepted(event_id=row.event_id))
        last = self._add_groups(number, list(groups.values()), results)
        if self._syncs and last:
            await self.journal.synced(last)
        return results

    def _add_groups(self, table: int, groups: list[list[tuple[int, Row]]], results: list[Accepted]) -> int:
        last = 0
        for group in groups:
            at = 0
            for portion in portions([row for _, row in group]):
                indexes = [index for index, _ in group[at : at + len(portion)]]
                at += len(portion)
                try:
                    last = self.buffers[table].add_together(portion)
                except JournalRefused as refusal:
                    for index in indexes:
                        results[index] = Accepted(error=refusal)
        return last

    async def flush(self, seconds: float = 30.0) -> bool:
        """Return whether everything written before is in the database, waiting for at most ``seconds``."""
        return self.drain is not None and await self.drain.flush(seconds)

    # Reading

    def _reader(self) -> RecordRepository:
        if self.repository is None:
            raise Unavailable("There is no database to read from: set PG_URL.")
        return self.repository

    async def query_trace_events(
        self,
        trace_id: str | None = None,
        agent_name: str | None = None,
        event_type: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        limit: int = 100,
        *,
        min_level: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """Return trace events, newest first. ``start_time`` is inside the window, ``end_time`` outside."""
        filters = TraceFilters(
            tenant_id=tenant_id,
            trace_id=trace_id,
            agent_name=agent_name,
            event_type=event_type,
            min_level=min_level,
            start_time=start_time,
            end_time=end_time,
            limit=limit,
        )
        return (await self._reader().trace_events(filters)).items

    async def query_routing_decisions(
        self,
        selected_agent: str | None = None,
        min_confidence: float | None = None,
        routing_strategy: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        limit: int = 100,
        *,
        trace_id: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """Return routing decisions, newest first."""
        filters = RoutingFilters(
            tenant_id=tenant_id,
            trace_id=trace_id,
            selected_agent=selected_agent,
            min_confidence=min_confidence,
            routing_strategy=routing_strategy,
            start_time=start_time,
            end_time=end_time,
            limit=limit,
        )
        return (await self._reader().routing_decisions(filters)).items

    async def query_performance_metrics(
        self,
        metric_name: str | None = None,
        component: str | None = None,
        metric_type: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        limit: int = 100,
        *,
        tenant_id: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """Return performance metrics, newest first."""
        filters = MetricFilters(
            tenant_id=tenant_id,
            metric_name=metric_name,
            component=component,
            metric_type=metric_type,
            start_time=start_time,
            end_time=end_time,
            limit=limit,
        )
        return (await self._reader().performance_metrics(filters)).items

    async def query_transformation_events(
        self,
        transformation_type: str | None = None,
        source_agent: str | None = None,
        target_agent: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        limit: int = 100,
        *,
        trace_id: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """Return transformation events, newest first."""
        filters = TransformationFilters(
            tenant_id=tenant_id,
            trace_id=trace_id,
            transformation_type=transformation_type,
            source_agent=source_agent,
            target_agent=target_agent,
            start_time=start_time,
            end_time=end_time,
            limit=limit,
        )
        return (await self._reader().transformation_events(filters)).items

    # Retention and health

    async def apply_retention_policy(self) -> dict[str, int]:
        """Remove what is past its retention; return the rows removed from each table."""
        return {table: removed.rows for table, removed in (await self.remove_old()).items()}

    async def remove_old(self) -> dict[str, Removed]:
        """As :meth:`apply_retention_policy`, with the partitions that went."""
        if self.upkeep is None:
            raise Unavailable("There is no database to remove anything from: set PG_URL.")
        return await self.upkeep.remove_old()

    @property
    def health_status(self) -> DatabaseHealthStatus:
        """The health of the record in one word, as it is now."""
        return self._judge(self._pool_used())[0]

    async def get_health_metrics(self) -> DatabaseHealthMetrics:
        """Return the state of the record in figures; asks nobody."""
        figures = self.drain.figures if self.drain is not None else None
        pool = self.postgres.pool if self.postgres is not None else None
        used = self._pool_used()
        batches, failures = (figures.batches, figures.failures) if figures is not None else (0, 0)
        reads, failed_reads, read_seconds = self._read_figures()
        seconds = [*(figures.seconds if figures is not None else ()), *read_seconds][-1000:]
        total, failed = batches + failures + reads, failures + failed_reads
        status, reasons = self._judge(used)
        last_error_at = figures.last_error_at if figures is not None else None
        return DatabaseHealthMetrics(
            status=status,
            reasons=reasons,
            pool_size=pool.size if pool is not None else 0,
            pool_free=pool.checked_in if pool is not None else 0,
            pool_utilization_pct=round(used, 1),
            total_queries=total,
            failed_queries=failed,
            failure_rate_pct=round(100.0 * failed / total, 2) if total else 0.0,
            avg_query_time_ms=round(1000.0 * sum(seconds) / len(seconds), 3) if seconds else 0.0,
            circuit_state=self.breaker.state,
            last_error=figures.last_error if figures is not None else None,
            last_error_time=datetime.fromtimestamp(last_error_at, UTC) if last_error_at is not None else None,
            recovery_attempts=self._recoveries,
            uptime_seconds=round(self._clock.monotonic() - self._started, 3),
            accepting=self.journal.accepting,
            durable=self.config.durability is not Durability.MEMORY,
            waiting=sum(counts.waiting for counts in self.journal.counts.tables.values()),
            journal_bytes=self.journal.space.used_bytes,
            journal_pressure=self.journal.space.pressure,
        )

    def _read_figures(self) -> tuple[int, int, Sequence[float]]:
        if self.repository is None:
            return 0, 0, ()
        figures = self.repository.figures
        return figures.queries, figures.failures, list(figures.seconds)

    def _pool_used(self) -> float:
        """Return the share of connections in use, in percent."""
        pool = self.postgres.pool if self.postgres is not None else None
        return 100.0 * pool.checked_out / pool.maximum if pool is not None else 0.0

    def _judge(self, pool_used: float) -> tuple[DatabaseHealthStatus, tuple[str, ...]]:
        reasons = []
        if self.postgres is not None and not self.postgres.sample.healthy:
            reasons.append(f"database_{self.postgres.sample.failure or 'unknown'}")
        if self.drain is not None and self.drain.figures.paused is not None:
            reasons.append(f"paused_{self.drain.figures.paused}")
        if self.journal.space.pressure is not Pressure.OK:
            reasons.append(f"journal_{self.journal.space.pressure}")
        if pool_used >= self.config.pool_exhaustion_threshold:
            reasons.append("pool_nearly_exhausted")
        if self.drain is None:
            reasons.append("no_database")
        match self.breaker.state:
            case CircuitState.OPEN:
                return DatabaseHealthStatus.UNHEALTHY, ("circuit_open", *reasons)
            case CircuitState.HALF_OPEN:
                return DatabaseHealthStatus.RECOVERING, tuple(reasons)
            case _:
                return DatabaseHealthStatus.DEGRADED if reasons else DatabaseHealthStatus.HEALTHY, tuple(reasons)

    def _circuit_changed(self, old: CircuitState, new: CircuitState) -> None:
        if new is CircuitState.HALF_OPEN:
            self._recoveries += 1
        if new is CircuitState.CLOSED:
            self._log.info("circuit_changed", old=str(old), new=str(new))
        else:
            self._log.warning("circuit_changed", old=str(old), new=str(new))

    async def _watch(self) -> None:
        """Look at the health every ``health_check_interval``, log what changed, renew connections that are old."""
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(self.config.health_check_interval)
            health = await self.get_health_metrics()
            if health.status is not self._status:
                reasons = list(health.reasons)
                if health.status is DatabaseHealthStatus.HEALTHY:
                    self._log.info("record_health_changed", old=str(self._status), new=str(health.status))
                else:
                    self._log.warning(
                        "record_health_changed", old=str(self._status), new=str(health.status), reasons=reasons
                    )
                self._status = health.status
            if health.pool_utilization_pct >= self.config.pool_exhaustion_threshold:
                self._log.warning("pool_nearly_exhausted", utilization_pct=health.pool_utilization_pct)
            if self.postgres is not None and self._clock.monotonic() - renewed >= self.config.connection_max_age:
                renewed = self._clock.monotonic()
                await self.postgres.renew_connections()


_TABLES = (TRACE_EVENTS, ROUTING_DECISIONS, PERFORMANCE_METRICS, TRANSFORMATION_EVENTS)
_MAKERS = {
    TRACE_EVENTS: "trace_event",
    ROUTING_DECISIONS: "routing_decision",
    PERFORMANCE_METRICS: "performance_metric",
    TRANSFORMATION_EVENTS: "transformation_event",
}
_NUMBERS = {kind.name: kind.number for kind in record_kinds()}


def journal_options(config: DatabaseConfig) -> JournalOptions:
    """Return the options of the journal of events."""
    return JournalOptions(
        durability=config.durability,
        segment_bytes=config.segment_bytes,
        segment_seconds=config.segment_seconds,
        max_age_seconds=config.journal_max_age,
        wake_rows=config.batch_size,
        wake_bytes=config.batch_bytes,
        budget=Budget(
            max_bytes=config.journal_max_bytes,
            min_free_bytes=config.journal_min_free_bytes,
            ballast_bytes=config.journal_ballast_bytes,
        ),
    )


def _wrong_arguments(error: TypeError) -> InvalidEvent:
    """Return the error for a mapping that has a field too few or too many, which Python names last in quotes."""
    words = str(error).split("'")
    name = words[1] if len(words) > 1 else "event"
    if "unexpected keyword" in str(error):
        return InvalidEvent(f"{name} is not a field of this table.", param=name)
    if "missing" in str(error):
        return InvalidEvent(f"{name} is missing.", param=name)
    return InvalidEvent("A field has the wrong type.", param=None)


_layers: dict[int, DatabaseIntegrationLayer] = {}


def get_database_layer() -> DatabaseIntegrationLayer:
    """Return the process's one layer, made of the environment the first time. Its caller initializes it."""
    layer = _layers.get(os.getpid())
    if layer is None:
        _layers.clear()
        layer = _layers[os.getpid()] = DatabaseIntegrationLayer(DatabaseConfig.from_env())
    return layer


__all__ = ["Accepted", "DatabaseIntegrationLayer", "JournalClosed", "get_database_layer"]
