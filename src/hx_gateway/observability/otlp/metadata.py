"""What of a span has no column: its attributes and the rest, within the size of a row's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from hx_gateway.kit.epochs import from_unix_us
from hx_gateway.observability.otlp.aliases import ALIASES
from hx_gateway.observability.otlp.model import Attributes, Span, SpanEvent

MAX_METADATA_BYTES = 64 * 1024
# Of texts that are not attributes.
MAX_TEXT_CHARS = 1_024
MAX_EVENT_NAME_CHARS = 256

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_ESCAPED_NUL = b"\\u0000"
_ENCODER = msgspec.json.Encoder()


def instant(time_ns: int) -> datetime:
    """Return the time, cut to microseconds. Any 64 bits are a year up to 2554."""
    return from_unix_us(time_ns // 1_000)


def storable(text: str) -> str:
    """Return ``text`` as PostgreSQL can hold it, which is without NUL."""
    return text.replace("\x00", "\ufffd")


def span_metadata(span: Span, canonical: Mapping[str, object], *, keep_content: bool) -> dict[str, object]:
    """Return the metadata of :func:`~hx_gateway.observability.otlp.events.trace_event`, which says what is in it."""
    attributes = _kept(span.attributes, keep_content)
    events = [_event(event, keep_content) for event in span.events]
    metadata: dict[str, Any] = {
        **canonical,
        "kind": _KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else str(span.kind),
        "attributes": attributes,
        "resource": span.resource,
        "scope": {"name": span.scope_name[:MAX_TEXT_CHARS], "version": span.scope_version[:MAX_TEXT_CHARS]},
        "events": events,
    }
    if span.status_message:
        metadata["status_message"] = span.status_message[:MAX_TEXT_CHARS]
    if span.trace_state:
        metadata["trace_state"] = span.trace_state[:MAX_TEXT_CHARS]
    if span.links:
        metadata["links"] = span.links
    omitted = len(span.attributes) - len(attributes)
    omitted += sum([len(event.attributes) for event in span.events]) - sum([len(kept["attributes"]) for kept in events])
    if omitted:
        metadata["content_omitted"] = omitted
    if span.truncated:
        metadata["truncated"] = True
    return _fitted(metadata)


def _kept(attributes: Attributes, keep_content: bool) -> Attributes:
    if keep_content:
        return attributes.copy()
    return {name: value for name, value in attributes.items() if not ALIASES.is_content(name)}


def _event(event: SpanEvent, keep_content: bool) -> dict[str, Any]:
    said = not keep_content and ALIASES.is_content_event(event.name)
    return {
        "name": event.name[:MAX_EVENT_NAME_CHARS],
        "time": instant(event.time_ns).isoformat() if event.time_ns else None,
        "attributes": {} if said else _kept(event.attributes, keep_content),
    }


def _fitted(metadata: dict[str, Any]) -> dict[str, object]:
    """Return ``metadata`` as JSON of at most :data:`MAX_METADATA_BYTES` and without NUL."""
    encoded = _ENCODER.encode(metadata)
    if _ESCAPED_NUL in encoded:
        metadata = _without_nul(metadata)
        encoded = _ENCODER.encode(metadata)
    if len(encoded) > MAX_METADATA_BYTES:
        metadata["truncated"] = True
        metadata["resource"] = dict(metadata["resource"])  # the span's own is shared
        _leave_out(metadata)
    return metadata


def _leave_out(metadata: dict[str, Any]) -> None:
    holders = [metadata["attributes"], metadata["resource"], *[event["attributes"] for event in metadata["events"]]]
    entries = [
        (isinstance(value, str), _size(name) + _size(value), holder, name)
        for holder in holders
        for name, value in holder.items()
    ]
    entries.sort(key=lambda entry: entry[:2], reverse=True)
    size = _size(metadata)
    for _, entry_size, holder, name in entries:
        if size <= MAX_METADATA_BYTES:
            return
        del holder[name]
        size -= entry_size + 1  # the colon; there may be no comma
    if size > MAX_METADATA_BYTES:
        metadata["events"] = []


def _size(value: object) -> int:
    return len(_ENCODER.encode(value))


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value
