"""Rows of the four tables, made of an event's fields: checked, stamped, and ready for the journal."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from hx_gateway.journal.copy_rows import NULL
from hx_gateway.journal.format import SHEDDABLE
from hx_gateway.kit.epochs import MICROSECOND, POSTGRES_EPOCH_US
from hx_gateway.kit.ids import EventIds
from hx_gateway.observability.fields import (
    TextField,
    encode_duration,
    encode_json,
    encode_number,
    encode_size,
    encode_time,
    invalid,
)
from hx_gateway.observability.levels import LEVELS, level_number
from hx_gateway.observability.tables import (
    FORMATS,
    PERFORMANCE_METRICS,
    ROUTING_DECISIONS,
    TRACE_EVENTS,
    TRANSFORMATION_EVENTS,
)

# How far ahead of ours a clock may be; later times are replaced by the time of arrival.
MAX_AHEAD_US = 600 * 1_000_000
_WARN = 13
_MAX_NAME = 256
_MAX_PROSE = 64 * 1024

# Number of columns, time, id, time of arrival, clamped: the columns that all tables begin with.
_pack_common = struct.Struct(">hiqiQQiqi?").pack
_LEVEL = struct.Struct(">ih")
_EMPTY_OBJECT = b"\0\0\0\x03\x01{}"
_EMPTY_LIST = b"\0\0\0\x03\x01[]"
_TRUE, _FALSE = b"\0\0\0\x01\x01", b"\0\0\0\x01\0"
# The columns that most events leave empty, as one field each.
_NO_SPANS, _NOBODY = NULL * 2, NULL * 3
_COUNTS = {number: len(form.columns) for number, form in FORMATS.items()}
_TRACE_COLUMNS = _COUNTS[TRACE_EVENTS]


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row for the journal: ``time_us`` is the one it is stored under, ``flags`` the record's."""

    data: bytes
    time_us: int
    flags: int = 0

    @property
    def event_id(self) -> str:
        """The event's id as text."""
        digits = self.data[18:34].hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Rows:
    """Makes rows; one object a process. ``retention`` is how old an event of each table may be when it comes.

    ``time_ns`` returns nanoseconds since 1970.
    """

    def __init__(self, retention: Mapping[str, timedelta], time_ns: Callable[[], int] = time.time_ns) -> None:
        self._time_ns = time_ns
        self._next_id = EventIds().next
        self._oldest = {number: retention[form.table] // MICROSECOND for number, form in FORMATS.items()}
        name, prose = _MAX_NAME, _MAX_PROSE
        self._tenant = TextField("tenant_id", name, required=True)
        self._trace = TextField("trace_id", name, required=True)
        self._any_trace = TextField("trace_id", name)
        self._span = TextField("span_id", name)
        self._parent = TextField("parent_span_id", name)
        self._event_type = TextField("event_type", name, required=True)
        self._message = TextField("message", prose, repair=True)
        self._agent = TextField("agent_name", name)
        self._task = TextField("task_id", name)
        self._session = TextField("session_id", name)
        self._user = TextField("user_id", name)
        self._request = TextField("user_request", prose, required=True, repair=True)
        self._selected = TextField("selected_agent", name, required=True)
        self._reasoning = TextField("reasoning", prose, repair=True)
        self._strategy = TextField("routing_strategy", name)
        self._metric = TextField("metric_name", name, required=True)
        self._metric_type = TextField("metric_type", name, required=True)
        self._component = TextField("component", name)
        self._unit = TextField("unit", name)
        self._transformation = TextField("transformation_type", name, required=True)
        self._source = TextField("source_agent", name)
        self._target = TextField("target_agent", name)
        self._input_schema = TextField("input_schema", name)
        self._output_schema = TextField("output_schema", name)
        self._error = TextField("error", prose, repair=True)

    def trace_event(
        self,
        trace_id: str,
        event_type: str,
        level: str = "INFO",
        message: str | None = None,
        agent_name: str | None = None,
        task_id: str | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        span_id: str | None = None,
        parent_span_id: str | None = None,
        duration_ms: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
        event_id: UUID | str | None = None,
        tenant_id: str = "default",
    ) -> Row:
        """Return a row of ``trace_events``. Raises :class:`InvalidEvent`."""
        known = _LEVELS.get(level) if type(level) is str else None
        level_field, flags = known if known is not None else _other_level(level)
        if timestamp is None and event_id is None and metadata is None:
            # Nearly every event: what _begin does, without its questions.
            time_us, metadata_field = self._time_ns() // 1000 - POSTGRES_EPOCH_US, _EMPTY_OBJECT
            high, low = self._next_id((time_us + POSTGRES_EPOCH_US) // 1000)
            common = _pack_common(_TRACE_COLUMNS, 8, time_us, 16, high, low, 8, time_us, 1, False)
        else:
            common, time_us, metadata_field = self._begin(TRACE_EVENTS, timestamp, event_id, metadata)
        spans, people = _NO_SPANS, _NOBODY
        if span_id is not None or parent_span_id is not None:
            spans = self._span[span_id] + self._parent[parent_span_id]
        if session_id is not None or user_id is not None or duration_ms is not None:
            people = self._session[session_id] + self._user[user_id] + encode_duration("duration_ms", duration_ms)
        parts = (
            common,
            self._tenant[tenant_id],
            self._trace[trace_id],
            spans,
            self._event_type[event_type],
            level_field,
            self._message[message],
            self._agent[agent_name],
            self._task[task_id],
            people,
            metadata_field,
        )
        return Row(b"".join(parts), time_us, flags)

    def routing_decision(
        self,
        user_request: str,
        selected_agent: str,
        confidence_score: float,
        alternatives: Sequence[Any] = (),
        reasoning: str | None = None,
        routing_strategy: str | None = None,
        *,
        trace_id: str | None = None,
        task_id: str | None = None,
        latency_ms: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
        event_id: UUID | str | None = None,
        tenant_id: str = "default",
    ) -> Row:
        """Return a row of ``routing_decisions``. Raises :class:`InvalidEvent`."""
        if confidence_score is None:
            raise invalid("confidence_score", "is missing")
        confidence = encode_number("confidence_score", confidence_score)
        if not 0 <= confidence_score <= 1:
            raise invalid("confidence_score", f"must be from 0 to 1, and is {confidence_score}")
        if not isinstance(alternatives, list | tuple):
            raise invalid("alternatives", f"must be a list, not {type(alternatives).__name__}")
        common, time_us, metadata_field = self._begin(ROUTING_DECISIONS, timestamp, event_id, metadata)
        parts = (
            common,
            self._tenant[tenant_id],
            self._any_trace[trace_id],
            self._task[task_id],
            self._request[user_request],
            self._selected[selected_agent],
            confidence,
            encode_json("alternatives", alternatives) if alternatives else _EMPTY_LIST,
            self._reasoning[reasoning],
            self._strategy[routing_strategy],
            encode_duration("latency_ms", latency_ms),
            metadata_field,
        )
        return Row(b"".join(parts), time_us)

    def performance_metric(
        self,
        metric_name: str,
        metric_value: float,
        metric_type: str = "gauge",
        component: str | None = None,
        *,
        agent_name: str | None = None,
        trace_id: str | None = None,
        unit: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
        event_id: UUID | str | None = None,
        tenant_id: str = "default",
    ) -> Row:
        """Return a row of ``performance_metrics``. Raises :class:`InvalidEvent`."""
        if metric_value is None:
            raise invalid("metric_value", "is missing")
        common, time_us, metadata_field = self._begin(PERFORMANCE_METRICS, timestamp, event_id, metadata)
        parts = (
            common,
            self._tenant[tenant_id],
            self._metric[metric_name],
            encode_number("metric_value", metric_value),
            self._metric_type[metric_type],
            self._component[component],
            self._agent[agent_name],
            self._any_trace[trace_id],
            self._unit[unit],
            metadata_field,
        )
        return Row(b"".join(parts), time_us, SHEDDABLE)

    def transformation_event(
        self,
        transformation_type: str,
        *,
        source_agent: str | None = None,
        target_agent: str | None = None,
        input_schema: str | None = None,
        output_schema: str | None = None,
        input_bytes: int | None = None,
        output_bytes: int | None = None,
        success: bool = True,
        error: str | None = None,
        duration_ms: float | None = None,
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
        event_id: UUID | str | None = None,
        tenant_id: str = "default",
    ) -> Row:
        """Return a row of ``transformation_events``. Raises :class:`InvalidEvent`."""
        if not isinstance(success, bool):
            raise invalid("success", f"must be true or false, not {success!r:.50}")
        common, time_us, metadata_field = self._begin(TRANSFORMATION_EVENTS, timestamp, event_id, metadata)
        parts = (
            common,
            self._tenant[tenant_id],
            self._any_trace[trace_id],
            self._transformation[transformation_type],
            self._source[source_agent],
            self._target[target_agent],
            self._input_schema[input_schema],
            self._output_schema[output_schema],
            encode_size("input_bytes", input_bytes),
            encode_size("output_bytes", output_bytes),
            _TRUE if success else _FALSE,
            self._error[error],
            encode_duration("duration_ms", duration_ms),
            metadata_field,
        )
        return Row(b"".join(parts), time_us)

    def _begin(
        self, table: int, timestamp: datetime | None, event_id: UUID | str | None, metadata: Mapping[str, Any] | None
    ) -> tuple[bytes, int, bytes]:
        """Return the common columns, the time an event is stored under, and its metadata column."""
        received = self._time_ns() // 1000 - POSTGRES_EPOCH_US
        time_us, clamped = received, False
        if timestamp is not None:
            time_us = encode_time("timestamp", timestamp)
            if time_us < received - self._oldest[table]:
                raise invalid("timestamp", f"is {timestamp.isoformat()}, before what {FORMATS[table].table} keeps")
            if time_us > received + MAX_AHEAD_US:
                metadata = {**(metadata or {}), "original_timestamp": timestamp.isoformat()}
                time_us, clamped = received, True
        if event_id is None:
            high, low = self._next_id((received + POSTGRES_EPOCH_US) // 1000)
        else:
            whole = _uuid(event_id).int
            high, low = whole >> 64, whole & 0xFFFFFFFFFFFFFFFF
        common = _pack_common(_COUNTS[table], 8, time_us, 16, high, low, 8, received, 1, clamped)
        if not metadata:
            if metadata is not None and not isinstance(metadata, Mapping):
                raise invalid("metadata", f"must be an object, not {type(metadata).__name__}")
            return common, time_us, _EMPTY_OBJECT
        if not isinstance(metadata, Mapping):
            raise invalid("metadata", f"must be an object, not {type(metadata).__name__}")
        return common, time_us, encode_json("metadata", metadata)


def _uuid(value: UUID | str) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise invalid("event_id", f"must be a UUID, not {value!r:.60}") from None


def _level(number: int) -> tuple[bytes, int]:
    """Return a level's field and the flags of its record."""
    return _LEVEL.pack(2, number), SHEDDABLE if number < _WARN else 0


_LEVELS = {name: _level(number) for name, number in LEVELS.items()}


def _other_level(level: object) -> tuple[bytes, int]:
    """Return the same for a name in another case or of Python's logging."""
    if isinstance(level, str):
        with suppress(KeyError):
            return _level(level_number(level))
    raise invalid("level", f"must be one of {', '.join(LEVELS)}, not {level!r:.50}")
