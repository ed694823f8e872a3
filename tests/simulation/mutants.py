"""Wrong ways to keep accounts, each one that somebody has shipped, or nearly did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from unittest.mock import patch

from hx_gateway.kit.clock import Clock
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.authority import AuthorityKeeper
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.durable import EpochState
from hx_gateway.limits.journaling import CallJournal
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Charge, Lapsed, Settlement, WindowSeed
from hx_gateway.limits.money import Reservation, TenantMoney
from hx_gateway.limits.records import Done
from hx_gateway.limits.reserving import Reserving
from hx_gateway.limits.settling import BATCH, Settling
from hx_gateway.services.base import DependencyError
from tests.simulation.bank import Bank
from tests.simulation.world import Rules

RIGHT = Rules()


@dataclass(frozen=True, slots=True)
class Mutant:
    """``target.attribute`` is replaced by ``with_what``, if there is one; ``within``: seeds that must suffice."""

    name: str
    target: type | None = None
    attribute: str = ""
    with_what: Any = None
    rules: Rules = RIGHT
    within: int = 400

    @contextmanager
    def at_work(self) -> Iterator[Rules]:
        if self.target is None:
            yield self.rules
            return
        with patch.object(self.target, self.attribute, self.with_what):
            yield self.rules


# Looks at what is spent only, and not at what is on its way.
def _left_without_reserved(self: TenantMoney, charges: Sequence[Charge], cost: int) -> list[int] | None:
    left = [charge.budget.limit_nano - self.posted[charge.key] - cost for charge in charges]
    return None if min(left, default=0) < 0 else left


# Gives back what a lease held when it runs out, as if nothing had been sent.
def _expire_and_release(
    self: TenantMoney, tenant_id: str, call_id: str, now_us: int, expire: Any = TenantMoney._expire
) -> Lapsed:
    lapsed: Lapsed = expire(self, tenant_id, call_id, now_us)
    self._post(lapsed.windows, -lapsed.cost_nano)
    self.lapsed[call_id] = Reservation(0, self.lapsed[call_id].windows, 0)
    return lapsed


# Adds a row's cost whenever it comes by.
class AdditiveBank(Bank):
    def spend(self, done: Done) -> None:
        self.rows[done.facts.call_id] = done
        self.post(done)

    def apply(self, stream: str, first: int, payloads: Sequence[bytes]) -> None:
        self.cursors[stream] = 0
        super().apply(stream, 0, payloads)
        self.cursors[stream] = first + len(payloads)


# Keeps no record of a call before it goes out.
def _write_nothing(self: CallJournal, *_: object, **__: object) -> None:
    return None


# Posts a cost again when it is told of it again.
class ForgetfulStore(MemoryCounterStore):
    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.ended: dict[str, tuple[str, ...]] = {}

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            money = self._tenant(settlement.tenant_id, self._now_us()).money
            held = money.open.get(settlement.call_id) if money is not None else None
            if held is not None:
                self.ended[settlement.call_id] = held.windows
            elif money is not None and settlement.call_id in self.ended:
                money._post(self.ended[settlement.call_id], settlement.cost_nano)
        await super().settle(settlements)


# Takes the machine's word for what day it is.
def _own_now_us(self: AuthorityClock) -> int:
    return unix_us(self._clock.now())


# Begins with an epoch as soon as it hears of it.
def _take_up_at_once(self: AuthorityKeeper, state: EpochState, take_up: Any = AuthorityKeeper._take_up) -> None:
    take_up(self, replace(state, acknowledged=True))


# Says that everything is on record without looking.
async def _acknowledge_at_once(self: AuthorityKeeper, state: EpochState) -> EpochState:
    assert self._ledger is not None
    answer = await self._ledger.acknowledge(self.stream_id, state.epoch)
    self._acknowledged = state.epoch
    self._hear(answer)
    return answer


# Says so, and goes on in the old epoch until the new one is everybody's.
async def _acknowledge_and_go_on(self: AuthorityKeeper, state: EpochState) -> EpochState:
    assert self._ledger is not None
    if not await self._drained():
        return state
    answer = await self._ledger.acknowledge(self.stream_id, state.epoch)
    self._acknowledged = state.epoch
    return answer


def _hear_and_go_on(self: AuthorityKeeper, state: EpochState) -> None:
    self.heading, self.heading_epoch = state.authority, state.epoch
    self._health.counts(state.authority.value == "redis")
    if state.acknowledged and self._term is not None and self._term.epoch != state.epoch:
        self._end()


# Forgets what it is about to say.
async def _settle_once(self: Settling) -> bool:
    batch = list(islice(self._waiting, BATCH))
    for _ in batch:
        self._waiting.popleft()
    try:
        await self._settle(batch)
    except DependencyError:
        self.failures += 1
    return True


# Replaces what a window holds by what is on record.
def _seed_over(self: TenantMoney, windows: Sequence[WindowSeed], now_us: int, lease_us: int) -> None:
    for seed in windows:
        self.posted[seed.key] = seed.posted_nano
        self.reserved[seed.key] = 0
        for call_id, amount in seed.reserved.items():
            self._seed_call(call_id, amount, seed.key, now_us + lease_us)


# Lets a call go out that was admitted in an epoch which has ended.
def _check_nothing(self: Reserving, admission: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Pair:
    """A mutant of two places."""

    name: str
    first: Mutant
    second: Mutant
    within: int = 400

    @contextmanager
    def at_work(self) -> Iterator[Rules]:
        with self.first.at_work() as rules, self.second.at_work():
            yield rules


MUTANTS: tuple[Mutant | Pair, ...] = (
    Mutant("check then add", TenantMoney, "left_after", _left_without_reserved),
    Mutant("release on expiry", TenantMoney, "_expire", _expire_and_release),
    Mutant("additive retry", rules=Rules(bank=AdditiveBank)),
    Mutant("no journal before the upstream", CallJournal, "sent", _write_nothing),
    Mutant("settling twice posts twice", rules=Rules(store=ForgetfulStore)),
    Mutant("windows by the worker's clock", AuthorityClock, "now_us", _own_now_us),
    Mutant("epoch not awaited", AuthorityKeeper, "_take_up", _take_up_at_once),
    Mutant("acknowledged before it is drained", AuthorityKeeper, "_acknowledge", _acknowledge_at_once),
    Pair(
        "old epoch not ended",
        Mutant("", AuthorityKeeper, "_hear", _hear_and_go_on),
        Mutant("", AuthorityKeeper, "_acknowledge", _acknowledge_and_go_on),
    ),
    Mutant("journal popped before the commit", rules=Rules(position_before_commit=lambda _first, after: after)),
    Mutant("settlement popped before the answer", Settling, "step", _settle_once),
    Mutant("seed overwrites", TenantMoney, "seed", _seed_over),
    Mutant("sent in any epoch", Reserving, "check", _check_nothing),
)

__all__ = ["MUTANTS", "Mutant", "Pair", "Settlement"]
