"""Export requests to order: one description, written by the official protobuf classes or as JSON by hand."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from hx_gateway.observability.otlp.encoding import OtlpEncoding

TRACE = bytes(range(1, 17))
PARENT = bytes(range(31, 39))
START_NS = 1_750_000_000_123_456_789


@dataclass(frozen=True)
class EventSpec:
    """An event to be written."""

    name: str = "event"
    time_ns: int = START_NS
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpanSpec:
    """A span to be written; attribute values are Python's, bytes included."""

    span_id: bytes = bytes(range(21, 29))
    trace_id: bytes = TRACE
    parent_span_id: bytes = b""
    trace_state: str = ""
    name: str = "work"
    kind: int = 1
    start_ns: int = START_NS
    end_ns: int = START_NS + 1_500_000
    status_code: int = 0
    status_message: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[EventSpec] = ()
    links: int = 0


@dataclass(frozen=True)
class ScopeSpec:
    """Spans of one resource and scope."""

    spans: Sequence[SpanSpec]
    resource: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    version: str = ""


@dataclass(frozen=True)
class Style:
    """The liberties that OTLP's JSON leaves to whoever writes it."""

    numbers_as_text: bool = True
    upper_hex: bool = False
    nulls: bool = False
    unknown_fields: bool = False


def body(encoding: OtlpEncoding, scopes: Sequence[ScopeSpec], *, compressed: bool = False) -> bytes:
    """Return the request in ``encoding``."""
    data = as_json(scopes) if encoding is OtlpEncoding.JSON else as_protobuf(scopes)
    return gzip.compress(data) if compressed else data


def of_spans(*spans: SpanSpec) -> list[ScopeSpec]:
    """Return ``spans`` below one resource and scope."""
    return [ScopeSpec(spans, {"service.name": "shop"}, "tracer", "1.2")]


def as_protobuf(scopes: Sequence[ScopeSpec]) -> bytes:
    """Return the request as the official classes write it."""
    request = ExportTraceServiceRequest()
    for scope in scopes:
        resource_spans = request.resource_spans.add()
        _pairs(resource_spans.resource.attributes, scope.resource)
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name, scope_spans.scope.version = scope.name, scope.version
        for span in scope.spans:
            _protobuf_span(scope_spans.spans.add(), span)
    return bytes(request.SerializeToString())


def _protobuf_span(message: trace_pb2.Span, span: SpanSpec) -> None:
    message.trace_id, message.span_id, message.parent_span_id = span.trace_id, span.span_id, span.parent_span_id
    message.trace_state, message.name = span.trace_state, span.name
    message.kind = span.kind  # type: ignore[assignment]  # unknown numbers are allowed
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_ns, span.end_ns
    message.status.code = span.status_code  # type: ignore[assignment]  # unknown numbers are allowed
    message.status.message = span.status_message
    _pairs(message.attributes, span.attributes)
    for event in span.events:
        _pairs(message.events.add(name=event.name, time_unix_nano=event.time_ns).attributes, event.attributes)
    for _ in range(span.links):
        message.links.add(trace_id=TRACE, span_id=PARENT)


def _pairs(target: Any, attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        pair: KeyValue = target.add(key=key)
        _protobuf_value(pair.value, value)


def _protobuf_value(target: AnyValue, value: Any) -> None:
    match value:
        case None:
            pass
        case bool():
            target.bool_value = value
        case int():
            target.int_value = value
        case float():
            target.double_value = value
        case str():
            target.string_value = value
        case bytes():
            target.bytes_value = value
        case list():
            target.array_value.SetInParent()
            for item in value:
                _protobuf_value(target.array_value.values.add(), item)
        case dict():
            target.kvlist_value.SetInParent()
            _pairs(target.kvlist_value.values, value)


def as_json(scopes: Sequence[ScopeSpec], style: Style = Style()) -> bytes:
    """Return the request as JSON, from what the specification says and not from our reader."""
    document: dict[str, Any] = {
        "resourceSpans": [
            {
                "resource": {"attributes": _json_pairs(scope.resource, style)},
                "scopeSpans": [
                    {
                        "scope": {"name": scope.name, "version": scope.version},
                        "spans": [json_span(span, style) for span in scope.spans],
                    }
                ],
            }
            for scope in scopes
        ]
    }
    if style.unknown_fields:
        document["newField"] = [{"a": [1, None]}]
    return json.dumps(document, allow_nan=False).encode()


def json_span(span: SpanSpec, style: Style = Style()) -> dict[str, Any]:
    """Return one span as JSON's data."""
    wire: dict[str, Any] = {
        "traceId": _hex(span.trace_id, style),
        "spanId": _hex(span.span_id, style),
        "parentSpanId": _hex(span.parent_span_id, style),
        "traceState": span.trace_state,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": _integer(span.start_ns, style),
        "endTimeUnixNano": _integer(span.end_ns, style),
        "attributes": _json_pairs(span.attributes, style),
        "events": [
            {
                "name": event.name,
                "timeUnixNano": _integer(event.time_ns, style),
                "attributes": _json_pairs(event.attributes, style),
            }
            for event in span.events
        ],
        "links": [{"traceId": TRACE.hex(), "spanId": PARENT.hex()}] * span.links,
        "status": {"code": span.status_code, "message": span.status_message},
    }
    if style.nulls:
        wire = {key: value or None for key, value in wire.items()}
    if style.unknown_fields:
        wire["flags"], wire["someday"] = 257, {"x": "y"}
    return wire


def _hex(value: bytes, style: Style) -> str:
    return value.hex().upper() if style.upper_hex else value.hex()


def _integer(value: int, style: Style) -> int | str:
    return str(value) if style.numbers_as_text else value


def _json_pairs(attributes: Mapping[str, Any], style: Style) -> list[dict[str, Any]]:
    return [{"key": key, "value": _json_value(value, style)} for key, value in attributes.items()]


def _json_value(value: Any, style: Style) -> dict[str, Any] | None:
    match value:
        case None:
            return None if style.nulls else {}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": _integer(value, style)}
        case float():
            return {"doubleValue": value if isfinite(value) else float_name(value)}
        case str():
            return {"stringValue": value}
        case bytes():
            return {"bytesValue": b64encode(value).decode()}
        case list():
            return {"arrayValue": {"values": [_json_value(item, style) for item in value]}}
        case dict():
            return {"kvlistValue": {"values": _json_pairs(value, style)}}
    raise TypeError(type(value))


def float_name(value: float) -> str:
    """Return the name of a number that JSON cannot write."""
    return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[str(value)]
