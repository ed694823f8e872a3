"""A clock that is moved by hand, a ledger in memory, and stores that fail when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Any
from uuid import UUID

from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.limits.authority import AuthorityOptions
from hx_gateway.limits.calls import CallAsk, CallDone
from hx_gateway.limits.durable import Authority, EpochState
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.meter import Meter, MeterOptions
from hx_gateway.limits.model import Ask, Outcome, Verdict, WindowSeed
from hx_gateway.limits.records import decode
from hx_gateway.services.base import DependencyError, FailureKind

START = datetime(2026, 11, 25, 12, tzinfo=UTC)
STREAM = UUID("0197c1a0-0000-7000-8000-000000000001")
FEW_TURNS = 12


class HandClock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = count()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        heappush(self._sleepers, (self.elapsed + seconds, next(self._order), woken))
        await woken.wait()

    async def pass_by(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due meanwhile."""
        until = self.elapsed + seconds
        await turns()
        while self._sleepers and self._sleepers[0][0] <= until:
            moment, _, woken = heappop(self._sleepers)
            self.elapsed = max(self.elapsed, moment)
            woken.set()
            await turns()
        self.elapsed = until
        await turns()


async def turns(count: int = FEW_TURNS) -> None:
    """Let whatever can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


def away(name: str = "Redis") -> DependencyError:
    return DependencyError(name, FailureKind.TIMEOUT)


class FrailStore(MemoryCounterStore):
    """Fails as often as ``failures`` says; ``after`` has done what it was asked for. Notes what it is asked."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.failures = 0
        self.after = False
        self.asks: list[Ask] = []
        self.settled: list[str] = []
        self.on_admit: Any = None

    async def admit(self, ask: Ask) -> Verdict:
        if not ask.call_id.startswith("probe"):
            self.asks.append(ask)
            if self.on_admit is not None:
                await self.on_admit()
            if self.failures:
                self.failures -= 1
                if self.after:
                    await super().admit(ask)
                raise away()
        return await super().admit(ask)

    def end(self, settlements: Sequence[Any]) -> None:
        self.settled += [settlement.call_id for settlement in settlements]
        super().end(settlements)


@dataclass
class Ledger:
    """What a worker sees of the durable ledger. ``down``: it cannot answer."""

    epoch: int = 1
    authority: Authority = Authority.REDIS
    behind: bool = False
    down: bool = False
    acknowledged: list[int] = field(default_factory=list)
    turned: list[Authority] = field(default_factory=list)
    touched: set[tuple[str, int]] = field(default_factory=set)
    posted: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, Ask] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    left: bool = False
    lost_answers: int = 0
    verdict: Outcome = Outcome.ADMITTED

    def _state(self) -> EpochState:
        if self.down:
            raise away("PostgreSQL")
        return EpochState(epoch=self.epoch, authority=self.authority, acknowledged=not self.behind)

    async def join(self, stream_id: UUID) -> EpochState:
        return self._state()

    async def leave(self, stream_id: UUID) -> None:
        self._state()
        self.left = True

    async def state(self) -> EpochState:
        return self._state()

    async def turn(self, seen: int, authority: Authority) -> EpochState:
        self._state()
        if seen == self.epoch:
            self.epoch, self.authority = seen + 1, authority
            self.turned.append(authority)
        return self._state()

    async def acknowledge(self, stream_id: UUID, epoch: int) -> EpochState:
        self.acknowledged.append(epoch)
        return self._state()

    async def beat(self, stream_id: UUID) -> EpochState:
        return self._state()

    async def touch_tenant(self, tenant_id: str, epoch: int) -> bool:
        self._state()
        first = (tenant_id, epoch) not in self.touched
        self.touched.add((tenant_id, epoch))
        return first and epoch == self.epoch

    async def windows(self, keys: Sequence[str]) -> Mapping[str, WindowSeed]:
        self._state()
        return {key: WindowSeed(key=key, posted_nano=self.posted.get(key, 0), reserved=dict(self.open)) for key in keys}

    async def reserve(self, ask: Ask, epoch: int) -> Verdict:
        self._state()
        self.reserved[ask.call_id] = ask
        if self.lost_answers:
            self.lost_answers -= 1
            raise away("PostgreSQL")
        return Verdict(outcome=self.verdict, now_us=1_795_608_000_000_000, refused_by=0)

    async def raise_reservation(self, ask: Ask, epoch: int) -> Verdict:
        return await self.reserve(ask, epoch)

    async def release(self, call_id: str) -> None:
        self._state()
        self.released.append(call_id)

    async def settle_orphans(self) -> int:
        return 0


@dataclass
class Bench:
    """A meter with everything around it within reach."""

    clock: HandClock = field(default_factory=HandClock)
    ledger: Ledger = field(default_factory=Ledger)
    payloads: list[bytes] = field(default_factory=list)
    refuses: Exception | None = None
    # Sizes of groups that were written together; ``None``: nothing is.
    groups: list[int] | None = None
    applied: bool = True
    healthy: bool = True
    soft: list[tuple[str, str, int]] = field(default_factory=list)
    drifts: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = FrailStore(self.clock)
        self.local = FrailStore(self.clock)

    def meter(self, **options: Any) -> Meter:
        return Meter(
            stream_id=STREAM,
            shared=self.shared,
            local=self.local,
            shared_healthy=lambda: self.healthy,
            ledger=self.ledger,
            append=self._append,
            together=None if self.groups is None else self._append_together,
            drained=self._drained,
            clock=self.clock,
            options=MeterOptions(authority=AuthorityOptions(patience=0.2), **options),
            on_soft=lambda _tenant, budget, window, spent: self.soft.append((budget.id, window, spent)),
            on_drift=lambda budget, nano: self.drifts.append((budget, nano)),
        )

    @property
    def records(self) -> list[Any]:
        return [decode(payload) for payload in self.payloads]

    @property
    def kinds(self) -> list[str]:
        return [type(record).__name__ for record in self.records]

    def _append(self, payload: bytes) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.payloads.append(payload)

    def _append_together(self, payloads: Sequence[bytes]) -> bool:
        assert self.groups is not None
        if self.refuses is not None:
            return False
        self.groups.append(len(payloads))
        self.payloads.extend(payloads)
        return True

    async def _drained(self) -> bool:
        return self.applied


BUDGET = Budget(id="bg-1", kind=ScopeKind.KEY, owner_id="key1", limit_nano=1_000, period=Period.MONTH, soft_nano=600)
WINDOW = "bg-1:2026-11"
LIMITS = ScopeLimits(kind=ScopeKind.KEY, id="key1", requests=Rate(60, 2), parallel=5)
BUDGETED = Allowance(tenant_id="t", budgets=(BUDGET,))
LIMITED = Allowance(tenant_id="t", limits=(LIMITS,))


def call(number: int = 1, allowance: Allowance | None = BUDGETED, **more: Any) -> CallAsk:
    fields: dict[str, Any] = {
        "call_id": f"0197c1a0-0000-7000-8000-{number:012x}",
        "request_id": "req",
        "tenant_id": "t",
        "key_id": "key1",
        "model": "m",
        "requested_model": "m",
        "operation": "chat",
        "allowance": allowance,
        "tokens": 10,
        "cost_nano": 100,
    }
    return CallAsk(**{**fields, **more})


def ended(cost_nano: int = 0, **more: Any) -> CallDone:
    return CallDone(status=200, ending="complete", cost_nano=cost_nano, **more)
