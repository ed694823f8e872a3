"""Spans out of OTLP's protobuf encoding.

The outer layers are walked by hand and each span is parsed on its own: the whole message at once would be lost with
one bad text in one span, and would turn every two bytes of an empty entry into an object.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from hx_gateway.errors import InvalidRequest
from hx_gateway.observability.otlp.model import (
    MAX_ATTRIBUTES,
    MAX_EVENTS,
    MAX_SPAN_BYTES,
    MAX_SPANS,
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

# The field numbers of ExportTraceServiceRequest, ResourceSpans and ScopeSpans.
_RESOURCE_SPANS = 1
_RESOURCE = 1
_SCOPE_SPANS = 2
_SCOPE = 1
_SPANS = 2

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 70
_MAX_FIELDS = 4 * MAX_SPANS
_UNREADABLE = "not a readable protobuf message, or a text in it is not UTF-8"


def read_spans(body: bytes) -> Iterator[Span | Rejection]:
    """Yield every span of an ``ExportTraceServiceRequest``, or why it was not taken.

    Raises ``InvalidRequest`` where the layers above the spans cannot be followed, ``BodyTooLarge`` for too many.
    """
    walk = _Walk(body)
    for number, start, end in walk.fields(0, len(body)):
        if number == _RESOURCE_SPANS:
            yield from _read_resource_spans(walk, start, end)


class _Walk:
    """The length-delimited fields of nested messages; only so many of them, and of spans."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._fields_left = _MAX_FIELDS
        self._spans_left = MAX_SPANS

    def count_spans(self, number: int) -> None:
        """Raise ``BodyTooLarge`` when ``number`` more spans are too many."""
        self._spans_left -= number
        if self._spans_left < 0:
            raise too_many_spans()

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, start and end of each field of the message at ``at``; other wire types are passed over."""
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise too_many_spans()
            tag, at = self._varint(at, end)
            wire_type = tag & 7
            if wire_type == _LENGTH_DELIMITED:
                size, at = self._varint(at, end)
                start, at = at, at + size
                if at > end:
                    raise _not_followed()
                yield tag >> 3, start, at
            elif wire_type == _VARINT:
                _, at = self._varint(at, end)
            elif wire_type in (_FIXED64, _FIXED32):
                at += 8 if wire_type == _FIXED64 else 4
            else:
                raise _not_followed()
        if at > end:
            raise _not_followed()

    def parts(self, at: int, end: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return where the fields 1 and the fields 2 of a message are: what it says of itself, and what it holds."""
        found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        for number, start, stop in self.fields(at, end):
            if number in (1, 2):
                found[number - 1].append((start, stop))
        return found

    def join(self, places: list[tuple[int, int]]) -> bytes:
        """Return the message of a field that is not repeated: several are merged, which is to put them in a row."""
        return b"".join([self.body[start:stop] for start, stop in places])

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < _MAX_VARINT_BITS:
            byte = self.body[at]
            at += 1
            if byte < 0x80:
                return value | byte << shift, at
            value |= (byte & 0x7F) << shift
            shift += 7
        raise _not_followed()


def _read_resource_spans(walk: _Walk, start: int, end: int) -> Iterator[Span | Rejection]:
    resources, scope_spans = walk.parts(start, end)
    if not scope_spans:
        return
    resource = _read_resource(walk.join(resources))
    for place in scope_spans:
        scopes, spans = walk.parts(*place)
        walk.count_spans(len(spans))
        if not spans:
            continue
        origin = _read_scope(walk.join(scopes), resource)
        for span in spans:
            yield _read_span(walk.body, span, origin)


def _read_resource(data: bytes) -> Origin:
    bounds = Bounds()
    try:
        if len(data) > MAX_SPAN_BYTES:
            raise BadSpan(too_large_span())
        attributes = _attributes(Resource.FromString(data).attributes, bounds)
    except (DecodeError, BadSpan) as error:
        return Origin(resource={}, problem=f"resource: {_reason(error)}")
    return Origin(resource=attributes, truncated=bounds.truncated)


