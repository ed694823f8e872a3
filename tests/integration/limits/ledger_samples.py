"""Calls, their records and ledgers for the tests of the durable side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from hx_gateway.allowances import Budget, Period, ScopeKind
from hx_gateway.journal.format import Record
from hx_gateway.limits.applier import CALLS, CallsApplier, LogOptions
from hx_gateway.limits.model import Ask, Charge
from hx_gateway.limits.records import CallFacts, CallRecord, Done, Refused, Sent, encode

STREAM = str(UUID(int=7))
WINDOW = "bg-month:2026-11"
ADMITTED_US = 1_764_028_800_000_000  # 2025-11-25 00:00 UTC


def new_call(**changes: Any) -> CallFacts:
    """Return a call with an id of its own that is charged to :data:`WINDOW`."""
    values: dict[str, Any] = {
        "call_id": str(uuid4()),
        "stream_id": STREAM,
        "request_id": "req-1",
        "tenant_id": "default",
        "key_id": "key",
        "team_id": None,
        "user_id": "us-1",
        "operation": "chat",
        "requested_model": "alias",
        "model": "gpt",
        "stream": False,
        "admitted_us": ADMITTED_US,
        "reserved_nano": 100,
        "charges": (WINDOW,),
    }
    return CallFacts(**(values | changes))


def done(facts: CallFacts, cost_nano: int = 40, **changes: Any) -> Done:
    """Return an end that went well."""
    values: dict[str, Any] = {"status": 200, "ending": "complete", "prompt_tokens": 3, "completion_tokens": 5}
    return Done(facts, cost_nano=cost_nano, usage_source="provider", **(values | changes))


def refused(facts: CallFacts) -> Refused:
    """Return the refusal of a call."""
    return Refused(
        facts.call_id,
        "req-1",
        "default",
        "key",
        None,
        None,
        "chat",
        "alias",
        "gpt",
        429,
        "insufficient_quota",
        "The budget is spent.",
        ADMITTED_US,
    )


def whole_call(facts: CallFacts, cost_nano: int = 40) -> list[CallRecord]:
    """Return all records of a call that went well."""
    return [Sent(facts, "deployment", "openai"), done(facts, cost_nano)]


def as_records(records: Sequence[CallRecord]) -> list[Record]:
    """Return records as the journal has them."""
    return [Record(seq, CALLS, 0, 1, 0, 0, encode(record)) for seq, record in enumerate(records, start=1)]


async def apply(
    connection: asyncpg.Connection[Any], records: Sequence[CallRecord], options: LogOptions | None = None
) -> None:
    """Apply records as the drain does."""
    async with connection.transaction():
        await CallsApplier(options)(connection, as_records(records))


def ask_for(call_id: str, cost_nano: int, *, limit_nano: int = 1000, window: str = "2026-11") -> Ask:
    """Return an ask under one budget."""
    budget = Budget(id="bg-month", kind=ScopeKind.KEY, owner_id="key", limit_nano=limit_nano, period=Period.MONTH)
    return Ask(call_id=call_id, tenant_id="default", charges=(Charge(budget, window),), cost_nano=cost_nano)


async def rows(connection: asyncpg.Connection[Any], query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query as tuples."""
    return [tuple(row) for row in await connection.fetch(query, *values)]


async def windows(connection: asyncpg.Connection[Any]) -> dict[str, tuple[int, int]]:
    """Return what is posted and reserved, by window."""
    query = """
    SELECT budget_id || ':' || window_id AS key, posted_nano, reserved_nano FROM hx_gateway.budget_windows
    """
    return {row["key"]: (row["posted_nano"], row["reserved_nano"]) for row in await connection.fetch(query)}


async def assert_sums_agree(connection: asyncpg.Connection[Any]) -> None:
    """Assert that days, windows and reservations are what the rows that they sum up come to."""
    spent = await connection.fetchval("SELECT coalesce(sum(cost_nano), 0) FROM hx_gateway.spend_logs")
    assert await connection.fetchval("SELECT coalesce(sum(cost_nano), 0) FROM hx_gateway.spend_daily") == spent
    calls = await connection.fetchval("SELECT count(*) FROM hx_gateway.spend_logs")
    assert await connection.fetchval("SELECT coalesce(sum(requests), 0) FROM hx_gateway.spend_daily") == calls
    query = """
    SELECT budget_id || ':' || window_id, posted_nano - (
        SELECT coalesce(sum(cost_nano), 0) FROM hx_gateway.spend_logs
        WHERE budget_id || ':' || window_id = ANY (charges)
    ), reserved_nano - (
        SELECT coalesce(sum(amount_nano), 0) FROM hx_gateway.ledger_reservations
        WHERE budget_id || ':' || window_id = ANY (charges)
    ) FROM hx_gateway.budget_windows
    """
    assert [row for row in await rows(connection, query) if row[1] or row[2]] == []
