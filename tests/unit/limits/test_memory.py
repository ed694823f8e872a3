"""The counters in this process."""

from __future__ import annotations

import pytest

from hx_gateway.allowances import Rate
from hx_gateway.limits.memory import PRUNE_SIZE, MemoryCounterStore
from hx_gateway.limits.model import Outcome
from tests.unit.limits.asks import MovedClock, ask, charge, limits, settlement, warm
from tests.unit.limits.store_contract import CounterStoreContract


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def store(clock: MovedClock) -> MemoryCounterStore:
    return MemoryCounterStore(clock)


class TestMemoryCounterStore(CounterStoreContract):
    """Keeps the contract."""


async def test_buckets_that_are_full_again_and_marks_that_ended_are_forgotten(
    store: MemoryCounterStore, clock: MovedClock
) -> None:
    for number in range(3 * PRUNE_SIZE):
        scope = limits(requests=Rate(60, 1), parallel=1)
        scope = type(scope)(kind=scope.kind, id=f"{number}", requests=scope.requests, parallel=1)
        assert (await store.admit(ask(f"{number}", scope, lease_seconds=1))).outcome is Outcome.ADMITTED
        clock.move(10)
    tenant = store._tenants["acme"]
    assert len(tenant.rates) + len(tenant.slots) + len(tenant.marks) <= PRUNE_SIZE


async def test_tenants_of_whom_nothing_is_known_any_more_are_forgotten(
    store: MemoryCounterStore, clock: MovedClock
) -> None:
    charged = charge(10)
    await warm(store, charged)
    for number in range(3 * PRUNE_SIZE):
        await store.admit(ask("a", limits(requests=Rate(60, 1)), tenant_id=f"{number}"))
        clock.move(10)
    assert len(store._tenants) <= PRUNE_SIZE + 1
    assert (await store.admit(ask("a", charges=(charged,), cost_nano=1))).outcome is Outcome.ADMITTED


async def test_settled_calls_leave_nothing_behind(store: MemoryCounterStore) -> None:
    scope, charged = limits(parallel=5), charge(10)
    await warm(store, charged)
    for call in (ask("a", scope), ask("b", scope, charges=(charged,), cost_nano=2)):
        await store.admit(call)
        await store.settle([settlement(call)])
    tenant = store._tenants["acme"]
    assert tenant.money is not None
    assert (tenant.slots, tenant.marks, tenant.money.open) == ({}, {}, {})