def _read_scope(data: bytes, resource: Origin) -> Origin:
    if resource.problem or not data:
        return resource
    try:
        if len(data) > MAX_SPAN_BYTES:
            raise BadSpan(too_large_span())
        scope = InstrumentationScope.FromString(data)
    except (DecodeError, BadSpan) as error:
        return Origin(resource={}, problem=f"scope: {_reason(error)}")
    return Origin(
        resource=resource.resource,
        scope_name=scope.name,
        scope_version=scope.version,
        truncated=resource.truncated,
    )


def _read_span(body: bytes, place: tuple[int, int], origin: Origin) -> Span | Rejection:
    start, end = place
    if origin.problem:
        return Rejection(origin.problem)
    if end - start > MAX_SPAN_BYTES:
        return Rejection(too_large_span())
    try:
        return _span(trace_pb2.Span.FromString(body[start:end]), origin)
    except (DecodeError, BadSpan) as error:
        return Rejection(_reason(error))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BadSpan) else _UNREADABLE


def _span(message: trace_pb2.Span, origin: Origin) -> Span:
    bounds = Bounds()
    status = message.status
    return Span(
        trace_id=_identifier(message.trace_id, NO_TRACE, "trace_id"),
        span_id=_identifier(message.span_id, NO_SPAN, "span_id"),
        parent_span_id=_parent(message.parent_span_id),
        trace_state=message.trace_state,
        name=message.name,
        kind=message.kind,
        start_ns=started(message.start_time_unix_nano),
        end_ns=message.end_time_unix_nano,
        status_code=status.code,
        status_message=status.message,
        attributes=_attributes(message.attributes, bounds),
        events=_events(message.events, bounds) if message.events else (),
        links=len(message.links),
        resource=origin.resource,
        scope_name=origin.scope_name,
        scope_version=origin.scope_version,
        truncated=bounds.truncated or origin.truncated,
    )


def _identifier(value: bytes, zero: str, field: str) -> str:
    text = value.hex()
    if len(text) != len(zero) or text == zero:
        raise BadSpan(f"{field} must be {len(zero) // 2} bytes, not all zero")
    return text


def _parent(value: bytes) -> str | None:
    text = value.hex()
    if text in ("", NO_SPAN):
        return None
    return _identifier(value, NO_SPAN, "parent_span_id")


def _events(messages: Sequence[trace_pb2.Span.Event], bounds: Bounds) -> tuple[SpanEvent, ...]:
    if len(messages) > MAX_EVENTS:
        bounds.truncated = True
        messages = messages[:MAX_EVENTS]
    return tuple(
        [
            SpanEvent(
                name=message.name,
                time_ns=message.time_unix_nano,
                attributes=_attributes(message.attributes, bounds),
            )
            for message in messages
        ]
    )


def _attributes(pairs: Sequence[KeyValue], bounds: Bounds) -> Attributes:
    if len(pairs) > MAX_ATTRIBUTES:
        bounds.truncated = True
        pairs = pairs[:MAX_ATTRIBUTES]
    return {pair.key: _value(pair.value, bounds, 0) for pair in pairs}


def _value(value: AnyValue, bounds: Bounds, depth: int) -> Value:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "int_value":
        return value.int_value
    reader = _READERS.get(kind)
    return reader(value, bounds, depth) if reader else None


def _array(value: AnyValue, bounds: Bounds, depth: int) -> Value:
    items: list[Value] = []
    for item in value.array_value.values:
        if not bounds.take(depth + 1):
            break
        items.append(_value(item, bounds, depth + 1))
    return items


def _map(value: AnyValue, bounds: Bounds, depth: int) -> Value:
    items: dict[str, Value] = {}
    for pair in value.kvlist_value.values:
        if not bounds.take(depth + 1):
            break
        items[pair.key] = _value(pair.value, bounds, depth + 1)
    return items


_READERS: dict[str | None, Callable[[AnyValue, Bounds, int], Value]] = {
    "bool_value": lambda value, _bounds, _depth: value.bool_value,
    "double_value": lambda value, _bounds, _depth: finite(value.double_value),
    "array_value": _array,
    "kvlist_value": _map,
    "bytes_value": lambda value, _bounds, _depth: b64encode(value.bytes_value).decode("ascii"),
}


def _not_followed() -> InvalidRequest:
    return InvalidRequest("The body is no ExportTraceServiceRequest in protobuf.", param="body")
