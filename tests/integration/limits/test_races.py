"""Many ask at once, from several processes: exactly what there is is granted."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

import pytest

from hx_gateway.limits.model import WindowSeed
from hx_gateway.limits.redis_store import RedisCounterStore
from hx_gateway.services.redis_pipe import RedisPipe
from tests.fixtures.servers import RedisServer
from tests.integration.limits.racer import BUDGET, PER_MINUTE
from tests.integration.limits.redis_only import KINDS, running
from tests.unit.limits.asks import EPOCH, charge

ROUNDS = int(os.environ.get("HX_TEST_RACES", "2"))
PROCESSES = 3
ATTEMPTS = 10_000


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


async def race(url: str, kind: str, rounds: int, attempts: int = ATTEMPTS) -> list[int]:
    """Return how many were granted to all processes together, round by round."""
    command = [sys.executable, "-m", "tests.integration.limits.racer", url, kind]
    racers = [
        await asyncio.create_subprocess_exec(
            *command, *map(str, (place, PROCESSES, attempts // PROCESSES + 1, rounds)), stdout=asyncio.subprocess.PIPE
        )
        for place in range(PROCESSES)
    ]
    outputs = [(await racer.communicate())[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * PROCESSES
    return [sum(map(int, granted)) for granted in zip(*outputs, strict=True)]


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_budget_for_a_hundred_calls_admits_exactly_a_hundred(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=5.0)
    await pipe.command("FLUSHALL")
    store, charged = RedisCounterStore(pipe), charge(BUDGET)
    for number in range(ROUNDS):
        await store.begin(f"budget-{number}", EPOCH)
        await store.seed(f"budget-{number}", EPOCH, [WindowSeed(key=charged.key)], 60.0)
    assert await race(server.url, "budget", ROUNDS) == [BUDGET] * ROUNDS
    for number in range(ROUNDS):
        states = await store.windows(f"budget-{number}", [charged.key])
        assert states[charged.key].reserved_nano == BUDGET
    await pipe.close()


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_rate_admits_its_burst_and_what_is_refilled_meanwhile(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=5.0)
    await pipe.command("FLUSHALL")
    begun = await pipe.command("TIME")
    granted = await race(server.url, "rate", max(1, ROUNDS // 2), attempts=ATTEMPTS // 4)
    ended = await pipe.command("TIME")
    seconds = int(ended[0]) - int(begun[0]) + 1
    for admitted in granted:
        assert PER_MINUTE <= admitted <= PER_MINUTE + PER_MINUTE * seconds / 60 + 1
    await pipe.close()
