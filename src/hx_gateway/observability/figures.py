"""Feeds the record's figures into the metrics, once a second: the hot path only counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from hx_gateway.journal.counts import TableCounts
from hx_gateway.journal.drain import Drain
from hx_gateway.journal.log import Journal
from hx_gateway.journal.space import Pressure
from hx_gateway.kit.breaker import CircuitBreaker, CircuitState
from hx_gateway.observability.health import DatabaseHealthStatus
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.telemetry import Metrics

_PRESSURES = {Pressure.OK: 0, Pressure.PRESSED: 1, Pressure.FULL: 2}
_HEALTHS = {
    DatabaseHealthStatus.HEALTHY: 0,
    DatabaseHealthStatus.RECOVERING: 1,
    DatabaseHealthStatus.DEGRADED: 2,
    DatabaseHealthStatus.UNHEALTHY: 3,
}
_CIRCUITS = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}


class RecordFigures:
    """Publishes what has changed since the last time, all of it at one moment, so that the figures add up."""

    def __init__(self, metrics: Metrics, layer: DatabaseIntegrationLayer, drains: Iterable[Drain]) -> None:
        self._metrics = metrics
        self._layer = layer
        self._drains = tuple(drains)
        self._published: dict[tuple[str, ...], float] = {}
        for drain in self._drains:
            drain.figures.observe = self._batch
            drain.journal.counts.sync_seconds = metrics.journal_sync_seconds.observe
            self._watch(drain.breaker, drain.journal.name)
        if layer.repository is not None:
            layer.repository.figures.observe = metrics.record_query_seconds.observe

    def _batch(self, seconds: float, rows: int) -> None:
        self._metrics.event_flush_seconds.observe(seconds)
        self._metrics.event_flush_rows.observe(rows)

    def _watch(self, breaker: CircuitBreaker, target: str) -> None:
        transitions = self._metrics.breaker_transitions

        def changed(_old: CircuitState, new: CircuitState) -> None:
            transitions.labels(target, str(new)).inc()

        breaker.on_transition(changed)

    def publish(self) -> None:
        """Bring the metrics up to date."""
        waiting: dict[str, int] = {}
        for drain in self._drains:
            for table, counts in drain.journal.counts.tables.items():
                self._publish_table(drain.journal.name, table, counts)
                waiting[table] = waiting.get(table, 0) + counts.waiting
            self._publish_journal(drain.journal)
            self._metrics.journal_paused.labels(drain.journal.name).set(drain.figures.paused is not None)
            self._metrics.breaker_state.labels(drain.journal.name).set(_CIRCUITS[drain.breaker.state])
        for table, rows in waiting.items():
            self._metrics.events_waiting.labels(table).set(rows)
        self._publish_database()

    def _publish_table(self, journal: str, table: str, counts: TableCounts) -> None:
        metrics = self._metrics
        self._raise(metrics.events_received, (table,), counts.received, journal)
        self._raise(metrics.events_recovered, (table,), counts.recovered, journal)
        self._raise(metrics.events_committed, (table,), counts.committed, journal)
        self._raise(metrics.events_duplicate, (table,), counts.duplicate, journal)
        labelled: tuple[tuple[Any, Mapping[str, int]], ...] = (
            (metrics.events_dead_lettered, counts.dead_lettered),
            (metrics.events_dropped, counts.dropped),
            (metrics.events_rejected, counts.refused),
        )
        for counter, by_label in labelled:
            for label, rows in by_label.items():
                self._raise(counter, (table, label), rows, journal)

    def _publish_journal(self, journal: Journal) -> None:
        metrics, name = self._metrics, journal.name
        oldest = next(iter(journal.sealed.values()), None)
        created = oldest.created_us if oldest is not None else None
        metrics.journal_bytes.labels(name).set(journal.space.used_bytes)
        metrics.journal_free_bytes.labels(name).set(journal.space.free_bytes)
        metrics.journal_segments.labels(name).set(len(journal.sealed))
        metrics.journal_oldest_age.labels(name).set(0 if created is None else max(0.0, time.time() - created / 1e6))
        metrics.journal_state.labels(name).set(_PRESSURES[journal.space.pressure])
        self._raise(metrics.journal_corrupt, (name,), journal.counts.corrupt_ranges, name)

    def _publish_database(self) -> None:
        metrics, layer = self._metrics, self._layer
        metrics.record_health.set(_HEALTHS[layer.health_status])
        if layer.postgres is not None:
            pool = layer.postgres.pool
            for state, count in (("in_use", pool.checked_out), ("idle", pool.checked_in), ("max", pool.maximum)):
                metrics.record_pool.labels(state).set(count)
        upkeep = layer.upkeep
        if upkeep is None:
            return
        for table, ahead in upkeep.ahead.items():
            metrics.partitions_ahead.labels(table).set(ahead)
        if upkeep.kept_up_at is not None:
            metrics.partitions_kept_up.set(upkeep.kept_up_at)
        for table, count in upkeep.retired_partitions.items():
            self._raise(metrics.retired_partitions, (table,), count, "")
        for table, rows in upkeep.retired_rows.items():
            self._raise(metrics.retired_rows, (table,), rows, "")

    def _raise(self, counter: Any, labels: tuple[str, ...], value: float, source: str) -> None:
        """Raise a counter by what ``value`` has grown since it was last seen at this source."""
        key = (counter._name, source, *labels)  # noqa: SLF001 - the name it was declared with
        before = self._published.get(key, 0)
        if value > before or key not in self._published:
            counter.labels(*labels).inc(value - before)
            self._published[key] = value
