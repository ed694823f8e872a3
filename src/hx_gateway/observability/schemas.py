"""What ``/openapi.json`` says of the record's routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hx_gateway.observability.filters import DEFAULT_LIMIT, MAX_LIMIT
from hx_gateway.observability.ingest import FIELDS, MAX_EVENTS
from hx_gateway.observability.levels import LEVELS
from hx_gateway.observability.reads import FILTER_NAMES

Operation = Mapping[str, Any]

TAG = "record"
_STRING = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_OBJECT = {"type": "object", "additionalProperties": True}
_TYPES: Mapping[str, Mapping[str, Any]] = {
    "timestamp": {**_TIME, "description": "When it happened; absent: now. Needs a zone."},
    "event_id": {
        "type": "string",
        "format": "uuid",
        "description": "Absent: made here. Sent again with its timestamp, it is kept once.",
    },
    "tenant_id": {**_STRING, "description": "The key's own, or absent."},
    "level": {"type": "string", "enum": list(LEVELS), "default": "INFO"},
    "metadata": {**_OBJECT, "description": "At most 64 KiB as JSON, 64 levels deep."},
    "alternatives": {"type": "array", "items": {}},
    "confidence_score": {"type": "number", "minimum": 0, "maximum": 1},
    "metric_value": _NUMBER,
    "duration_ms": {"type": "number", "minimum": 0},
    "latency_ms": {"type": "number", "minimum": 0},
    "input_bytes": _COUNT,
    "output_bytes": _COUNT,
    "success": {"type": "boolean", "default": True},
}
_REQUIRED: Mapping[str, Sequence[str]] = {
    "trace_events": ("trace_id", "event_type"),
    "routing_decisions": ("user_request", "selected_agent", "confidence_score"),
    "performance_metrics": ("metric_name", "metric_value"),
    "transformation_events": ("transformation_type",),
}
EXAMPLE = {
    "events": [
        {
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "event_type": "agent.step",
            "level": "INFO",
            "message": "Looked up the order",
            "agent_name": "support",
            "timestamp": "2026-11-24T12:00:00.250Z",
            "metadata": {"order": 1138},
        },
        {"table": "performance_metrics", "metric_name": "queue_depth", "metric_value": 7},
    ]
}
_TENANT = ("tenant_id", _STRING, "Of an admin's key only: the tenant to work for instead of the key's own.")
_WINDOW = (
    ("start_time", _TIME, "Inside the window. Absent: 24 hours before its end."),
    ("end_time", _TIME, "Outside the window. Absent: no end."),
)
_FILTER_TYPES: Mapping[str, Mapping[str, Any]] = {
    "min_level": {"type": "string", "enum": list(LEVELS)},
    "min_confidence": {"type": "number", "minimum": 0, "maximum": 1},
}
_PAGE = (
    ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, "Records a page."),
    ("cursor", _STRING, "The `next_cursor` of the page before, with the same filters."),
)
_PROBLEM = "A problem document (RFC 9457)"


def write_operation() -> Operation:
    """Describe the route that takes events."""
    event = {"oneOf": [_event_schema(table) for table in FIELDS]}
    many = {"type": "array", "items": event, "maxItems": MAX_EVENTS}
    whole = {"oneOf": [{"type": "object", "properties": {"events": many}, "required": ["events"]}, many, event]}
    results = ("results", {"type": "string", "enum": ["all", "errors"]}, "Absent: all up to 100 events, else errors.")
    return {
        **_operation("Record events", (results, _TENANT), ("400", "401", "403", "413", "415", "503")),
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": whole, "example": EXAMPLE},
                "application/x-ndjson": {"schema": _STRING},
            },
        },
        "responses": {
            "200": _json("All were kept.", {"accepted": 2, "rejected": 0, "results": [_kept(0), _kept(1)]}),
            "207": _json("Some were not.", {"accepted": 1, "rejected": 1, "results": [_kept(0), _REJECTED]}),
            **_errors("400", "401", "403", "413", "415", "503"),
        },
    }


def page_operation(table: str) -> Operation:
    """Describe the pages of a table."""
    answer: dict[str, Any] = {
        "items": [],
        "next_cursor": None,
        "window": {"start": "2026-11-23T12:00:00Z", "end": None},
    }
    return {
        **_operation(f"Read {table.replace('_', ' ')}", (*_filters(table), *_WINDOW, *_PAGE, _TENANT)),
        "responses": {
            "200": _json("A page, newest first.", answer),
            **_errors("400", "401", "403", "503", "504"),
        },
    }


def export_operation() -> Operation:
    """Describe exports."""
    table = _parameter("table", {"type": "string", "enum": list(FILTER_NAMES)}, "What to export.", place="path")
    filters = {name: _FILTER_TYPES.get(name, _STRING) for names in FILTER_NAMES.values() for name in names}
    parameters = tuple((name, kind, "A filter of the table's pages.") for name, kind in filters.items())
    operation = _operation("Export a table as JSON lines", (*parameters, *_WINDOW, _TENANT))
    return {
        **operation,
        "parameters": [table, *operation["parameters"]],
        "responses": {
            "200": {
                "description": "A record a line, newest first. A connection that breaks off means that there are more.",
                "content": {"application/x-ndjson": {"schema": _STRING}},
            },
            **_errors("400", "401", "403", "404", "503", "504"),
        },
    }


def trace_operation() -> Operation:
    """Describe the tree of a trace."""
    window = (
        ("around", _TIME, "When it happened, give or take a day: faster."),
        ("start", _TIME, "Inside the window."),
        ("end", _TIME, "Outside the window."),
    )
    return described("A trace as a tree of spans", (*window, _TENANT), path="trace_id", errors=("404", "503", "504"))


def otlp_operation() -> Operation:
    """Describe the endpoint of OpenTelemetry's exporters."""
    content = {media: {"schema": _OBJECT} for media in ("application/json", "application/x-protobuf")}
    statuses = {"400": "Bad data", "413": "Too large", "415": "Another encoding", "503": "Send all of it again"}
    return {
        **_operation("Take spans over OTLP/HTTP", ()),
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "An ExportTraceServiceResponse", "content": content},
            **_errors("401", "403"),
            **{status: {"description": f"{text}: a google.rpc.Status"} for status, text in statuses.items()},
        },
    }


