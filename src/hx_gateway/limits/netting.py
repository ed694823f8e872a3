"""What a batch of records changes in the ledger, reckoned before the database is asked: nothing here does any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import msgspec

from hx_gateway.limits.records import ESTIMATES, UNKNOWN, CallRecord, Done, Refused, Sent

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

    sent: Sent
    amount_nano: int


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


def net(records: Sequence[CallRecord]) -> BatchEffect:
    """Return what ``records``, in their order, come to: of a call that began and ended among them, only its end."""
    holds: dict[str, Hold] = {}
    ends: dict[str, Done] = {}
    refusals: dict[str, Refused] = {}
    windows: dict[str, str] = {}
    for record in records:
        if isinstance(record, Refused):
            refusals.setdefault(record.call_id, record)
            continue
        facts = record.facts
        for key in facts.charges:
            windows[key] = facts.tenant_id
        if isinstance(record, Done):
            ends[facts.call_id] = _better(ends.get(facts.call_id), record)
        else:
            holds[facts.call_id] = _held(holds.get(facts.call_id), record)
    over = {**ends, **refusals}
    return BatchEffect(
        holds=tuple([hold for call_id, hold in holds.items() if call_id not in over]),
        ended=tuple(over),
        spends=tuple(ends.values()),
        refusals=tuple(refusals.values()),
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


def _held(known: Hold | None, sent: Sent) -> Hold:
    """Return the reservation after one more record of its call: the largest amount, the last deployment."""
    before = known.amount_nano if known is not None else 0
    return Hold(sent, max(whole(sent.facts.reserved_nano), before))


# Rows


class DayKey(NamedTuple):
    """What a day's spend is summed by; an empty text where a call has none."""

    tenant_id: str
    day: date
    key_id: str
    team_id: str
    user_id: str
    model: str


class DaySums(msgspec.Struct, gc=False):
    """What is added to a day's row."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0

    def take(self, other: DaySums) -> None:
        """Add what another one adds."""
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cost_nano += other.cost_nano

    def any(self) -> bool:
        """Return whether it changes anything."""
        return any((self.requests, self.errors, self.prompt_tokens, self.completion_tokens, self.cost_nano))


class Posted(Protocol):
    """What is counted of a spend row."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def team_id(self) -> str | None: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def model(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def ending(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cost_nano(self) -> int: ...
    @property
    def charges(self) -> Sequence[str]: ...
    @property
    def admitted_at(self) -> datetime: ...


@dataclass(slots=True)
class Postings:
    """What spend rows add to the sums that are kept of them: by a window's key its cost, by day and caller the rest."""

    windows: dict[str, int] = field(default_factory=dict)
    # By what identifies a caller in its rows, and the date.
    _callers: dict[tuple[str, date, str, str | None, str | None, str], DaySums] = field(default_factory=dict)

    @property
    def days(self) -> dict[DayKey, DaySums]:
        """The sums by the days' own keys."""
        days: dict[DayKey, DaySums] = {}
        for (tenant_id, day, *names), sums in self._callers.items():
            days.setdefault(DayKey(tenant_id, day, *map(_name, names)), DaySums()).take(sums)
        return days

    def add(self, row: Posted, sign: int = 1) -> None:
        """Count a spend row, or take it back (-1)."""
        cost = sign * row.cost_nano
        for charge in row.charges:
            self.windows[charge] = self.windows.get(charge, 0) + cost
        at = row.admitted_at
        date = at.date() if at.tzinfo is UTC else at.astimezone(UTC).date()
        key = (row.tenant_id, date, row.key_id, row.team_id, row.user_id, row.model)
        day = self._callers.get(key)
        if day is None:
            day = self._callers[key] = DaySums()
        day.requests += sign
        day.errors += sign * is_error(row.status, row.ending)
        day.prompt_tokens += sign * row.prompt_tokens
        day.completion_tokens += sign * row.completion_tokens
        day.cost_nano += cost


def is_error(status: int, ending: str) -> bool:
    """Return whether such an end is one that people look for when something went wrong."""
    return status >= 400 or ending != COMPLETE


class SpendRow(msgspec.Struct, frozen=True, gc=False):
    """A row of ``spend_logs``, its columns by name."""

    call_id: str
    request_id: str
    tenant_id: str
    key_id: str
    team_id: str | None
    user_id: str | None
    operation: str
    requested_model: str
    model: str
    upstream: str | None
    provider: str | None
    status: int
    ending: str
    error_code: str | None
    stream: bool
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    usage_source: str
    cost_nano: int
    reserved_nano: int
    settled_by: str
    price_source: str | None
    price_version: str | None
    input_pico: int | None
    output_pico: int | None
    charges: tuple[str, ...]
    cache: str | None
    tags: tuple[str, ...]
    admitted_at: datetime
    duration_ms: float
    decision: msgspec.Raw


def spend_row(done: Done) -> SpendRow:
    """Return the row of ``spend_logs``."""
    facts, status = done.facts, done.status
    return SpendRow(
        facts.call_id,
        facts.request_id,
        facts.tenant_id,
        facts.key_id,
        facts.team_id,
        facts.user_id,
        facts.operation,
        facts.requested_model,
        done.model or facts.model,
        done.upstream,
        done.provider,
        status if 0 <= status <= MAX_STATUS else _status(status),
        done.ending,
        done.error_code,
        facts.stream,
        min(whole(done.attempts), 2**31 - 1),
        whole(done.prompt_tokens),
        whole(done.completion_tokens),
        whole(done.cached_tokens),
        done.usage_source,
        whole(done.cost_nano),
        whole(facts.reserved_nano),
        done.settled_by,
        facts.price_source,
        facts.price_version,
        facts.input_pico,
        facts.output_pico,
        facts.charges,
        done.cache,
        facts.tags,
        moment(facts.admitted_us),
        _duration(done),
        msgspec.Raw(done.decision),
    )


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
    return value if 0 <= value <= MAX_COUNT else min(max(value, 0), MAX_COUNT)


def _status(status: int) -> int:
    return min(max(status, 0), MAX_STATUS)


def _duration(done: Done) -> float:
    """Return milliseconds as a finite number: what is compared with NaN is not greater."""
    return min(max(0.0, done.duration_ms), MAX_DURATION_MS)


def _name(text: str | None) -> str:
    return text.replace("\0", REPLACEMENT) if text else ""
