"""What ``/openapi.json`` says of the routes of spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hx_gateway.spend.filters import DEFAULT_GROUPS, DEFAULT_LIMIT, MAX_GROUPS, MAX_LIMIT
from hx_gateway.spend.sources import ERRORS, GROUPS, LOGS, SETTLED_BY, SUMMARY_FILTERS, Source

Operation = Mapping[str, Any]
Parameter = tuple[str, Mapping[str, Any], str]

TAG = "spend"
_STRING = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_DAY = {"type": "string", "format": "date"}
_OBJECT = {"type": "object", "additionalProperties": True}
_ERROR = "An error in OpenAI's shape"
_TENANT = ("tenant_id", _STRING, "Of the platform's admin only: one tenant instead of all.")
_FILTER_TYPES: Mapping[str, Mapping[str, Any]] = {"settled_by": {"type": "string", "enum": list(SETTLED_BY)}}
_SUMMARY = {
    "items": [{"key_id": "4Kd0pQ7vXc2Z", "cost_usd": 1.25, "requests": 40, "errors": 1}],
    "totals": {"cost_usd": 1.25, "requests": 40, "errors": 1},
    "truncated": False,
    "window": {"start": "2026-11-01", "end": "2026-11-30"},
}
ESTIMATE = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
PRICE = {"input_usd_per_million": 2.5, "output_usd_per_million": 10, "cached_input_usd_per_million": 1.25}


def rows_operation(source: Source) -> Operation:
    """Describe a list of calls."""
    what = {LOGS.name: "Calls and what they cost", ERRORS.name: "Calls that failed or were refused"}[source.name]
    filters = [(name, _FILTER_TYPES.get(name, _STRING), "A filter.") for name in source.filters]
    rest: tuple[Parameter, ...] = (
        ("status", _STRING, "A status, as 429, or a class of them, as 4xx."),
        ("start", _TIME, "Inside the window. Absent: 24 hours before its end."),
        ("end", _TIME, "Outside the window. Absent: no end."),
        ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, "Calls a page."),
        ("cursor", _STRING, "The `next_cursor` of the page before, with the same filters."),
        ("format", {"type": "string", "enum": ["json", "csv", "jsonl"]}, "CSV and JSON lines have the whole window."),
        _TENANT,
    )
    operation = described(what, (*filters, *rest), errors=("503", "504"))
    page: dict[str, Any] = {"items": [], "next_cursor": None, "window": {"start": "2026-11-23T12:00:00Z", "end": None}}
    content = {"application/json": {"schema": _OBJECT, "example": page}}
    texts = {"text/csv": {"schema": _STRING}, "application/x-ndjson": {"schema": _STRING}}
    return _answering(operation, "Newest first.", {**content, **texts})


def summary_operation() -> Operation:
    """Describe the sums."""
    groups = {"type": "string", "default": "key", "example": "team,model"}
    parameters: tuple[Parameter, ...] = (
        ("group_by", groups, f"One or two of {', '.join(GROUPS)}."),
        *((name, _STRING, "A filter.") for name in SUMMARY_FILTERS),
        ("start", _DAY, "The first day, UTC. Absent: 29 days before the last."),
        ("end", _DAY, "The last day, itself included. Absent: today."),
        ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_GROUPS, "default": DEFAULT_GROUPS}, "Groups."),
        ("format", {"type": "string", "enum": ["json", "csv"]}, ""),
        _TENANT,
    )
    content = {"application/json": {"schema": _OBJECT, "example": _SUMMARY}, "text/csv": {"schema": _STRING}}
    operation = described("Spend by key, team, user, tenant, model or day", parameters, errors=("503", "504"))
    return _answering(operation, "The dearest first.", content)


def described(
    summary: str,
    parameters: Sequence[Parameter] = (),
    *,
    path: str | None = None,
    body: Mapping[str, Any] | None = None,
    errors: Sequence[str] = ("503",),
) -> dict[str, Any]:
    """Describe a route that answers with an object. ``path`` is a parameter's name, ``body`` an example."""
    listed = [_parameter(*parameter) for parameter in parameters]
    if path is not None:
        listed.insert(0, _parameter(path, _STRING, "", place="path"))
    operation: dict[str, Any] = {"tags": [TAG], "summary": summary, "parameters": listed}
    if body is not None:
        content = {"application/json": {"schema": _OBJECT, "example": body}}
        operation["requestBody"] = {"required": True, "content": content}
    statuses = ("400", "401", "403", *errors)
    operation["responses"] = {"200": {"description": "OK"}, **{status: {"description": _ERROR} for status in statuses}}
    return operation


DECISION_PARAMETERS = (_TENANT,)


def _answering(operation: Operation, text: str, content: Mapping[str, Any]) -> Operation:
    return {**operation, "responses": {**operation["responses"], "200": {"description": text, "content": content}}}


def _parameter(name: str, schema: Mapping[str, Any], text: str, *, place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}
