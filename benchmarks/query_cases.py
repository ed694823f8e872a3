"""The queries that are measured: each filter alone, each pair, all together; values common, rare and absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from benchmarks.events import (
    AGENTS,
    DAYS,
    DEFAULT_TENANT,
    FIRST_DAY,
    LAST_DAY,
    RARE_AGENTS,
    RARE_TYPES,
    SMALL_TENANTS,
    TYPES,
    Plan,
    never_together,
)
from hx_gateway.observability.cursors import Position, encode_cursor
from hx_gateway.observability.filters import MAX_LIMIT, TraceFilters

Values = dict[str, Any]
Make = Callable[[Random], Values]

COMMON, UNCOMMON = slice(0, 10), slice(50, None)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Case:
    """A query whose values are drawn anew for each run. ``window`` says which times it covers."""

    name: str
    window: str
    make: Make = field(repr=False)

    def filters(self, random: Random) -> TraceFilters:
        """Return one draw."""
        return TraceFilters(**{"tenant_id": DEFAULT_TENANT, **self.make(random)})


def cases(plan: Plan) -> Iterator[Case]:
    """Yield all cases."""
    for name, make in _subjects(plan):
        for window, times in _WINDOWS.items():
            yield Case(name, window, _both(make, times))
    for name, make in _others():
        yield Case(name, "30 days", make)


def under_load(plan: Plan, now: Callable[[], datetime]) -> list[Case]:
    """Return the few cases that are measured while rows are written; ``now`` is the time of the newest row."""

    def newest(random: Random) -> Values:
        return {"start_time": now() - timedelta(minutes=15)}

    def today(random: Random) -> Values:
        start = LAST_DAY + _DAY
        return {"start_time": start, "end_time": start + _DAY}

    names = ("any", "trace", "agent common", "agent rare", "agent and type common", "agent and type never together")
    found = [(name, make) for name, make in _subjects(plan) if name in names]
    windows: dict[str, Make] = {"30 days": lambda random: {}, "today": today, "newest 15 min": newest}
    return [Case(name, window, _both(make, times)) for window, times in windows.items() for name, make in found]


def _subjects(plan: Plan) -> Iterator[tuple[str, Make]]:
    traces, agents, types = _traces(plan), _names("agent_name"), _names("event_type")
    yield "any", lambda random: {}
    for filters in (traces, agents, types, _pairs()):
        yield from filters.items()
    for trace in ("trace", "trace of 10,000"):
        for name, other in (*agents.items(), *types.items()):
            yield f"{trace}, {name}", _both(traces[trace], other)
        for name, pair in _pairs().items():
            yield f"{trace}, {name}", _both(traces[trace], pair)


def _traces(plan: Plan) -> dict[str, Make]:
    def usual(random: Random) -> Values:
        day = random.randrange(DAYS)
        return {"trace_id": plan.trace_id(day, random.randrange(max(1, plan.traces_at_least(day))))}

    return {
        "trace": usual,
        "trace of 10,000": lambda random: {"trace_id": plan.big_trace},
        "trace of 20 days": lambda random: {"trace_id": plan.long_trace},
        "trace absent": lambda random: {"trace_id": f"{random.getrandbits(128):032x}"},
    }


def _names(field_name: str) -> dict[str, Make]:
    known, rare, word = (AGENTS, RARE_AGENTS, "agent") if field_name == "agent_name" else (TYPES, RARE_TYPES, "type")
    uncommon = known[UNCOMMON] or known[-10:]
    return {
        f"{word} common": lambda random: {field_name: random.choice(known[COMMON])},
        f"{word} uncommon": lambda random: {field_name: random.choice(uncommon)},
        f"{word} rare": lambda random: {field_name: random.choice(rare)},
        f"{word} absent": lambda random: {field_name: f"absent-{random.randrange(1_000)}"},
    }


def _pairs() -> dict[str, Make]:
    def ranks(random: Random, *, together: bool, top: int) -> Values:
        while True:
            agent, kind = random.randrange(top), random.randrange(min(top, len(TYPES)))
            if never_together(agent, kind) is not together:
                return {"agent_name": AGENTS[agent], "event_type": TYPES[kind]}

    agents, types = _names("agent_name"), _names("event_type")
    return {
        "agent and type common": lambda random: ranks(random, together=True, top=10),
        "agent and type never together": lambda random: ranks(random, together=False, top=10),
        "agent and type of any rank": lambda random: ranks(random, together=True, top=len(AGENTS)),
        "agent rare, type common": _both(agents["agent rare"], types["type common"]),
        "agent common, type rare": _both(agents["agent common"], types["type rare"]),
        "agent and type absent": _both(agents["agent absent"], types["type absent"]),
    }


def _others() -> Iterator[tuple[str, Make]]:
    agents, types, pairs = _names("agent_name"), _names("event_type"), _pairs()
    for level in ("ERROR", "WARN"):
        chosen = {"min_level": level}
        yield f"level {level}", lambda random, chosen=chosen: chosen  # type: ignore[misc]
        for name, make in (*agents.items(), *types.items()):
            yield f"level {level}, {name}", _both(make, lambda random, chosen=chosen: chosen)  # type: ignore[misc]
    for name, make in (("any", lambda random: {}), *agents.items(), *pairs.items()):
        yield f"{name}, a later page", _both(make, _page)
        yield f"{name}, {MAX_LIMIT} rows", _both(make, lambda random: {"limit": MAX_LIMIT})
        yield f"{name}, small tenant", _both(make, lambda random: {"tenant_id": random.choice(SMALL_TENANTS)})


def _page(random: Random) -> Values:
    return {"cursor": Position(_moment(random, DAYS), UUID(int=random.getrandbits(128)))}


def _moment(random: Random, days: int) -> datetime:
    return FIRST_DAY + random.random() * days * _DAY


def _window(random: Random) -> Values:
    start = _moment(random, DAYS - 1)
    return {"start_time": start, "end_time": start + _DAY}


_WINDOWS: dict[str, Make] = {
    "30 days": lambda random: {},
    "start": lambda random: {"start_time": _moment(random, DAYS)},
    "end": lambda random: {"end_time": _moment(random, DAYS)},
    "24 h": _window,
}


def _both(first: Make, second: Make) -> Make:
    def make(random: Random) -> Values:
        values = {**first(random), **second(random)}
        position = values.pop("cursor", None)
        if position is not None:
            values["cursor"] = encode_cursor(position, TraceFilters(**{"tenant_id": DEFAULT_TENANT, **values}))
        return values

    return make
