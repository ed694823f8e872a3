"""What becomes of a finished request: a log line and its share of the metrics."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from hx_gateway.events import Ending, EventSink, RequestFinished
from hx_gateway.telemetry import MAX_MODELS, OTHER_MODEL, Metrics


class AccessLog:
    """Writes one line a request: who, what, how it ended and how long it took. No key, prompt or header."""

    def __init__(self) -> None:
        self._logger = structlog.get_logger()

    def emit(self, event: RequestFinished) -> None:
        """Log ``event`` at ``info``, a failure of ours at ``warning``."""
        fields: dict[str, object] = {
            "request_id": event.request_id,
            "route": event.route,
            "method": event.method,
            "status": event.status,
            "ending": event.ending.value,
            "ms": round(event.duration * 1000, 2),
            "client": event.client,
            "bytes": event.bytes_sent,
        }
        for name in ("key_id", "error_code", "model", "upstream"):
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
        if event.status >= 500:
            self._logger.warning("request", **fields)
        else:
            self._logger.info("request", **fields)


class RequestMetrics:
    """Counts a request. ``known_model`` bounds the label: what it does not know becomes ``other``."""

    def __init__(self, metrics: Metrics, known_model: Callable[[str], bool]) -> None:
        self._metrics = metrics
        self._known_model = known_model
        self._seen: set[str] = set()

    def emit(self, event: RequestFinished) -> None:
        """Add ``event`` to the counters and histograms."""
        metrics = self._metrics
        metrics.requests.labels(event.route, event.method, event.status, event.ending.value).inc()
        metrics.request_seconds.labels(event.route).observe(event.duration)
        if event.model is None:
            return
        model = self._label(event.model)
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
