"""What a batch of records changes in the ledger, reckoned before the database is asked: nothing here does any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from hx_gateway.limits.records import ESTIMATES, UNKNOWN, CallFacts, CallRecord, Done, Intent, Refused, Sent, call_id_of

INTENT = "intent"
SENT = "sent"
COMPLETE = "complete"
# The error code of a call whose worker ended before it did.
WORKER_LOST = "worker_lost"
# What an upstream makes up must not keep a call's cost out of the ledger; Redis counts exactly up to here.
MAX_COUNT = 2**53
MAX_STATUS = 999
MAX_DURATION_MS = 1e12
# For the one character that PostgreSQL's text does not hold.
REPLACEMENT = "\ufffd"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Hold:
    """A reservation that is open after the batch. ``sent`` has what a spend row needs, should its worker be lost."""

    call_id: str
    stream_id: str
    tenant_id: str
    amount_nano: int
    charges: tuple[str, ...]
    admitted_us: int
    sent: Sent | None = None

    @property
    def state(self) -> str:
        """How far the call is known to have come."""
        return INTENT if self.sent is None else SENT


@dataclass(frozen=True, slots=True)
class BatchEffect:
    """``ended`` are the calls whose reservations go, those of ``spends`` and ``refusals`` all among them; ``holds``
    are of others. ``windows``: by the keys that the records name, the tenant.
    """

    holds: tuple[Hold, ...] = ()
    ended: tuple[str, ...] = ()
    spends: tuple[Done, ...] = ()
    refusals: tuple[Refused, ...] = ()
    windows: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Call:
    hold: Hold | None = None
    done: Done | None = None
    refused: Refused | None = None

    @property
    def over(self) -> bool:
        return self.done is not None or self.refused is not None


def net(records: Sequence[CallRecord]) -> BatchEffect:
    """Return what ``records``, in their order, come to: of a call that began and ended among them, only its end."""
    calls: dict[str, _Call] = {}
    windows: dict[str, str] = {}
    for record in records:
        call = calls.setdefault(call_id_of(record), _Call())
        if isinstance(record, Refused):
            call.refused = call.refused or record
            continue
        facts = record if isinstance(record, Intent) else record.facts
        windows.update(dict.fromkeys(facts.charges, facts.tenant_id))
        if isinstance(record, Done):
            call.done = _better(call.done, record)
        else:
            call.hold = _held(call.hold, record)
    found = calls.values()
    return BatchEffect(
        holds=tuple(call.hold for call in found if call.hold is not None and not call.over),
        ended=tuple(call_id for call_id, call in calls.items() if call.over),
        spends=tuple(call.done for call in found if call.done is not None),
        refusals=tuple(call.refused for call in found if call.refused is not None),
        windows=windows,
    )


def gives_way(settled_by: str, to: str) -> bool:
    """Return whether an end that is known gives way to another of the same call: an estimate does, to what is none."""
    return settled_by in ESTIMATES and to not in ESTIMATES


def lost(sent: Sent, amount_nano: int) -> Done:
    """Return the end of a call whose worker was lost after it was sent: it is charged what was reserved."""
    return Done(
        msgspec.structs.replace(sent.facts, reserved_nano=amount_nano),
        status=0,
        ending="error",
        cost_nano=amount_nano,
        error_code=WORKER_LOST,
        usage_source="estimate",
        upstream=sent.upstream,
        provider=sent.provider,
        settled_by=UNKNOWN,
    )


def _better(known: Done | None, other: Done) -> Done:
    return other if known is None or gives_way(known.settled_by, other.settled_by) else known


def _held(known: Hold | None, record: Intent | Sent) -> Hold:
    """Return the reservation after one more record of its call: the largest amount, the last deployment."""
    before = known.amount_nano if known is not None else 0
    if isinstance(record, Intent):
        who: Intent | CallFacts = record
        amount, sent = record.amount_nano, known.sent if known is not None else None
    else:
        who, amount, sent = record.facts, record.facts.reserved_nano, record
    largest = max(whole(amount), before)
    return Hold(who.call_id, who.stream_id, who.tenant_id, largest, who.charges, who.admitted_us, sent)


# Rows


class DayKey(NamedTuple):
    """What a day's spend is summed by; an empty text where a call has none."""

    tenant_id: str
    day: date
    key_id: str
    team_id: str
    user_id: str
    model: str


