"""Why a call was refused, or where it went and what it cost: rows of one request put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hx_gateway.spend.answers import document, item

_WHAT = ("tenant_id", "key_id", "team_id", "user_id", "operation", "requested_model", "model", "upstream")
_USAGE = ("prompt_tokens", "completion_tokens", "cached_tokens", "usage_source")
_MONEY = ("cost_nano", "reserved_nano", "settled_by")
_PRICE = ("input_pico", "output_pico")
# What the record calls the ending of a call that was not admitted.
REFUSED = "refused"
COMPLETE = "complete"
FAILED = "failed"


def explain(
    request_id: str,
    calls: Sequence[Mapping[str, Any]],
    errors: Sequence[Mapping[str, Any]],
    routing: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what is known of a request: each of its calls, the newest first, and the choices of a server.

    A call that was admitted is among ``calls``, unless no spend is recorded; one that went wrong, or was refused
    before anything was spent, is among ``errors``.
    """
    by_id = {row["call_id"]: row for row in errors}
    admitted = [(row["admitted_at"], _admitted(row, by_id.pop(row["call_id"], None))) for row in calls]
    others = [(row["at"], _unspent(row)) for row in by_id.values()]
    found = sorted([*admitted, *others], key=lambda pair: pair[0], reverse=True)
    return {"request_id": request_id, "calls": [call for _, call in found], "routing": [_route(row) for row in routing]}


def _admitted(row: Mapping[str, Any], error: Mapping[str, Any] | None) -> dict[str, Any]:
    went_well = row["status"] < 400 and row["error_code"] is None
    return {
        "call_id": str(row["call_id"]),
        "at": row["admitted_at"],
        "outcome": COMPLETE if went_well else FAILED,
        "status": row["status"],
        "error_code": row["error_code"],
        "message": None if error is None else error["message"],
        "ending": row["ending"],
        **item(row, (*_WHAT, "provider", "stream")),
        "attempts": row["attempts"],
        "retries": max(row["attempts"] - 1, 0),
        "cache": row["cache"],
        "duration_ms": row["duration_ms"],
        "usage": item(row, _USAGE),
        "cost": {**item(row, _MONEY), "charged_to": row["charges"]},
        "price": _price(row),
        "decision": document(row["decision"]),
    }


def _unspent(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "call_id": str(row["call_id"]),
        "at": row["at"],
        "outcome": REFUSED if row["ending"] == REFUSED else FAILED,
        "status": row["status"],
        "error_code": row["code"],
        "message": row["message"],
        "ending": row["ending"],
        **item(row, _WHAT),
        "decision": document(row["decision"]),
    }


def _price(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["price_source"] is None:
        return None
    return {"source": row["price_source"], "version": row["price_version"], **item(row, _PRICE)}


def _route(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": row["timestamp"],
        "selected": row["selected_agent"],
        "alternatives": document(row["alternatives"]),
        "strategy": row["routing_strategy"],
        "confidence": row["confidence_score"],
        "reasoning": row["reasoning"],
        "latency_ms": row["latency_ms"],
        "metadata": document(row["metadata"]),
    }
