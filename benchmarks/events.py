"""Trace events that look like those of a busy month, the same for the same seed: what the query benchmark reads.

30 days end on a fixed date. Agents and event types are common, uncommon or rare, and some common pairs never occur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from random import Random
from uuid import UUID

DAYS = 30
LAST_DAY = datetime(2026, 11, 24, tzinfo=UTC)
FIRST_DAY = LAST_DAY - timedelta(days=DAYS - 1)
COLUMNS = (
    "timestamp",
    "event_id",
    "received_at",
    "ts_clamped",
    "tenant_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "event_type",
    "level",
    "message",
    "agent_name",
    "task_id",
    "session_id",
    "user_id",
    "duration_ms",
    "metadata",
)
Row = tuple[object, ...]

DEFAULT_TENANT = "default"
SMALL_TENANTS = tuple(f"tenant-{number}" for number in range(1, 9))
AGENTS = tuple(f"agent-{number:03d}" for number in range(200))
TYPES = tuple(f"step.{number:02d}" for number in range(40))
# Five rows each in all.
RARE_AGENTS = tuple(f"rare-agent-{number}" for number in range(5))
RARE_TYPES = tuple(f"rare.{number}" for number in range(5))
RARE_DAYS = (1, 8, 15, 22, 28)
MAX_TRACE_EVENTS = 30
BIG_TRACE_EVENTS = 10_000
BIG_TRACE_DAY = 20
LONG_TRACE_DAYS = range(5, 25)
LONG_TRACE_EVENTS_A_DAY = 10

_DAY = timedelta(days=1)
_DAY_MICROSECONDS = _DAY // timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEVELS = (1, 5, 9, 13, 17, 21)
_LEVEL_WEIGHTS = (4, 20, 69.5, 5, 1.4, 0.1)
_WITHOUT_AGENT = 0.05
_SAME_INSTANT = 0.1


def never_together(agent: int, kind: int) -> bool:
    """Return whether the agent and the type of these ranks never occur together, common as both may be."""
    return (agent + kind) % 4 == 0


def zipf(count: int) -> list[float]:
    """Return cumulative weights: the n-th of ``count`` is drawn about 1/n as often as the first."""
    return list(accumulate(1 / rank**1.05 for rank in range(1, count + 1)))


@dataclass(frozen=True, slots=True)
class Plan:
    """How many events there are in all, and the seed of everything else."""

    rows: int
    seed: int = 1

    def rows_of(self, day: int) -> int:
        """Return how many events a day has; the first ones take what does not divide."""
        return self.rows // DAYS + (day < self.rows % DAYS)

    def trace_id(self, day: int, number: int) -> str:
        """Return the id of a day's trace. Those below :meth:`traces_at_least` exist."""
        return blake2b(f"{self.seed}:{day}:{number}".encode(), digest_size=16).hexdigest()

    def traces_at_least(self, day: int) -> int:
        """Return how many traces a day has whatever their lengths."""
        return max(0, self.rows_of(day) - self.special(day)) // MAX_TRACE_EVENTS

    @property
    def big_trace(self) -> str:
        """The trace with many events."""
        return self.trace_id(-1, 0)

    @property
    def long_trace(self) -> str:
        """The trace of many days."""
        return self.trace_id(-1, 1)

    def special(self, day: int) -> int:
        """Return how many of a day's events belong to the two traces above."""
        room = self.rows_of(day) // 4
        big = min(BIG_TRACE_EVENTS, room) if day == BIG_TRACE_DAY else 0
        return big + (min(LONG_TRACE_EVENTS_A_DAY, room) if day in LONG_TRACE_DAYS else 0)


def events_of(plan: Plan, day: int) -> list[Row]:
    """Return a day's events in the order of their times, as :data:`COLUMNS` has them."""
    random = Random(f"{plan.seed}:{day}")
    rows = list(_rows(plan, day, random))
    rows.sort(key=lambda row: row[0])  # type: ignore[arg-type, return-value]
    if day in RARE_DAYS:
        _put_in_rare(rows)
    return rows


