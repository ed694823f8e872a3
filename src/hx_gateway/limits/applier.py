"""Applies calls' records to PostgreSQL: reservations, spend, errors and the sums that are kept of them.

All of it locks rows in one order, so that those who do it at once never wait for each other in a circle: windows of
budgets, reservations, spend rows, days; within a table by primary key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from hx_gateway.db.schemas import GATEWAY_SCHEMA
from hx_gateway.journal.format import Record
from hx_gateway.journal.kinds import Kind, Policy
from hx_gateway.limits.model import WindowState
from hx_gateway.limits.netting import (
    BatchEffect,
    Hold,
    Postings,
    SpendRow,
    error_row,
    gives_way,
    is_error,
    moment,
    net,
    spend_row,
    window_of,
)
from hx_gateway.limits.records import Done, Refused, decode_batch

CALLS = 17
CALLS_NAME = "calls"

_encode = msgspec.json.Encoder().encode

# ruff: noqa: S608 - the names in these statements are ours

# Ids of calls and rows go over as one value: to take an array apart costs the driver as much as all else of a call.
_IDS = "ANY(string_to_array($1::text, ',')::uuid[])"
_JSON = "convert_from({}::bytea, 'UTF8')::json"
_ROWS = _JSON.format("$1")

_CHARGES = f"SELECT charges FROM {GATEWAY_SCHEMA}.ledger_reservations WHERE call_id = {_IDS}"
_MAKE_WINDOWS = f"""
INSERT INTO {GATEWAY_SCHEMA}.budget_windows (budget_id, window_id, tenant_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS row (budget_id, window_id, tenant_id)
ORDER BY budget_id, window_id ON CONFLICT DO NOTHING
"""
_LOCK_WINDOWS = f"""
SELECT budget_id, window_id, posted_nano, reserved_nano FROM {GATEWAY_SCHEMA}.budget_windows
WHERE (budget_id, window_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY budget_id, window_id FOR NO KEY UPDATE
"""
_MOVE_WINDOWS = f"""
UPDATE {GATEWAY_SCHEMA}.budget_windows AS kept
SET posted_nano = kept.posted_nano + row.posted, reserved_nano = kept.reserved_nano + row.reserved, updated_at = now()
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS row (budget_id, window_id, posted, reserved)
WHERE (kept.budget_id, kept.window_id) = (row.budget_id, row.window_id)
"""
_LOCK_HOLDS = f"""
SELECT call_id::text, state, amount_nano, charges FROM {GATEWAY_SCHEMA}.ledger_reservations
WHERE call_id = {_IDS} ORDER BY call_id FOR UPDATE
"""
# What was voided is remembered for a while after its call's end: a reservation may still be on its way.
_END_HOLDS = f"""
DELETE FROM {GATEWAY_SCHEMA}.ledger_reservations WHERE call_id = {_IDS} AND state <> 'void'
"""
# What was voided stays so, whatever is still on its way.
_HOLD = f"""
INSERT INTO {GATEWAY_SCHEMA}.ledger_reservations AS kept
    (call_id, tenant_id, stream_id, state, amount_nano, charges, facts, admitted_at)
SELECT call_id, tenant_id, stream_id, state, amount_nano, charges, facts, admitted_at
FROM json_populate_recordset(NULL::{GATEWAY_SCHEMA}.ledger_reservations, {_ROWS}) ORDER BY call_id
ON CONFLICT (call_id) DO UPDATE SET
    state = EXCLUDED.state, amount_nano = greatest(kept.amount_nano, EXCLUDED.amount_nano), facts = EXCLUDED.facts
WHERE kept.state <> 'void'
"""
_SPEND_COLUMNS = (
    "call_id, request_id, tenant_id, key_id, team_id, user_id, operation, requested_model, model, upstream, provider, "
    "status, ending, error_code, stream, attempts, prompt_tokens, completion_tokens, cached_tokens, usage_source, "
    "cost_nano, reserved_nano, settled_by, price_source, price_version, input_pico, output_pico, charges, cache, tags, "
    "admitted_at, duration_ms, decision"
)
# Which of the rows are new: nothing where all of them are, as nearly always. $2: how many there are.
_SPEND = f"""
WITH kept AS (
    INSERT INTO {GATEWAY_SCHEMA}.spend_logs ({_SPEND_COLUMNS}) SELECT {_SPEND_COLUMNS}
    FROM json_populate_recordset(NULL::{GATEWAY_SCHEMA}.spend_logs, {_ROWS}) ORDER BY call_id
    ON CONFLICT DO NOTHING RETURNING call_id
), told AS (SELECT array_agg(call_id::text) AS ids, count(*) AS number FROM kept)
SELECT CASE WHEN number < $2 THEN coalesce(ids, '{{}}') END FROM told
"""
_LOCK_SPENT = f"""
SELECT call_id::text, tenant_id, key_id, team_id, user_id, model, status, ending, prompt_tokens, completion_tokens,
    cost_nano, settled_by, charges, admitted_at
FROM {GATEWAY_SCHEMA}.spend_logs WHERE call_id = {_IDS} ORDER BY call_id FOR UPDATE
"""
_CORRECT = f"""
UPDATE {GATEWAY_SCHEMA}.spend_logs AS kept SET ({_SPEND_COLUMNS}) = (
    SELECT {_SPEND_COLUMNS} FROM json_populate_record(NULL::{GATEWAY_SCHEMA}.spend_logs, {_JSON.format("$2")})
) WHERE kept.call_id = $1::text::uuid
"""
_ERROR_COLUMNS = (
    "call_id, request_id, tenant_id, key_id, team_id, user_id, route, operation, requested_model, model, upstream, "
    "status, code, message, ending, decision, at"
)
_NOTE_ERRORS = f"""
INSERT INTO {GATEWAY_SCHEMA}.error_logs ({_ERROR_COLUMNS}) SELECT {_ERROR_COLUMNS}
FROM json_populate_recordset(NULL::{GATEWAY_SCHEMA}.error_logs, {_ROWS}) ORDER BY call_id
ON CONFLICT DO NOTHING
"""
_FORGET_ERRORS = f"DELETE FROM {GATEWAY_SCHEMA}.error_logs WHERE call_id = {_IDS}"
_ADD_DAYS = f"""
INSERT INTO {GATEWAY_SCHEMA}.spend_daily AS kept (
    tenant_id, day, key_id, team_id, user_id, model, requests, errors, prompt_tokens, completion_tokens, cost_nano
)
SELECT tenant_id, day, key_id, team_id, user_id, model, requests, errors, prompt_tokens, completion_tokens, cost_nano
FROM json_populate_recordset(NULL::{GATEWAY_SCHEMA}.spend_daily, {_ROWS})
ORDER BY tenant_id, day, key_id, team_id, user_id, model
ON CONFLICT (tenant_id, day, key_id, team_id, user_id, model) DO UPDATE SET
    requests = kept.requests + EXCLUDED.requests, errors = kept.errors + EXCLUDED.errors,
    prompt_tokens = kept.prompt_tokens + EXCLUDED.prompt_tokens,
    completion_tokens = kept.completion_tokens + EXCLUDED.completion_tokens,
    cost_nano = kept.cost_nano + EXCLUDED.cost_nano
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """``spend_logs``: whether calls that no budget is charged for get a row; those that are charged always do.

    ``error_logs``: whether refusals and calls that went wrong get one. The sums of days count calls that may get a row.
    """

    spend_logs: bool = True
    error_logs: bool = True


class CallsApplier:
    """A journal's :class:`~hx_gateway.journal.kinds.Applier` of calls' records.

    The first end of a call counts, whichever stream it comes from; one that was estimated gives way to one that knows.
    Raises ``ValueError`` for a record that cannot be read.
    """

    def __init__(self, options: LogOptions | None = None) -> None:
        self._options = options or LogOptions()

    async def __call__(self, connection: Any, records: Sequence[Record]) -> None:
        """Apply ``records`` in the cursor's transaction."""
        await apply_effect(connection, net(decode_batch([record.payload for record in records])), self._options)


def calls_kind(options: LogOptions | None = None) -> Kind:
    """Return the journal's kind of calls' records. None of them is ever dropped."""
    return Kind(number=CALLS, name=CALLS_NAME, policy=Policy.REJECT, applier=CallsApplier(options))


async def apply_effect(connection: Any, effect: BatchEffect, options: LogOptions) -> None:
    """Change the ledger as ``effect`` says, in the connection's transaction."""
    calls = [*effect.ended, *(hold.sent.facts.call_id for hold in effect.holds)]
    if not calls:
        return
    await _lock_windows(connection, effect)
    reserved = await _reserve(connection, effect, calls)
    postings, counted = await _spend(connection, effect.spends, options)
    await _note_errors(connection, [*effect.refusals, *counted], options)
    await _add_days(connection, postings)
    await move_windows(connection, postings.windows, reserved)


async def lock_windows(connection: Any, windows: Mapping[str, str]) -> dict[str, WindowState]:
    """Make the windows that are not there, and lock all of them until the end of the transaction.

    ``windows``: by key, the tenant. Returns their states, by key.
    """
    if not windows:
        return {}
    budgets, names = _split(windows)
    await connection.execute(_MAKE_WINDOWS, budgets, names, list(windows.values()))
    return {
        f"{row['budget_id']}:{row['window_id']}": WindowState(
            posted_nano=row["posted_nano"], reserved_nano=row["reserved_nano"]
        )
        for row in await connection.fetch(_LOCK_WINDOWS, budgets, names)
    }


async def _lock_windows(connection: Any, effect: BatchEffect) -> None:
    windows = effect.windows
    if effect.refusals:
        # A refusal does not say what was reserved for it. Those windows are there, and no call's charges change.
        refused = [refusal.call_id for refusal in effect.refusals]
        held = {key: "" for row in await connection.fetch(_CHARGES, ",".join(refused)) for key in row["charges"]}
        windows = {**held, **windows}
    await lock_windows(connection, windows)


async def _reserve(connection: Any, effect: BatchEffect, calls: Sequence[str]) -> dict[str, int]:
    """Open and end reservations; return what that adds to what is reserved, by window."""
    changes: dict[str, int] = {}
    known = {row["call_id"]: row for row in await connection.fetch(_LOCK_HOLDS, ",".join(calls))}
    ended = [call_id for call_id in effect.ended if call_id in known]
    for call_id in ended:
        _add(changes, known[call_id]["charges"], -known[call_id]["amount_nano"])
    for hold in effect.holds:
        facts = hold.sent.facts
        before = known.get(facts.call_id)
        if before is None:
            _add(changes, facts.charges, hold.amount_nano)
        elif before["state"] != "void":
            _add(changes, before["charges"], max(0, hold.amount_nano - before["amount_nano"]))
    if ended:
        await connection.execute(_END_HOLDS, ",".join(ended))
    if effect.holds:
        await connection.execute(_HOLD, to_json([_hold_row(hold) for hold in effect.holds]))
    return changes


async def _spend(connection: Any, spends: Sequence[Done], options: LogOptions) -> tuple[Postings, list[Done]]:
    """Keep ends of calls; return what they add to the sums, and those that count: not the second end of a call."""
    kept = [spend_row(done) for done in spends if options.spend_logs or done.facts.charges]
    new = await connection.fetchval(_SPEND, to_json(kept), len(kept)) if kept else None
    known: set[str] = set() if new is None else {row.call_id for row in kept}.difference(new)
    postings = Postings()
    for row in kept:
        if row.call_id not in known:
            postings.add(row)
    if known:
        known -= await _correct(connection, {row.call_id: row for row in kept if row.call_id in known}, postings)
    return postings, [done for done in spends if done.facts.call_id not in known]


async def _correct(connection: Any, rows: Mapping[str, SpendRow], postings: Postings) -> set[str]:
    """Replace the ends that are estimates; return whose they were."""
    corrected: set[str] = set()
    for before in await connection.fetch(_LOCK_SPENT, ",".join(rows)):
        row = rows[before["call_id"]]
        if gives_way(before["settled_by"], row.settled_by):
            await connection.execute(_CORRECT, before["call_id"], to_json(row))
            postings.add(_Before(**before), -1)
            postings.add(row)
            corrected.add(before["call_id"])
    if corrected:
        await connection.execute(_FORGET_ERRORS, ",".join(corrected))
    return corrected


class _Before(msgspec.Struct):
    """What was counted of a row that is replaced, as :data:`_LOCK_SPENT` has it."""

    call_id: str
    tenant_id: str
    key_id: str
    team_id: str | None
    user_id: str | None
    model: str
    status: int
    ending: str
    prompt_tokens: int
    completion_tokens: int
    cost_nano: int
    settled_by: str
    charges: list[str]
    admitted_at: datetime


async def _note_errors(connection: Any, records: Iterable[Done | Refused], options: LogOptions) -> None:
    wrong = (item for item in records if isinstance(item, Refused) or is_error(item.status, item.ending))
    rows = [error_row(record) for record in wrong] if options.error_logs else []
    if rows:
        await connection.execute(_NOTE_ERRORS, to_json(rows))


async def _add_days(connection: Any, postings: Postings) -> None:
    rows = [key._asdict() | msgspec.structs.asdict(sums) for key, sums in postings.days.items() if sums.any()]
    if rows:
        await connection.execute(_ADD_DAYS, to_json(rows))


async def move_windows(connection: Any, posted: Mapping[str, int], reserved: Mapping[str, int]) -> None:
    """Add to what is posted and reserved, by window. They are locked: see :func:`lock_windows`."""
    keys = [key for key in {**posted, **reserved} if posted.get(key) or reserved.get(key)]
    if keys:
        amounts = [[sums.get(key, 0) for key in keys] for sums in (posted, reserved)]
        await connection.execute(_MOVE_WINDOWS, *_split(keys), *amounts)


def to_json(rows: object) -> bytes:
    """Return rows as JSON that PostgreSQL takes: its text holds every character but U+0000."""
    return _encode(rows).replace(b"\\u0000", b"\\ufffd")


def _hold_row(hold: Hold) -> dict[str, Any]:
    facts = hold.sent.facts
    return {
        "call_id": facts.call_id,
        "tenant_id": facts.tenant_id,
        "stream_id": facts.stream_id,
        "state": "sent",
        "amount_nano": hold.amount_nano,
        "charges": facts.charges,
        "facts": hold.sent,
        "admitted_at": moment(facts.admitted_us),
    }


def _split(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    pairs = [window_of(key) for key in keys]
    return [budget for budget, _ in pairs], [window for _, window in pairs]


def _add(changes: dict[str, int], keys: Iterable[str], amount: int) -> None:
    for key in keys:
        changes[key] = changes.get(key, 0) + amount
