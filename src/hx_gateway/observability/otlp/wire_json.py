"""Spans out of OTLP's JSON encoding: ProtoJSON, but with hex ids, integer enums and lowerCamelCase only.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding. Each span is decoded on its own, so that one that
is wrong costs no other. As in ProtoJSON, ``null`` stands for a field that is not set.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from hx_gateway.errors import BodyTooLarge, InvalidRequest
from hx_gateway.observability.otlp.model import (
    MAX_ATTRIBUTES,
    MAX_EVENTS,
    MAX_INT64,
    MAX_REASON_CHARS,
    MAX_SPAN_BYTES,
    MAX_SPANS,
    MAX_UINT64,
    MIN_INT64,
    NO_SPAN,
    NO_TRACE,
    Attributes,
    BadSpan,
    Bounds,
    Origin,
    Rejection,
    Span,
    SpanEvent,
    Value,
    finite,
    started,
    too_large_span,
    too_many_spans,
)

# Up to this size a body cannot hold enough entries to matter.
SMALL_BODY_BYTES = 4 * 1024 * 1024
# Every further entry of a list needs one, and becomes some 50 bytes.
MAX_COMMAS = 4_000_000

_HEX = re.compile("[0-9a-fA-F]+")
# An escaped backslash and a whole pair are passed over; what is left in the group is half of a character.
_HALF_CHARACTER = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_POSITION = re.compile(r" \(byte \d+\)$")
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_Int32: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_Wide: TypeAlias = int | str  # 64-bit integers are texts, but numbers must be accepted
_T = TypeVar("_T")


class _AnyValue(Struct, rename="camel"):
    string_value: str | None = None
    int_value: _Wide | None = None
    bool_value: bool | None = None
    double_value: float | str | None = None
    array_value: _ArrayValue | None = None
    kvlist_value: _KeyValueList | None = None
    bytes_value: str | None = None


class _ArrayValue(Struct):
    values: list[_AnyValue | None] | None = None


class _KeyValue(Struct):
    key: str = ""
    value: _AnyValue | None = None


class _KeyValueList(Struct):
    values: list[_KeyValue] | None = None


class _Event(Struct, rename="camel"):
    name: str | None = None
    time_unix_nano: _Wide | None = None
    attributes: list[_KeyValue] | None = None


class _Status(Struct):
    code: _Int32 | None = None
    message: str | None = None


class _Span(Struct, rename="camel"):
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    trace_state: str | None = None
    name: str | None = None
    kind: _Int32 | None = None
    start_time_unix_nano: _Wide | None = None
    end_time_unix_nano: _Wide | None = None
    attributes: list[_KeyValue] | None = None
    events: list[_Event] | None = None
    links: list[Raw] | None = None
    status: _Status | None = None


class _Resource(Struct):
    attributes: list[_KeyValue] | None = None


class _Scope(Struct):
    name: str | None = None
    version: str | None = None


class _ScopeSpans(Struct):
    scope: Raw = Raw(b"null")
    spans: list[Raw] | None = None


class _ResourceSpans(Struct, rename="camel"):
    resource: Raw = Raw(b"null")
    scope_spans: list[_ScopeSpans] | None = None


class _Request(Struct, rename="camel"):
    resource_spans: list[_ResourceSpans] | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_RESOURCE = msgspec.json.Decoder(_Resource | None)
_SCOPE = msgspec.json.Decoder(_Scope | None)
_SPAN = msgspec.json.Decoder(_Span)
_INTEGER = msgspec.json.Decoder(int)
_NUMBER = msgspec.json.Decoder(float)


def read_spans(body: bytes) -> Iterator[Span | Rejection]:
    """Yield every span of an ``ExportTraceServiceRequest``, or why it was not taken.

    Raises ``InvalidRequest`` for what is not JSON or not of that shape above the spans, ``BodyTooLarge`` for too
    many of them. Half a character (a lone surrogate, as JavaScript writes a text that was cut) is read as U+FFFD.
    """
    if len(body) > SMALL_BODY_BYTES and body.count(b",") > MAX_COMMAS:
        raise BodyTooLarge("The body holds too many values: send fewer spans at a time.")
    count = 0
    for resource_spans in _read_request(body).resource_spans or ():
        if not resource_spans.scope_spans:
            continue
        resource = _read_resource(resource_spans.resource)
        for scope_spans in resource_spans.scope_spans:
            if not scope_spans.spans:
                continue
            count += len(scope_spans.spans)
            if count > MAX_SPANS:
                raise too_many_spans()
            origin = _read_scope(scope_spans.scope, resource)
            for span in scope_spans.spans:
                yield _read_span(span, origin)


def _read_request(body: bytes) -> _Request:
    try:
        return _REQUEST.decode(body)
    except _UNREADABLE as error:
        problem: Exception = error
    if len(body) <= SMALL_BODY_BYTES and not isinstance(problem, RecursionError | msgspec.ValidationError):
        mended = _HALF_CHARACTER.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)
        try:
            return _REQUEST.decode(mended)
        except _UNREADABLE as error:
            problem = error
    raise InvalidRequest(
        f"The body is no ExportTraceServiceRequest in JSON: {_reason(problem)}.", param="body"
    ) from problem


def _read_resource(raw: Raw) -> Origin:
    bounds = Bounds()
    try:
        resource = _decode(_RESOURCE, raw) or _Resource()
        attributes = _attributes(resource.attributes, bounds)
    except (*_UNREADABLE, BadSpan) as error:
        return Origin(resource={}, problem=f"resource: {_reason(error)}")
    return Origin(resource=attributes, truncated=bounds.truncated)


def _read_scope(raw: Raw, resource: Origin) -> Origin:
    if resource.problem:
        return resource
    try:
        scope = _decode(_SCOPE, raw) or _Scope()
    except (*_UNREADABLE, BadSpan) as error:
        return Origin(resource={}, problem=f"scope: {_reason(error)}")
    return Origin(
        resource=resource.resource,
        scope_name=scope.name or "",
        scope_version=scope.version or "",
        truncated=resource.truncated,
    )


def _read_span(raw: Raw, origin: Origin) -> Span | Rejection:
    if origin.problem:
        return Rejection(origin.problem)
    try:
        return _span(_decode(_SPAN, raw), origin)
    except (*_UNREADABLE, BadSpan) as error:
        return Rejection(_reason(error))


def _decode(decoder: msgspec.json.Decoder[_T], raw: Raw) -> _T:
    if len(raw) > MAX_SPAN_BYTES:
        raise BadSpan(too_large_span())
    return decoder.decode(raw)


def _reason(error: Exception) -> str:
    """Return what is wrong, in words that hold no value of the sender."""
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return _POSITION.sub("", str(error))[:MAX_REASON_CHARS]


def _span(wire: _Span, origin: Origin) -> Span:
    bounds = Bounds()
    status = wire.status
    return Span(
        trace_id=_identifier(wire.trace_id, NO_TRACE, "traceId"),
        span_id=_identifier(wire.span_id, NO_SPAN, "spanId"),
        parent_span_id=_parent(wire.parent_span_id),
        trace_state=wire.trace_state or "",
        name=wire.name or "",
        kind=wire.kind or 0,
        start_ns=started(_unsigned(wire.start_time_unix_nano, "startTimeUnixNano")),
        end_ns=_unsigned(wire.end_time_unix_nano, "endTimeUnixNano"),
        status_code=(status and status.code) or 0,
        status_message=(status and status.message) or "",
        attributes=_attributes(wire.attributes, bounds),
        events=_events(wire.events, bounds) if wire.events else (),
        links=len(wire.links or ()),
        resource=origin.resource,
        scope_name=origin.scope_name,
        scope_version=origin.scope_version,
        truncated=bounds.truncated or origin.truncated,
    )


def _identifier(value: str | None, zero: str, field: str) -> str:
    if value is None or len(value) != len(zero) or not _HEX.fullmatch(value) or value == zero:
        raise BadSpan(f"{field} must be {len(zero)} hex digits, not all zero")
    return value.lower()


def _parent(value: str | None) -> str | None:
    if not value or value == NO_SPAN:
        return None
    return _identifier(value, NO_SPAN, "parentSpanId")


def _integer(value: _Wide, low: int, high: int, field: str) -> int:
    if isinstance(value, str):
        try:
            value = _INTEGER.decode(value)
        except msgspec.DecodeError:
            raise BadSpan(f"{field} must be an integer") from None
    if not low <= value <= high:
        raise BadSpan(f"{field} must fit into 64 bits")
    return value


def _unsigned(value: _Wide | None, field: str) -> int:
    return 0 if value is None else _integer(value, 0, MAX_UINT64, field)


def _events(wires: list[_Event], bounds: Bounds) -> tuple[SpanEvent, ...]:
    if len(wires) > MAX_EVENTS:
        bounds.truncated = True
        wires = wires[:MAX_EVENTS]
    return tuple(
        [
            SpanEvent(
                name=wire.name or "",
                time_ns=_unsigned(wire.time_unix_nano, "timeUnixNano"),
                attributes=_attributes(wire.attributes, bounds),
            )
            for wire in wires
        ]
    )


def _attributes(pairs: list[_KeyValue] | None, bounds: Bounds) -> Attributes:
    if pairs is None:
        return {}
    if len(pairs) > MAX_ATTRIBUTES:
        bounds.truncated = True
        pairs = pairs[:MAX_ATTRIBUTES]
    return {pair.key: _value(pair.value, bounds, 0) for pair in pairs}


def _value(value: _AnyValue | None, bounds: Bounds, depth: int) -> Value:
    """Return the value that is set; of several, which ProtoJSON forbids, the first in the order here."""
    if value is None:
        return None
    if value.string_value is not None:
        return value.string_value
    if value.int_value is not None:
        return _integer(value.int_value, MIN_INT64, MAX_INT64, "intValue")
    if value.bool_value is not None:
        return value.bool_value
    if value.double_value is not None:
        return _double(value.double_value)
    if value.array_value is not None:
        return _array(value.array_value, bounds, depth + 1)
    if value.kvlist_value is not None:
        return _map(value.kvlist_value, bounds, depth + 1)
    return None if value.bytes_value is None else _base64(value.bytes_value)


def _array(wire: _ArrayValue, bounds: Bounds, depth: int) -> Value:
    items: list[Value] = []
    for item in wire.values or ():
        if not bounds.take(depth):
            break
        items.append(_value(item, bounds, depth))
    return items


def _map(wire: _KeyValueList, bounds: Bounds, depth: int) -> Value:
    items: dict[str, Value] = {}
    for pair in wire.values or ():
        if not bounds.take(depth):
            break
        items[pair.key] = _value(pair.value, bounds, depth)
    return items


def _double(value: float | str) -> float | str:
    if isinstance(value, float):
        return finite(value)
    if value in _NOT_FINITE:
        return value
    try:
        return _NUMBER.decode(value)
    except msgspec.DecodeError:
        raise BadSpan("doubleValue must be a number") from None


def _base64(value: str) -> str:
    """Return ``value`` in the standard alphabet with padding; ProtoJSON takes the other forms too."""
    try:
        padded = value.rstrip("=").translate(_STANDARD_ALPHABET)
        data = a2b_base64(padded + "=" * (-len(padded) % 4), strict_mode=True)
    except ValueError:
        raise BadSpan("bytesValue must be base64") from None
    return b64encode(data).decode("ascii")
