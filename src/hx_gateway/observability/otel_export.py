"""Model calls, and operations of the registry, as OpenTelemetry spans and metrics, sent over OTLP/HTTP.

Importing this imports the OpenTelemetry SDK: only who sends anything does. What is sent follows the semantic
conventions for generative AI of version 1.41; no text of a client or a model is ever part of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import unquote, urlsplit

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hx_gateway import __version__
from hx_gateway.events import Ending, OperationFinished, RequestFinished

SERVICE_NAME = "hx-gateway"
TRACES_PATH = "/v1/traces"
METRICS_PATH = "/v1/metrics"

QUEUE_SPANS = 4096
BATCH_SPANS = 512
SPANS_SECONDS = 2.0
METRICS_SECONDS = 30.0
# What one delivery may take, its repetitions included; and what the end of the program waits for the last one.
SEND_SECONDS = 10.0
SHUTDOWN_SECONDS = 3.0
# Models told apart in metrics: clients make names up, and a series is kept for ever.
MAX_MODELS = 200
OTHER_MODEL = "other"

DURATION = "gen_ai.client.operation.duration"
TOKENS = "gen_ai.client.token.usage"
OPERATIONS = "db.client.operation.duration"
# Both from the conventions' text (gen-ai-metrics, "ExplicitBucketBoundaries").
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
# From the conventions' text (database-metrics).
OPERATION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

Attributes: TypeAlias = "dict[str, str | int | float | bool]"

_OPERATIONS = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
_PROPAGATOR = TraceContextTextMapPropagator()
_EMPTY = Context()


class GenAiExport:
    """An ``EventSink`` for an ``async with``: outside of it, events are forgotten.

    ``endpoint`` is a collector's root; ``traces_endpoint`` the whole address for spans, which wins for them, and alone
    sends no metrics. ``headers`` is as in ``OTEL_EXPORTER_OTLP_HEADERS``. Raises ``ValueError`` naming the variable,
    never its value. Fails open: spans that a dead or slow collector does not take are dropped, oldest first, once
    ``QUEUE_SPANS`` wait; requests never wait.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        traces_endpoint: str | None = None,
        headers: str | None = None,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
    ) -> None:
        root = _checked("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        self._traces_url = _checked("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces_endpoint) or _below(root, TRACES_PATH)
        self._metrics_url = _below(root, METRICS_PATH)
        self._headers = parse_headers(headers or "")
        self._shutdown_seconds = shutdown_seconds
        self._providers: _Providers | None = None
        self._log = structlog.get_logger()

    def emit(self, event: RequestFinished) -> None:
        """Make a span of a call to a model's server, and count it. What never got as far as one is none."""
        if self._providers is not None and event.upstream is not None and event.model is not None:
            self._providers.record(event)

    def observed(self, operation: OperationFinished) -> None:
        """Make a span of an operation on the database, and count it."""
        if self._providers is not None:
            self._providers.record_operation(operation)

    async def __aenter__(self) -> Self:
        _log_by(_ExportLog(logging.WARNING))
        self._providers = _Providers(self._traces_url, self._metrics_url, self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        providers, self._providers = self._providers, None
        if providers is None:
            return
        try:
            async with asyncio.timeout(self._shutdown_seconds):
                await asyncio.gather(*(_in_daemon_thread(last) for last in providers.last_deliveries()))
        except TimeoutError:
            providers.abandon()
            self._log.warning("otlp_export_abandoned", seconds=self._shutdown_seconds)


class _Providers:
    """The SDK's part: providers, their threads, and the instruments."""

    def __init__(self, traces_url: str | None, metrics_url: str | None, headers: Mapping[str, str]) -> None:
        resource = Resource.create({"service.name": SERVICE_NAME, "service.version": __version__})
        self._exporters: list[OTLPSpanExporter | OTLPMetricExporter] = []
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        if traces_url is not None:
            spans = OTLPSpanExporter(traces_url, headers=dict(headers), timeout=SEND_SECONDS)
            self._exporters.append(spans)
            self._traces.add_span_processor(
                BatchSpanProcessor(
                    spans,
                    max_queue_size=QUEUE_SPANS,
                    schedule_delay_millis=SPANS_SECONDS * 1000,
                    max_export_batch_size=BATCH_SPANS,
                )
            )
        readers = []
        if metrics_url is not None:
            metrics = OTLPMetricExporter(metrics_url, headers=dict(headers), timeout=SEND_SECONDS)
            self._exporters.append(metrics)
            readers.append(PeriodicExportingMetricReader(metrics, METRICS_SECONDS * 1000, SEND_SECONDS * 1000))
        self._metrics = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer("hx_gateway", __version__)
        meter = self._metrics.get_meter("hx_gateway", __version__)
        self._duration = meter.create_histogram(
            DURATION, "s", "GenAI operation duration.", explicit_bucket_boundaries_advisory=DURATION_BUCKETS
        )
        self._tokens = meter.create_histogram(
            TOKENS, "{token}", "Tokens of input and output.", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS
        )
        self._operations = meter.create_histogram(
            OPERATIONS, "s", "Database operation duration.", explicit_bucket_boundaries_advisory=OPERATION_BUCKETS
        )
        self._models: set[str] = set()

    def record_operation(self, operation: OperationFinished) -> None:
        """Queue the span of ``operation`` and add it to the metrics."""
        common: Attributes = {"db.system.name": "postgresql", "db.operation.name": operation.operation}
        if operation.error_code is not None:
            common["error.type"] = operation.error_code
        span = self._tracer.start_span(
            operation.operation,
            _parent(operation.traceparent),
            SpanKind.CLIENT,
            {**common, "hx.request_id": operation.request_id, "hx.tenant_id": operation.tenant_id},
            start_time=operation.ended_ns - int(operation.seconds * 1e9),
        )
        if operation.error_code is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(operation.ended_ns)
        self._operations.record(operation.seconds, common)

    def record(self, event: RequestFinished) -> None:
        """Queue the span of ``event`` and add it to the metrics."""
        common = _common(event)
        span = self._tracer.start_span(
            f"{common['gen_ai.operation.name']} {event.model}",
            _parent(event.traceparent),
            SpanKind.CLIENT,
            {**common, **_particulars(event)},
            start_time=event.ended_ns - int(event.duration * 1e9),
        )
        if "error.type" in common:
            span.set_status(Status(StatusCode.ERROR))
        span.end(event.ended_ns)
        common["gen_ai.request.model"] = self._label(str(event.model))
        self._duration.record(event.duration, common)
        if event.usage is not None:
            self._tokens.record(event.usage.prompt_tokens, {**common, "gen_ai.token.type": "input"})
            self._tokens.record(event.usage.completion_tokens, {**common, "gen_ai.token.type": "output"})

    def _label(self, model: str) -> str:
        if model in self._models:
            return model
        if len(self._models) >= MAX_MODELS:
            return OTHER_MODEL
        self._models.add(model)
        return model

    def last_deliveries(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what sends what waits, and stops. Both block for as long as a collector that hangs makes them."""
        return self._traces.shutdown, self._metrics.shutdown

    def abandon(self) -> None:
        """End the repetitions that are under way, and what the SDK has to say of it."""
        _log_by(logging.NullHandler())
        for exporter in self._exporters:
            exporter.shutdown()


def _common(event: RequestFinished) -> Attributes:
    """Return what spans and metrics share."""
    operation = event.operation or ""
    attributes: Attributes = {
        "gen_ai.operation.name": _OPERATIONS.get(operation, operation),
        "gen_ai.provider.name": event.provider or "",
        "gen_ai.request.model": event.model or "",
    }
    if event.upstream_address is not None:
        host, _, port = event.upstream_address.rpartition(":")
        attributes["server.address"] = host.strip("[]")
        attributes["server.port"] = int(port)
    error = _error_type(event)
    if error is not None:
        attributes["error.type"] = error
    return attributes


def _particulars(event: RequestFinished) -> Attributes:
    """Return what a span has beyond :func:`_common`."""
    attributes: Attributes = {
        "gen_ai.request.stream": event.stream,
        "http.response.status_code": event.status,
        "hx.request_id": event.request_id,
        "hx.deployment": event.upstream or "",
    }
    if event.usage is not None:
        attributes["gen_ai.usage.input_tokens"] = event.usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = event.usage.completion_tokens
    if event.stream and event.first_byte_seconds is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = event.first_byte_seconds
    return attributes


def _error_type(event: RequestFinished) -> str | None:
    if event.status < 400 and event.ending is Ending.COMPLETE:
        return None
    if event.error_code is not None:
        return event.error_code
    return str(event.status) if event.ending is Ending.COMPLETE else event.ending.value


def _parent(traceparent: str | None) -> Context:
    """Return the context of the client's span: ours belongs to its trace. An unreadable one begins a new trace."""
    return _EMPTY if traceparent is None else _PROPAGATOR.extract({"traceparent": traceparent}, _EMPTY)


def parse_headers(text: str) -> dict[str, str]:
    """Return ``name=value`` pairs separated by commas, percent-decoded; names in lower case.

    As the OTLP exporter's specification has it, and like the SDKs, spaces and ``=`` may stand in a value as they are.
    Raises ``ValueError`` without saying what stood there: it is a credential.
    """
    headers: dict[str, str] = {}
    for pair in text.split(","):
        if not pair.strip():
            continue
        name, separator, value = pair.partition("=")
        name, value = unquote(name).strip().lower(), unquote(value).strip()
        if not separator or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError("OTEL_EXPORTER_OTLP_HEADERS must be name=value pairs separated by commas")
        if not value.isascii() or not value.isprintable():
            raise ValueError("OTEL_EXPORTER_OTLP_HEADERS holds a value that no header may have")
        headers[name] = value
    return headers


def _checked(variable: str, url: str | None) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{variable} must be an http:// or https:// address")
    return url


def _below(root: str | None, path: str) -> str | None:
    return None if root is None else root.rstrip("/") + path


class _ExportLog(logging.Handler):
    """Tells of the SDK's troubles in our log: its texts may quote a header, its tracebacks hold them all."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log what happened: the SDK's own words, and of what it fills in numbers and names of errors only."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        structlog.get_logger().warning(
            "otlp_export_failed",
            source=record.name,
            reason=str(record.msg),
            detail=[_told(argument) for argument in arguments],
        )


def _told(argument: object) -> int | float | str:
    if isinstance(argument, int | float):
        return argument
    return type(argument).__name__


def _log_by(handler: logging.Handler) -> None:
    """Let ``handler`` alone have what the SDK logs."""
    logger = logging.getLogger("opentelemetry")
    logger.handlers[:] = [handler]
    logger.propagate = False


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread that neither this loop's end nor the process's waits for."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            # Nobody waits any more where the loop is closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="otlp-shutdown", daemon=True).start()
    await done.wait()