@dataclass(slots=True)
class DaySums:
    """What is added to a day's row."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0

    def any(self) -> bool:
        """Return whether it changes anything."""
        return any((self.requests, self.errors, self.prompt_tokens, self.completion_tokens, self.cost_nano))


@dataclass(slots=True)
class Postings:
    """What spend rows add to the sums that are kept of them: by a window's key its cost, by day and caller the rest."""

    windows: dict[str, int] = field(default_factory=dict)
    days: dict[DayKey, DaySums] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], sign: int = 1) -> None:
        """Count a spend row, or take it back (-1)."""
        cost = sign * row["cost_nano"]
        for charge in row["charges"]:
            self.windows[charge] = self.windows.get(charge, 0) + cost
        day = self.days.setdefault(_day_key(row), DaySums())
        day.requests += sign
        day.errors += sign * is_error(row["status"], row["ending"])
        day.prompt_tokens += sign * row["prompt_tokens"]
        day.completion_tokens += sign * row["completion_tokens"]
        day.cost_nano += cost


def is_error(status: int, ending: str) -> bool:
    """Return whether such an end is one that people look for when something went wrong."""
    return status >= 400 or ending != COMPLETE


def spend_row(done: Done) -> dict[str, Any]:
    """Return the row of ``spend_logs``."""
    facts = done.facts
    return {
        "call_id": facts.call_id,
        "request_id": facts.request_id,
        "tenant_id": facts.tenant_id,
        "key_id": facts.key_id,
        "team_id": facts.team_id,
        "user_id": facts.user_id,
        "operation": facts.operation,
        "requested_model": facts.requested_model,
        "model": done.model or facts.model,
        "upstream": done.upstream,
        "provider": done.provider,
        "status": _status(done.status),
        "ending": done.ending,
        "error_code": done.error_code,
        "stream": facts.stream,
        "attempts": min(whole(done.attempts), 2**31 - 1),
        "prompt_tokens": whole(done.prompt_tokens),
        "completion_tokens": whole(done.completion_tokens),
        "cached_tokens": whole(done.cached_tokens),
        "usage_source": done.usage_source,
        "cost_nano": whole(done.cost_nano),
        "reserved_nano": whole(facts.reserved_nano),
        "settled_by": done.settled_by,
        "price_source": facts.price_source,
        "price_version": facts.price_version,
        "input_pico": facts.input_pico,
        "output_pico": facts.output_pico,
        "charges": facts.charges,
        "cache": done.cache,
        "tags": facts.tags,
        "admitted_at": moment(facts.admitted_us),
        "duration_ms": _duration(done),
        "decision": msgspec.Raw(done.decision),
    }


def error_row(record: Done | Refused) -> dict[str, Any]:
    """Return the row of ``error_logs``."""
    who = record if isinstance(record, Refused) else record.facts
    row = {
        "call_id": who.call_id,
        "request_id": who.request_id,
        "tenant_id": who.tenant_id,
        "key_id": who.key_id,
        "team_id": who.team_id,
        "user_id": who.user_id,
        "route": record.route,
        "operation": who.operation,
        "requested_model": who.requested_model,
        "model": who.model,
        "status": _status(record.status),
        "decision": msgspec.Raw(record.decision),
    }
    if isinstance(record, Refused):
        said = {"upstream": None, "code": record.code, "message": record.message, "ending": record.ending}
        return row | said | {"at": moment(record.at_us)}
    ended_us = record.facts.admitted_us + int(1000 * _duration(record))
    return row | {
        "model": record.model or row["model"],
        "upstream": record.upstream,
        "code": record.error_code,
        "message": record.error_message,
        "ending": record.ending,
        "at": moment(ended_us),
    }


def window_of(key: str) -> tuple[str, str]:
    """Return the budget and the window that a charge's key names. Raises ``ValueError``."""
    budget, colon, window = key.partition(":")
    if not budget or not colon or not window:
        raise ValueError(f"{key!r} names no window of a budget")
    return budget, window


def moment(unix_us: int) -> datetime:
    """Return a time of a record. Raises ``ValueError`` for one that no calendar has."""
    try:
        return _EPOCH + timedelta(microseconds=unix_us)
    except OverflowError as error:
        raise ValueError(f"{unix_us} is no time in microseconds") from error


def whole(value: int) -> int:
    """Return a count or an amount as the ledger holds it: not negative, and not beyond :data:`MAX_COUNT`."""
    return min(max(value, 0), MAX_COUNT)


def _status(status: int) -> int:
    return min(max(status, 0), MAX_STATUS)


def _duration(done: Done) -> float:
    """Return milliseconds as a finite number: what is compared with NaN is not greater."""
    return min(max(0.0, done.duration_ms), MAX_DURATION_MS)


def _day_key(row: Mapping[str, Any]) -> DayKey:
    day = row["admitted_at"].astimezone(UTC).date()
    names = (row["key_id"], row["team_id"], row["user_id"], row["model"])
    return DayKey(row["tenant_id"], day, *((name or "").replace("\0", REPLACEMENT) for name in names))
