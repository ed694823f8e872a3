"""One of several processes that ask a store for the same things at the same time; prints how many it was granted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from hx_gateway.allowances import Rate
from hx_gateway.limits.model import Ask, Outcome
from hx_gateway.limits.redis_store import RedisCounterStore
from hx_gateway.services.redis_pipe import RedisPipe
from tests.unit.limits.asks import EPOCH, charge, limits

TASKS = 64
# What is raced for: a budget of so many calls at cost 1, a rate of so many requests a minute.
BUDGET = 100
PER_MINUTE = 600


async def meet(pipe: RedisPipe, name: str, racers: int) -> None:
    """Wait until all are here."""
    await pipe.command("INCR", name)
    while int(await pipe.command("GET", name)) < racers:
        await asyncio.sleep(0.001)


def wanted(kind: str, tenant: str, call_id: str) -> Ask:
    """Return what everybody asks for."""
    if kind == "budget":
        return Ask(call_id=call_id, tenant_id=tenant, charges=(charge(BUDGET),), cost_nano=1, epoch=EPOCH)
    return Ask(call_id=call_id, tenant_id=tenant, limits=(limits(requests=Rate(PER_MINUTE, PER_MINUTE)),))


async def ask(store: RedisCounterStore, calls: Iterator[Ask]) -> int:
    """Return how many of the calls that nobody else took were granted."""
    return sum([(await store.admit(call)).outcome is Outcome.ADMITTED for call in calls])


async def race(url: str, kind: str, place: int, racers: int, attempts: int, rounds: int) -> None:
    """Run the rounds; each has a tenant of its own."""
    pipe = RedisPipe(url, timeout=20.0)
    store = RedisCounterStore(pipe)
    for number in range(rounds):
        tenant = f"{kind}-{number}"
        await meet(pipe, f"ready:{tenant}", racers)
        calls = iter([wanted(kind, tenant, f"{place}-{attempt}") for attempt in range(attempts)])
        granted = await asyncio.gather(*(ask(store, calls) for _ in range(TASKS)))
        sys.stdout.write(f"{sum(granted)}\n")
    await pipe.close()


if __name__ == "__main__":
    asyncio.run(race(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