def described(
    summary: str,
    parameters: Sequence[tuple[str, Mapping[str, Any], str]] = (),
    *,
    path: str | None = None,
    body: Mapping[str, Any] | None = None,
    errors: Sequence[str] = ("503",),
) -> Operation:
    """Describe a route that answers with an object. ``path`` is a parameter's name, ``body`` an example."""
    operation = _operation(summary, parameters)
    if path is not None:
        operation["parameters"].insert(0, _parameter(path, _STRING, "", place="path"))
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": _OBJECT, "example": body}}}
    operation["responses"] = {"200": {"description": "OK"}, **_errors("400", "401", "403", *errors)}
    return operation


TENANT_PARAMETER = _TENANT
LETTER_FILTERS = (
    ("target", _STRING, "Of this table."),
    ("sqlstate", _STRING, "With this error of PostgreSQL."),
    ("replayed", {"type": "boolean"}, "That were, or were not, sent again."),
    *_PAGE,
    _TENANT,
)
DRY_RUN = ("dry_run", {"type": "boolean"}, "Only say from when on records would stay.")
PURGE_PARAMETERS = (
    ("ids", _STRING, "Ids with commas between."),
    ("older_than", _TIME, "All that were made before."),
    _TENANT,
)


def _operation(
    summary: str, parameters: Sequence[tuple[str, Mapping[str, Any], str]], errors: Sequence[str] = ()
) -> dict[str, Any]:
    return {
        "tags": [TAG],
        "summary": summary,
        "parameters": [_parameter(*parameter) for parameter in parameters],
        "responses": _errors(*errors),
    }


def _parameter(name: str, schema: Mapping[str, Any], text: str, *, place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}


def _filters(table: str) -> list[tuple[str, Mapping[str, Any], str]]:
    return [(name, _FILTER_TYPES.get(name, _STRING), "A filter.") for name in FILTER_NAMES[table]]


def _event_schema(table: str) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": "string", "const": table}
    required = list(_REQUIRED[table])
    if table == "trace_events":
        kind["default"] = table
    else:
        required.append("table")
    fields = {name: _TYPES.get(name, _STRING) for name in sorted(FIELDS[table])}
    return {
        "title": table,
        "type": "object",
        "properties": {"table": kind, **fields},
        "required": required,
        "additionalProperties": False,
    }


def _kept(index: int) -> dict[str, Any]:
    return {"index": index, "status": "accepted", "event_id": f"019ab5f0-1c2d-7000-8000-00000000000{index}"}


_REJECTED = {
    "index": 1,
    "status": "rejected",
    "code": "invalid_event",
    "field": "metric_value",
    "message": "metric_value is missing.",
}


def _json(text: str, example: object) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _OBJECT, "example": example}}}


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: {"description": _PROBLEM} for status in statuses}
