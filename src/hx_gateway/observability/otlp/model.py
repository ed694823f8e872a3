"""A span as it is read here, what was wrong with the others, and the bounds that no sender can pass."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import TypeAlias

from msgspec import Struct

from hx_gateway.errors import BodyTooLarge

# A bound on the work and the memory of one request, far above what exporters send (512 a batch, 8,192 a collector).
MAX_SPANS = 65_536
# An encoded span or resource. A repeated field of two bytes an entry becomes some 100 bytes of memory an entry.
MAX_SPAN_BYTES = 4 * 1024 * 1024
# The SDKs' own limits are 128 attributes and 128 events a span.
MAX_ATTRIBUTES = 256
MAX_EVENTS = 128
MAX_NESTED_VALUES = 1_024
MAX_DEPTH = 8
MAX_MESSAGE_REASONS = 5
MAX_REASON_CHARS = 200

MIN_INT64 = -(2**63)
MAX_INT64 = 2**63 - 1
MAX_UINT64 = 2**64 - 1
NO_TRACE = "0" * 32
NO_SPAN = "0" * 16

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
Attributes: TypeAlias = dict[str, Value]


class SpanEvent(Struct, frozen=True, kw_only=True):
    """Something that happened during a span. ``time_ns`` is 0 where the sender gave none."""

    name: str
    time_ns: int
    attributes: Attributes


class Span(Struct, frozen=True, kw_only=True):
    """One span, the same from either encoding.

    Ids are lower-case hex and never all zero; times are nanoseconds since 1970 within 64 bits, so no later than the
    year 2554; ``start_ns`` is never 0, ``end_ns`` is 0 for a span that did not end and may be before the start.
    ``kind`` and ``status_code`` are OTLP's numbers, unknown ones included. Attribute values are what JSON can hold:
    bytes are base64 text, numbers that are not finite the texts ``NaN``, ``Infinity`` and ``-Infinity``. ``resource``
    is shared between spans and must not be changed. ``truncated`` says that something was over a bound and left out.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    trace_state: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status_code: int
    status_message: str
    attributes: Attributes
    events: tuple[SpanEvent, ...]
    links: int
    resource: Attributes
    scope_name: str
    scope_version: str
    truncated: bool


class Origin(Struct, frozen=True, kw_only=True):
    """Where spans come from; ``problem`` is set where it could not be read, which costs the spans below it."""

    resource: Attributes
    scope_name: str = ""
    scope_version: str = ""
    truncated: bool = False
    problem: str | None = None


class Rejection(Struct, frozen=True):
    """A span that was not taken. ``reason`` is written for whoever sent it and repeats none of its values."""

    reason: str


class Decoded(Struct, frozen=True):
    """The spans of one request in the order they came. ``warning`` is for a request that is suspect, yet no error."""

    spans: list[Span]
    rejected: list[Rejection]
    warning: str = ""

    @property
    def message(self) -> str:
        """What ``partial_success`` tells the sender; empty where there is nothing to tell."""
        if not self.rejected:
            return self.warning
        counts = Counter(rejection.reason for rejection in self.rejected).most_common()
        reasons = [f"{count} x {reason}" for reason, count in counts[:MAX_MESSAGE_REASONS]]
        if len(counts) > MAX_MESSAGE_REASONS:
            reasons.append("others")
        total = len(self.spans) + len(self.rejected)
        return f"{len(self.rejected)} of {total} spans rejected: {'; '.join(reasons)}."


class BadSpan(ValueError):
    """Why one span (or resource, or scope) cannot be taken; its message becomes a rejection's reason."""


class Bounds:
    """What one span may still hold. ``truncated`` becomes true with the first value that is left out."""

    __slots__ = ("_nested_left", "truncated")

    def __init__(self) -> None:
        self.truncated = False
        self._nested_left = MAX_NESTED_VALUES

    def take(self, depth: int) -> bool:
        """Return whether one more value inside an array or a map fits, at ``depth`` levels below the attribute."""
        if depth > MAX_DEPTH or self._nested_left == 0:
            self.truncated = True
            return False
        self._nested_left -= 1
        return True


def finite(value: float) -> float | str:
    """Return ``value``, or the name that ProtoJSON gives it where JSON has no number for it."""
    if isfinite(value):
        return value
    if value != value:
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def started(start_ns: int) -> int:
    """Return ``start_ns``. Raises :class:`BadSpan` for none: without it there is no place in a record by time."""
    if start_ns == 0:
        raise BadSpan("start time missing")
    return start_ns


def too_many_spans() -> BodyTooLarge:
    """Return the error for a request over :data:`MAX_SPANS`."""
    return BodyTooLarge(f"The request holds more than {MAX_SPANS:,} spans: send fewer at a time.")


def too_large_span() -> str:
    """Return the reason for a span over :data:`MAX_SPAN_BYTES`."""
    return f"larger than {MAX_SPAN_BYTES} bytes"