def _rows(plan: Plan, day: int, random: Random) -> Iterator[Row]:
    special = plan.special(day)
    long = min(LONG_TRACE_EVENTS_A_DAY, special) if day in LONG_TRACE_DAYS else 0
    if special > long:
        yield from _Trace(random, plan.big_trace, DEFAULT_TENANT, agents=100).rows(day, special - long, 2_000_000)
    if long:
        yield from _Trace(random, plan.long_trace, DEFAULT_TENANT, agents=100).rows(day, long, 1_000_000_000)
    left, number = plan.rows_of(day) - special, 0
    while left > 0:
        length = min(left, random.randint(1, MAX_TRACE_EVENTS))
        tenant = DEFAULT_TENANT
        if random.random() < 0.05:
            tenant = random.choices(SMALL_TENANTS, cum_weights=zipf(len(SMALL_TENANTS)))[0]
        yield from _Trace(random, plan.trace_id(day, number), tenant).rows(day, length, 2_000_000)
        left -= length
        number += 1


class _Trace:
    """One trace: ``agents`` that take steps one after another."""

    def __init__(self, random: Random, trace_id: str, tenant: str, agents: int = 3) -> None:
        self._random = random
        self._trace_id = trace_id
        self._tenant = tenant
        self._agents = random.choices(range(len(AGENTS)), cum_weights=_AGENT_WEIGHTS, k=agents)
        self._user = f"user-{random.randrange(5_000)}" if random.random() < 0.5 else None

    def rows(self, day: int, count: int, most_apart: int) -> Iterator[Row]:
        """Yield ``count`` events of ``day``, at most ``most_apart`` microseconds from one to the next."""
        random = self._random
        offset = random.randrange(max(1, _DAY_MICROSECONDS - count * most_apart))
        start = FIRST_DAY + day * _DAY
        parent = None
        for level in random.choices(_LEVELS, _LEVEL_WEIGHTS, k=count):
            if random.random() >= _SAME_INSTANT:
                offset = min(offset + random.randrange(most_apart), _DAY_MICROSECONDS - 1)
            span = f"{random.getrandbits(64):016x}"
            yield self._row(start + timedelta(microseconds=offset), span, parent, level)
            if parent is None or random.random() < 0.4:
                parent = span

    def _row(self, moment: datetime, span: str, parent: str | None, level: int) -> Row:
        random = self._random
        agent = random.choice(self._agents)
        kinds, weights = _kinds_of(agent)
        kind = random.choices(kinds, cum_weights=weights)[0]
        tokens = random.randrange(4_000)
        return (
            moment,
            _event_id(moment, random),
            moment + timedelta(milliseconds=tokens),
            False,
            self._tenant,
            self._trace_id,
            span,
            parent,
            TYPES[kind],
            level,
            f"{TYPES[kind]} finished with {tokens} tokens",
            None if random.random() < _WITHOUT_AGENT else AGENTS[agent],
            f"task-{self._trace_id[:8]}",
            None,
            self._user,
            random.random() * 1_000,
            f'{{"model": "hx-{agent % 7}", "tokens": {tokens}, "attempt": {1 + tokens % 3}}}',
        )


_AGENT_WEIGHTS = zipf(len(AGENTS))


@cache
def _kinds_of(agent: int) -> tuple[list[int], list[float]]:
    kinds = [kind for kind in range(len(TYPES)) if not never_together(agent, kind)]
    return kinds, list(accumulate(1 / (kind + 1) for kind in kinds))


def _event_id(moment: datetime, random: Random) -> UUID:
    """Return a UUID of version 7 (RFC 9562): milliseconds, then chance."""
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    chance = random.getrandbits(74)
    return UUID(int=milliseconds << 80 | 7 << 76 | (chance >> 62) << 64 | 2 << 62 | chance & (2**62 - 1))


def _put_in_rare(rows: list[Row]) -> None:
    """Give one event each to the rare agents and types."""
    tenant, kind, agent = (COLUMNS.index(name) for name in ("tenant_id", "event_type", "agent_name"))
    names = [(agent, name) for name in RARE_AGENTS] + [(kind, name) for name in RARE_TYPES]
    step = len(rows) // (len(names) + 1)
    for place, (column, name) in enumerate(names, start=1):
        row = list(rows[place * step])
        row[tenant], row[column] = DEFAULT_TENANT, name
        rows[place * step] = tuple(row)
