"""Each process's share of rates and slots while Redis is away."""

from __future__ import annotations

from itertools import count

import pytest

from hx_gateway.allowances import Rate, ScopeLimits
from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Outcome
from hx_gateway.limits.shares import LocalShares
from tests.unit.limits.asks import TENANT, MovedClock, ask, charge, limits, settlement


class Shares:
    """Some processes that count by themselves."""

    def __init__(self, instances: int) -> None:
        self.clock = MovedClock()
        self.instances = instances
        self.names = map(str, count())
        self.each = [LocalShares(MemoryCounterStore(self.clock), lambda: self.instances) for _ in range(instances)]

    async def admitted(self, attempts: int, scope: ScopeLimits) -> int:
        """Return how many of so many attempts at each process pass."""
        verdicts = [await shares.admit(ask(next(self.names), scope)) for shares in self.each for _ in range(attempts)]
        return sum(verdict.outcome is Outcome.ADMITTED for verdict in verdicts)


@pytest.mark.parametrize("instances", [1, 2, 3, 7])
async def test_all_together_admit_the_limit_in_whole_parts(instances: int) -> None:
    shares = Shares(instances)
    scope = limits(requests=Rate(60, 21))
    assert await shares.admitted(30, scope) == 21 // instances * instances
    shares.clock.move(7)
    assert await shares.admitted(30, scope) == 7 // instances * instances


async def test_less_than_one_each_is_one_at_once_and_the_limit_in_the_long_run() -> None:
    shares = Shares(4)
    scope = limits(requests=Rate(2, 2))
    total = 0
    for _ in range(60):
        total += await shares.admitted(1, scope)
        shares.clock.move(10)
    assert 20 <= total <= 20 + 4


async def test_slots_are_dealt_out_and_nobody_gets_none_but_of_none() -> None:
    assert await Shares(3).admitted(9, limits(parallel=9)) == 9
    assert await Shares(3).admitted(9, limits(parallel=2)) == 3
    assert await Shares(3).admitted(9, limits(parallel=0)) == 0


async def test_a_call_larger_than_a_share_passes_where_the_whole_bucket_would_hold_it() -> None:
    shares = Shares(4)
    scope = limits(tokens=Rate(1000, 1000))
    first = shares.each[0]
    assert (await first.admit(ask("a", scope, tokens=900))).outcome is Outcome.ADMITTED
    refused = await first.admit(ask("b", scope, tokens=1))
    assert (refused.outcome, refused.left) == (Outcome.TOKENS, 0)
    assert (await first.admit(ask("c", scope, tokens=1001))).outcome is Outcome.TOO_LARGE


async def test_money_is_left_out() -> None:
    shares = Shares(2).each[0]
    verdict = await shares.admit(ask("a", charges=(charge(0),), cost_nano=5))
    assert (verdict.outcome, verdict.money) == (Outcome.ADMITTED, ())


async def test_a_call_under_a_budget_keeps_its_slot_while_it_goes_on_and_frees_it_at_its_end() -> None:
    everybody = Shares(2)
    shares, scope = everybody.each[0], limits(parallel=2)
    call = ask("a", scope, charges=(charge(0),), lease_seconds=10)
    await shares.admit(call)
    everybody.clock.move(9)
    await shares.renew(TENANT, [call])
    everybody.clock.move(9)
    assert (await shares.admit(ask("b", scope))).outcome is Outcome.PARALLEL
    await shares.settle([settlement(call)])
    assert (await shares.admit(ask("b", scope))).outcome is Outcome.ADMITTED


async def test_a_process_that_joins_makes_the_shares_smaller() -> None:
    shares = Shares(1)
    scope = limits(requests=Rate(60, 10))
    assert await shares.admitted(4, scope) == 4
    shares.instances = 10
    assert await shares.admitted(4, scope) == 0
    shares.clock.move(4)
    assert await shares.admitted(4, scope) == 1


async def test_what_nobody_counts_is_one_process() -> None:
    shares = LocalShares(MemoryCounterStore(MovedClock()), lambda: 0)
    assert (await shares.admit(ask("a", limits(requests=Rate(60, 10))))).outcome is Outcome.ADMITTED
