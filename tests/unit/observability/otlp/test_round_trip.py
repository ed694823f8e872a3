"""Any span says the same in both encodings: the official classes write one, the specification's words the other."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from math import isfinite
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hx_gateway.errors import InvalidRequest
from hx_gateway.observability.otlp.encoding import OtlpEncoding
from hx_gateway.observability.otlp.spans import Span, SpanEvent, decode
from tests.unit.observability.otlp.bodies import (
    EventSpec,
    ScopeSpec,
    SpanSpec,
    Style,
    as_json,
    as_protobuf,
    float_name,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | TEXT | st.binary(max_size=8)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
ATTRIBUTES = st.dictionaries(TEXT, VALUES, max_size=4)
TIMES = st.integers(0, 2**64 - 1)


def ids(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size).filter(any)


EVENTS = st.builds(EventSpec, TEXT, TIMES, ATTRIBUTES)
SPANS = st.builds(
    SpanSpec,
    span_id=ids(8),
    trace_id=ids(16),
    parent_span_id=st.just(b"") | ids(8),
    trace_state=TEXT,
    name=TEXT,
    kind=st.integers(-(2**31), 2**31 - 1),
    start_ns=st.integers(1, 2**64 - 1),
    end_ns=TIMES,
    status_code=st.integers(-(2**31), 2**31 - 1),
    status_message=TEXT,
    attributes=ATTRIBUTES,
    events=st.lists(EVENTS, max_size=2),
    links=st.integers(0, 3),
)
SCOPES = st.lists(st.builds(ScopeSpec, st.lists(SPANS, max_size=3), ATTRIBUTES, TEXT, TEXT), max_size=3)
STYLES = st.builds(Style, st.booleans(), st.booleans(), st.booleans(), st.booleans())


def plain(value: Any) -> Any:
    match value:
        case bytes():
            return b64encode(value).decode()
        case float() if not isfinite(value):
            return float_name(value)
        case list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value


def expected(scope: ScopeSpec, span: SpanSpec) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        trace_state=span.trace_state,
        name=span.name,
        kind=span.kind,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        status_code=span.status_code,
        status_message=span.status_message,
        attributes=plain(span.attributes),
        events=tuple(
            SpanEvent(name=event.name, time_ns=event.time_ns, attributes=plain(event.attributes))
            for event in span.events
        ),
        links=span.links,
        resource=plain(scope.resource),
        scope_name=scope.name,
        scope_version=scope.version,
        truncated=False,
    )


@given(SCOPES, STYLES)
def test_either_encoding_gives_the_spans_that_were_written(scopes: list[ScopeSpec], style: Style) -> None:
    spans = [expected(scope, span) for scope in scopes for span in scope.spans]
    from_protobuf = decode(as_protobuf(scopes), OtlpEncoding.PROTOBUF)
    from_json = decode(as_json(scopes, style), OtlpEncoding.JSON)
    assert from_protobuf.spans == spans
    assert from_json.spans == spans
    assert from_protobuf.rejected == from_json.rejected == []


@given(SCOPES, st.data())
def test_protobuf_bytes_at_random_are_read_or_refused_and_never_read_where_the_official_parser_sees_others(
    scopes: list[ScopeSpec], data: st.DataObject
) -> None:
    body = bytearray(as_protobuf(scopes))
    for _ in range(data.draw(st.integers(1, 3)) if body else 0):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(body)
    try:
        ours = decode(damaged, OtlpEncoding.PROTOBUF)
    except InvalidRequest:
        return
    try:
        official = ExportTraceServiceRequest.FromString(damaged)
    except DecodeError:
        return  # ours may keep the spans beside the one that is damaged
    count = sum(len(scope.spans) for resource in official.resource_spans for scope in resource.scope_spans)
    assert len(ours.spans) + len(ours.rejected) == count


@given(st.binary(max_size=200))
def test_bytes_at_random_never_fail_otherwise_than_as_a_bad_request(data: bytes) -> None:
    for encoding in OtlpEncoding:
        with suppress(InvalidRequest):
            decode(data, encoding)


@given(SCOPES, st.data())
def test_damaged_json_never_fails_otherwise_than_as_a_bad_request(scopes: list[ScopeSpec], data: st.DataObject) -> None:
    body = bytearray(as_json(scopes))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'"{}[]:,0-e\\u\xff\x00tn'))
    with suppress(InvalidRequest):
        decode(bytes(body), OtlpEncoding.JSON)
