"""Asks, settlements and a clock that tests move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hx_gateway.allowances import Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.kit.clock import SystemClock
from hx_gateway.limits.model import Ask, Charge, CounterStore, Settlement, WindowSeed

TENANT = "acme"
MONTH = "2026-11"
EPOCH = 3


class MovedClock(SystemClock):
    """Stands still until it is moved."""

    def __init__(self, at: datetime | None = None) -> None:
        self.at = at or datetime(2026, 11, 25, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def move(self, seconds: float = 0.0, *, microseconds: int = 0) -> None:
        self.at += timedelta(seconds=seconds, microseconds=microseconds)


def limits(
    *,
    requests: Rate | None = None,
    tokens: Rate | None = None,
    parallel: int | None = None,
    kind: ScopeKind = ScopeKind.KEY,
) -> ScopeLimits:
    """Return limits of one scope."""
    return ScopeLimits(kind=kind, id="one", requests=requests, tokens=tokens, parallel=parallel)


def charge(limit_nano: int, *, budget: str = "bg-a", window: str = MONTH) -> Charge:
    """Return one charge."""
    period = Period.TOTAL if window == "total" else Period.MONTH
    return Charge(Budget(id=budget, kind=ScopeKind.KEY, owner_id="one", limit_nano=limit_nano, period=period), window)


def ask(call_id: str, *scopes: ScopeLimits, charges: tuple[Charge, ...] = (), **more: Any) -> Ask:
    """Return what a call asks for."""
    known = {"tenant_id": TENANT, "epoch": EPOCH, **more}
    return Ask(call_id=call_id, limits=scopes, charges=charges, **known)


def settlement(asked: Ask, cost_nano: int = 0, **more: Any) -> Settlement:
    """Return the end of a call."""
    return Settlement(
        call_id=asked.call_id, tenant_id=asked.tenant_id, limits=asked.limits, cost_nano=cost_nano, **more
    )


async def warm(store: CounterStore, *charges: Charge, posted: int = 0, epoch: int = EPOCH) -> None:
    """Begin the epoch and set windows."""
    await store.begin(TENANT, epoch)
    seeds = [WindowSeed(key=charge.key, posted_nano=posted) for charge in charges]
    await store.seed(TENANT, epoch, seeds, 60.0)


async def money(store: CounterStore, *charges: Charge) -> list[tuple[int, int]]:
    """Return what is posted and reserved in windows."""
    states = await store.windows(TENANT, [charge.key for charge in charges])
    return [(states[charge.key].posted_nano, states[charge.key].reserved_nano) for charge in charges]
