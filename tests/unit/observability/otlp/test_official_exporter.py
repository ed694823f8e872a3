"""What the official Python exporter puts on the wire is read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from hx_gateway.observability.otlp.encoding import encoding_of, export_response, inflate
from hx_gateway.observability.otlp.events import trace_event
from hx_gateway.observability.otlp.spans import decode


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    content_type: str | None
    content_encoding: str | None
    body: bytes


@contextmanager
def receiver() -> Iterator[tuple[str, list[Received]]]:
    """Serve OTLP on a port of loopback; yields its address and what came."""
    requests: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            content_type = self.headers["content-type"]
            requests.append(Received(self.path, content_type, self.headers["content-encoding"], body))
            answer = export_response(encoding_of(content_type))
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("compression", "named"),
    [(Compression.Gzip, "gzip"), (Compression.Deflate, "deflate"), (Compression.NoCompression, None)],
)
def test_spans_of_the_official_sdk_arrive_as_they_were_made(compression: Compression, named: str | None) -> None:
    with receiver() as (endpoint, requests):
        provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=5, compression=compression)))
        tracer = provider.get_tracer("agents", "2.0")
        with (
            tracer.start_as_current_span("invoke_agent planner") as parent,
            tracer.start_as_current_span("chat gpt-5", kind=SpanKind.CLIENT) as child,
        ):
            child.set_attribute("gen_ai.operation.name", "chat")
            child.set_attribute("gen_ai.usage.input_tokens", 12)
            child.set_attribute("gen_ai.response.finish_reasons", ["stop"])
            child.add_event("first token", {"n": 1})
            child.set_status(Status(StatusCode.ERROR, "refused"))
        provider.shutdown()
    (request,) = requests
    assert (request.path, request.content_encoding) == ("/v1/traces", named)
    decoded = decode(inflate(request.body, request.content_encoding), encoding_of(request.content_type))
    assert decoded.rejected == []
    inner, outer = decoded.spans
    assert (outer.name, inner.name) == ("invoke_agent planner", "chat gpt-5")
    assert outer.parent_span_id is None
    assert inner.parent_span_id == outer.span_id == f"{parent.get_span_context().span_id:016x}"
    assert inner.trace_id == outer.trace_id == f"{parent.get_span_context().trace_id:032x}"
    assert inner.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert (inner.kind, inner.scope_name, inner.scope_version) == (3, "agents", "2.0")
    assert inner.resource["service.name"] == "shop"
    assert inner.events[0].attributes == {"n": 1}
    event = trace_event(inner, tenant_id="default")
    assert (event["event_type"], event["level"]) == ("span.chat", "ERROR")
    assert '"input_tokens": 12' in json.dumps(event["metadata"])
