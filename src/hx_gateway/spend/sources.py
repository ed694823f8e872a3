"""The tables of calls that can be listed: their columns, and the conditions behind their filters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A table whose rows have an id, ``call_id``, and a time, ``at``.

    ``columns`` are shown in this order, those in ``texts`` hold what clients may choose. ``filters`` are conditions by
    the name of their parameter, each with ``{}`` for the value.
    """

    name: str
    table: str
    at: str
    columns: tuple[str, ...]
    texts: frozenset[str]
    filters: Mapping[str, str]


_WHO = ("tenant_id", "key_id", "team_id", "user_id")
_SHARED_FILTERS: Mapping[str, str] = {
    "key_id": "key_id = {}",
    "team_id": "team_id = {}",
    "user_id": "user_id = {}",
    "model": "model = {}",
    "request_id": "request_id = {}",
}

LOGS = Source(
    name="spend_logs",
    table="hx_gateway.spend_logs",
    at="admitted_at",
    columns=(
        "admitted_at",
        "request_id",
        "call_id",
        *_WHO,
        "operation",
        "requested_model",
        "model",
        "upstream",
        "provider",
        "status",
        "ending",
        "error_code",
        "stream",
        "attempts",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "usage_source",
        "cost_nano",
        "reserved_nano",
        "settled_by",
        "price_source",
        "price_version",
        "input_pico",
        "output_pico",
        "cache",
        "tags",
        "duration_ms",
    ),
    texts=frozenset(
        {*_WHO, "request_id", "requested_model", "model", "upstream", "provider", "error_code", "cache", "tags"}
    ),
    filters={**_SHARED_FILTERS, "tag": "{} = ANY(tags)", "settled_by": "settled_by = {}"},
)
ERRORS = Source(
    name="error_logs",
    table="hx_gateway.error_logs",
    at="at",
    columns=(
        "at",
        "request_id",
        "call_id",
        *_WHO,
        "route",
        "operation",
        "requested_model",
        "model",
        "upstream",
        "status",
        "code",
        "message",
        "ending",
    ),
    texts=frozenset({*_WHO, "request_id", "route", "requested_model", "model", "upstream", "code", "message"}),
    filters={**_SHARED_FILTERS, "code": "code = {}"},
)
# What a call was decided by, beside what is listed of it.
DECISION = "decision"
CHARGES = "charges"
# Columns of the daily sums by the name of their group.
GROUPS: Mapping[str, str] = {
    "key": "key_id",
    "team": "team_id",
    "user": "user_id",
    "tenant": "tenant_id",
    "model": "model",
    "day": "day",
}
SUMS = ("cost_nano", "requests", "errors", "prompt_tokens", "completion_tokens")
SUMMARY_FILTERS = ("key_id", "team_id", "user_id", "model")
SETTLED_BY = ("done", "unknown", "lapsed", "void")
