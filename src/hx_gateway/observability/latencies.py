"""Latencies of requests, gathered in the process and written as one metric a name, model and upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hx_gateway.events import RequestFinished
from hx_gateway.observability.rows import Row

# Models and upstreams told apart between two writings: clients make names up.
MAX_SERIES = 200
OTHER = "other"
METRIC_TYPE = "latency"
UNIT = "ms"
COMPONENT = "gateway"

ROUTING = "routing_decision_latency"
REQUEST = "request_duration"
UPSTREAM = "upstream_latency"
FIRST_BYTE = "time_to_first_byte"


@dataclass(slots=True)
class _Series:
    """Milliseconds of one metric."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = 0.0

    def add(self, seconds: float) -> None:
        value = seconds * 1000.0
        self.count += 1
        self.total += value
        if value < self.least:
            self.least = value
        if value > self.most:
            self.most = value


@dataclass(slots=True)
class _Group:
    """What is measured of one model and upstream."""

    routing: _Series
    request: _Series
    upstream: _Series
    first_byte: _Series

    def named(self) -> Iterator[tuple[str, _Series]]:
        yield ROUTING, self.routing
        yield REQUEST, self.request
        yield UPSTREAM, self.upstream
        yield FIRST_BYTE, self.first_byte


class Latencies:
    """Adds up; :meth:`take` gives the rows and begins anew. Models that nobody serves count as ``other``."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str | None], _Group] = {}

    def add(self, event: RequestFinished) -> None:
        """Count a finished model request."""
        upstream = event.upstream
        key = (event.model or OTHER, upstream) if upstream is not None else (OTHER, None)
        group = self._groups.get(key)
        if group is None:
            group = self._begin(key)
        group.request.add(event.duration)
        if event.routing_seconds is not None:
            group.routing.add(event.routing_seconds)
        if event.upstream_seconds is not None:
            group.upstream.add(event.upstream_seconds)
        if event.first_byte_seconds is not None:
            group.first_byte.add(event.first_byte_seconds)

    def _begin(self, key: tuple[str, str | None]) -> _Group:
        if len(self._groups) >= MAX_SERIES:
            key = (OTHER, OTHER)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(_Series(), _Series(), _Series(), _Series())
        return group

    def take(self, make: Callable[..., Row]) -> list[Row]:
        """Return the rows of what was added since the last time; ``make`` is ``Rows.performance_metric``."""
        groups, self._groups = self._groups, {}
        return [
            _row(make, name, model, upstream, series)
            for (model, upstream), group in groups.items()
            for name, series in group.named()
            if series.count
        ]


def _row(make: Callable[..., Row], name: str, model: str, upstream: str | None, series: _Series) -> Row:
    metadata: dict[str, Any] = {
        "model": model,
        "upstream": upstream,
        "count": series.count,
        "sum": round(series.total, 3),
        "min": round(series.least, 3),
        "max": round(series.most, 3),
    }
    mean = round(series.total / series.count, 3)
    return make(name, mean, METRIC_TYPE, COMPONENT, unit=UNIT, metadata=metadata)
