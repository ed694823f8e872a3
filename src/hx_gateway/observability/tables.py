"""The record's four tables as the journal knows them: columns in order, and what becomes of rows under pressure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from hx_gateway.db.schemas import OBSERVABILITY_SCHEMA
from hx_gateway.journal.copy_rows import ColumnType, RowFormat
from hx_gateway.journal.kinds import Kind, Policy

_TEXT, _FLOAT, _JSON, _BIG = ColumnType.TEXT, ColumnType.FLOAT8, ColumnType.JSONB, ColumnType.INT8

# All tables begin with these; the encoders and the journal's placement rely on their order and sizes.
_COMMON = (
    ("timestamp", ColumnType.TIMESTAMPTZ),
    ("event_id", ColumnType.UUID),
    ("received_at", ColumnType.TIMESTAMPTZ),
    ("ts_clamped", ColumnType.BOOL),
    ("tenant_id", _TEXT),
)

TRACE_EVENTS, ROUTING_DECISIONS, PERFORMANCE_METRICS, TRANSFORMATION_EVENTS = 1, 2, 3, 4

FORMATS: Mapping[int, RowFormat] = {
    TRACE_EVENTS: RowFormat(
        OBSERVABILITY_SCHEMA,
        "trace_events",
        (
            *_COMMON,
            ("trace_id", _TEXT),
            ("span_id", _TEXT),
            ("parent_span_id", _TEXT),
            ("event_type", _TEXT),
            ("level", ColumnType.INT2),
            ("message", _TEXT),
            ("agent_name", _TEXT),
            ("task_id", _TEXT),
            ("session_id", _TEXT),
            ("user_id", _TEXT),
            ("duration_ms", _FLOAT),
            ("metadata", _JSON),
        ),
    ),
    ROUTING_DECISIONS: RowFormat(
        OBSERVABILITY_SCHEMA,
        "routing_decisions",
        (
            *_COMMON,
            ("trace_id", _TEXT),
            ("task_id", _TEXT),
            ("user_request", _TEXT),
            ("selected_agent", _TEXT),
            ("confidence_score", _FLOAT),
            ("alternatives", _JSON),
            ("reasoning", _TEXT),
            ("routing_strategy", _TEXT),
            ("latency_ms", _FLOAT),
            ("metadata", _JSON),
        ),
    ),
    PERFORMANCE_METRICS: RowFormat(
        OBSERVABILITY_SCHEMA,
        "performance_metrics",
        (
            *_COMMON,
            ("metric_name", _TEXT),
            ("metric_value", _FLOAT),
            ("metric_type", _TEXT),
            ("component", _TEXT),
            ("agent_name", _TEXT),
            ("trace_id", _TEXT),
            ("unit", _TEXT),
            ("metadata", _JSON),
        ),
    ),
    TRANSFORMATION_EVENTS: RowFormat(
        OBSERVABILITY_SCHEMA,
        "transformation_events",
        (
            *_COMMON,
            ("trace_id", _TEXT),
            ("transformation_type", _TEXT),
            ("source_agent", _TEXT),
            ("target_agent", _TEXT),
            ("input_schema", _TEXT),
            ("output_schema", _TEXT),
            ("input_bytes", _BIG),
            ("output_bytes", _BIG),
            ("success", ColumnType.BOOL),
            ("error", _TEXT),
            ("duration_ms", _FLOAT),
            ("metadata", _JSON),
        ),
    ),
}

# What the record may lose when the disk is nearly full: events below WARN and plain metrics, never a decision.
DEFAULT_POLICIES: Mapping[str, Policy] = {
    "trace_events": Policy.SHED,
    "routing_decisions": Policy.REJECT,
    "performance_metrics": Policy.SHED,
    "transformation_events": Policy.REJECT,
}

DEFAULT_RETENTION_DAYS: Mapping[str, int] = {
    "trace_events": 30,
    "routing_decisions": 90,
    "performance_metrics": 180,
    "transformation_events": 90,
}


def record_kinds(policies: Mapping[str, Policy] | None = None) -> list[Kind]:
    """Return the journal's record kinds of the four tables. Their numbers are the constants above, for ever."""
    chosen = {**DEFAULT_POLICIES, **(policies or {})}
    return [
        Kind(number=number, name=form.table, policy=chosen[form.table], format=form) for number, form in FORMATS.items()
    ]


def retention_of(days: Mapping[str, int]) -> dict[str, timedelta]:
    """Return how long each table's rows are kept."""
    return {table: timedelta(days=count) for table, count in {**DEFAULT_RETENTION_DAYS, **days}.items()}
