"""Every Prometheus metric, declared once, with bounded labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# The label for a model that is not in the table: what clients make up must not become time series.
OTHER_MODEL = "other"
MAX_MODELS = 200

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FLUSH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_QUERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_ROWS_BUCKETS = (1, 10, 100, 250, 500, 1000, 2500, 5000)


class Metrics:
    """The metrics of one process. Several workers write to files that any of them sums up on a scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hx_requests",
            "Requests answered.",
            ("route", "method", "status", "ending"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "hx_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ("route",),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "hx_requests_in_flight",
            "Requests being answered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.upstream_seconds = Histogram(
            "hx_upstream_duration_seconds",
            "Time from calling a model's server to the head of its answer.",
            ("model", "upstream"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.first_byte_seconds = Histogram(
            "hx_time_to_first_byte_seconds",
            "Time from a request's head to the first byte of a streamed answer.",
            ("model",),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "hx_tokens", "Tokens as the upstreams count them.", ("model", "kind"), registry=self.registry
        )
        self.dependency_up = Gauge(
            "hx_dependency_up",
            "1 while a dependency is healthy, 0 while it is not.",
            ("dependency",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.edge_refusals = Counter(
            "hx_edge_refusals", "Requests refused before they were one.", ("code",), registry=self.registry
        )
        self.upstream_failures = Counter(
            "hx_upstream_failures",
            "Calls that a model's server failed, limited or refused without a reason, by the code of the answer.",
            ("model", "upstream", "code"),
            registry=self.registry,
        )

        self._declare_process()
        self._declare_events()
        self._declare_journals()
        self._declare_accounting()
        self._declare_cache()
        self._declare_database()
        self._declare_registry()

    def _declare_process(self) -> None:
        self.process_started = Gauge(
            "hx_process_start_time_seconds",
            "When the youngest worker began to serve.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.loop_lag_seconds = Histogram(
            "hx_event_loop_lag_seconds",
            "How much later than asked the event loop came back, twice a second.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )

    def _declare_events(self) -> None:
        self.events_received = Counter(
            "hx_events_received", "Rows accepted into the journal.", ("table",), registry=self.registry
        )
        self.events_recovered = Counter(
            "hx_events_recovered", "Rows found in journals of processes that ended.", ("table",), registry=self.registry
        )
        self.events_committed = Counter(
            "hx_events_committed", "Rows stored in PostgreSQL.", ("table",), registry=self.registry
        )
        self.events_duplicate = Counter(
            "hx_events_duplicate", "Rows that were there already.", ("table",), registry=self.registry
        )
        self.events_dead_lettered = Counter(
            "hx_events_dead_lettered",
            "Rows that PostgreSQL refuses, set aside.",
            ("table", "sqlstate"),
            registry=self.registry,
        )
        self.events_dropped = Counter(
            "hx_events_dropped", "Accepted rows given up by a policy.", ("table", "policy"), registry=self.registry
        )
        self.events_rejected = Counter(
            "hx_events_rejected",
            "Rows that the journal refused for want of room.",
            ("table", "reason"),
            registry=self.registry,
        )
        self.events_waiting = Gauge(
            "hx_events_waiting",
            "Rows in the journal that are not in PostgreSQL yet.",
            ("table",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.event_flush_seconds = Histogram(
            "hx_event_flush_seconds", "Time of one batch's transaction.", buckets=_FLUSH_BUCKETS, registry=self.registry
        )
        self.event_flush_rows = Histogram(
            "hx_event_flush_rows", "Rows of one batch.", buckets=_ROWS_BUCKETS, registry=self.registry
        )

    def _declare_accounting(self) -> None:
        self.calls_admitted = Counter(
            "hx_calls_admitted", "Calls of models that limits and budgets let begin.", registry=self.registry
        )
        self.calls_refused = Counter(
            "hx_calls_refused",
            "Calls of models that were refused, by what refused them.",
            ("reason",),
            registry=self.registry,
        )
        self.shadow_refusals = Counter(
            "hx_shadow_refusals", "Calls that would have been refused in shadow mode.", registry=self.registry
        )
        self.rate_fallbacks = Counter(
            "hx_rate_fallbacks", "Calls counted by a process for itself, Redis being away.", registry=self.registry
        )
        self.calls_open = Gauge(
            "hx_calls_open",
            "Calls that hold slots or reservations.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.calls_settling = Gauge(
            "hx_calls_settling",
            "Ends of calls that the counters have yet to hear of.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.calls_lapsed = Counter(
            "hx_calls_lapsed", "Calls charged at their estimate because nobody renewed them.", registry=self.registry
        )
        self.budget_overrun = Counter(
            "hx_budget_overrun_nano", "Nano-dollars charged beyond what was reserved.", registry=self.registry
        )
        self.budget_drift = Gauge(
            "hx_budget_drift_nano",
            "Largest difference of a budget's counter and the ledger, seen while nothing was going on.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.budget_corrections = Counter(
            "hx_budget_corrections", "Counters of budgets that were set right.", registry=self.registry
        )
        self.spend = Counter(
            "hx_spend_nano",
            "Nano-dollars that finished calls cost, where the price is known.",
            ("model",),
            registry=self.registry,
        )
        self.budget_soft_limits = Counter(
            "hx_budget_soft_limits_crossed",
            "Windows of budgets that went over their soft limit, once a worker and window.",
            registry=self.registry,
        )
        self.ledger_epochs = Counter(
            "hx_ledger_epochs", "Epochs of money that this process began.", registry=self.registry
        )
        self.key_checks = Counter(
            "hx_key_checks", "Keys that were presented, by how they were known.", ("outcome",), registry=self.registry
        )

    def _declare_cache(self) -> None:
        self.cache_requests = Counter(
            "hx_cache_requests",
            "Requests with the response cache on: hits by what they came from, bypasses by why.",
            ("outcome", "kind"),
            registry=self.registry,
        )
        self.cache_saved_tokens = Counter(
            "hx_cache_saved_tokens", "Tokens that hits did not take.", ("kind", "part"), registry=self.registry
        )
        self.cache_saved_nano = Counter(
            "hx_cache_saved_nano",
            "Nano-dollars that hits did not cost, where the price is known.",
            ("kind",),
            registry=self.registry,
        )
        self.cache_unkept = Counter(
            "hx_cache_unkept", "Answers that could not be kept: the store was away.", registry=self.registry
        )

        self.meaning_look_ups = Counter(
            "hx_cache_meaning_look_ups",
            "Look-ups by meaning: `hit`, `miss`, or why a request went on without.",
            ("outcome",),
            registry=self.registry,
        )
        self.meaning_answers = Counter(
            "hx_cache_meaning_answers",
            "Answers that were to be kept by meaning, by what became of them.",
            ("outcome",),
            registry=self.registry,
        )

    def _declare_journals(self) -> None:
        self.journal_bytes = Gauge(
            "hx_journal_bytes",
            "Bytes that a journal takes on disk, all workers together.",
            ("journal",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.journal_free_bytes = Gauge(
            "hx_journal_free_bytes",
            "Bytes that are free on the file system of a journal.",
            ("journal",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.journal_oldest_age = Gauge(
            "hx_journal_oldest_age_seconds",
            "Age of the oldest segment that is not drained.",
            ("journal",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.journal_segments = Gauge(
            "hx_journal_segments",
            "Segments that are not drained.",
            ("journal",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.journal_state = Gauge(
            "hx_journal_state",
            "0 while there is room, 1 from 80 % of the budget, 2 when nothing more is begun.",
            ("journal",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.journal_paused = Gauge(
            "hx_journal_paused",
            "1 while tables or rights are not what they should be.",
            ("journal",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.journal_corrupt = Counter(
            "hx_journal_corrupt_ranges", "Ranges that could not be read back.", ("journal",), registry=self.registry
        )
        self.journal_sync_seconds = Histogram(
            "hx_journal_sync_seconds", "Time of one fdatasync.", buckets=_FLUSH_BUCKETS, registry=self.registry
        )
        self.breaker_state = Gauge(
            "hx_breaker_state",
            "0 closed, 1 half-open, 2 open.",
            ("target",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.breaker_transitions = Counter(
            "hx_breaker_transitions", "Changes of a breaker's state.", ("target", "to"), registry=self.registry
        )

    def _declare_database(self) -> None:
        self.record_health = Gauge(
            "hx_record_health",
            "The record's health: 0 healthy, 1 recovering, 2 degraded, 3 unhealthy; the worst of all workers.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.record_pool = Gauge(
            "hx_record_pool_connections",
            "Connections that read the record; `state` is in_use, idle or max.",
            ("state",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.record_query_seconds = Histogram(
            "hx_record_query_seconds", "Time of one query.", buckets=_QUERY_BUCKETS, registry=self.registry
        )
        self.partitions_ahead = Gauge(
            "hx_partitions_ahead",
            "Partitions that follow the current one without a gap.",
            ("table",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.partitions_kept_up = Gauge(
            "hx_partition_maintenance_last_success_timestamp_seconds",
            "When partitions were last looked after.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.retired_partitions = Counter(
            "hx_retention_dropped_partitions", "Partitions dropped by retention.", ("table",), registry=self.registry
        )
        self.retired_rows = Counter(
            "hx_retention_removed_rows", "Rows removed by retention.", ("table",), registry=self.registry
        )

    def _declare_registry(self) -> None:
        self.registry_reads = Counter(
            "hx_registry_reads",
            "Reads of the registry that may be answered from memory, by where the answer came from.",
            ("outcome",),
            registry=self.registry,
        )
        self.registry_operations = Histogram(
            "hx_registry_operation_seconds",
            "Time of one operation of the registry on the database.",
            ("operation", "outcome"),
            buckets=_QUERY_BUCKETS,
            registry=self.registry,
        )
        self.probe_seconds = Histogram(
            "hx_registry_probe_seconds",
            "Time of one probe of a service.",
            ("protocol", "outcome"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.probe_failures = Counter(
            "hx_registry_probe_failures", "Probes that failed, by why.", ("failure_class",), registry=self.registry
        )
        self.tool_lists = Counter(
            "hx_registry_tool_lists",
            "Services that were asked for their tools, by how that went.",
            ("outcome",),
            registry=self.registry,
        )
        self.registry_services = Gauge(
            "hx_registry_services",
            "Living services of all tenants.",
            ("status", "protocol", "priority"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.required_services = Gauge(
            "hx_registry_required_services",
            "Living services of all tenants that are required.",
            ("status",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.checks_overdue = Gauge(
            "hx_registry_checks_overdue_seconds",
            "How long the service has been due for a probe that has been for longest.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.self_preservation = Gauge(
            "hx_registry_self_preservation",
            "1 while failures of services are taken for the gateway's own, 0 while not.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )

        self.sync_succeeded = Gauge(
            "hx_registry_sync_last_success_timestamp_seconds",
            "When all that changed in a followed registry was last read.",
            ("tenant", "url"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def render(self) -> bytes:
        """Return the text exposition of all workers."""
        directory = os.environ.get(MULTIPROCESS_VARIABLE)
        if directory is None:
            return generate_latest(self.registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, path=directory)  # type: ignore[no-untyped-call]
        return generate_latest(merged)


def forget_process(pid: int) -> None:
    """Drop the gauges of a worker that is gone: what it had in flight is not in flight any more."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def prepare_multiprocess(directory: Path) -> Mapping[str, str]:
    """Empty ``directory`` for the workers' metric files; return the environment that makes them use it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for stale in directory.glob("*.db"):
        stale.unlink(missing_ok=True)
    return {MULTIPROCESS_VARIABLE: str(directory)}
