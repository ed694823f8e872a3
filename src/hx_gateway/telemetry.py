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
