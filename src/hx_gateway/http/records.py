"""What becomes of a finished request: a log line and its share of the metrics."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from prometheus_client import Counter, Histogram

from hx_gateway.events import Ending, EventSink, RequestFinished
from hx_gateway.log import EventDict
from hx_gateway.telemetry import MAX_MODELS, OTHER_MODEL, Metrics

# What every code begins with that blames a model's server.
UPSTREAM_CODES = "upstream_"


class AccessLog:
    """Writes one line a request: who, what, how it ended and how long it took. No key, prompt or header.

    ``write_line`` takes finished lines where there is something that does (:func:`hx_gateway.log.line_writer`): the
    fields are known and hold no secret, so the general processors, which cost more than the rest of the record, have
    nothing to do. Without it the lines go through structlog.
    """

    def __init__(self, write_line: Callable[[EventDict], None] | None) -> None:
        self._logger = structlog.get_logger()
        self._write_line = write_line

    def emit(self, event: RequestFinished) -> None:
        """Log ``event`` at ``info``, a failure of ours at ``warning``."""
        fields: EventDict = {
            "request_id": event.request_id,
            "route": event.route,
            "method": event.method,
            "status": event.status,
            "ending": event.ending.value,
            "ms": round(event.duration * 1000, 2),
            "client": event.client,
            "bytes": event.bytes_sent,
        }
        for name in ("key_id", "error_code", "model", "upstream", "cache"):
            value = getattr(event, name)
            if value is not None:
                fields[name] = value
        if event.upstream_seconds is not None:
            fields["upstream_ms"] = round(event.upstream_seconds * 1000, 2)
        if event.first_byte_seconds is not None:
            fields["first_byte_ms"] = round(event.first_byte_seconds * 1000, 2)
        if event.usage is not None:
            fields["prompt_tokens"] = event.usage.prompt_tokens
            fields["completion_tokens"] = event.usage.completion_tokens
        if self._write_line is not None:
            fields["event"] = "request"
            fields["level"] = "warning" if event.status >= 500 else "info"
            self._write_line(fields)
        elif event.status >= 500:
            self._logger.warning("request", **fields)
        else:
            self._logger.info("request", **fields)


class RequestMetrics:
    """Counts a request. ``known_model`` bounds the label: what it does not know becomes ``other``."""

    def __init__(self, metrics: Metrics, known_model: Callable[[str], bool]) -> None:
        self._metrics = metrics
        self._known_model = known_model
        self._seen: set[str] = set()
        # Children by their labels, all of them bounded: to look one up in the library costs more than to count.
        self._counted: dict[tuple[str, str, int, Ending], Counter] = {}
        self._timed: dict[str, Histogram] = {}

    def emit(self, event: RequestFinished) -> None:
        """Add ``event`` to the counters and histograms."""
        metrics = self._metrics
        key = (event.route, event.method, event.status, event.ending)
        counter = self._counted.get(key)
        if counter is None:
            counter = metrics.requests.labels(event.route, event.method, event.status, event.ending.value)
            self._counted[key] = counter
        counter.inc()
        timed = self._timed.get(event.route)
        if timed is None:
            timed = self._timed[event.route] = metrics.request_seconds.labels(event.route)
        timed.observe(event.duration)
        if event.model is None:
            return
        model = self._label(event.model)
        if event.error_code is not None and event.error_code.startswith(UPSTREAM_CODES):
            metrics.upstream_failures.labels(model, event.upstream or "", event.error_code).inc()
        if event.cost_nano is not None:
            metrics.spend.labels(model).inc(event.cost_nano)
        if event.upstream_seconds is not None:
            metrics.upstream_seconds.labels(model, event.upstream or "").observe(event.upstream_seconds)
        if event.first_byte_seconds is not None and event.stream:
            metrics.first_byte_seconds.labels(model).observe(event.first_byte_seconds)
        if event.usage is not None and event.ending is not Ending.ERROR:
            metrics.tokens.labels(model, "prompt").inc(event.usage.prompt_tokens)
            metrics.tokens.labels(model, "completion").inc(event.usage.completion_tokens)

    def _label(self, model: str) -> str:
        if model in self._seen:
            return model
        if len(self._seen) >= MAX_MODELS or not self._known_model(model):
            return OTHER_MODEL
        self._seen.add(model)
        return model


class Sinks:
    """Hands an event to several sinks."""

    def __init__(self, *sinks: EventSink) -> None:
        self._sinks = sinks

    def emit(self, event: RequestFinished) -> None:
        """Emit ``event`` to each."""
        for sink in self._sinks:
            sink.emit(event)
